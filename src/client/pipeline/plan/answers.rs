//! What a plan makes of what the servers say, and of what they leave unsaid.

use std::time::Instant;

use kvorum_protocol::{ErrorCode, MembersLine, Response};

use super::lane::Entry;
use super::slots::{Answer, Asked, SlotIndex, State};
use super::{Confused, Plan, Taken, Trust};
use crate::client::route::{End, EndReason, NodeIndex, Refusal};

impl Plan {
    /// A server has said something.
    pub fn is_there(&mut self, node: NodeIndex, now: Instant) {
        self.lane(node).heard(now);
    }

    /// The system has taken bytes for a server.
    pub fn taken(&mut self, node: NodeIndex, taken: Taken, now: Instant) {
        self.lane(node).taken(taken, now);
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
                    // That there is no quorum says more than that the last wait was too short.
                    let no_quorum = EndReason::Refused(ErrorCode::QuorumTimeout);
                    let has_waited = it.reason == no_quorum || it.open == Some(no_quorum);
                    let reason = if has_waited { no_quorum } else { EndReason::Late };
                    if it.is_write() {
                        it.open = Some(reason);
                    }
                    let end = it.end(reason);
                    self.lane(node).forget(id);
                    self.router.abandoned(node);
                    self.leaves_stream(slot);
                    end
                }
                State::Waiting => {
                    // What has left it open says more than the refusals since then.
                    let end = it.end(it.open.unwrap_or(it.reason));
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
            self.router.learn_members(&line, now);
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
            Refusal::SessionOver if self.slots.get(slot).open.is_none() => {
                match self.slots.get_mut(slot).number.take() {
                    Some(number) => {
                        self.sequences.expired(number.session);
                        self.send_again(slot, reason);
                    }
                    // It was in no session: another one would not help.
                    None => self.fail(slot, reason),
                }
            }
            Refusal::SessionOver | Refusal::Final => self.fail(slot, reason),
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
            Refusal::Final | Refusal::SessionOver => {}
            _ if !is_streamed => self.router.rest(node, now),
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
        if !matches!(refusal, Refusal::Final | Refusal::SessionOver) {
            return;
        }
        // Without a session no write can go on.
        let slots = &self.slots;
        let unnumbered = self.stream.waiting.extract(|slot| {
            let slot = slots.get(slot);
            slot.is_write() && slot.number.is_none()
        });
        for slot in unnumbered {
            self.fail(slot, reason);
        }
    }

    fn session_not_opened(&mut self) {
        self.stream.is_opening_session = false;
        self.stream.in_flight -= 1;
    }

    /// A sending of this request may have been applied.
    fn sent_in_vain(&mut self, slot: SlotIndex, reason: EndReason) {
        let it = self.slots.get_mut(slot);
        if it.is_write() {
            it.open = Some(reason);
        }
        if it.is_write() && it.number.is_none() {
            self.fail(slot, reason);
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

    fn fail(&mut self, slot: SlotIndex, reason: EndReason) {
        let end = self.slots.get(slot).end(reason);
        self.finish(slot, Err(end));
    }

    #[inline]
    fn finish(&mut self, slot: SlotIndex, result: Result<Answer, End>) {
        if let Some(number) = self.slots.get(slot).number {
            self.sequences.resolve(number);
        }
        self.slots.finish(slot, result);
    }
}
