//! A node with a clock, a disk and clients that do only what the script says.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use kvorum::core::{
    Asker, Instant, Node, NodeConfig, Now, Options, Output, ReadOutcome, Record, Recovery, ReplyTo,
    WriteOutcome,
};
use kvorum::wal::LogState;
use kvorum_protocol::{Command, LogIndex, Lsn, Member, MemberList, NodeId, Read, Role, batch};

use super::words;

/// When every script begins, on the wall.
const START_MS: u64 = 1000;

/// Any number does; the traces do not show it.
const HASH_SEED: u64 = 7;

/// How a node is configured; the script changes what it is about.
pub struct Setup {
    pub voters: u16,
    pub memory_max: Option<u64>,
    pub log_room_bytes: u64,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { voters: 1, memory_max: None, log_room_bytes: 1 << 40 }
    }
}

/// What a client has asked so far.
#[derive(Default)]
struct Client {
    requests: u32,
    last_write: LogIndex,
}

pub struct Machine {
    setup: Setup,
    node: Node,
    now: Now,
    out: Output,
    /// Everything on the disk and on its way there.
    records: Vec<(Lsn, Record)>,
    /// What survives a crash.
    durable: Lsn,
    clients: BTreeMap<u64, Client>,
    /// Requests whose answer is due, in words.
    waiting: BTreeMap<(u64, u32), String>,
}

impl Machine {
    /// First boot, on an empty disk.
    pub fn new(setup: Setup) -> Machine {
        let now = Now { monotonic: Instant(0), wall_ms: START_MS };
        let node = start(&setup, &[]);
        Machine {
            setup,
            node,
            now,
            out: Output::default(),
            records: Vec::new(),
            durable: Lsn(0),
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// The node stops without warning, and the records behind `kept` never reached the disk.
    pub fn crash(&mut self, kept: Option<Lsn>) -> String {
        let kept = kept.unwrap_or(self.durable);
        assert!(kept >= self.durable, "what is durable survives");
        let mut said = String::new();
        let lost = self.records.iter().filter(|(lsn, _)| *lsn > kept);
        lost.for_each(|(lsn, record)| said += &format!("lost {}", words::record(*lsn, record)));
        self.records.retain(|(lsn, _)| *lsn <= kept);
        self.durable = kept;
        for ((client, tag), request) in std::mem::take(&mut self.waiting) {
            writeln!(said, "c{client}#{tag} {request}: connection lost").unwrap();
        }
        self.clients.clear();
        said
    }

    /// The node starts again, from what its disk holds.
    pub fn restart(&mut self) -> String {
        self.node = start(&self.setup, &self.records);
        self.out = Output::default();
        self.status()
    }

    // Requests

    pub fn write(&mut self, client: u64, command: &Command<'_>, options: &Options) -> String {
        let to = self.next_request(client);
        let request = words::command(command);
        let said = match self.node.write(&self.now, to, command, options) {
            WriteOutcome::Waiting(index) => {
                self.clients.entry(client).or_default().last_write = index;
                self.waiting.insert((client, to.tag), request.clone());
                format!("waits for index {index}")
            }
            WriteOutcome::Later => "later".to_owned(),
            WriteOutcome::Refused(refusal) => {
                words::response(&refusal.response(self.node.members()))
            }
        };
        format!("c{client}#{} {request}: {said}\n", to.tag)
    }

    pub fn read(
        &mut self,
        client: u64,
        read: &Read<'_>,
        min_version: LogIndex,
        options: &Options,
    ) -> String {
        let to = self.next_request(client);
        let request = words::read(read);
        let after = min_version.max(self.clients[&client].last_write);
        let asker = Asker { to, after, hash: None, options: *options };
        let said = match self.node.read(&self.now, &asker, read, &mut Vec::new()) {
            Ok(ReadOutcome::Ready(response)) => words::response(&response),
            Ok(ReadOutcome::Waiting { .. }) => {
                self.waiting.insert((client, to.tag), request.clone());
                format!("waits for index {after}")
            }
            Ok(ReadOutcome::Later) => "later".to_owned(),
            Err(refusal) => words::response(&refusal.response(self.node.members())),
        };
        format!("c{client}#{} {request}: {said}\n", to.tag)
    }

    fn next_request(&mut self, client: u64) -> ReplyTo {
        let requests = &mut self.clients.entry(client).or_default().requests;
        *requests += 1;
        ReplyTo { connection: client, tag: *requests }
    }

    // Events

    pub fn tick(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic.after(Duration::from_millis(ms));
        self.now.wall_ms += ms;
        self.node.tick(&self.now);
    }

    pub fn set_wall(&mut self, ms: u64) {
        self.now.wall_ms = ms;
    }

    /// The disk has synced up to `upto`, or all that it was given.
    pub fn durable(&mut self, upto: Option<Lsn>) -> String {
        self.durable = upto.unwrap_or_else(|| self.written());
        self.node.durable(self.durable);
        format!("durable lsn={}\n", self.durable)
    }

    pub fn room(&mut self, bytes: u64, behind: Option<Lsn>, is_short_of_space: bool) {
        let behind = behind.unwrap_or_else(|| self.written());
        self.node.set_log_room(behind, bytes, is_short_of_space);
    }

    fn written(&self) -> Lsn {
        self.records.last().map_or(Lsn(0), |(lsn, _)| *lsn)
    }

    // Speech

    /// One call of `poll`.
    pub fn poll(&mut self) -> String {
        let more = self.node.poll(&mut self.out);
        assert!(self.out.records.is_empty(), "poll hands out no records");
        let mut said = String::new();
        for reply in &self.out.replies {
            let (client, tag) = (reply.to.connection, reply.to.tag);
            let request = self.waiting.remove(&(client, tag));
            let request = request.expect("an answer that was due, and only once");
            let response = self.out.response(&reply.answer, self.node.members());
            writeln!(said, "c{client}#{tag} {request}: {}", words::response(&response)).unwrap();
        }
        self.out.clear();
        if more {
            said += "more to say\n";
        }
        said
    }

    /// One call of `seal`; the records are on their way to the disk then.
    pub fn seal(&mut self) -> String {
        self.node.seal(&self.now, &mut self.out);
        assert!(self.out.replies.is_empty(), "seal answers nobody");
        let mut said = String::new();
        for (lsn, record) in self.out.records.drain(..) {
            said += &words::record(lsn, &record);
            self.records.push((lsn, record));
        }
        check_log(&self.records);
        said
    }

    /// Turns with a disk that syncs at once, until nothing is left to do.
    pub fn settle(&mut self) -> String {
        let mut said = String::new();
        self.node.tick(&self.now);
        loop {
            let turn = self.poll() + &self.seal();
            if turn.is_empty() {
                return said;
            }
            said += &turn;
            if self.written() > self.durable {
                said += &self.durable(None);
            }
        }
    }

    // Looks inside

    pub fn status(&self) -> String {
        words::status(&self.node.status()) + "\n"
    }

    pub fn waiting(&self) -> String {
        let lines = self.waiting.iter();
        lines.map(|((client, tag), request)| format!("c{client}#{tag} {request}\n")).collect()
    }

    pub fn deadline(&self) -> String {
        match self.node.deadline() {
            Instant::NEVER => "never\n".to_owned(),
            deadline => {
                format!("in {} ms\n", deadline.since(self.now.monotonic).as_millis())
            }
        }
    }

    /// What the disk holds, and how its batches hang together.
    pub fn log(&self) -> String {
        let mut said = String::new();
        for (lsn, record) in &self.records {
            let durable = if *lsn <= self.durable { "durable" } else { "written" };
            write!(said, "{durable} {}", words::record(*lsn, record)).unwrap();
            if let Record::Batch(batch) = record {
                let header = batch.header();
                writeln!(said, "  crc={:08x} prev={:08x}", header.crc, header.prev_crc).unwrap();
            }
        }
        said
    }
}

fn start(setup: &Setup, records: &[(Lsn, Record)]) -> Node {
    let mut recovery = Recovery::new(HASH_SEED);
    for (lsn, record) in records {
        match record {
            Record::Batch(batch) => {
                let header = batch::check(batch.bytes()).expect("sealed batches are sound");
                recovery.batch(*lsn, &header, batch.bytes()).expect("a batch of this version");
            }
            Record::TermVote { term, voted_for } => recovery.term_vote(*lsn, *term, *voted_for),
            Record::Truncate { .. } => unreachable!("a lone voter takes nothing back"),
        }
    }
    let members = recovery.members().cloned().unwrap_or_else(|| members(setup.voters));
    let config = NodeConfig { memory_max: setup.memory_max, ..NodeConfig::new(NodeId(1), members) };
    Node::new(config, recovery, setup.log_room_bytes)
}

fn members(voters: u16) -> MemberList {
    let member = |id| Member {
        id: NodeId(id),
        role: Role::Voter,
        client: format!("n{id}:6379"),
        peer: format!("n{id}:7379"),
    };
    MemberList::new((1..=voters).map(member).collect()).expect("distinct members")
}

/// What every log must be, whatever the script is about: the rules that recovery goes by.
fn check_log(records: &[(Lsn, Record)]) {
    let mut state = LogState::default();
    for (position, (lsn, record)) in (1..).zip(records) {
        assert_eq!(*lsn, Lsn(position), "positions have no gap");
        let continues = match record {
            Record::Batch(batch) => state.batch(batch.header()),
            Record::TermVote { term, voted_for } => state.term_vote(*term, *voted_for),
            Record::Truncate { .. } => unreachable!("a lone voter takes nothing back"),
        };
        continues.expect("a record that can come next");
    }
}
