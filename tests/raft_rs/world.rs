//! Three nodes of two kinds, with a network that loses, delays and repeats, disks that take time,
//! and crashes. A seed decides everything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

use kvorum::core::seeded::Bug;
use kvorum::core::{Instant, Now, Output, Record, Recovery};
use kvorum_protocol::peer::Message;
use kvorum_protocol::{Member, MemberList, NodeId, Role};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::kvorum_node::KvorumNode;
use crate::raft_rs_node::RaftRsNode;
use crate::translation::Dictionary;

/// The key of all writes; their values are never the same.
pub const KEY: &[u8] = b"k";

/// Time goes in steps.
pub const STEP_MS: u64 = 10;

/// So long things go wrong, and so long they may take to come right.
const FAULTS_MS: u64 = 20_000;
const PATIENCE_MS: u64 = 20_000;

const IDS: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

/// An entry as both kinds know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    /// `None`: the no-op of a new leader.
    pub value: Option<u64>,
}

enum Kind {
    Kvorum(Box<KvorumNode>),
    RaftRs(Box<RaftRsNode>),
}

struct Node {
    kind: Kind,
    /// It is down until then.
    down_until: u64,
    sync_at: u64,
    /// So many of its committed entries were looked at.
    seen: usize,
}

struct Flight {
    at: u64,
    from: NodeId,
    to: NodeId,
    message: Message,
}

/// What has happened.
#[derive(Default)]
pub struct Tally {
    pub leaders_of_kvorum: usize,
    pub leaders_of_raft_rs: usize,
    pub committed_under_kvorum: usize,
    pub committed_under_raft_rs: usize,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.leaders_of_kvorum += other.leaders_of_kvorum;
        self.leaders_of_raft_rs += other.leaders_of_raft_rs;
        self.committed_under_kvorum += other.committed_under_kvorum;
        self.committed_under_raft_rs += other.committed_under_raft_rs;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "mixed clusters: {} leaders of kvorum committed {} entries, {} of raft-rs {}",
            self.leaders_of_kvorum,
            self.committed_under_kvorum,
            self.leaders_of_raft_rs,
            self.committed_under_raft_rs
        )
    }
}

pub struct World {
    seed: u64,
    rng: SmallRng,
    now: u64,
    nodes: Vec<Node>,
    flights: Vec<Flight>,
    /// Of the messages in 100 so many are lost, and so many come twice.
    lost: u32,
    twice: u32,
    delay_ms: u64,
    sync_ms: u64,
    /// Nothing passes to and from this one until then.
    cut_off: (NodeId, u64),
    /// Whether clients write.
    writes: bool,
    next_value: u64,
    /// Who led each term, and whether that is one of ours.
    leaders: BTreeMap<u64, (NodeId, bool)>,
    /// What anybody has called committed.
    committed: BTreeMap<u64, Entry>,
}

impl World {
    pub fn new(seed: u64, bug: Option<Bug>) -> World {
        let member = |id: NodeId| Member {
            id,
            role: Role::Voter,
            client: format!("n{id}:6379"),
            peer: format!("n{id}:7379"),
        };
        let members = MemberList::new(IDS.map(member).to_vec()).expect("distinct members");
        let dictionary = Rc::new(RefCell::new(Dictionary::new(first_batch(&members))));
        let mut rng = SmallRng::seed_from_u64(seed);
        // One of theirs most often, sometimes two.
        let theirs = 1 + usize::from(seed % 4 == 3);
        let first = rng.random_range(0..IDS.len());
        let node = |(at, id): (usize, NodeId)| {
            let is_theirs = (at + IDS.len() - first) % IDS.len() < theirs;
            let own_seed = seed * 10 + u64::from(id.0);
            let kind = match is_theirs {
                true => {
                    let node = RaftRsNode::new(id, &IDS, own_seed, Rc::clone(&dictionary));
                    Kind::RaftRs(Box::new(node))
                }
                false => {
                    Kind::Kvorum(Box::new(KvorumNode::new(id, members.clone(), own_seed, bug)))
                }
            };
            Node { kind, down_until: 0, sync_at: 0, seen: 0 }
        };
        World {
            seed,
            now: 0,
            nodes: IDS.into_iter().enumerate().map(node).collect(),
            flights: Vec::new(),
            lost: rng.random_range(0..20),
            twice: rng.random_range(0..20),
            delay_ms: rng.random_range(1..60),
            sync_ms: rng.random_range(1..200),
            cut_off: (IDS[0], 0),
            writes: true,
            next_value: 1,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            rng,
        }
    }

    pub fn run(&mut self) {
        while self.now < FAULTS_MS {
            self.go_wrong();
            self.step();
        }
    }

    /// All faults end: the three have to go on before long, and to agree on everything when nobody
    /// writes any more. What has happened.
    pub fn end(&mut self) -> Tally {
        (self.lost, self.twice, self.cut_off.1) = (0, 0, 0);
        let end = self.now + PATIENCE_MS;
        let enough = self.committed.len() + 10;
        while self.now < end && self.committed.len() < enough {
            self.step();
        }
        assert!(self.committed.len() >= enough, "seed {}: they do not go on", self.seed);
        self.writes = false;
        while self.now < end && !self.agree() {
            self.step();
        }
        assert!(self.agree(), "seed {}: they do not agree before long", self.seed);
        self.check_acknowledged();
        let mut tally = Tally::default();
        for (_, is_ours) in self.leaders.values() {
            let leaders = match is_ours {
                true => &mut tally.leaders_of_kvorum,
                false => &mut tally.leaders_of_raft_rs,
            };
            *leaders += 1;
        }
        for entry in self.committed.values() {
            match self.leaders[&entry.term].1 {
                true => tally.committed_under_kvorum += 1,
                false => tally.committed_under_raft_rs += 1,
            }
        }
        tally
    }

    /// Whether all have committed all that anybody has.
    fn agree(&self) -> bool {
        let last = self.committed.keys().last().copied();
        self.nodes.iter().all(|node| node.committed().last().map(|entry| entry.index) == last)
    }

    fn check_acknowledged(&self) {
        let values: BTreeSet<u64> =
            self.committed.values().filter_map(|entry| entry.value).collect();
        for node in &self.nodes {
            if let Kind::Kvorum(node) = &node.kind {
                for value in &node.acknowledged {
                    assert!(values.contains(value), "seed {}: {value} is lost", self.seed);
                }
            }
        }
    }

    fn go_wrong(&mut self) {
        let at = self.rng.random_range(0..IDS.len());
        match self.rng.random_range(0..300) {
            0..=2 => {
                let down_ms = self.rng.random_range(STEP_MS..1000);
                self.nodes[at].down_until = self.now + down_ms;
                self.flights.retain(|flight| flight.from != IDS[at] && flight.to != IDS[at]);
                let kept = self.rng.random_range(0..3);
                match &mut self.nodes[at].kind {
                    Kind::Kvorum(node) => node.restart(kept),
                    Kind::RaftRs(node) => node.restart(),
                }
                self.join(IDS[at]);
            }
            3..=5 => self.cut_off = (IDS[at], self.now + self.rng.random_range(100..2000)),
            6 => match &mut self.nodes[at].kind {
                Kind::Kvorum(node) => node.transfer(),
                Kind::RaftRs(node) => node.transfer(IDS[(at + 1) % IDS.len()]),
            },
            _ => {}
        }
    }

    /// Connections to this one are made anew.
    fn join(&mut self, id: NodeId) {
        for (node, other) in self.nodes.iter_mut().zip(IDS) {
            match &mut node.kind {
                Kind::Kvorum(node) if other == id => {
                    IDS.into_iter().filter(|peer| *peer != id).for_each(|peer| node.joined(peer));
                }
                Kind::Kvorum(node) => node.joined(id),
                // It looks for itself, at the next heartbeat.
                Kind::RaftRs(_) => {}
            }
        }
    }

    fn step(&mut self) {
        self.now += STEP_MS;
        self.deliver();
        let now = Now {
            monotonic: Instant(0).after(std::time::Duration::from_millis(self.now)),
            wall_ms: self.now,
        };
        for at in 0..IDS.len() {
            if self.nodes[at].down_until > self.now {
                continue;
            }
            self.sync(at);
            match &mut self.nodes[at].kind {
                Kind::Kvorum(node) => node.tick(now),
                Kind::RaftRs(node) => node.tick(),
            }
            if self.writes && self.rng.random_range(0..4) == 0 {
                self.nodes[at].propose(self.next_value);
                self.next_value += 1;
            }
            self.look(at);
            self.send(at);
        }
    }

    fn sync(&mut self, at: usize) {
        let now = self.now;
        let took = self.rng.random_range(0..self.sync_ms);
        let node = &mut self.nodes[at];
        let Kind::Kvorum(kvorum) = &mut node.kind else { return };
        match kvorum.syncing {
            Some(_) if now >= node.sync_at => {
                kvorum.synced();
                node.sync_at = now + took;
            }
            _ => {}
        }
    }

    fn send(&mut self, at: usize) {
        let from = IDS[at];
        let sent = match &mut self.nodes[at].kind {
            Kind::Kvorum(node) => std::mem::take(&mut node.sent),
            Kind::RaftRs(node) => std::mem::take(&mut node.sent),
        };
        for (to, message) in sent {
            let is_cut = self.cut_off.1 > self.now && [from, to].contains(&self.cut_off.0);
            if is_cut || self.rng.random_range(0..100) < self.lost {
                continue;
            }
            let copies = 1 + u32::from(self.rng.random_range(0..100) < self.twice);
            for _ in 0..copies {
                let at = self.now + self.rng.random_range(0..self.delay_ms);
                self.flights.push(Flight { at, from, to, message: message.clone() });
            }
        }
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flights).into_iter().partition(|flight| flight.at <= now);
        self.flights = later;
        for Flight { from, to, message, .. } in due {
            let at = IDS.iter().position(|id| *id == to).expect("one of the three");
            if self.nodes[at].down_until > now {
                continue;
            }
            match &mut self.nodes[at].kind {
                Kind::Kvorum(node) => node.receive(from, message),
                Kind::RaftRs(node) => node.receive(from, &message),
            }
            self.look(at);
            self.send(at);
        }
    }

    /// What must hold at any time (Raft paper, figure 3).
    fn look(&mut self, at: usize) {
        let node = &self.nodes[at];
        let is_ours = matches!(node.kind, Kind::Kvorum(_));
        if let Some(term) = node.leads_in() {
            let leader = *self.leaders.entry(term).or_insert((IDS[at], is_ours));
            assert_eq!(leader.0, IDS[at], "seed {}: term {term} has two leaders", self.seed);
        }
        // A restart may forget what is committed, and then learns it again.
        let committed = node.committed();
        let seen = node.seen.min(committed.len());
        for entry in &committed[seen..] {
            let known = *self.committed.entry(entry.index).or_insert(*entry);
            assert_eq!(known, *entry, "seed {}: node {} has another entry", self.seed, IDS[at]);
        }
        self.nodes[at].seen = committed.len();
    }
}

impl Node {
    /// The term in which it leads, if it does.
    fn leads_in(&self) -> Option<u64> {
        match &self.kind {
            Kind::Kvorum(node) => {
                let status = node.node().status();
                (status.role.word() == "leader").then_some(status.term.0)
            }
            Kind::RaftRs(node) => node.leads().then_some(node.term()),
        }
    }

    fn propose(&mut self, value: u64) -> bool {
        match &mut self.kind {
            Kind::Kvorum(node) => node.propose(value),
            Kind::RaftRs(node) => node.leads() && node.propose(value),
        }
    }

    fn committed(&self) -> &[Entry] {
        match &self.kind {
            Kind::Kvorum(node) => node.committed(),
            Kind::RaftRs(node) => &node.committed,
        }
    }
}

/// The batch that every log begins with.
fn first_batch(members: &MemberList) -> kvorum_protocol::Batch {
    let config = kvorum::core::NodeConfig::new(IDS[0], members.clone());
    let mut node = kvorum::core::Node::new(config, Recovery::new(0), 1 << 40);
    let mut out = Output::default();
    node.seal(&Now { monotonic: Instant(0), wall_ms: 0 }, &mut out);
    match out.records.pop() {
        Some((_, Record::Batch(batch))) => batch,
        other => panic!("a log begins with the member list, not with {other:?}"),
    }
}
