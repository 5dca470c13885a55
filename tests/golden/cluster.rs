//! A cluster whose network, disks and clocks do only what the script says.

use std::collections::{BTreeMap, BTreeSet};

use kvorum::core::Disagreement;
use kvorum_protocol::{LogIndex, Lsn, NodeId, Term};

use super::machine::{Machine, Setup};
use super::network::{Link, Network};
use super::words;

/// Longer than any election timeout is random.
const ELECTION_TIMEOUTS_MS: u64 = 600;

/// Between two heartbeats.
const HEARTBEAT_MS: u64 = 50;

/// More rounds than any script needs: two nodes that never come to an end are a bug.
const ROUNDS_MAX: usize = 1000;

struct Node {
    machine: Machine,
    is_up: bool,
    /// Its disk syncs only when the script says so.
    is_stalled: bool,
    /// What it was when it said so last.
    standing: String,
    /// Whom it counted then.
    members: String,
}

impl Node {
    fn new(mut machine: Machine) -> Node {
        machine.tick(0);
        machine.turn();
        machine.durable(None);
        machine.turn();
        let standing = words::standing(&machine.node().status());
        let members = words::members(machine.node());
        Node { machine, is_up: true, is_stalled: false, standing, members }
    }
}

pub struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    network: Network,
    laws: Laws,
    /// How each node begins.
    setup: Box<dyn Fn(NodeId) -> Setup>,
}

impl Cluster {
    /// First boot of all: their logs hold the member list, durably.
    pub fn new(setup: impl Fn(NodeId) -> Setup + 'static) -> Cluster {
        let mut nodes = BTreeMap::new();
        let first = setup(NodeId(1));
        for id in (1..=first.voters + first.learners).map(NodeId) {
            nodes.insert(id, Node::new(Machine::new(setup(id))));
        }
        let (network, laws) = (Network::default(), Laws::default());
        Cluster { nodes, network, laws, setup: Box::new(setup) }
    }

    /// A node that shall join starts with an empty log, and its connections stand.
    pub fn join(&mut self, id: NodeId) -> String {
        let setup = Setup { joins: true, ..(self.setup)(id) };
        self.nodes.insert(id, Node::new(Machine::new(setup)));
        self.ids_up().into_iter().map(|other| self.connect(id, other)).collect()
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    fn ids_up(&self) -> Vec<NodeId> {
        let up = self.nodes.iter().filter(|(_, node)| node.is_up);
        up.map(|(id, _)| *id).collect()
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the cluster")
    }

    pub fn machine(&mut self, id: NodeId) -> &mut Machine {
        &mut self.node(id).machine
    }

    // One node

    /// The node says all that it has to say; its messages go on their way.
    pub fn turn(&mut self, id: NodeId) -> String {
        let mut said = match self.machine(id).take_disagreement() {
            Some(outvoted @ Disagreement::Outvoted { .. }) => {
                return format!("stops: {outvoted}\n{}", self.kill(id));
            }
            Some(split) => format!("{split}\n"),
            None => String::new(),
        };
        said += &self.machine(id).turn();
        for (to, message) in std::mem::take(&mut self.machine(id).messages) {
            let trace = message.trace(id).to_string();
            let is_up = self.nodes.get(&to).is_some_and(|node| node.is_up);
            let arrives = is_up && self.network.send(Link { from: id, to }, message);
            let arrow = if arrives { "->" } else { "-x" };
            said += &format!("{arrow} {to} {trace}\n");
        }
        for fetch in &self.machine(id).fetches {
            let (member, from, end) = (fetch.member, fetch.from, fetch.end);
            said += &format!("fetch for={member} from={from} end={end}\n");
        }
        let node = self.node(id);
        let standing = words::standing(&node.machine.node().status());
        if node.standing != standing {
            said += &standing;
            said += "\n";
            node.standing = standing;
        }
        let members = words::members(node.machine.node());
        if node.members != members {
            said += &members;
            said += "\n";
            node.members = members;
        }
        self.laws.check(id, &self.nodes[&id].machine);
        said
    }

    /// The same, where others speak too.
    fn turn_among_others(&mut self, id: NodeId) -> String {
        let said = self.turn(id);
        signed(id, &said)
    }

    /// The timers of one node after so many milliseconds.
    pub fn tick(&mut self, id: NodeId, ms: u64) -> String {
        self.machine(id).tick(ms);
        self.turn(id)
    }

    pub fn durable(&mut self, id: NodeId, upto: Option<Lsn>) -> String {
        self.machine(id).durable(upto) + &self.turn(id)
    }

    pub fn stall(&mut self, id: NodeId, is_stalled: bool) {
        self.node(id).is_stalled = is_stalled;
    }

    pub fn crash(&mut self, id: NodeId, kept: Option<Lsn>) -> String {
        self.network.disconnect(id);
        self.node(id).is_up = false;
        self.machine(id).crash(kept)
    }

    pub fn kill(&mut self, id: NodeId) -> String {
        self.network.disconnect(id);
        self.node(id).is_up = false;
        self.machine(id).kill()
    }

    /// It starts again, and its connections stand again.
    pub fn restart(&mut self, id: NodeId) -> String {
        self.node(id).is_up = true;
        let mut said = signed(id, &self.machine(id).restart());
        self.machine(id).tick(0);
        let node = self.node(id);
        node.standing = words::standing(&node.machine.node().status());
        let members = words::members(node.machine.node());
        if node.members != members {
            said += &signed(id, &members);
            node.members = members;
        }
        for other in self.ids_up() {
            said += &self.connect(id, other);
        }
        said
    }

    /// Both ends learn that a connection stands, if it does.
    fn connect(&mut self, one: NodeId, other: NodeId) -> String {
        let link = Link { from: one, to: other };
        let is_cut = self.network.is_cut(link) || self.network.is_cut(link.back());
        if one == other || is_cut || !self.nodes[&one].is_up || !self.nodes[&other].is_up {
            return String::new();
        }
        self.machine(one).member_joined(other);
        self.machine(other).member_joined(one);
        self.turn_among_others(one) + &self.turn_among_others(other)
    }

    // The network

    /// Delivers what is on its way on a link now, and lets the receiver speak.
    pub fn deliver(&mut self, link: Link, at: Option<usize>) -> String {
        let mut said = String::new();
        for message in self.network.take(link, at) {
            let received = self.machine(link.to).receive(link.from, message);
            if let Err(violation) = received {
                said += &format!("{}: violation by {}: {violation}\n", link.to, link.from);
            }
        }
        said + &self.turn_among_others(link.to)
    }

    pub fn drop(&mut self, link: Link, at: Option<usize>) {
        self.network.take(link, at);
    }

    /// A second copy of a message comes behind all others.
    pub fn duplicate(&mut self, link: Link, at: usize) {
        let copy = self.network.queue(link)[at - 1].clone();
        self.network.send(link, copy);
    }

    pub fn on_its_way(&self) -> String {
        let mut said = String::new();
        for link in self.network.busy() {
            for message in self.network.queue(link) {
                said += &format!("{link} {}\n", message.trace(link.from));
            }
        }
        said
    }

    pub fn cut(&mut self, link: Link) {
        self.network.cut(link);
    }

    /// Nothing passes between nodes of different groups.
    pub fn partition(&mut self, groups: &[Vec<NodeId>]) {
        let group = |id| groups.iter().position(|group| group.contains(&id));
        for from in self.ids() {
            for to in self.ids() {
                if group(from) != group(to) {
                    self.network.cut(Link { from, to });
                }
            }
        }
    }

    /// All links work again, and their connections are made anew.
    pub fn heal(&mut self) -> String {
        let healed = self.network.heal();
        let pairs = healed.into_iter().map(|link| match link.from < link.to {
            true => link,
            false => link.back(),
        });
        let mut said = String::new();
        for link in pairs.collect::<BTreeSet<_>>() {
            said += &self.connect(link.from, link.to);
        }
        said
    }

    // All together

    pub fn elapse(&mut self, ms: u64) {
        self.nodes.values_mut().for_each(|node| node.machine.elapse(ms));
    }

    pub fn tick_all(&mut self, ms: u64) -> String {
        self.elapse(ms);
        let ticked = self.ids_up().into_iter().map(|id| signed(id, &self.tick(id, 0)));
        ticked.collect()
    }

    /// These nodes talk, and their disks sync, until nothing is left to do. No time passes.
    pub fn stabilize(&mut self, among: &[NodeId]) -> String {
        let mut said = String::new();
        for _ in 0..ROUNDS_MAX {
            let before = said.len();
            let mut is_quiet = true;
            for link in self.network.busy() {
                if among.contains(&link.from) && among.contains(&link.to) {
                    is_quiet = false;
                    said += &self.deliver(link, None);
                }
            }
            for id in among {
                said += &signed(*id, &self.serve(*id));
            }
            if is_quiet && said.len() == before {
                return said;
            }
        }
        panic!("they never come to an end:\n{said}");
    }

    /// Time passes as slowly as the heartbeats come.
    pub fn pass(&mut self, ms: u64) -> String {
        let everybody = self.ids();
        let steps = ms / HEARTBEAT_MS;
        (0..steps).map(|_| self.tick_all(HEARTBEAT_MS) + &self.stabilize(&everybody)).collect()
    }

    /// What a node has asked of its disk is done.
    pub fn serve(&mut self, id: NodeId) -> String {
        let mut said = String::new();
        let node = self.node(id);
        if !node.is_up || node.is_stalled {
            return said;
        }
        let (has_served, served) = node.machine.serve();
        said += &served;
        if node.machine.is_behind() {
            said += &node.machine.durable(None);
        } else if !has_served {
            return said;
        }
        said + &self.turn(id)
    }

    /// Nobody has heard of a leader for long; this node is the first to notice.
    pub fn elect(&mut self, id: NodeId) -> String {
        self.elapse(ELECTION_TIMEOUTS_MS);
        let said = signed(id, &self.tick(id, 0));
        said + &self.stabilize(&self.ids_up())
    }
}

/// Lines of one node among others.
fn signed(id: NodeId, said: &str) -> String {
    said.lines().map(|line| format!("{id}: {line}\n")).collect()
}

/// What holds whatever the script does (Raft paper, figure 3).
#[derive(Default)]
struct Laws {
    leaders: BTreeMap<Term, NodeId>,
    /// The checksums of all batches that somebody has called committed.
    committed: BTreeMap<LogIndex, u32>,
}

impl Laws {
    fn check(&mut self, id: NodeId, machine: &Machine) {
        let status = machine.node().status();
        if status.role.word() == "leader" {
            let leader = *self.leaders.entry(status.term).or_insert(id);
            assert_eq!(leader, id, "term {} has one leader", status.term);
        }
        let batches = machine.batches();
        let decided = batches.values().filter(|b| b.header().last_index() <= status.committed);
        for header in decided.map(|batch| batch.header()) {
            let crc = *self.committed.entry(header.first_index).or_insert(header.crc);
            assert_eq!(crc, header.crc, "node {id} has committed another {}", header.first_index);
        }
    }
}
