//! A node with a clock, a disk and clients that do only what the script says.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use kvorum::core::seeded::Bug;
use kvorum::core::{
    Asker, Disagreement, Fetch, Instant, NextSegment, Node, NodeConfig, Now, Options, Output,
    ReadOutcome, Recovery, ReplyTo, SessionBounds, TransferError, Violation, Wait, WriteOutcome,
};
use kvorum_protocol::peer::Message;
use kvorum_protocol::{
    Batch, Change, Command, LogIndex, Lsn, Member, MemberList, NodeId, Read, Response, Role,
};

use super::disk::Disk;
use super::snapshots::{Snapshot, Snapshots};
use super::words;

/// When every script begins, on the wall.
const START_MS: u64 = 1000;

/// Any number does; the traces do not show it.
const HASH_SEED: u64 = 7;

/// How a node is configured; the script changes what it is about.
pub struct Setup {
    pub id: NodeId,
    /// The first members, from 1 on.
    pub voters: u16,
    /// The members behind them.
    pub learners: u16,
    pub memory_max: Option<u64>,
    pub log_room_bytes: u64,
    pub sessions: SessionBounds,
    /// The state hash is noted at the multiples of it.
    pub checkpoint_entries: u64,
    /// How much of a snapshot a message carries.
    pub part_bytes: usize,
    /// It was added to a cluster that has begun.
    pub joins: bool,
    /// For the test of the scripts: a bug that some of them must show.
    pub bug: Option<Bug>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            id: NodeId(1),
            voters: 1,
            learners: 0,
            memory_max: None,
            log_room_bytes: 1 << 40,
            sessions: SessionBounds::default(),
            checkpoint_entries: 4096,
            part_bytes: 1 << 20,
            joins: false,
            bug: None,
        }
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
    /// What the node has sent and asked for and nobody has taken from here yet.
    pub messages: Vec<(NodeId, Message)>,
    pub fetches: Vec<Fetch>,
    disk: Disk,
    snapshots: Snapshots,
    /// A leader's snapshot is installed only when the script says so.
    loads_slowly: bool,
    clients: BTreeMap<u64, Client>,
    /// Requests whose answer is due, in words.
    waiting: BTreeMap<(u64, u32), String>,
}

impl Machine {
    /// First boot, on an empty disk.
    pub fn new(setup: Setup) -> Machine {
        let now = Now { monotonic: Instant(0), wall_ms: START_MS };
        let disk = Disk::default();
        let node = start(&setup, None, &disk);
        Machine {
            setup,
            node,
            now,
            out: Output::default(),
            messages: Vec::new(),
            fetches: Vec::new(),
            disk,
            snapshots: Snapshots::default(),
            loads_slowly: false,
            clients: BTreeMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// The node stops without warning, and the records behind `kept` never reached the disk.
    pub fn crash(&mut self, kept: Option<Lsn>) -> String {
        let mut said = self.disk.crash(kept);
        for ((client, tag), request) in std::mem::take(&mut self.waiting) {
            writeln!(said, "c{client}#{tag} {request}: connection lost").unwrap();
        }
        self.clients.clear();
        self.messages.clear();
        self.fetches.clear();
        self.snapshots.crash();
        said
    }

    /// The process dies, the system goes on: what was written reaches the disk.
    pub fn kill(&mut self) -> String {
        self.crash(Some(self.disk.written()))
    }

    /// While it is down, what stands behind the record at `kept` is damaged; its log is repaired.
    pub fn repair(&mut self, kept: Lsn) -> String {
        self.disk.repair(kept)
    }

    /// The node starts again, from what its disk holds.
    pub fn restart(&mut self) -> String {
        let newest = self.snapshots.newest();
        self.node = start(&self.setup, newest, &self.disk);
        self.out = Output::default();
        let from = newest.map(|newest| format!("starts from snapshot {}\n", newest.head.end.index));
        from.unwrap_or_default() + &self.status()
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
                match after > self.node.status().applied {
                    true => format!("waits for index {after}"),
                    false => "waits for its quorum".to_owned(),
                }
            }
            Ok(ReadOutcome::Later) => "later".to_owned(),
            Err(refusal) => words::response(&refusal.response(self.node.members())),
        };
        format!("c{client}#{} {request}: {said}\n", to.tag)
    }

    /// Who holds the last write of the client durably.
    pub fn wait(&mut self, client: u64, others: usize, timeout_ms: Option<u64>) -> String {
        let to = self.next_request(client);
        let index = self.clients[&client].last_write;
        let timeout = timeout_ms.map(Duration::from_millis);
        let wait = Wait { index, here: false, others, timeout };
        let request = format!("WAIT {others}");
        let said = match self.node.wait(&self.now, to, wait) {
            Ok(Some(copies)) => words::response(&Response::Copies(copies)),
            Ok(None) => {
                self.waiting.insert((client, to.tag), request.clone());
                format!("waits for copies of index {index}")
            }
            Err(refusal) => words::response(&refusal.response(self.node.members())),
        };
        format!("c{client}#{} {request}: {said}\n", to.tag)
    }

    /// Hands leadership over.
    pub fn transfer(&mut self, to: Option<NodeId>) -> Result<(), TransferError> {
        self.node.transfer(&self.now, to)
    }

    /// Changes the members.
    pub fn change(&mut self, client: u64, change: &Change, base: Option<LogIndex>) -> String {
        let to = self.next_request(client);
        let said = match self.node.change_members(&self.now, to, change, base, None) {
            Ok(index) => {
                self.waiting.insert((client, to.tag), change.to_string());
                format!("waits for index {index}")
            }
            Err(refusal) => format!("{:?}: {refusal}", refusal.code()),
        };
        format!("c{client}#{} {change}: {said}\n", to.tag)
    }

    fn next_request(&mut self, client: u64) -> ReplyTo {
        let requests = &mut self.clients.entry(client).or_default().requests;
        *requests += 1;
        ReplyTo { connection: client, tag: *requests }
    }

    // Events

    /// Time passes without the node looking: it is paused, or nothing wakes it.
    pub fn elapse(&mut self, ms: u64) {
        self.now.monotonic = self.now.monotonic.after(Duration::from_millis(ms));
        self.now.wall_ms += ms;
    }

    pub fn tick(&mut self, ms: u64) {
        self.elapse(ms);
        self.node.tick(&self.now);
    }

    pub fn set_wall(&mut self, ms: u64) {
        self.now.wall_ms = ms;
    }

    /// The disk has synced up to `upto`, or all that it was given.
    pub fn durable(&mut self, upto: Option<Lsn>) -> String {
        let durable = self.disk.sync(upto);
        self.node.durable(durable);
        format!("durable lsn={durable}\n")
    }

    pub fn receive(&mut self, from: NodeId, message: Message) -> Result<(), Violation> {
        self.node.receive(&self.now, from, message)
    }

    /// A connection to a member stands.
    pub fn member_joined(&mut self, member: NodeId) {
        self.node.member_joined(&self.now, member);
    }

    /// A member's process is known to be gone.
    pub fn member_lost(&mut self, member: NodeId) {
        self.node.member_lost(&self.now, member);
    }

    /// The disk has done what was asked for. Answers whether there was anything, and what it says.
    pub fn serve(&mut self) -> (bool, String) {
        let mut has_served = false;
        for fetch in std::mem::take(&mut self.fetches) {
            self.answer(&fetch);
            has_served = true;
        }
        for fetch in std::mem::take(&mut self.snapshots.fetches) {
            let part = self.snapshots.part(&fetch, self.setup.part_bytes);
            self.node.snapshot_fetched(&self.now, fetch.member, part);
            has_served = true;
        }
        for (_, chunk) in std::mem::take(&mut self.snapshots.parts) {
            if let Some(offset) = self.snapshots.keep(&chunk) {
                self.node.snapshot_kept(chunk.index, chunk.file, offset);
            }
            has_served = true;
        }
        let said = if self.loads_slowly { String::new() } else { self.install() };
        (has_served, said)
    }

    fn answer(&mut self, fetch: &Fetch) {
        let is_wanted = |batch: &&Batch| {
            batch.header().last_index() >= fetch.from && batch.header().first_index < fetch.end
        };
        let wanted = self.batches().into_values().filter(is_wanted).cloned().collect();
        self.node.fetched(&self.now, fetch.member, fetch.from, wanted);
    }

    // Snapshots

    /// Begins one.
    pub fn begin_snapshot(&mut self) -> String {
        self.snapshots.begin(&mut self.node)
    }

    /// Goes on with it.
    pub fn walk_snapshot(&mut self, buckets: usize) -> String {
        self.snapshots.walk(&mut self.node, buckets)
    }

    /// Gives up what the newest snapshot covers.
    pub fn compact(&mut self, spares_members: bool) -> String {
        let Some(newest) = self.snapshots.newest() else { return "no snapshot\n".to_owned() };
        let upto = self.node.compact(newest.head.end.index, spares_members);
        self.disk.release(upto);
        format!("log given up to {upto}\n")
    }

    /// Loading takes time: until the script says `install`.
    pub fn load_slowly(&mut self) {
        self.loads_slowly = true;
    }

    /// What a leader has sent is loaded, if it is whole.
    pub fn install(&mut self) -> String {
        let Some(snapshot) = self.snapshots.take_loaded() else { return String::new() };
        self.snapshots.give_up(&mut self.node);
        let index = snapshot.head.end.index;
        let state = snapshot.load(self.setup.sessions);
        let before = self.node.status().committed;
        self.node.install(&self.now, snapshot.head, state);
        match before < index && self.node.applied() == index {
            true => format!("goes on from snapshot {index}\n"),
            false => format!("does not need snapshot {index}\n"),
        }
    }

    /// Its state is damaged: a key is gone.
    pub fn lose(&mut self, key: &[u8]) {
        self.node.lose_key(key);
    }

    /// That nodes have different states.
    pub fn take_disagreement(&mut self) -> Option<Disagreement> {
        self.node.take_disagreement()
    }

    /// The log without what was taken back: batches by their first index.
    pub fn batches(&self) -> BTreeMap<LogIndex, &Batch> {
        self.disk.batches()
    }

    pub fn room(&mut self, bytes: u64, behind: Option<Lsn>, next: NextSegment) {
        let behind = behind.unwrap_or_else(|| self.disk.written());
        self.node.set_log_room(behind, bytes, next);
    }

    /// Whether the disk has something to sync.
    pub fn is_behind(&self) -> bool {
        self.disk.is_behind()
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
        self.take_messages();
        if more {
            said += "more to say\n";
        }
        said
    }

    fn take_messages(&mut self) {
        self.messages.append(&mut self.out.messages);
        self.fetches.append(&mut self.out.fetches);
        self.snapshots.fetches.append(&mut self.out.snapshot_fetches);
        self.snapshots.parts.append(&mut self.out.snapshot_parts);
        self.out.clear();
    }

    /// One call of `seal`; the records are on their way to the disk then.
    pub fn seal(&mut self) -> String {
        self.node.seal(&self.now, &mut self.out);
        assert!(self.out.replies.is_empty(), "seal answers nobody");
        let committed = self.node.status().committed;
        let said = self.disk.write(committed, &mut self.out.records);
        self.take_messages();
        said
    }

    /// All that the node has to say now.
    pub fn turn(&mut self) -> String {
        let mut said = self.poll();
        while said.ends_with("more to say\n") {
            said += &self.poll();
        }
        said + &self.seal()
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
            if self.is_behind() {
                said += &self.durable(None);
            }
        }
    }

    // Looks inside

    pub fn node(&self) -> &Node {
        &self.node
    }

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
        self.disk.words()
    }
}

fn start(setup: &Setup, snapshot: Option<&Snapshot>, disk: &Disk) -> Node {
    let mut recovery = match snapshot {
        Some(found) => Recovery::from_snapshot(found.head.clone(), found.load(setup.sessions)),
        None => Recovery::with_session_bounds(HASH_SEED, setup.sessions),
    }
    .of(setup.id);
    recovery.applies_all = setup.bug == Some(Bug::RecoveryAppliesAll);
    recovery.loses_vote = setup.bug == Some(Bug::VoteLostAtInstall);
    recovery.repair_loses_vote = setup.bug == Some(Bug::RepairForgetsVote);
    disk.recover(&mut recovery);
    let members = recovery.members().cloned().unwrap_or_else(|| members(setup));
    let config = NodeConfig {
        memory_max: setup.memory_max,
        checkpoint_entries: setup.checkpoint_entries,
        joins: setup.joins,
        seed: u64::from(setup.id.0),
        ..NodeConfig::new(setup.id, members)
    };
    let mut node = Node::new(config, recovery, setup.log_room_bytes);
    if let Some(bug) = setup.bug {
        node.seed_bug(bug);
    }
    node
}

fn members(setup: &Setup) -> MemberList {
    let role = |id| if id <= setup.voters { Role::Voter } else { Role::Learner };
    let members = (1..=setup.voters + setup.learners).map(|id| member(NodeId(id), role(id)));
    MemberList::new(members.collect()).expect("distinct members")
}

/// A member, and where it is.
pub fn member(id: NodeId, role: Role) -> Member {
    Member { id, role, client: format!("n{id}:6379"), peer: format!("n{id}:7379") }
}
