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
//! - Each write keeps the number that it has in the session, and a bit: whether a sending of it may
//!   have been applied. It is set by a lost connection, QUORUM_TIMEOUT, LEADER_CHANGED, and a
//!   deadline that passes in flight, and never taken back. A write without a session whose bit is
//!   set is over; one with a session is sent again.
//! - SESSION_EXPIRED ends a write whose bit is set. Any other goes on with a number in a new session.

mod lane;
mod slots;
mod waiting;

use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{
    Command, ErrorCode, LogIndex, MembersLine, Op, Quorum, Request, Response, Role,
};

use crate::client::route::{
    End, EndReason, Found, NodeIndex, Numbered, ReadFrom, Refusal, Router, Search, Sequences,
    Target, Tried,
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

    /// A server has said something.
    pub fn is_there(&mut self, node: NodeIndex, now: Instant) {
        self.lane(node).heard(now);
    }

    /// A server has answered the request with this id. An answer that nobody waits for is nothing.
    ///
    /// # Errors
    /// [`Confused`]: nothing has changed; the connection must be given up as [`lost`](Plan::lost).
    #[inline]
    pub fn heard(
        &mut self,
        node: NodeIndex,
        id: u32,
        response: &Response<'_>,
        now: Instant,
    ) -> Result<(), Confused> {
        let Some(entry) = self.lane(node).get(id) else { return Ok(()) };
        let Entry::Request(slot) = entry else {
            return self.heard_beside(node, id, entry, response, now);
        };
        let answer = match (self.slots.get(slot).asked, response) {
            (Asked::Set, Response::Written { version }) => Answer::Set { version: *version },
            (Asked::Get, Response::Value { version, .. }) => Answer::Value { version: *version },
            (Asked::Get, Response::NotFound) => Answer::Absent,
            (Asked::Delete, Response::Deleted { version, count }) => {
                Answer::Deleted { version: *version, count: *count }
            }
            (_, Response::NotLeader { .. } | Response::Error { .. }) => {
                self.answered(node, id, now);
                self.refused(node, slot, response, now);
                return Ok(());
            }
            _ => return Err(Confused),
        };
        self.answered(node, id, now);
        if self.is_streamed(slot) {
            self.stream.in_flight -= 1;
            let is_write = self.slots.get(slot).is_write();
            self.trust(node, if is_write { Trust::Leads } else { Trust::Answers });
        }
        self.finish(slot, Ok(answer));
        if let Response::Value { value, .. } = response {
            self.slots.get_mut(slot).keep_value(value);
        }
        Ok(())
    }

    /// The connection to a server is gone, or could not be made. `was_sent` tells whether what was
    /// in flight may have arrived.
    pub fn lost(&mut self, node: NodeIndex, was_sent: bool, now: Instant) {
        let entries = self.lane(node).lost();
        let in_flight = entries.iter().filter(|entry| **entry != Entry::Gone).count();
        // A connection that nobody used may be closed by either side.
        if in_flight == 0 {
            return;
        }
        (1..in_flight).for_each(|_| self.router.abandoned(node));
        self.router.failed(node, now);
        self.stop_stream(node);
        // The oldest comes last, and so to the front of all.
        for entry in entries.into_iter().rev() {
            match entry {
                Entry::Gone | Entry::Ping | Entry::Members => {}
                Entry::OpenSession => self.session_not_opened(),
                Entry::Request(slot) => {
                    self.leaves_stream(slot);
                    if was_sent {
                        self.sent_in_vain(slot, EndReason::Lost);
                    } else {
                        self.send_again(slot, EndReason::Unreachable);
                    }
                }
            }
        }
    }

    /// Ends the requests whose time is over. To be called when all that the servers have said so
    /// far was [`heard`](Plan::heard).
    pub fn expire(&mut self, now: Instant) {
        while let Some(slot) = self.slots.oldest_under_way() {
            let it = self.slots.get_mut(slot);
            if it.deadline.is_none_or(|deadline| deadline > now) {
                return;
            }
            let end = match it.state {
                State::Sent(node, id) => {
                    it.is_open |= it.is_write();
                    // That there is no quorum says more than that the last wait was too short.
                    let end = it.end(match it.reason {
                        EndReason::Refused(ErrorCode::QuorumTimeout) => it.reason,
                        _ => EndReason::Late,
                    });
                    self.lane(node).forget(id);
                    self.router.abandoned(node);
                    self.leaves_stream(slot);
                    end
                }
                State::Waiting => {
                    let end = it.end(it.reason);
                    let streamed = self.is_streamed(slot);
                    let waiting = if streamed { &mut self.stream.waiting } else { &mut self.reads };
                    waiting.remove(slot, |slot| self.slots.get(slot).serial);
                    end
                }
                state => unreachable!("under way and {state:?}"),
            };
            self.finish(slot, Err(end));
        }
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

    // Answers

    #[inline]
    fn answered(&mut self, node: NodeIndex, id: u32, now: Instant) {
        let round_trip = self.lane(node).answered(id, now);
        self.router.answered(node, round_trip);
    }

    /// A server has answered something that was asked beside the requests.
    #[cold]
    fn heard_beside(
        &mut self,
        node: NodeIndex,
        id: u32,
        entry: Entry,
        response: &Response<'_>,
        now: Instant,
    ) -> Result<(), Confused> {
        let is_refusal = matches!(response, Response::NotLeader { .. } | Response::Error { .. });
        let members = match (entry, response) {
            (Entry::OpenSession, Response::Written { .. }) | (Entry::Ping, Response::Ok) => None,
            (Entry::Members, Response::Members(line)) => {
                Some(MembersLine::parse(line).map_err(|_| Confused)?)
            }
            _ if is_refusal => None,
            _ => return Err(Confused),
        };
        self.answered(node, id, now);
        match entry {
            Entry::OpenSession => self.heard_of_session(node, response, now),
            Entry::Members if is_refusal => self.router.knows_no_members(node),
            _ => {}
        }
        if let Some(line) = members {
            let listed = line.members.members().iter();
            let listed = listed.map(|it| (it.id, it.role == Role::Voter, &*it.client));
            self.router.learn_members(listed, line.leader, now);
            // What a server has shown is truer than what another says.
            let goes_on = self.stream.trust == Trust::Leads || self.router.leader().is_none();
            if !goes_on && self.stream.node != self.router.leader() {
                self.stream.node = None;
            }
        }
        Ok(())
    }

    /// A server has refused a request.
    #[cold]
    fn refused(&mut self, node: NodeIndex, slot: SlotIndex, response: &Response<'_>, now: Instant) {
        self.leaves_stream(slot);
        let (refusal, reason) = self.learn(node, self.is_streamed(slot), response, now);
        match refusal {
            Refusal::NoLeader | Refusal::Busy => self.send_again(slot, reason),
            Refusal::Open { .. } => self.sent_in_vain(slot, reason),
            Refusal::SessionOver if !self.slots.get(slot).is_open => {
                if let Some(number) = self.slots.get_mut(slot).number.take() {
                    self.sequences.expired(number.session);
                }
                self.send_again(slot, reason);
            }
            Refusal::SessionOver | Refusal::Final => {
                let end = self.slots.get(slot).end(reason);
                self.finish(slot, Err(end));
            }
        }
    }

    /// What a refusal says of the server.
    fn learn(
        &mut self,
        node: NodeIndex,
        is_streamed: bool,
        response: &Response<'_>,
        now: Instant,
    ) -> (Refusal, EndReason) {
        let (refusal, reason) = match response {
            Response::NotLeader { leader } => {
                self.router.leads_not(node);
                self.router.learn_leader(leader);
                (Refusal::NoLeader, EndReason::NoLeaderFound)
            }
            Response::Error { code, .. } => (Refusal::from(*code), EndReason::Refused(*code)),
            other => unreachable!("{other:?} is no refusal"),
        };
        let leads_not = matches!(refusal, Refusal::NoLeader | Refusal::Open { leads_not: true });
        if leads_not && !matches!(response, Response::NotLeader { .. }) {
            self.router.leads_not(node);
        }
        match refusal {
            _ if !is_streamed => {
                if !matches!(refusal, Refusal::Final | Refusal::SessionOver) {
                    self.router.rest(node, now);
                }
            }
            Refusal::Busy => {
                // All that come back with this word wait once.
                if self.stream.node == Some(node) {
                    self.stream.search.end_round(&mut self.router, now);
                }
                self.stop_stream(node);
            }
            _ if leads_not => self.stop_stream(node),
            _ => {}
        }
        (refusal, reason)
    }

    /// What came of an OPEN_SESSION.
    #[cold]
    fn heard_of_session(&mut self, node: NodeIndex, response: &Response<'_>, now: Instant) {
        self.session_not_opened();
        if let Response::Written { version } = response {
            self.sequences.opened(version.0);
            self.trust(node, Trust::Leads);
            return;
        }
        let (refusal, reason) = self.learn(node, true, response, now);
        if refusal != Refusal::Final {
            return;
        }
        // Without a session no write can go on.
        let slots = &self.slots;
        let unnumbered = self.stream.waiting.extract(|slot| {
            let slot = slots.get(slot);
            slot.is_write() && slot.number.is_none()
        });
        for slot in unnumbered {
            let end = self.slots.get(slot).end(reason);
            self.finish(slot, Err(end));
        }
    }

    fn session_not_opened(&mut self) {
        self.stream.is_opening_session = false;
        self.stream.in_flight -= 1;
    }

    /// A sending of this request may have been applied.
    fn sent_in_vain(&mut self, slot: SlotIndex, reason: EndReason) {
        let it = self.slots.get_mut(slot);
        it.is_open |= it.is_write();
        if it.is_write() && it.number.is_none() {
            let end = it.end(reason);
            self.finish(slot, Err(end));
        } else {
            self.send_again(slot, reason);
        }
    }

    fn send_again(&mut self, slot: SlotIndex, reason: EndReason) {
        let it = self.slots.get_mut(slot);
        (it.state, it.reason) = (State::Waiting, reason);
        let streamed = self.is_streamed(slot);
        let waiting = if streamed { &mut self.stream.waiting } else { &mut self.reads };
        waiting.put_back(slot, |slot| self.slots.get(slot).serial);
    }

    #[inline]
    fn finish(&mut self, slot: SlotIndex, result: Result<Answer, End>) {
        if let Some(number) = self.slots.get(slot).number {
            self.sequences.resolve(number);
        }
        self.slots.finish(slot, result);
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
