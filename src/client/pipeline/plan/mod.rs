//! The pure part of a pipeline: who is asked what, what is sent again, what is open.
//!
//! No sockets, no clock: `now` is an argument. The shell hands over what [`Plan::next_sending`]
//! yields until there is nothing more, and tells what came of it: [`heard`](Plan::heard),
//! [`lost`](Plan::lost), and that time has passed ([`expire`](Plan::expire)).
//!
//! The rules are those of a [`Course`](crate::client::route::Course), kept once for each server
//! instead of once for each request:
//!
//! - **The stream** is all that goes to the leader: writes, and reads of [`ReadFrom::Leader`], in
//!   the order of queueing. It goes to one server at a time. When that server is lost, or says that
//!   it does not lead, the stream stops; what was in flight comes back, each to its place by the
//!   order of queueing; and when nothing of it is in flight any more, it goes on from its oldest
//!   request, to the server that a [`Search`] finds. That one gets a single request until it has
//!   answered one. So writes that are sent again keep their order, and one search for the leader
//!   serves all.
//! - Reads of any other policy go one by one where the [`Router`] sends them, and a server that has
//!   refused or lost one rests.
//! - Each write keeps the number that it has in the session, and whether a sending of it may have
//!   been applied. That is set by a lost connection, QUORUM_TIMEOUT, LEADER_CHANGED, and a
//!   deadline that passes in flight, and never taken back. Such a write is over if it has no
//!   number; with one it is sent again.
//! - SESSION_EXPIRED ends a write that is open. Any other goes on with a number in a new session.

mod answers;
mod lane;
mod slots;
mod waiting;

use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{Command, LogIndex, Op, Quorum, Request};

use crate::client::route::{
    End, Found, NodeIndex, Numbered, ReadFrom, Router, Search, Sequences, Target, Tried,
};
use lane::{Entry, Lane, Silence};
use slots::{Answer, SlotIndex, Slots, State};
use waiting::Waiting;

pub use slots::Asked;

/// Names a request of one pipeline. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket {
    serial: u64,
    slot: SlotIndex,
}

/// What a request has come to. Borrows from the pipeline, until it is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// The value is stored.
    Set {
        /// The index of the entry.
        version: LogIndex,
    },
    /// The key is gone.
    Deleted {
        /// The index of the entry.
        version: LogIndex,
        /// How many keys there were: 0 or 1.
        count: u32,
    },
    /// The value of the key.
    Value {
        /// The index of the entry that last changed the key.
        version: LogIndex,
        /// The value.
        value: &'a [u8],
    },
    /// There is no such key.
    Absent,
}

/// A server has said something that does not answer what it was asked: the connection is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confused;

/// What the system has taken of the bytes for a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many.
    pub bytes: usize,
    /// Before these, it took no more: the server has made room since then.
    pub was_full: bool,
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a request may take, from the turn that may first send it.
    pub timeout: Duration,
    /// Where reads go.
    pub read_from: ReadFrom,
    /// W of all writes.
    pub write_quorum: Option<Quorum>,
    /// R of all reads.
    pub read_quorum: Option<Quorum>,
    /// The window of the session that numbers the writes; `None`: no session.
    pub window: Option<u32>,
}

/// What is sent next.
pub type Sending<'a> = (NodeIndex, RequestHead, Request<'a>);

/// All requests of a pipeline, and what it knows of the servers.
#[derive(Debug)]
pub struct Plan {
    terms: Terms,
    router: Router,
    sequences: Sequences,
    slots: Slots,
    lanes: Vec<Lane>,
    /// Queued since the last turn: without a deadline.
    fresh: Vec<SlotIndex>,
    stream: Stream,
    /// Reads that any server may answer.
    reads: Waiting,
}

/// What goes to the leader.
#[derive(Debug)]
struct Stream {
    waiting: Waiting,
    /// Where it goes; `None` until somebody is found.
    node: Option<NodeIndex>,
    trust: Trust,
    in_flight: usize,
    search: Search,
    /// Not before then, when nobody was found.
    waits_until: Option<Instant>,
    is_opening_session: bool,
}

/// What the server of the stream has shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trust {
    /// Nothing yet: it gets one request, so that one that does not lead, or is not there, does not
    /// get thousands to refuse.
    None,
    /// That it answers. A server that does not lead answers reads, too.
    Answers,
    /// That it leads.
    Leads,
}

impl Plan {
    /// A plan without requests.
    #[must_use]
    pub fn new(terms: Terms, router: Router) -> Plan {
        Plan {
            terms,
            router,
            sequences: Sequences::new(terms.window.unwrap_or(1)),
            slots: Slots::new(),
            lanes: Vec::new(),
            fresh: Vec::new(),
            stream: Stream {
                waiting: Waiting::default(),
                node: None,
                trust: Trust::None,
                in_flight: 0,
                search: Search::default(),
                waits_until: None,
                is_opening_session: false,
            },
            reads: Waiting::default(),
        }
    }

    /// What it knows of the servers.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// How many requests have no answer yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots.under_way()
    }

    /// Keys and values of these, in bytes.
    #[must_use]
    pub fn bytes_under_way(&self) -> usize {
        self.slots.bytes_under_way()
    }

    /// How many answers wait to be taken.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.slots.ready()
    }

    /// How many requests were queued since the last turn.
    #[must_use]
    pub fn fresh(&self) -> usize {
        self.fresh.len()
    }

    /// Whether a request to this server has no answer yet.
    #[must_use]
    pub fn is_asking(&self, node: NodeIndex) -> bool {
        self.lanes.get(node.0).is_some_and(Lane::is_asking)
    }

    // What the program does

    /// Queues a request.
    #[inline]
    pub fn add(&mut self, asked: Asked, key: &[u8], value: &[u8], min_version: LogIndex) -> Ticket {
        let slot = self.slots.add(asked, key, value, min_version);
        self.fresh.push(slot);
        Ticket { serial: self.slots.get(slot).serial, slot }
    }

    /// The ticket whose answer came first, of those that were not taken.
    #[inline]
    #[must_use]
    pub fn first_ready(&self) -> Option<Ticket> {
        let slot = self.slots.first_ready()?;
        Some(Ticket { serial: self.slots.get(slot).serial, slot })
    }

    /// Whether the answer to this request can be taken.
    ///
    /// # Panics
    /// When it was taken.
    #[inline]
    #[must_use]
    pub fn is_ready(&self, ticket: Ticket) -> bool {
        let slot = self.slots.get(ticket.slot);
        let is_taken = slot.serial != ticket.serial || slot.state == State::Free;
        assert!(!is_taken, "an answer can be taken once");
        matches!(slot.state, State::Ready(_))
    }

    /// Takes an answer that is ready; it lasts until [`release`](Plan::release).
    #[inline]
    pub fn take(&mut self, ticket: Ticket) {
        self.slots.take(ticket.slot);
    }

    /// What was taken.
    ///
    /// # Panics
    /// When it is not ready.
    #[inline]
    pub fn outcome(&self, ticket: Ticket) -> Result<Outcome<'_>, End> {
        let slot = self.slots.get(ticket.slot);
        let State::Ready(result) = slot.state else { panic!("there is no answer yet") };
        result.map(|answer| match answer {
            Answer::Set { version } => Outcome::Set { version },
            Answer::Deleted { version, count } => Outcome::Deleted { version, count },
            Answer::Value { version } => Outcome::Value { version, value: slot.value() },
            Answer::Absent => Outcome::Absent,
        })
    }

    /// What was taken is not needed any more.
    #[inline]
    pub fn release(&mut self, ticket: Ticket) {
        self.slots.release(ticket.slot);
    }

    // What the shell does

    /// A turn begins: what is queued may be sent, and its time runs.
    pub fn begin_turn(&mut self, now: Instant) {
        let deadline = Some(now + self.terms.timeout);
        for slot in self.fresh.drain(..) {
            let it = self.slots.get_mut(slot);
            (it.deadline, it.state) = (deadline, State::Waiting);
            let to_leader = it.is_write() || self.terms.read_from == ReadFrom::Leader;
            let waiting = if to_leader { &mut self.stream.waiting } else { &mut self.reads };
            waiting.push_newest(slot);
        }
    }

    /// The next thing to send, and where to; `None` when all that may be sent now is sent.
    #[inline]
    pub fn next_sending(&mut self, now: Instant) -> Option<Sending<'_>> {
        if let Some(slot) = self.stream.waiting.first()
            && let Some(node) = self.stream_node(now)
        {
            match self.number(slot) {
                Numbered::As(_) => {
                    self.stream.waiting.remove_first();
                    self.stream.in_flight += 1;
                    return Some(self.send(node, slot, now));
                }
                Numbered::NoSession if !self.stream.is_opening_session => {
                    self.stream.is_opening_session = true;
                    self.stream.in_flight += 1;
                    return Some(self.open_session(node, now));
                }
                Numbered::NoSession | Numbered::Full => {}
            }
        }
        let slot = self.reads.first()?;
        let node = self.router.for_read(self.terms.read_from, &Tried::NONE, now)?;
        self.reads.remove_first();
        Some(self.send(node, slot, now))
    }

    /// The next thing to ask a server beside the requests: whether it is there, when it owes an
    /// answer and says nothing; and who the members are, when that is to be learned.
    pub fn next_inquiry(&mut self, now: Instant) -> Option<Sending<'static>> {
        for node in (0..self.lanes.len()).map(NodeIndex) {
            let lane = &mut self.lanes[node.0];
            let entry = if lane.silence(now) == Some(Silence::Long) {
                lane.pinged(now);
                Entry::Ping
            } else if lane.is_asking() && self.router.asks_members(node, now) {
                Entry::Members
            } else {
                continue;
            };
            let head = RequestHead { id: lane.push(entry, now), ..RequestHead::default() };
            self.router.sent(node);
            let is_ping = entry == Entry::Ping;
            return Some((node, head, if is_ping { Request::Ping } else { Request::Members }));
        }
        None
    }

    /// A server that does not even answer a PING: its connection is to be closed, and is
    /// [`lost`](Plan::lost).
    #[must_use]
    pub fn silent(&self, now: Instant) -> Option<NodeIndex> {
        let is_silent = |lane: &Lane| lane.silence(now) == Some(Silence::TooLong);
        self.lanes.iter().position(is_silent).map(NodeIndex)
    }

    /// When something is to be done though nobody says anything.
    #[must_use]
    pub fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let oldest = self.slots.oldest_under_way().and_then(|slot| self.slots.get(slot).deadline);
        let search = self.stream.waits_until.filter(|_| !self.stream.waiting.is_empty());
        let rest = if self.reads.is_empty() { None } else { self.router.rested_at(now) };
        let silences = self.lanes.iter().filter_map(|lane| match lane.silence(now)? {
            Silence::Short(until) => Some(until),
            Silence::Long | Silence::TooLong => Some(now),
        });
        [oldest, search, rest].into_iter().flatten().chain(silences).min()
    }

    // Sending

    /// Where the stream goes on.
    fn stream_node(&mut self, now: Instant) -> Option<NodeIndex> {
        let Stream { node, trust, in_flight, search, waits_until, .. } = &mut self.stream;
        if node.is_none() && *in_flight == 0 {
            *trust = Trust::None;
            match search.next(&mut self.router, Target::Leader, now) {
                Found::Node(found) => (*node, *waits_until) = (Some(found), None),
                Found::Wait(until) => *waits_until = Some(until),
            }
        }
        node.filter(|_| *trust > Trust::None || *in_flight == 0)
    }

    /// The number of a write; anything for what needs none.
    #[inline]
    fn number(&mut self, slot: SlotIndex) -> Numbered {
        const NONE: Numbered =
            Numbered::As(kvorum_protocol::SessionSequence { session: 0, sequence: 0 });
        let slot = self.slots.get_mut(slot);
        if !slot.is_write() || self.terms.window.is_none() || slot.number.is_some() {
            return NONE;
        }
        let numbered = self.sequences.number();
        if let Numbered::As(number) = numbered {
            slot.number = Some(number);
        }
        numbered
    }

    #[inline]
    fn send(&mut self, node: NodeIndex, slot: SlotIndex, now: Instant) -> Sending<'_> {
        let id = self.lane(node).push(Entry::Request(slot), now);
        self.router.sent(node);
        let it = self.slots.get_mut(slot);
        it.state = State::Sent(node, id);
        let level = if it.is_write() { self.terms.write_quorum } else { self.terms.read_quorum };
        let left = it.deadline.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let head = RequestHead { level, timeout_ms: server_timeout_ms(left), ..it.head(id) };
        (node, head, it.request())
    }

    fn open_session(&mut self, node: NodeIndex, now: Instant) -> Sending<'static> {
        let id = self.lane(node).push(Entry::OpenSession, now);
        self.router.sent(node);
        let window = self.terms.window.expect("a session is opened for its window");
        let timeout_ms = server_timeout_ms(self.terms.timeout);
        let head = RequestHead { id, timeout_ms, ..RequestHead::default() };
        (node, head, Request::Write(Command::new(Op::OpenSession { window })))
    }

    #[inline]
    fn lane(&mut self, node: NodeIndex) -> &mut Lane {
        if node.0 >= self.lanes.len() {
            self.lanes.resize_with(node.0 + 1, Lane::new);
        }
        &mut self.lanes[node.0]
    }

    // The stream

    #[inline]
    fn is_streamed(&self, slot: SlotIndex) -> bool {
        self.terms.read_from == ReadFrom::Leader || self.slots.get(slot).is_write()
    }

    fn leaves_stream(&mut self, slot: SlotIndex) {
        if self.is_streamed(slot) {
            self.stream.in_flight -= 1;
        }
    }

    /// The server of the stream has shown so much.
    #[inline]
    fn trust(&mut self, node: NodeIndex, shown: Trust) {
        if self.stream.node != Some(node) {
            return;
        }
        self.stream.trust = self.stream.trust.max(shown);
        self.stream.search.succeeded();
        if shown == Trust::Leads {
            self.router.leads(node);
        }
    }

    fn stop_stream(&mut self, node: NodeIndex) {
        if self.stream.node == Some(node) {
            self.stream.node = None;
        }
    }
}

/// What the server is told of the time that is left: a little less, so that its word about the
/// outcome comes in time.
#[inline]
fn server_timeout_ms(left: Duration) -> u16 {
    let ms = left.as_secs() * 1000 + u64::from(left.subsec_millis());
    u16::try_from(ms * 9 / 10).unwrap_or(u16::MAX).max(1)
}

#[cfg(test)]
mod tests;
