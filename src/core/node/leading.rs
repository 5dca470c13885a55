//! The leader's side: heartbeats, replication and commit.

use std::time::Duration;

use kvorum_protocol::limits::APPEND_BYTES_SOFT;
use kvorum_protocol::peer::{Append, Message};
use kvorum_protocol::{Batch, LogIndex, Lsn, Member, NodeId, Term};

use super::membership::is_voter;
use super::transfer::Transfer;
use super::{Node, Violation, has_bug};
use crate::core::audit::Audit;
use crate::core::foretell::Foretold;
use crate::core::output::Fetch;
use crate::core::progress::Progress;
use crate::core::quorum::{majority, reached_by};
use crate::core::rounds::Rounds;
use crate::core::time::{Instant, Now};

/// Followers hear of a commit at the latest so long after it, even when nothing follows.
const COMMIT_NOTICE_DELAY: Duration = Duration::from_millis(5);

/// Bytes that one fetch brings: a few Appends.
const FETCH_BYTES: usize = 4 << 20;

/// What only a leader knows.
#[derive(Debug)]
pub struct Leading {
    /// All other members.
    pub members: Vec<Progress>,
    /// Reads that wait to be confirmed.
    pub rounds: Rounds,
    /// For writes that are answered before they are committed.
    pub foretold: Foretold,
    /// Whether all have the same state.
    pub audit: Audit,
    /// Leadership is being handed over.
    pub transfer: Option<Transfer>,
    heartbeat_at: Instant,
    /// When to count who was heard (check-quorum; Raft thesis, section 6.2).
    count_at: Instant,
    /// The commit index in the last message to all.
    pub told_commit: LogIndex,
    /// The last durable record, and since when it is the last.
    pub durable_since: (Lsn, Instant),
}

impl Leading {
    /// A new leader of these others, whose log ends before `next`.
    pub fn new<'a>(
        others: impl Iterator<Item = &'a Member>,
        next: LogIndex,
        now: Instant,
        election_timeout: Duration,
    ) -> Leading {
        let progress = |member: &Member| Progress::new(member.id, is_voter(member.role), next, now);
        Leading {
            members: others.map(progress).collect(),
            rounds: Rounds::default(),
            foretold: Foretold::default(),
            audit: Audit::default(),
            transfer: None,
            heartbeat_at: now,
            count_at: now.after(election_timeout),
            told_commit: LogIndex(0),
            durable_since: (Lsn(0), now),
        }
    }

    /// Others are members from now on. Who stays keeps its progress.
    pub fn follow_members<'a>(
        &mut self,
        others: impl Iterator<Item = &'a Member>,
        next: LogIndex,
        now: Instant,
        election_timeout: Duration,
    ) {
        let was_alone = self.members.is_empty();
        let mut before = std::mem::take(&mut self.members);
        for member in others {
            let voter = is_voter(member.role);
            let known = before.iter().position(|known| known.id == member.id);
            let known = known.map(|place| before.swap_remove(place));
            let new = || Progress::new(member.id, voter, next, now);
            let mut progress = known.unwrap_or_else(new);
            progress.is_voter = voter;
            self.members.push(progress);
        }
        if was_alone {
            // Nobody was told or counted so far.
            (self.heartbeat_at, self.count_at) = (now, now.after(election_timeout));
        }
    }

    /// When there is something to do.
    pub fn deadline(&self, is_alone: bool) -> Instant {
        let reads = self.rounds.deadline();
        if is_alone {
            return reads;
        }
        let transfer = self.transfer.as_ref().map_or(Instant::NEVER, |transfer| transfer.deadline);
        self.heartbeat_at.min(self.count_at).min(transfer).min(reads)
    }

    /// One of the others.
    pub fn member_mut(&mut self, id: NodeId) -> Option<&mut Progress> {
        self.members.iter_mut().find(|member| member.id == id)
    }
}

impl Node {
    pub(super) fn tick_leader(&mut self) {
        let (now, timeout) = (self.now, self.config.election_timeout);
        let resend_timeout = self.config.resend_timeout;
        let leading = self.leading.as_mut().expect("a leader leads");
        if leading.members.is_empty() {
            return;
        }
        leading.members.iter_mut().for_each(|member| member.check(now, timeout, resend_timeout));
        if now >= leading.count_at {
            leading.count_at = now.after(timeout);
            if !self.has_quorum_of_listeners() {
                self.leave_office();
                return;
            }
        }
        self.tick_transfer();
        if self.leading.as_ref().is_some_and(|leading| now >= leading.heartbeat_at) {
            self.send_heartbeats();
        }
    }

    fn has_quorum_of_listeners(&self) -> bool {
        let leading = self.leading.as_ref().expect("a leader leads");
        let is_heard = |heard_at| self.now.since(heard_at) < self.config.election_timeout;
        let voters = leading.members.iter().filter(|member| member.is_voter);
        let heard = voters.filter(|member| member.heard_at.is_some_and(is_heard)).count();
        heard + self.own_votes() >= majority(self.raft.voters().len())
    }

    /// What this node counts for: a leader that was removed brings that to an end without counting
    /// itself (Raft thesis, section 4.2.2).
    pub(super) fn own_votes(&self) -> usize {
        usize::from(self.raft.is_voter() || has_bug!(self, RemovedLeaderCounts))
    }

    /// Tells all that this node leads, what is committed, and the current round.
    pub(super) fn send_heartbeats(&mut self) {
        let (term, commit) = (self.raft.term(), self.log.committed());
        let leading = self.leading.as_mut().expect("a leader leads");
        leading.heartbeat_at = self.now.after(self.config.heartbeat);
        leading.told_commit = commit;
        let round = leading.rounds.begun();
        let members: Vec<NodeId> = leading.members.iter().map(|member| member.id).collect();
        for member in members {
            self.send(member, Message::Heartbeat { term, commit, round });
        }
    }

    /// A connection to `member` stands, for the first time or again: what was on its way before
    /// may be lost.
    pub fn member_joined(&mut self, now: &Now, member: NodeId) {
        self.now = now.monotonic;
        self.raft.find(member);
        let Some(leading) = &mut self.leading else {
            self.asks.repeat();
            return;
        };
        let Some(progress) = leading.member_mut(member) else { return };
        progress.probe(self.now);
        let (term, commit) = (self.raft.term(), self.log.committed());
        let round = leading.rounds.begun();
        self.send(member, Message::Heartbeat { term, commit, round });
    }

    pub(super) fn on_ack(
        &mut self,
        from: NodeId,
        round: u64,
        matched: LogIndex,
        durable: LogIndex,
    ) -> Result<(), Violation> {
        let (now, last) = (self.now, self.log.end().index);
        let Some(leading) = &mut self.leading else { return Ok(()) };
        if matched > last || durable > matched || round > leading.rounds.begun() {
            return Err(Violation("it acknowledges what this leader has never sent"));
        }
        let Some(member) = leading.member_mut(from) else { return Ok(()) };
        member.heard_at = Some(now);
        member.round = member.round.max(round);
        member.acknowledge(matched, durable, now);
        Ok(())
    }

    /// The member has lost entries that it has acknowledged, and says so: they do not count any
    /// more. What was committed with its help stays so, because its votes still count them.
    pub(super) fn on_repaired(&mut self, from: NodeId) {
        if let Some(member) = self.leading.as_mut().and_then(|leading| leading.member_mut(from)) {
            member.forget_durable();
        }
    }

    pub(super) fn on_append_reject(
        &mut self,
        from: NodeId,
        prev: LogIndex,
        hint: LogIndex,
        hint_term: Term,
    ) {
        let now = self.now;
        let (hint, _) = self.log.terms().last_up_to(hint, hint_term);
        let Some(leading) = &mut self.leading else { return };
        let Some(member) = leading.member_mut(from) else { return };
        member.heard_at = Some(now);
        if prev > LogIndex(0) {
            member.reject(prev, hint, now);
        }
    }

    /// What a [`Fetch`] has brought: consecutive batches from the one that holds `from` on, or
    /// none when they could not be read.
    pub fn fetched(&mut self, now: &Now, member: NodeId, from: LogIndex, batches: Vec<Batch>) {
        self.now = now.monotonic;
        self.fetching.retain(|waits| *waits != member);
        let Some(leading) = &mut self.leading else { return };
        let Some(progress) = leading.member_mut(member) else { return };
        if !progress.fetched(from) {
            return;
        }
        let is_sound = batches.first().is_some_and(|first| {
            let header = first.header();
            header.first_index == from
                && self.log.terms().term_at(header.first_index) == Some(header.term)
        });
        if !is_sound {
            progress.stall(self.now);
            return;
        }
        self.send_batches(member, batches.into_iter());
    }

    /// Sends consecutive batches, several to a message.
    fn send_batches(&mut self, to: NodeId, batches: impl Iterator<Item = Batch>) {
        let mut batches = batches.peekable();
        while let Some(first) = batches.peek() {
            let prev = LogIndex(first.header().first_index.0 - 1);
            let (mut bytes, mut sent) = (0, Vec::new());
            while let Some(batch) = batches.next_if(|batch| {
                sent.is_empty() || bytes + batch.bytes().len() <= APPEND_BYTES_SOFT
            }) {
                bytes += batch.bytes().len();
                sent.push(batch);
            }
            let last = sent.last().expect("at least the first").header().last_index();
            let leading = self.leading.as_mut().expect("a leader sends");
            let member = leading.member_mut(to).expect("to a member");
            member.sent(last, bytes, self.now);
            self.send_append(to, prev, sent);
        }
    }

    fn send_append(&mut self, to: NodeId, prev: LogIndex, batches: Vec<Batch>) {
        let (term, commit) = (self.raft.term(), self.log.committed());
        let prev_term = self.log.terms().term_at(prev).expect("it is in the log");
        self.send(to, Message::Append(Append { term, prev, prev_term, commit, batches }));
    }

    /// Sends every member what it may be sent.
    pub(super) fn replicate(&mut self) {
        let Some(leading) = &self.leading else { return };
        for at in 0..leading.members.len() {
            self.replicate_to(at);
        }
        self.notice_commit();
    }

    fn replicate_to(&mut self, at: usize) {
        let member = &mut self.leading.as_mut().expect("a leader sends").members[at];
        let id = member.id;
        if let Some(prev) = member.probe_due() {
            self.send_append(id, prev, Vec::new());
            return;
        }
        let end = self.log.end().index;
        loop {
            let member = &mut self.leading.as_mut().expect("a leader sends").members[at];
            let Some(next) = member.next_to_send().filter(|next| *next <= end) else { break };
            let first_in_memory = self.log.first_in_memory();
            if next < first_in_memory && next <= self.log.floor() {
                member.install();
                break;
            }
            if next < first_in_memory {
                if self.fetching.contains(&id) {
                    return;
                }
                self.fetching.push(id);
                member.fetch();
                let terms = self.log.terms().between(next, first_in_memory);
                self.fetches.push(Fetch {
                    member: id,
                    from: next,
                    end: first_in_memory,
                    bytes_max: FETCH_BYTES,
                    terms,
                });
                return;
            }
            let mut bytes = 0;
            let some = self.log.batches_from(next).take_while(|batch| {
                let is_in = bytes == 0 || bytes + batch.bytes().len() <= APPEND_BYTES_SOFT;
                bytes += batch.bytes().len();
                is_in
            });
            let some: Vec<Batch> = some.cloned().collect();
            self.send_batches(id, some.into_iter());
        }
        self.fetch_snapshot_for(at);
    }

    /// Makes sure that everybody hears of the commit index before long.
    fn notice_commit(&mut self) {
        let (now, committed) = (self.now, self.log.committed());
        let Some(leading) = &mut self.leading else { return };
        if leading.told_commit < committed && !leading.members.is_empty() {
            leading.heartbeat_at = leading.heartbeat_at.min(now.after(COMMIT_NOTICE_DELAY));
        }
    }

    /// The last entry that at least so many voters hold durably. The others' marks are what they
    /// have said, this node's own is what its disk has said.
    pub(super) fn held_by(&self, voters: usize) -> LogIndex {
        let Some(leading) = &self.leading else { return LogIndex(0) };
        let own = match has_bug!(self, CountsOwnUnsynced) {
            true => self.log.end().index,
            false => self.log.durable(),
        };
        let counts = |member: &&Progress| member.is_voter || has_bug!(self, LearnersCount);
        let others = leading.members.iter().filter(counts).map(|member| member.durable);
        let own = std::iter::repeat_n(own, self.own_votes());
        reached_by(voters, others.chain(own)).unwrap_or_default()
    }

    /// A leader commits what a majority holds durably, by counting only in its own term (Raft
    /// paper, section 5.4.2).
    pub(super) fn advance_commit(&mut self) {
        if !self.raft.is_leader() {
            return;
        }
        let needed = match has_bug!(self, CommitsWithoutQuorum) {
            true => 1,
            false => majority(self.raft.voters().len()),
        };
        let held = self.held_by(needed);
        let is_own_term = self.log.terms().term_at(held) == Some(self.raft.term());
        if held > self.log.committed() && (is_own_term || has_bug!(self, CommitsOldTerm)) {
            self.log.commit(held);
            self.settle_members();
        }
    }
}
