//! The follower's and learner's side of replication (Raft paper, section 5.3).

use kvorum_protocol::peer::{Append, Message};
use kvorum_protocol::{Batch, LogIndex, NodeId, Term};

use super::{Node, Violation, has_bug};
use crate::core::following::Parked;
use crate::core::membership::list_in;

impl Node {
    pub(super) fn on_append(&mut self, from: NodeId, append: Append) -> Result<(), Violation> {
        let Append { prev, prev_term, commit, batches, term } = append;
        if batches.iter().any(|batch| batch.header().term > term) {
            return Err(Violation("it brings entries of a later term"));
        }
        // Entries that are new here are acknowledged when they are durable; all else at once.
        let end_before = self.log.end().index;
        let Some(matched) = self.matched_by(prev, prev_term) else {
            if self.following.parked.ends_with(prev, prev_term) {
                batches.into_iter().for_each(|batch| self.following.parked.push(batch));
                self.following.owes_ack = true;
                return Ok(());
            }
            let (hint, hint_term) = self.log.terms().last_up_to(prev, prev_term);
            let is_repaired = self.log.lacks_former_end();
            self.send(from, Message::AppendReject { term, prev, hint, hint_term, is_repaired });
            return Ok(());
        };
        #[cfg(feature = "seeded-bugs")]
        if has_bug!(self, TruncatesBehindAppend) {
            let last = batches.last().map_or(matched, |batch| batch.header().last_index());
            self.cut_behind(last);
        }
        self.following.matched = self.following.matched.max(matched);
        for batch in batches {
            self.take_batch(batch)?;
        }
        self.following.owes_ack |= self.log.end().index <= end_before;
        self.commit_up_to(commit);
        Ok(())
    }

    /// Up to where this log is the leader's, if it has the leader's entry at `prev`: the end of
    /// the batch that holds it, since a batch is made and stored as a whole.
    fn matched_by(&self, prev: LogIndex, prev_term: Term) -> Option<LogIndex> {
        // What is committed is in the log of every later leader (leader completeness).
        if prev <= self.log.committed() {
            return Some(self.log.committed());
        }
        let own = self.log.terms().term_at(prev)?;
        if own != prev_term && !has_bug!(self, SkipsLogCheck) {
            return None;
        }
        let batch = self.log.batch_with(prev).expect("what is not committed is in memory");
        Some(batch.header().last_index())
    }

    /// Takes a batch into the log, unless it is there, as soon as there is room.
    fn take_batch(&mut self, batch: Batch) -> Result<(), Violation> {
        let header = *batch.header();
        if header.last_index() <= self.log.committed() {
            return Ok(());
        }
        if let Some(own) = self.log.batch_with(header.first_index) {
            if *own.header() == header {
                self.following.matched = self.following.matched.max(header.last_index());
                return Ok(());
            }
            self.replace_from(header.first_index, header.term)?;
        }
        if self.following.parked.first().is_some() || !self.has_room_for(&batch) {
            self.following.parked.push(batch);
            return Ok(());
        }
        self.append(batch)
    }

    /// Nothing is given to the log that could have to wait there, be it that the next segment is
    /// still being made: if it can not be, a vote would have to wait behind it.
    fn has_room_for(&self, batch: &Batch) -> bool {
        self.room.takes(batch.bytes().len(), &self.log)
            || has_bug!(self, TakesBeyondRoom) && !self.room.is_last()
    }

    fn append(&mut self, batch: Batch) -> Result<(), Violation> {
        let last = batch.header().last_index();
        let list = list_in(&batch).map_err(Violation)?;
        let staged = self.log.append(batch).map_err(Violation)?;
        self.keep_record(staged);
        self.following.matched = last;
        if let Some(list) = list {
            self.membership.append(last, list);
            self.follow_members();
        }
        Ok(())
    }

    /// Takes what has waited for room into the log, as far as there is room now.
    pub(super) fn take_parked(&mut self) {
        while self.following.parked.first().is_some_and(|batch| self.has_room_for(batch)) {
            let batch = self.following.parked.pop().expect("there is a first one");
            if self.append(batch).is_err() {
                // It does not fit. The leader sends it again, and then is told so.
                self.following.parked = Parked::default();
            }
        }
    }

    /// The leader has another batch at `first`: this one's, and all behind it, were never
    /// committed.
    fn replace_from(&mut self, first: LogIndex, term: Term) -> Result<(), Violation> {
        let own = self.log.batch_with(first).expect("it was found").header();
        if first <= self.log.committed() {
            return Err(Violation("it contradicts committed entries"));
        }
        if first <= self.following.matched || own.first_index != first || own.term == term {
            return Err(Violation("it contradicts what its term has said before"));
        }
        #[cfg(feature = "seeded-bugs")]
        if has_bug!(self, DurableMarkSurvivesTruncation) {
            self.log.keeps_durable_mark = true;
        }
        let truncated = self.log.truncate(first);
        self.keep_record(truncated);
        self.take_back_members();
        Ok(())
    }

    /// Only for the bug of that name.
    #[cfg(feature = "seeded-bugs")]
    fn cut_behind(&mut self, last: LogIndex) {
        let first = last.max(self.log.committed()).next();
        if self.log.batch_with(first).is_some_and(|batch| batch.header().first_index == first) {
            let truncated = self.log.truncate(first);
            self.keep_record(truncated);
            self.take_back_members();
            self.following.matched = self.following.matched.min(self.log.end().index);
        }
    }

    pub(super) fn on_heartbeat(&mut self, commit: LogIndex, round: u64) {
        self.following.owes_ack = true;
        self.following.round = self.following.round.max(round);
        self.commit_up_to(commit);
    }

    /// The leader has committed this: so has this node, as far as its log is the leader's.
    pub(super) fn commit_up_to(&mut self, commit: LogIndex) {
        let matched = match has_bug!(self, CommitsUnmatched) {
            true => self.log.end().index,
            false => self.following.matched,
        };
        // `matched` is the end of a batch, and so is what a leader commits.
        let decided = commit.min(matched);
        if decided > self.log.committed() {
            self.log.commit(decided);
            self.settle_members();
        }
    }

    /// Tells the leader how far this log is, if it has asked or more is durable.
    pub(super) fn acknowledge(&mut self) {
        let Some(leader) = self.raft.leader() else { return };
        let matched = self.following.matched;
        let durable = match has_bug!(self, AcksBeforeDurable) {
            true => matched,
            false => self.log.durable().min(matched),
        };
        if !self.following.owes_ack && durable == self.following.acked_durable {
            return;
        }
        self.following.owes_ack = false;
        self.following.acked_durable = durable;
        let (term, round) = (self.raft.term(), self.following.round);
        self.send(leader, Message::Ack { term, round, matched, durable });
    }
}
