//! Standing for election, voting, and losing office.

use std::time::Duration;

use kvorum_protocol::peer::Message;
use kvorum_protocol::{Command, LogIndex, NodeId, Op, Term};
use rand::RngExt;

use super::leading::Leading;
use super::{Node, has_bug, refuse};
use crate::core::following::Following;
use crate::core::log::EntryId;
use crate::core::output::{Record, Refusal};
use crate::core::raft::Role;
use crate::core::time::{Instant, Now};

/// When a leader's process is known to be gone its followers stand after a random time up to
/// this: long enough for one to be first, short enough that nobody notices.
const LOST_LEADER_WAIT_MAX: Duration = Duration::from_millis(20);

/// An election that is not won now, and may be soon, is tried again after a random time up to this.
const RETRY_WAIT_MAX: Duration = Duration::from_millis(100);

impl Node {
    /// The connection to `member` broke, and its process is not there to take another: connecting
    /// was refused. Not to be called for what may be the network.
    pub fn member_lost(&mut self, now: &Now, member: NodeId) {
        self.now = now.monotonic;
        self.raft.lose(member);
        if self.raft.is_leader() || self.raft.leader() != Some(member) {
            return;
        }
        self.raft.become_follower(None);
        self.following.lost_at = Some(self.now);
        self.asks.repeat();
        let wait = self.rng.random_range(Duration::ZERO..LOST_LEADER_WAIT_MAX);
        self.election_deadline = Some(self.now.after(wait));
    }

    /// Bytes of a message came from `member`, though not all of it yet.
    pub fn heard(&mut self, now: &Now, member: NodeId) {
        self.now = now.monotonic;
        if self.raft.leader() == Some(member) && !self.raft.is_leader() {
            self.hear_leader();
        }
    }

    pub(super) fn hear_leader(&mut self) {
        self.following.heard_at = Some(self.now);
        self.postpone_election();
    }

    /// A random time in [T, 2T) from now, so that one follower most often is first.
    fn postpone_election(&mut self) {
        let timeout = self.config.election_timeout;
        let wait = self.rng.random_range(timeout..timeout * 2);
        self.election_deadline = Some(self.now.after(wait));
    }

    fn retry_soon(&mut self) {
        let wait = self.rng.random_range(LOST_LEADER_WAIT_MAX..RETRY_WAIT_MAX);
        self.election_deadline = Some(self.now.after(wait));
    }

    pub(super) fn tick_election(&mut self) {
        if self.is_retired {
            self.election_deadline = Some(Instant::NEVER);
            return;
        }
        if self.raft.vote_lsn() > self.log.durable_lsn() {
            // On a slow disk an election takes long. Who began another one meanwhile would never
            // end any; the time counts from when the others hear of this one.
            self.votes_soon = true;
            return;
        }
        if std::mem::take(&mut self.votes_soon) {
            self.postpone_election();
        }
        match self.election_deadline {
            None if !self.is_lone_voter() => self.postpone_election(),
            Some(deadline) if self.now < deadline => {}
            _ if self.may_stand() => self.ask_for_pre_votes(),
            _ => {
                // Who does not stand should not send clients to a dead leader, either.
                self.raft.become_follower(None);
                self.asks.repeat();
                self.postpone_election();
            }
        }
    }

    pub(super) fn is_lone_voter(&self) -> bool {
        self.raft.voters() == [self.config.id]
    }

    /// A node whose log was repaired does not lead before it has got back what was cut off: it may
    /// be committed.
    fn may_stand(&self) -> bool {
        self.raft.may_stand()
            && (!self.log.lacks_former_end() || has_bug!(self, RepairedNodeStands))
    }

    fn ask_for_pre_votes(&mut self) {
        self.postpone_election();
        if self.following.lost_at.is_some_and(|at| self.is_within_election_timeout(at)) {
            // The others may not have noticed yet that they are free to say yes, and no other may
            // have a log that lets it win.
            self.retry_soon();
        }
        self.raft.become_pre_candidate();
        self.asks.repeat();
        let (end, term) = (*self.log.end(), Term(self.raft.term().0 + 1));
        let (last, last_term) = (end.index, end.term);
        self.send_to_voters(&Message::PreVoteRequest { term, last, last_term });
        self.win_election();
    }

    /// Enters the next term as a candidate.
    pub(super) fn stand(&mut self, is_transfer: bool) {
        self.postpone_election();
        let vote_lsn = self.log.take_lsn();
        self.raft.become_candidate(vote_lsn);
        self.begin_term();
        let (end, term) = (*self.log.end(), self.raft.term());
        let (last, last_term) = (end.index, end.term);
        self.send_to_voters(&Message::VoteRequest { term, last, last_term, is_transfer });
    }

    /// The term has changed: write it down, and forget what was only true in the old one.
    fn begin_term(&mut self) {
        self.write_vote();
        self.gated.clear();
        self.following = Following { matched: self.log.committed(), ..Following::default() };
        self.asks.repeat();
    }

    pub(super) fn write_vote(&mut self) {
        let (term, voted_for) = (self.raft.term(), self.raft.voted_for());
        let record = Record::TermVote { term, voted_for };
        self.records.push((self.raft.vote_lsn(), record));
    }

    fn send_to_voters(&mut self, message: &Message) {
        for voter in self.raft.voters().to_vec() {
            if voter != self.config.id {
                self.send(voter, message.clone());
            }
        }
    }

    /// Goes one step on when a majority has said yes.
    pub(super) fn win_election(&mut self) {
        if self.raft.role() == Role::PreCandidate && self.raft.is_granted() {
            self.stand(false);
        }
        let own_vote_is_durable =
            self.raft.vote_lsn() <= self.log.durable_lsn() || has_bug!(self, OwnVoteBeforeDurable);
        if self.raft.role() == Role::Candidate && self.raft.is_granted() && own_vote_is_durable {
            self.take_office();
        }
    }

    fn take_office(&mut self) {
        let next = self.log.end().index.next();
        let first_index = self.log.push(&Command::new(Op::Noop));
        self.raft.become_leader(first_index);
        // A read that waits for an answer from another leader could see what this one's writes do.
        let replies = &mut self.replies;
        self.asks.void(|to| refuse(replies, to, Refusal::NoLeader));
        let others = self.membership.list().members().iter().filter(|m| m.id != self.config.id);
        let leading = Leading::new(others, next, self.now, self.config.election_timeout);
        #[cfg(feature = "seeded-bugs")]
        let leading = self.with_kept_rounds(leading);
        self.leading = Some(Box::new(leading));
        self.send_heartbeats();
    }

    /// Enters a higher term that another node has begun.
    pub(super) fn enter_term(&mut self, term: Term) {
        self.leave_office();
        if has_bug!(self, TermNotPersisted) {
            self.raft.enter_term(term, self.raft.vote_lsn());
            return;
        }
        let vote_lsn = self.log.take_lsn();
        self.raft.enter_term(term, vote_lsn);
        self.begin_term();
    }

    /// Stops leading, if it does, in the same term.
    pub(super) fn leave_office(&mut self) {
        let Some(leading) = self.leading.take() else { return };
        let leading = *leading;
        if !self.raft.is_voter() {
            self.successor = leading.transfer.map(|transfer| transfer.to);
        }
        let waiters_survive = has_bug!(self, WaitersSurviveLeadership);
        let replies = &mut self.replies;
        if !waiters_survive {
            self.writes.drain().for_each(|to| refuse(replies, to, Refusal::LeaderChanged));
        }
        #[cfg(feature = "seeded-bugs")]
        let leading = self.keep_rounds(leading);
        let replies = &mut self.replies;
        leading.rounds.void(|to, refusal| refuse(replies, to, refusal));
        self.reads.void_conditional(|to| refuse(replies, to, Refusal::NoLeader));
        // Nobody has seen these: they are not even on their way to this node's own disk.
        self.log.discard_open();
        self.following.matched = self.log.committed();
        self.raft.become_follower(None);
        self.postpone_election();
    }

    /// Only for the bug of reads that survive leadership.
    #[cfg(feature = "seeded-bugs")]
    fn keep_rounds(&mut self, mut leading: Leading) -> Leading {
        if has_bug!(self, ReadsSurviveLeadership) {
            self.kept_rounds = Some(std::mem::take(&mut leading.rounds));
        }
        leading
    }

    /// The other half of that bug.
    #[cfg(feature = "seeded-bugs")]
    fn with_kept_rounds(&mut self, mut leading: Leading) -> Leading {
        leading.rounds = self.kept_rounds.take().unwrap_or_default();
        leading
    }

    /// Whether a leader was heard so recently that nobody may be elected in its place (Raft
    /// thesis, section 4.2.3).
    pub(super) fn has_live_leader(&self) -> bool {
        if self.raft.is_leader() {
            return true;
        }
        let heard_at = self.following.heard_at;
        self.raft.leader().is_some()
            && heard_at.is_some_and(|at| self.is_within_election_timeout(at))
    }

    fn is_within_election_timeout(&self, of: Instant) -> bool {
        self.now.since(of) < self.config.election_timeout
    }

    /// Whether a candidate's log has all that this one may have seen committed (Raft paper,
    /// section 5.4.1).
    fn is_up_to_date(&self, last: LogIndex, last_term: Term) -> bool {
        let end = self.log.end().id();
        if has_bug!(self, LongerLogWins) {
            return last >= end.index;
        }
        let own = if has_bug!(self, RepairForgetsFormerEnd) { end } else { self.log.claim() };
        EntryId { term: last_term, index: last } >= own
    }

    pub(super) fn on_pre_vote_request(
        &mut self,
        from: NodeId,
        term: Term,
        last: LogIndex,
        last_term: Term,
    ) {
        let granted = term > self.raft.term()
            && !self.has_live_leader()
            && self.is_up_to_date(last, last_term);
        let term = if granted { term } else { self.raft.term() };
        self.send(from, Message::PreVoteReply { term, granted });
    }

    pub(super) fn on_pre_vote_granted(&mut self, from: NodeId, term: Term) {
        let is_asked = self.raft.role() == Role::PreCandidate;
        if is_asked && term == Term(self.raft.term().0 + 1) {
            self.raft.grant(from);
        }
    }

    /// The term of the request is the current one.
    pub(super) fn on_vote_request(&mut self, from: NodeId, last: LogIndex, last_term: Term) {
        let is_free = match self.raft.voted_for() {
            None => self.raft.leader().is_none(),
            Some(voted_for) => voted_for == from || has_bug!(self, VotesTwice),
        };
        let granted = is_free && self.is_up_to_date(last, last_term);
        if granted && self.raft.voted_for() != Some(from) {
            let vote_lsn = self.log.take_lsn();
            self.raft.vote_for(from, vote_lsn);
            self.write_vote();
        }
        if granted {
            self.postpone_election();
        }
        let term = self.raft.term();
        self.send(from, Message::VoteReply { term, granted });
    }

    /// The term of the reply is the current one.
    pub(super) fn on_vote_reply(&mut self, from: NodeId, granted: bool) {
        if self.raft.role() != Role::Candidate {
            return;
        }
        if granted {
            self.raft.grant(from);
            return;
        }
        self.raft.refuse(from);
        if self.raft.is_refused() {
            // The votes are split, most often among those whom a crashed leader has left, or
            // another's log is longer. There is nothing to wait for; the next attempt begins with
            // a pre-vote, which disturbs nobody.
            self.retry_soon();
        }
    }

    /// The leader asks this node to take over: no pre-vote, and the others' loyalty does not
    /// matter.
    pub(super) fn on_timeout_now(&mut self, from: NodeId) {
        if self.raft.leader() == Some(from) && self.raft.is_voter() && self.may_stand() {
            self.stand(true);
        }
    }

    /// A leader of the current term shows itself.
    pub(super) fn follow(&mut self, leader: NodeId) {
        if self.raft.leader() != Some(leader) {
            self.successor = None;
            self.raft.become_follower(Some(leader));
            self.asks.repeat();
        }
        self.hear_leader();
    }
}
