//! A node of theirs: raft-rs over its storage in memory, which is durable at once.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use kvorum_protocol::NodeId;
use kvorum_protocol::peer::Message;
use raft::eraftpb::{self, HardState, Snapshot};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole, Storage};

use crate::translation::{Acknowledged, Dictionary, to_ours, to_theirs};
use crate::world::{Entry, STEP_MS};

/// The same timeouts as ours by default, in steps.
const ELECTION_STEPS: u64 = 300 / STEP_MS;
const HEARTBEAT_STEPS: u64 = 50 / STEP_MS;

fn steps(steps: u64) -> usize {
    usize::try_from(steps).expect("a few")
}

pub struct RaftRsNode {
    id: NodeId,
    seed: u64,
    node: RawNode<MemStorage>,
    dictionary: Rc<RefCell<Dictionary>>,
    acknowledged: Acknowledged,
    /// Who has to answer a heartbeat.
    awaited: BTreeSet<NodeId>,
    pub sent: Vec<(NodeId, Message)>,
    /// What was committed, also in earlier lives.
    pub committed: Vec<Entry>,
}

impl RaftRsNode {
    pub fn new(
        id: NodeId,
        voters: &[NodeId],
        seed: u64,
        dictionary: Rc<RefCell<Dictionary>>,
    ) -> RaftRsNode {
        let storage = MemStorage::new();
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = 1;
        metadata.mut_conf_state().voters = voters.iter().map(|id| u64::from(id.0)).collect();
        storage.wl().apply_snapshot(snapshot).expect("the storage is empty");
        RaftRsNode {
            id,
            seed,
            node: start(id, storage),
            dictionary,
            acknowledged: Acknowledged::default(),
            awaited: BTreeSet::new(),
            sent: Vec::new(),
            committed: Vec::new(),
        }
    }

    pub fn term(&self) -> u64 {
        self.node.raft.term
    }

    pub fn leads(&self) -> bool {
        self.node.raft.state == StateRole::Leader
    }

    pub fn tick(&mut self) {
        self.node.tick();
        self.turn();
    }

    pub fn receive(&mut self, from: NodeId, message: &Message) {
        let mut dictionary = self.dictionary.borrow_mut();
        let is_ack = matches!(message, Message::Ack { .. });
        let answers = is_ack && self.awaited.remove(&from);
        let theirs = to_theirs(&mut dictionary, self.acknowledged, answers, from, self.id, message);
        drop(dictionary);
        for message in theirs {
            self.node.step(message).expect("raft-rs takes the message");
        }
        self.turn();
    }

    /// Whether it took the write.
    pub fn propose(&mut self, value: u64) -> bool {
        let taken = self.node.propose(Vec::new(), value.to_le_bytes().to_vec()).is_ok();
        self.turn();
        taken
    }

    pub fn transfer(&mut self, to: NodeId) {
        if self.leads() {
            self.node.transfer_leader(u64::from(to.0));
            self.turn();
        }
    }

    /// As raft-rs wants it done: write, then send what relies on that.
    fn turn(&mut self) {
        // It draws its timeouts from a source without a seed; this puts others in their place.
        let drawn = self.term().wrapping_mul(7).wrapping_add(self.seed) % ELECTION_STEPS;
        self.node.raft.set_randomized_election_timeout(steps(ELECTION_STEPS + drawn));
        while self.node.has_ready() {
            let mut ready = self.node.ready();
            self.learn(ready.entries());
            self.send(ready.take_messages());
            self.apply(ready.take_committed_entries());
            self.node.mut_store().wl().append(ready.entries()).expect("entries that follow");
            if let Some(state) = ready.hs() {
                self.node.mut_store().wl().set_hardstate(state.clone());
            }
            self.send(ready.take_persisted_messages());
            let mut light = self.node.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.node.mut_store().wl().mut_hard_state().commit = commit;
            }
            self.send(light.take_messages());
            self.apply(light.take_committed_entries());
            self.node.advance_apply();
        }
    }

    fn learn(&self, entries: &[eraftpb::Entry]) {
        let Some(first) = entries.first() else { return };
        let mut prev_term = self.node.store().term(first.index - 1).expect("entries that follow");
        for entry in entries {
            self.dictionary.borrow_mut().learn(prev_term, entry);
            prev_term = entry.term;
        }
    }

    fn send(&mut self, messages: Vec<eraftpb::Message>) {
        let dictionary = self.dictionary.borrow();
        for theirs in messages {
            let to = NodeId(u16::try_from(theirs.to).expect("a node"));
            let ours = to_ours(&dictionary, &mut self.acknowledged, &theirs);
            if let Message::Heartbeat { .. } = ours {
                self.awaited.insert(to);
            }
            self.sent.push((to, ours));
        }
    }

    fn apply(&mut self, entries: Vec<eraftpb::Entry>) {
        for entry in entries {
            let value = entry.data.as_ref().try_into().ok().map(u64::from_le_bytes);
            let entry = Entry { index: entry.index, term: entry.term, value };
            // After a restart it applies everything again.
            self.committed.truncate(self.committed.partition_point(|old| old.index < entry.index));
            self.committed.push(entry);
        }
    }

    /// The process dies and starts again.
    pub fn restart(&mut self) {
        let storage = self.node.store().clone();
        self.sent.clear();
        self.node = start(self.id, storage);
    }
}

fn start(id: NodeId, storage: MemStorage) -> RawNode<MemStorage> {
    let config = Config {
        id: u64::from(id.0),
        applied: 1,
        election_tick: steps(ELECTION_STEPS),
        heartbeat_tick: steps(HEARTBEAT_STEPS),
        check_quorum: true,
        pre_vote: true,
        ..Config::default()
    };
    let state: HardState = storage.rl().hard_state().clone();
    assert!(state.commit >= 1, "the first entry is committed");
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    RawNode::new(&config, storage, &logger).expect("a sound configuration")
}
