//! What a client knows of the servers.

use std::time::{Duration, Instant};

use kvorum_protocol::limits::{ADDRESS_BYTES_MAX, MEMBERS_AGE_MAX};
use kvorum_protocol::{ClusterId, LogIndex, MembersLine, Role};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::tried::Tried;

/// The most servers that are kept in mind: all members of the largest cluster, the servers given,
/// and some that were members once. Servers can not make a client's memory grow by naming others.
pub const NODES_MAX: usize = 512;

/// A server that has just failed is left alone for this long, doubling with each failure in a row.
const REST: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_secs(1);

/// The weight of the newest round trip in the smoothed one: 1 / 8 (RFC 6298, section 2).
const ROUND_TRIP_WEIGHT: u32 = 8;

/// How often the nearest server is passed over, so that the others are measured too.
const EXPLORE_ONE_IN: u32 = 64;

/// When nobody has told who the members are: how long after the last question to ask again.
const MEMBERS_ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Where reads go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// To the leader, which answers linearizable reads with one round of its own.
    #[default]
    Leader,
    /// To any member, by chance.
    Random,
    /// To each member in turn.
    RoundRobin,
    /// To the member with the fewest requests of this client in flight.
    LeastLoaded,
    /// To the member with the shortest round trip, as this client has measured it.
    Nearest,
}

/// Names a server in its [`Router`]; never reused for another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub usize);

#[derive(Debug)]
struct Node {
    address: String,
    /// Listed by the cluster. A server that was only given may be a name for one of these.
    is_member: bool,
    is_voter: bool,
    /// It has not understood the question for the members.
    is_ignorant: bool,
    in_flight: u32,
    /// Smoothed; `None` before the first answer.
    round_trip: Option<Duration>,
    failures: u32,
    rests_until: Option<Instant>,
}

/// The servers of one cluster.
#[derive(Debug)]
pub struct Router {
    nodes: Vec<Node>,
    leader: Option<NodeIndex>,
    turn: usize,
    rng: SmallRng,
    /// When the members were learned. `None`: they should be, as soon as somebody answers.
    members_at: Option<Instant>,
    /// When they were last asked for.
    members_asked_at: Option<Instant>,
    /// The cluster whose list was learned, and where the list stands in its log.
    members_of: (Option<ClusterId>, Option<LogIndex>),
}

impl Router {
    /// A router that knows no more than addresses where to begin.
    #[must_use]
    pub fn new<'a>(servers: impl IntoIterator<Item = &'a str>, seed: u64) -> Router {
        let mut router = Router {
            nodes: Vec::new(),
            leader: None,
            turn: 0,
            rng: SmallRng::seed_from_u64(seed),
            members_at: None,
            members_asked_at: None,
            members_of: (None, None),
        };
        for server in servers {
            router.index_of(server);
        }
        router
    }

    /// The server at an address, if it is known.
    #[must_use]
    pub fn find(&self, address: &str) -> Option<NodeIndex> {
        self.nodes.iter().position(|node| node.address == address).map(NodeIndex)
    }

    /// The server at an address; a new one if it is not known. `None` for an address that is none,
    /// and when there are [`NODES_MAX`] already.
    fn index_of(&mut self, address: &str) -> Option<NodeIndex> {
        if let Some(found) = self.find(address) {
            return Some(found);
        }
        let is_address = (1..=ADDRESS_BYTES_MAX).contains(&address.len());
        if !is_address || self.nodes.len() == NODES_MAX {
            return None;
        }
        self.nodes.push(Node {
            address: address.to_owned(),
            is_member: false,
            is_voter: true,
            is_ignorant: false,
            in_flight: 0,
            round_trip: None,
            failures: 0,
            rests_until: None,
        });
        Some(NodeIndex(self.nodes.len() - 1))
    }

    /// Where a server listens.
    #[must_use]
    pub fn address(&self, node: NodeIndex) -> &str {
        &self.nodes[node.0].address
    }

    /// A router for somebody else, who begins with these servers, the members among them and this
    /// leader, and finds out alone how each of them does.
    #[must_use]
    pub fn fork(&mut self) -> Router {
        let seed = self.rng.random();
        let mut fork = Router::new(self.nodes.iter().map(|node| &*node.address), seed);
        for (node, own) in fork.nodes.iter_mut().zip(&self.nodes) {
            (node.is_member, node.is_voter) = (own.is_member, own.is_voter);
        }
        fork.leader = self.leader;
        fork
    }

    /// The leader, as far as it is known.
    #[must_use]
    pub fn leader(&self) -> Option<NodeIndex> {
        self.leader
    }

    /// Whether the members should be asked for.
    #[must_use]
    pub fn wants_members(&self, now: Instant) -> bool {
        self.members_at.is_none_or(|at| now.saturating_duration_since(at) >= MEMBERS_AGE_MAX)
    }

    /// Whether the members should be asked for along with a request that goes to this server now.
    /// Then nobody else is asked for a while.
    pub fn asks_members(&mut self, node: NodeIndex, now: Instant) -> bool {
        let is_pending = |at| now.saturating_duration_since(at) < MEMBERS_ASK_INTERVAL;
        let asks = self.wants_members(now)
            && !self.nodes[node.0].is_ignorant
            && !self.members_asked_at.is_some_and(is_pending);
        if asks {
            self.members_asked_at = Some(now);
        }
        asks
    }

    // What happens

    /// A request leaves for a server.
    pub fn sent(&mut self, node: NodeIndex) {
        self.nodes[node.0].in_flight += 1;
    }

    /// The server has answered, after this time if that says something about the way to it.
    pub fn answered(&mut self, node: NodeIndex, round_trip: Option<Duration>) {
        let node = &mut self.nodes[node.0];
        node.in_flight = node.in_flight.checked_sub(1).expect("an answer follows a request");
        node.failures = 0;
        node.rests_until = None;
        if let Some(new) = round_trip {
            node.round_trip = Some(node.round_trip.map_or(new, |old| {
                old * (ROUND_TRIP_WEIGHT - 1) / ROUND_TRIP_WEIGHT + new / ROUND_TRIP_WEIGHT
            }));
        }
    }

    /// There will be no answer: the connection broke, or there was none.
    pub fn failed(&mut self, node: NodeIndex, now: Instant) {
        self.abandoned(node);
        if self.leader == Some(node) {
            self.leader = None;
        }
        self.members_at = None;
        self.rest(node, now);
    }

    /// The server is of no use for a while: better ask others.
    pub fn rest(&mut self, node: NodeIndex, now: Instant) {
        // It is one failure, however many requests meet it.
        if !self.is_rested(node, now) {
            return;
        }
        let rest = &mut self.nodes[node.0];
        let longest = (REST * (1 << rest.failures.min(16))).min(REST_MAX);
        rest.failures += 1;
        rest.rests_until = Some(now + longest.mul_f64(self.rng.random_range(0.5..1.0)));
    }

    /// When the next server that rests may be asked again; `None` when none rests.
    #[must_use]
    pub fn rested_at(&self, now: Instant) -> Option<Instant> {
        self.nodes.iter().filter_map(|node| node.rests_until).filter(|until| *until > now).min()
    }

    /// Nobody waits for the answer any more.
    pub fn abandoned(&mut self, node: NodeIndex) {
        let node = &mut self.nodes[node.0];
        node.in_flight = node.in_flight.checked_sub(1).expect("an end follows a request");
    }

    /// A server has named the leader. It may be mistaken: one that has just failed still rests.
    pub fn learn_leader(&mut self, address: &str) {
        self.leader = self.index_of(address);
    }

    /// The server has shown that it leads.
    pub fn leads(&mut self, node: NodeIndex) {
        self.leader = Some(node);
    }

    /// The server has shown that it does not lead.
    pub fn leads_not(&mut self, node: NodeIndex) {
        if self.leader == Some(node) {
            self.leader = None;
        }
    }

    /// The members have changed: they are to be asked for again.
    pub fn forget_members(&mut self) {
        (self.members_at, self.members_asked_at) = (None, None);
    }

    /// The cluster's members: their ids, whether they vote, where they listen; and who leads.
    /// Servers that are none of them are asked only when no member can be.
    pub fn learn_members(&mut self, line: &MembersLine, now: Instant) {
        // Who is behind, or was removed, tells what was true once.
        let (cluster, index) = self.members_of;
        if line.cluster == cluster && line.index < index {
            return;
        }
        self.members_of = (line.cluster, line.index);
        self.nodes.iter_mut().for_each(|node| node.is_member = false);
        for member in line.members.members() {
            let Some(index) = self.index_of(&member.client) else { continue };
            let node = &mut self.nodes[index.0];
            (node.is_voter, node.is_member) = (member.role == Role::Voter, true);
            if line.leader == Some(member.id) {
                self.leader = Some(index);
            }
        }
        self.members_at = Some(now);
    }

    /// The server does not understand the question for the members: it is not asked again.
    pub fn knows_no_members(&mut self, node: NodeIndex) {
        self.nodes[node.0].is_ignorant = true;
        self.members_asked_at = None;
    }

    // What is best

    /// A server that may take a write, or say who does; not one of `tried` while there is another.
    pub fn for_write(&mut self, tried: &Tried, now: Instant) -> Option<NodeIndex> {
        let may = |leader: &NodeIndex| !tried.contains(*leader) && self.is_rested(*leader, now);
        if let Some(leader) = self.leader.filter(may) {
            return Some(leader);
        }
        self.any(tried, now, |node| node.is_voter).or_else(|| self.any(tried, now, |_| true))
    }

    /// A server for a read; not one of `tried` while there is another.
    pub fn for_read(&mut self, from: ReadFrom, tried: &Tried, now: Instant) -> Option<NodeIndex> {
        let explores = self.rng.random_ratio(1, EXPLORE_ONE_IN);
        match from {
            ReadFrom::Leader => self.for_write(tried, now),
            ReadFrom::Random => self.any(tried, now, |_| true),
            ReadFrom::RoundRobin => {
                self.turn = self.turn.wrapping_add(1);
                let turn = self.turn;
                let count = self.candidates(tried, now).count();
                let at = turn.checked_rem(count)?;
                self.candidates(tried, now).nth(at)
            }
            ReadFrom::LeastLoaded => self.least(tried, now, |node| node.in_flight),
            ReadFrom::Nearest if explores => self.any(tried, now, |_| true),
            ReadFrom::Nearest => {
                self.least(tried, now, |node| node.round_trip.unwrap_or(Duration::ZERO))
            }
        }
    }

    fn any(
        &mut self,
        tried: &Tried,
        now: Instant,
        suits: impl Fn(&Node) -> bool,
    ) -> Option<NodeIndex> {
        let suiting = |router: &Router, index: &NodeIndex| suits(&router.nodes[index.0]);
        let count = self.candidates(tried, now).filter(|index| suiting(self, index)).count();
        let at = (count > 0).then(|| self.rng.random_range(0..count))?;
        self.candidates(tried, now).filter(|index| suiting(self, index)).nth(at)
    }

    /// Among equals the choice goes round, so that none of them is always the first.
    fn least<K: Ord>(
        &mut self,
        tried: &Tried,
        now: Instant,
        key: impl Fn(&Node) -> K,
    ) -> Option<NodeIndex> {
        self.turn = self.turn.wrapping_add(1);
        let (turn, count) = (self.turn, self.nodes.len());
        self.candidates(tried, now)
            .min_by_key(|index| (key(&self.nodes[index.0]), (index.0 + turn) % count))
    }

    /// Members that were not tried and do not rest; if none is left, other servers too.
    fn candidates<'a>(
        &'a self,
        tried: &'a Tried,
        now: Instant,
    ) -> impl Iterator<Item = NodeIndex> + 'a {
        let may = move |index: &NodeIndex| !tried.contains(*index) && self.is_rested(*index, now);
        let indexes = || (0..self.nodes.len()).map(NodeIndex);
        let members_only = indexes().any(|index| self.is_listed(index) && may(&index));
        indexes().filter(move |index| (!members_only || self.is_listed(*index)) && may(index))
    }

    fn is_rested(&self, index: NodeIndex, now: Instant) -> bool {
        self.nodes[index.0].rests_until.is_none_or(|until| until <= now)
    }

    fn is_listed(&self, index: NodeIndex) -> bool {
        self.nodes[index.0].is_member
    }

    /// A random part of `longest`, from its half on.
    pub(super) fn jitter(&mut self, longest: Duration) -> Duration {
        longest.mul_f64(self.rng.random_range(0.5..1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: [&str; 3] = ["a:1", "b:1", "c:1"];
    const NONE: Tried = Tried::NONE;

    fn members(line: &str) -> MembersLine {
        MembersLine::parse(line).unwrap()
    }

    fn picks(router: &mut Router, from: ReadFrom, now: Instant, times: usize) -> Vec<usize> {
        let mut counts = vec![0; 3];
        for _ in 0..times {
            counts[router.for_read(from, &NONE, now).unwrap().0] += 1;
        }
        counts
    }

    #[test]
    fn reads_spread_as_the_policy_says() {
        let now = Instant::now();
        let mut router = Router::new(SERVERS, 1);
        assert_eq!(picks(&mut router, ReadFrom::RoundRobin, now, 30), [10, 10, 10]);
        assert!(picks(&mut router, ReadFrom::Random, now, 300).iter().all(|count| *count > 50));
        router.leads(NodeIndex(1));
        assert_eq!(picks(&mut router, ReadFrom::Leader, now, 30), [0, 30, 0]);
        router.sent(NodeIndex(0));
        router.sent(NodeIndex(2));
        assert_eq!(picks(&mut router, ReadFrom::LeastLoaded, now, 30), [0, 30, 0]);
        router.answered(NodeIndex(0), Some(Duration::from_millis(3)));
        router.answered(NodeIndex(2), Some(Duration::from_millis(1)));
        router.sent(NodeIndex(1));
        router.answered(NodeIndex(1), Some(Duration::from_millis(2)));
        let nearest = picks(&mut router, ReadFrom::Nearest, now, 640);
        assert!(nearest[2] > 600, "the nearest: {nearest:?}");
        assert!(nearest[0] + nearest[1] > 0, "the others are measured too: {nearest:?}");
    }

    #[test]
    fn who_failed_rests_and_comes_back() {
        let now = Instant::now();
        let mut router = Router::new(SERVERS, 1);
        router.leads(NodeIndex(0));
        router.sent(NodeIndex(0));
        router.failed(NodeIndex(0), now);
        assert_eq!(router.leader(), None);
        assert_eq!(picks(&mut router, ReadFrom::RoundRobin, now, 20), [0, 10, 10]);
        let later = now + REST;
        assert!(picks(&mut router, ReadFrom::RoundRobin, later, 30)[0] > 0);
        for node in 0..3 {
            router.sent(NodeIndex(node));
            router.failed(NodeIndex(node), later);
        }
        assert_eq!(router.for_write(&NONE, later), None);
        assert!(router.for_write(&NONE, later + REST * 2).is_some());
    }

    #[test]
    fn members_take_the_place_of_the_servers_given() {
        let now = Instant::now();
        let mut router = Router::new(["localhost:1"], 1);
        assert!(router.wants_members(now));
        let line = members("id=4 leader=1 member=1=a:1/a:2 learner=4=d:1/d:2");
        router.learn_members(&line, now);
        assert_eq!(router.leader(), Some(NodeIndex(1)));
        assert!(!router.wants_members(now));
        assert!(router.wants_members(now + MEMBERS_AGE_MAX));
        for _ in 0..20 {
            assert_eq!(router.for_write(&NONE, now), Some(NodeIndex(1)), "learners do not lead");
            assert_ne!(router.for_read(ReadFrom::Random, &NONE, now), Some(NodeIndex(0)));
        }
        // Nobody else is left: the server given may be another way to one of them.
        let mut tried = Tried::default();
        tried.insert(NodeIndex(1));
        tried.insert(NodeIndex(2));
        assert_eq!(router.for_write(&tried, now), Some(NodeIndex(0)));
    }

    #[test]
    fn an_older_list_of_members_changes_nothing() {
        let now = Instant::now();
        let mut router = Router::new(SERVERS, 1);
        router.learn_members(&members("id=1 leader=1 member=1=d:1/ index=9"), now);
        let removed = members("id=2 leader=2 member=2=a:1/ index=4");
        router.learn_members(&removed, now);
        assert_eq!(router.leader().map(|leader| router.address(leader)), Some("d:1"));
        assert!(!router.is_listed(NodeIndex(0)));
    }

    #[test]
    fn a_fork_knows_the_servers_given_too() {
        let now = Instant::now();
        let mut router = Router::new(["localhost:1"], 1);
        router.learn_members(&members("id=1 leader=1 member=1=a:1/"), now);
        let mut fork = router.fork();
        assert_eq!(fork.leader(), Some(NodeIndex(1)));
        assert_eq!(fork.for_read(ReadFrom::Random, &NONE, now), Some(NodeIndex(1)), "a member");
        fork.sent(NodeIndex(1));
        fork.failed(NodeIndex(1), now);
        let left = fork.for_write(&NONE, now).map(|node| fork.address(node));
        assert_eq!(left, Some("localhost:1"));
    }

    #[test]
    fn members_are_asked_for_by_one_call_at_a_time_and_not_of_who_does_not_know() {
        let now = Instant::now();
        let mut router = Router::new(SERVERS, 1);
        assert!(router.asks_members(NodeIndex(0), now));
        assert!(!router.asks_members(NodeIndex(1), now), "the answer is on its way");
        assert!(router.asks_members(NodeIndex(1), now + MEMBERS_ASK_INTERVAL));
        router.knows_no_members(NodeIndex(1));
        assert!(!router.asks_members(NodeIndex(1), now + MEMBERS_AGE_MAX));
        assert!(router.asks_members(NodeIndex(2), now));
        router.learn_members(&members("id=1 member=1=a:1/"), now);
        assert!(!router.asks_members(NodeIndex(0), now + MEMBERS_ASK_INTERVAL));
        assert!(router.asks_members(NodeIndex(0), now + MEMBERS_AGE_MAX));
    }

    #[test]
    fn servers_that_name_others_do_not_fill_the_memory() {
        let mut router = Router::new(SERVERS, 1);
        router.learn_leader(&"x".repeat(ADDRESS_BYTES_MAX + 1));
        assert_eq!(router.leader(), None);
        for n in 0..2 * NODES_MAX {
            router.learn_leader(&format!("x:{n}"));
        }
        assert_eq!(router.nodes.len(), NODES_MAX);
        assert_eq!(router.leader(), None);
        router.learn_leader("b:1");
        assert_eq!(router.leader(), Some(NodeIndex(1)));
    }
}
