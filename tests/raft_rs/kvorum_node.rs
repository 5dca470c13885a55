//! A node of ours, with a disk whose syncs take time.

use std::time::Duration;

use kvorum::core::seeded::Bug;
use kvorum::core::{
    Answer, Instant, Node, NodeConfig, Now, Options, Output, Record, Recovery, ReplyTo,
    WriteOutcome,
};
use kvorum_protocol::peer::Message;
use kvorum_protocol::{Command, LogIndex, Lsn, MemberList, NodeId, Op, batch};

use crate::translation::value_of;
use crate::world::{Entry, KEY};

/// Bytes that nothing here ever fills.
const LOG_ROOM_BYTES: u64 = 1 << 40;

pub struct KvorumNode {
    id: NodeId,
    members: MemberList,
    seed: u64,
    /// For the test of the test.
    bug: Option<Bug>,
    node: Node,
    now: Now,
    out: Output,
    records: Vec<(Lsn, Record)>,
    /// What the records come to.
    log: Vec<Entry>,
    durable: Lsn,
    /// A sync that is under way covers the records up to here.
    pub syncing: Option<Lsn>,
    pub sent: Vec<(NodeId, Message)>,
    /// Values whose writes were acknowledged.
    pub acknowledged: Vec<u64>,
}

impl KvorumNode {
    pub fn new(id: NodeId, members: MemberList, seed: u64, bug: Option<Bug>) -> KvorumNode {
        KvorumNode {
            id,
            node: start(id, &members, seed, bug, &[]),
            members,
            seed,
            bug,
            now: Now { monotonic: Instant(0), wall_ms: 0 },
            out: Output::default(),
            records: Vec::new(),
            log: Vec::new(),
            durable: Lsn(0),
            syncing: None,
            sent: Vec::new(),
            acknowledged: Vec::new(),
        }
    }

    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn tick(&mut self, now: Now) {
        self.now = now;
        self.node.tick(&now);
        self.turn();
    }

    pub fn receive(&mut self, from: NodeId, message: Message) {
        if let Err(violation) = self.node.receive(&self.now, from, message) {
            panic!("node {} calls a message of {from} a violation: {violation}", self.id);
        }
        self.turn();
    }

    /// Whether it took the write.
    pub fn propose(&mut self, value: u64) -> bool {
        let to = ReplyTo { connection: value, tag: 0 };
        let bytes = value.to_le_bytes();
        let command = Command::new(Op::Set { key: KEY, value: &bytes });
        let outcome = self.node.write(&self.now, to, &command, &Options::default());
        self.turn();
        matches!(outcome, WriteOutcome::Waiting(_))
    }

    pub fn transfer(&mut self) {
        // It may have lost its office by now.
        let _ = self.node.transfer(&self.now, None);
        self.turn();
    }

    /// The sync that is under way ends.
    pub fn synced(&mut self) {
        self.durable = self.syncing.take().expect("a sync is under way");
        self.node.durable(self.durable);
        self.turn();
    }

    /// Connections to all others are made anew.
    pub fn joined(&mut self, other: NodeId) {
        self.node.member_joined(&self.now, other);
        self.turn();
    }

    /// A batch for each write: then batches are to us what entries are to others.
    fn turn(&mut self) {
        while self.node.poll(&mut self.out) {}
        self.node.seal(&self.now, &mut self.out);
        for reply in &self.out.replies {
            if let Answer::Written { .. } = reply.answer {
                self.acknowledged.push(reply.to.connection);
            }
        }
        assert!(self.out.fetches.is_empty(), "everything is in memory");
        self.sent.append(&mut self.out.messages);
        for (lsn, record) in self.out.records.drain(..) {
            follow(&mut self.log, &record);
            self.records.push((lsn, record));
        }
        self.out.clear();
        let written = self.records.last().map_or(Lsn(0), |(lsn, _)| *lsn);
        if self.syncing.is_none() && written > self.durable {
            self.syncing = Some(written);
        }
    }

    /// The power fails and comes back: the first `kept` of the records that are not durable were on
    /// the disk all the same.
    pub fn restart(&mut self, kept: u64) {
        let upto = Lsn(self.durable.0 + kept);
        self.records.retain(|(lsn, _)| *lsn <= upto);
        self.durable = self.records.last().map_or(Lsn(0), |(lsn, _)| *lsn);
        self.log.clear();
        self.records.iter().for_each(|(_, record)| follow(&mut self.log, record));
        self.syncing = None;
        self.sent.clear();
        self.node = start(self.id, &self.members, self.seed, self.bug, &self.records);
        self.turn();
    }

    /// The committed entries behind the first, which is the member list.
    pub fn committed(&self) -> &[Entry] {
        let committed = self.node.status().committed.0;
        &self.log[..self.log.partition_point(|entry| entry.index <= committed)]
    }
}

/// What a record does to a log.
fn follow(log: &mut Vec<Entry>, record: &Record) {
    match record {
        Record::Batch(batch) if batch.header().first_index == LogIndex(1) => {}
        Record::Batch(batch) => log.push(Entry {
            index: batch.header().first_index.0,
            term: batch.header().term.0,
            value: value_of(batch),
        }),
        Record::Truncate { end } => log.retain(|entry| entry.index <= end.index.0),
        Record::TermVote { .. } => {}
        Record::Install { .. } => panic!("nobody sends snapshots here"),
    }
}

fn start(
    id: NodeId,
    members: &MemberList,
    seed: u64,
    bug: Option<Bug>,
    records: &[(Lsn, Record)],
) -> Node {
    let mut recovery = Recovery::new(seed);
    for (lsn, record) in records {
        match record {
            Record::Batch(batch) => {
                let header = batch::check(batch.bytes()).expect("sealed batches are sound");
                recovery.batch(*lsn, &header, batch.bytes()).expect("a batch of this version");
            }
            Record::TermVote { term, voted_for } => recovery.term_vote(*lsn, *term, *voted_for),
            Record::Truncate { end } => recovery.truncate(*lsn, *end).expect("undecided entries"),
            Record::Install { .. } => panic!("nobody sends snapshots here"),
        }
    }
    // This network loses messages, as no connection does that stands.
    let resend_timeout = Duration::from_millis(300);
    let config = NodeConfig { seed, resend_timeout, ..NodeConfig::new(id, members.clone()) };
    let mut node = Node::new(config, recovery, LOG_ROOM_BYTES);
    if let Some(bug) = bug {
        node.seed_bug(bug);
    }
    node
}
