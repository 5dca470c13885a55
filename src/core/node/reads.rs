//! Reads, on the leader and elsewhere.

use std::time::Duration;

use kvorum_protocol::peer::Message;
use kvorum_protocol::{LogIndex, NodeId, Quorum, Read};

use super::{Asker, Node, POLL_VALUES_BYTES_SOFT, ReadOutcome, has_bug};
use crate::core::asks::Kind;
use crate::core::log::EntryId;
use crate::core::lookup::{get_into, look_up, look_up_into, value_bytes, value_response};
use crate::core::output::{Answer, Output, Refusal, Reply};
use crate::core::pending::{OwnedRead, PendingRead};
use crate::core::progress::Progress;
use crate::core::quorum::{majority, reached_by};
use crate::core::raft::Role;
use crate::core::rounds::{Asked, Condition, Needed};
use crate::core::time::{Instant, Now};

/// Reads that may wait, of all connections together.
const WAITING_READS_MAX: usize = 1 << 18;

/// Bytes of keys that they may ask for, and of values that may be held back for them, beyond
/// which no further one may begin to wait.
const WAITING_READS_BYTES_SOFT: usize = 32 << 20;

impl Node {
    /// Answers a read, or lets it wait: for its R, and until [`Asker::after`] is applied, so that
    /// it sees that write and nothing behind it. `scratch` takes the bytes of answers that are put
    /// together.
    ///
    /// # Errors
    /// A refusal.
    #[inline]
    pub fn read<'a>(
        &'a mut self,
        now: &Now,
        asker: &Asker,
        read: &Read<'_>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<ReadOutcome<'a>, Refusal> {
        let quorum = asker.options.quorum.unwrap_or(self.config.read_quorum);
        let voters = self.quorum_size(quorum)?;
        let is_local = quorum == Quorum::Count(1);
        // Whoever is the only voter, and leads, asks nobody.
        let is_confirmed = is_local || (self.is_lone_voter() && self.raft.is_leader());
        let mut after = asker.after;
        if !is_confirmed || (!is_local && !self.is_ready()) {
            let timeout = asker.options.timeout.unwrap_or(self.config.quorum_timeout);
            let deadline = now.monotonic.after(timeout);
            let Role::Leader { first_index } = self.raft.role() else {
                return self.ask_and_wait(quorum, voters, asker, read, deadline);
            };
            if !has_bug!(self, ReadsBeforeNoop) {
                after = after.max(first_index);
            }
            if quorum != Quorum::Majority {
                // Whatever a voter that still follows holds, it got from this log.
                after = after.max(LogIndex(self.log.next_index().0 - 1));
            }
            if !has_bug!(self, ReadsWithoutRound) && !is_confirmed {
                let needed = match quorum {
                    Quorum::Majority => Needed::Majority,
                    Quorum::All | Quorum::Count(_) => Needed::Count(voters),
                };
                return self.hold(needed, after, asker, read, deadline);
            }
        }
        if after > self.log.applied() {
            let timeout = asker.options.timeout.unwrap_or(self.config.quorum_timeout);
            return self.wait_for(after, asker, read, now.monotonic.after(timeout), None);
        }
        if let Read::Get(key) = read {
            let hash = asker.hash.unwrap_or_else(|| self.state.store.hash(key));
            let found = self.state.store.get_hashed(hash, key);
            self.reads_found += u64::from(found.is_some());
            self.reads_missed += u64::from(found.is_none());
            return Ok(ReadOutcome::Ready(value_response(found)));
        }
        scratch.clear();
        look_up(&self.state.store, read, scratch).map(ReadOutcome::Ready)
    }

    fn wait_for(
        &mut self,
        after: LogIndex,
        asker: &Asker,
        read: &Read<'_>,
        deadline: Instant,
        condition: Option<Condition>,
    ) -> Result<ReadOutcome<'static>, Refusal> {
        if self.is_full_of_reads(after) {
            return Ok(ReadOutcome::Later);
        }
        let read = PendingRead { to: asker.to, read: OwnedRead::new(read), condition, deadline };
        let value_bytes = value_bytes(&self.state.store, &read.read.borrow());
        self.reads.push(after, read);
        Ok(ReadOutcome::Waiting { value_bytes })
    }

    /// At the leader of others: answers now, and holds the answer back until `needed` voters have
    /// confirmed that this node leads.
    fn hold(
        &mut self,
        needed: Needed,
        after: LogIndex,
        asker: &Asker,
        read: &Read<'_>,
        deadline: Instant,
    ) -> Result<ReadOutcome<'static>, Refusal> {
        let needed = match needed {
            _ if !has_bug!(self, ReadsOneVoterLess) => needed,
            Needed::Majority => Needed::Count(self.membership.majority() - 1),
            Needed::Count(voters) => Needed::Count(voters - 1),
        };
        let leading = self.leading.as_ref().expect("a leader leads");
        let condition = leading.rounds.condition(needed);
        if after > self.log.applied() {
            return self.wait_for(after, asker, read, deadline, Some(condition));
        }
        if self.is_full_of_reads(after) {
            return Ok(ReadOutcome::Later);
        }
        let leading = self.leading.as_mut().expect("a leader leads");
        let before = leading.rounds.value_bytes();
        let store = &self.state.store;
        let answer =
            leading.rounds.hold(condition, asker.to, deadline, |values| match (read, asker.hash) {
                (Read::Get(key), Some(hash)) => get_into(store, hash, key, values),
                _ => look_up_into(store, read, values),
            });
        if let Read::Get(_) = read {
            let is_missing = answer == Answer::NotFound;
            self.reads_found += u64::from(!is_missing);
            self.reads_missed += u64::from(is_missing);
        }
        let value_bytes = leading.rounds.value_bytes() - before;
        Ok(ReadOutcome::Waiting { value_bytes })
    }

    /// At another node: the read waits for what the leader, or R voters, will name.
    fn ask_and_wait(
        &mut self,
        quorum: Quorum,
        voters: usize,
        asker: &Asker,
        read: &Read<'_>,
        deadline: Instant,
    ) -> Result<ReadOutcome<'static>, Refusal> {
        let kind = match quorum {
            Quorum::Majority => Kind::Leader,
            Quorum::All | Quorum::Count(_) if has_bug!(self, ReadsOneVoterLess) => {
                Kind::Voters(voters - 1)
            }
            Quorum::All | Quorum::Count(_) => Kind::Voters(voters),
        };
        if kind == Kind::Leader && self.raft.leader().is_none() {
            return Err(self.not_leader());
        }
        if self.is_full_of_reads(asker.after) {
            return Ok(ReadOutcome::Later);
        }
        self.asks.push(kind, asker.to, read, (asker.after, deadline));
        Ok(ReadOutcome::Waiting { value_bytes: value_bytes(&self.state.store, read) })
    }

    /// Whether a read that waits for `after` is one too many, so that [`read`](Node::read) would
    /// say [`Later`](ReadOutcome::Later).
    #[inline]
    #[must_use]
    pub fn is_full_of_reads(&self, after: LogIndex) -> bool {
        if self.is_alone() && after <= self.log.applied() {
            return false;
        }
        let (mut len, mut bytes) =
            (self.reads.len() + self.asks.len(), self.reads.key_bytes() + self.asks.key_bytes());
        if let Some(leading) = &self.leading {
            len += leading.rounds.len();
            bytes += leading.rounds.value_bytes();
        }
        len >= WAITING_READS_MAX || bytes >= WAITING_READS_BYTES_SOFT
    }

    // The leader's rounds

    /// Asks the others whether this node still leads, if reads wait for that.
    pub(super) fn begin_round(&mut self) {
        let leading = self.leading.as_mut().expect("a leader leads");
        if leading.rounds.begin().is_some() {
            self.send_heartbeats();
        }
    }

    fn is_confirmed(&self, condition: Condition) -> bool {
        let electorate = self.electorate();
        self.leading.as_ref().is_some_and(|leading| {
            electorate.confirms(&leading.members, leading.rounds.begun(), condition)
        })
    }

    fn electorate(&self) -> Electorate {
        Electorate { voters: self.raft.voters().len(), own: self.own_votes() }
    }

    /// Releases what is confirmed; true when `out` is full first.
    pub(super) fn release_reads(&mut self, out: &mut Output) -> bool {
        let Some(mut leading) = self.leading.take_if(|leading| !leading.rounds.is_empty()) else {
            return false;
        };
        let (begun, electorate) = (leading.rounds.begun(), self.electorate());
        let mut answers: Vec<Asked> = Vec::new();
        let more = leading.rounds.release(
            out,
            POLL_VALUES_BYTES_SOFT,
            |condition| electorate.confirms(&leading.members, begun, condition),
            |asked| answers.push(asked),
        );
        let is_news = leading.told_commit < self.log.committed();
        self.leading = Some(leading);
        if !answers.is_empty() && is_news {
            // Who waits for an index has to hear that it is committed.
            self.send_heartbeats();
        }
        let term = self.raft.term();
        for Asked { by, id, index } in answers {
            self.send(by, Message::ReadIndexReply { term, id, index });
        }
        more
    }

    pub(super) fn on_read_index_request(&mut self, from: NodeId, id: u64) {
        let Role::Leader { first_index } = self.raft.role() else { return };
        // Everything that any earlier leader has committed stands before the no-op.
        let index = match has_bug!(self, ReadsBeforeNoop) {
            true => self.log.committed(),
            false => self.log.committed().max(first_index),
        };
        let leading = self.leading.as_mut().expect("a leader leads");
        let condition = leading.rounds.condition(Needed::Majority);
        leading.rounds.hold_asked(condition, Asked { by: from, id, index });
    }

    /// Answers the reads that have waited for the applied index; true when `out` is full first.
    pub(super) fn answer_reads(&mut self, out: &mut Output) -> bool {
        while let Some(waiting) = self.reads.take(self.log.applied()) {
            let (store, read) = (&self.state.store, waiting.read.borrow());
            if let Some(condition) = waiting.condition
                && !self.is_confirmed(condition)
            {
                let leading = self.leading.as_mut().expect("conditions end with leadership");
                leading.rounds.hold(condition, waiting.to, waiting.deadline, |values| {
                    look_up_into(store, &read, values)
                });
                continue;
            }
            let answer = look_up_into(store, &read, &mut out.values);
            out.replies.push(Reply { to: waiting.to, answer });
            if out.values.len() >= POLL_VALUES_BYTES_SOFT {
                return true;
            }
        }
        false
    }

    // Questions from elsewhere

    /// How long a question may stay without an answer before it is repeated.
    pub(super) fn ask_patience(&self) -> Duration {
        self.config.heartbeat * 3
    }

    /// Sends the questions of the turn.
    pub(super) fn ask(&mut self) {
        let (patience, term, leader) = (self.ask_patience(), self.raft.term(), self.raft.leader());
        let mut sent = Vec::new();
        self.asks.send(self.now, patience, |kind, id| {
            let can_send = kind != Kind::Leader || leader.is_some();
            if can_send {
                sent.push((kind, id));
            }
            can_send
        });
        for (kind, id) in sent {
            if kind == Kind::Leader {
                let leader = leader.expect("it was checked");
                self.send(leader, Message::ReadIndexRequest { term, id });
                continue;
            }
            for voter in self.raft.voters().to_vec() {
                if voter == self.config.id {
                    let EntryId { term: last_term, index: last } = self.log.durable_claim();
                    self.asks.answer(id, voter, last_term, last);
                } else {
                    self.send(voter, Message::DurableRequest { term, id });
                }
            }
        }
    }

    /// Reads whose question is answered wait for their index like all others.
    pub(super) fn settle_asks(&mut self) {
        loop {
            let applied = self.log.applied();
            let applied_term = self.log.terms().term_at(applied).expect("it is in the log");
            let at_once = has_bug!(self, FollowerReadsAtOnce);
            // An entry of a later term was applied: what is not here of an earlier one is lost.
            let is_here = |kind, term, index| match kind {
                Kind::Leader => true,
                Kind::Voters(_) => at_once || applied >= index || applied_term > term,
            };
            let Some((kind, reads, index)) = self.asks.take_ready(is_here) else { return };
            let index = if at_once || kind != Kind::Leader { applied } else { index };
            for read in reads {
                let at = read.after.max(index);
                let (to, deadline) = (read.to, read.deadline);
                let read = PendingRead { to, read: read.read, condition: None, deadline };
                self.reads.push(at, read);
            }
        }
    }
}

/// Who confirms reads.
#[derive(Clone, Copy)]
struct Electorate {
    /// How many voters there are.
    voters: usize,
    /// What the leader itself counts for.
    own: usize,
}

impl Electorate {
    /// Whether as many voters as the condition asks for have answered in its round or a later one;
    /// the leader itself does for every round that it has begun.
    fn confirms(self, members: &[Progress], begun: u64, condition: Condition) -> bool {
        let needed = match condition.voters {
            Needed::Majority => majority(self.voters),
            Needed::Count(count) => count,
        };
        let others = members.iter().filter(|member| member.is_voter);
        let own = std::iter::repeat_n(begun, self.own);
        let rounds = others.map(|member| member.round).chain(own);
        reached_by(needed, rounds).is_some_and(|confirmed| confirmed >= condition.round)
    }
}
