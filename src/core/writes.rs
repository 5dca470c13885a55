//! Writes in the log whose answer is due.
//!
//! Most wait for exactly a majority, which is what commits them: they are answered when they are
//! applied. Some are answered earlier or later (W below or above a majority) and stand in queues
//! of their own, one for each W, so that the common ones pay nothing for them. When voters go, a
//! W that was a majority may be more than one: who has asked for that number still gets it.

use std::collections::VecDeque;

use kvorum_protocol::LogIndex;

use super::output::{Answer, ReplyTo};
use super::pending::Look;
use super::rounds::Needed;
use super::time::Instant;

/// W of a write that waits for all voters, however many they are by then.
pub const ALL_VOTERS: usize = usize::MAX;

/// A write that waits.
#[derive(Debug)]
struct PendingWrite {
    index: LogIndex,
    to: ReplyTo,
    deadline: Instant,
    /// Its W, if that is a number and not just what commits it.
    voters: Option<usize>,
    /// What is to be answered, once it is known.
    answer: Option<Answer>,
}

/// The writes that wait for so many durable copies.
#[derive(Debug)]
struct OtherQueue {
    voters: usize,
    /// In the order of their indexes.
    writes: VecDeque<PendingWrite>,
    /// How many of them have their answer.
    applied: usize,
}

/// All writes that wait.
#[derive(Debug)]
pub struct PendingWrites {
    /// How many voters commit.
    majority: usize,
    /// Those that a commit answers, in the order of their indexes.
    common: VecDeque<PendingWrite>,
    /// The others, by their W.
    others: Vec<OtherQueue>,
    look: Look,
}

impl PendingWrites {
    /// Nothing waits. `majority` voters commit.
    pub fn new(majority: usize) -> PendingWrites {
        PendingWrites {
            majority,
            common: VecDeque::new(),
            others: Vec::new(),
            look: Look::default(),
        }
    }

    /// Another number of voters commits from now on. Whoever waits for a majority waits for that;
    /// who waits for a higher number goes on to wait for that many.
    pub fn set_majority(&mut self, majority: usize) {
        let falls = majority < self.majority;
        self.majority = majority;
        if !falls {
            // What a commit answers stays so: it takes more than was asked for.
            return;
        }
        let is_above = |write: &PendingWrite| write.voters.is_some_and(|voters| voters > majority);
        if !self.common.iter().any(is_above) {
            return;
        }
        let (above, common) = std::mem::take(&mut self.common).into_iter().partition(is_above);
        self.common = common;
        let above: VecDeque<PendingWrite> = above;
        for write in above {
            let voters = write.voters.expect("it waits for a number");
            push_last(self.other_queue(voters), write);
        }
    }

    /// The write at `index` waits for so many durable copies, or for those of
    /// [all](ALL_VOTERS).
    #[inline]
    pub fn push(&mut self, index: LogIndex, needed: Needed, to: ReplyTo, deadline: Instant) {
        self.look.note(deadline);
        let voters = match needed {
            Needed::Majority => None,
            Needed::Count(voters) => Some(voters),
        };
        let write = PendingWrite { index, to, deadline, voters, answer: None };
        let queue = match voters {
            Some(voters) if voters != self.majority => self.other_queue(voters),
            _ => &mut self.common,
        };
        push_last(queue, write);
    }

    #[cold]
    fn other_queue(&mut self, voters: usize) -> &mut VecDeque<PendingWrite> {
        let at = self.others.iter().position(|queue| queue.voters == voters);
        let at = at.unwrap_or_else(|| {
            self.others.push(OtherQueue { voters, writes: VecDeque::new(), applied: 0 });
            self.others.len() - 1
        });
        &mut self.others[at].writes
    }

    /// The entry at `index` was applied; answers who is to be told so now. A write with a W of
    /// its own keeps its answer until that is reached.
    #[inline]
    pub fn applied(
        &mut self,
        index: LogIndex,
        answer: impl FnOnce() -> Answer,
    ) -> Option<(ReplyTo, Answer)> {
        if let Some(first) = self.common.front() {
            assert!(first.index >= index, "a write was passed over");
            if first.index == index {
                let write = self.common.pop_front()?;
                return Some((write.to, answer()));
            }
        }
        if !self.others.is_empty() {
            self.note_answer(index, answer);
        }
        None
    }

    #[cold]
    fn note_answer(&mut self, index: LogIndex, answer: impl FnOnce() -> Answer) {
        for queue in &mut self.others {
            if let Some(write) = queue.writes.get_mut(queue.applied)
                && write.index == index
            {
                write.answer = Some(answer());
                queue.applied += 1;
                return;
            }
        }
    }

    /// Whether any write has a W other than a majority.
    #[inline]
    pub fn has_others(&self) -> bool {
        self.others.iter().any(|queue| !queue.writes.is_empty())
    }

    /// Takes a write whose W is reached: `held_by(w)` is the last entry that so many voters hold
    /// durably. With W below a majority that may be before the entry is applied: `foretell` then
    /// says what its answer will be, if that is certain.
    pub fn take_other(
        &mut self,
        held_by: impl Fn(usize) -> LogIndex,
        mut foretell: impl FnMut(LogIndex) -> Option<Answer>,
    ) -> Option<(ReplyTo, Answer)> {
        for queue in &mut self.others {
            let held = held_by(queue.voters);
            let is_early = queue.voters < self.majority;
            let Some(first) = queue.writes.front().filter(|first| first.index <= held) else {
                continue;
            };
            let foretold = || if is_early { foretell(first.index) } else { None };
            let Some(answer) = first.answer.or_else(foretold) else { continue };
            queue.applied -= usize::from(first.answer.is_some());
            let to = first.to;
            queue.writes.pop_front();
            return Some((to, answer));
        }
        None
    }

    /// When [`expire`](PendingWrites::expire) has something to look at.
    pub fn deadline(&self) -> Instant {
        self.look.deadline()
    }

    /// Gives up what has waited too long: it stays in the log, without anybody to answer.
    pub fn expire(&mut self, now: Instant, mut refuse: impl FnMut(ReplyTo)) {
        if self.deadline() > now {
            return;
        }
        let mut earliest = Instant::NEVER;
        let mut is_alive = |write: &mut PendingWrite| {
            let is_late = write.deadline <= now;
            match is_late {
                true => refuse(write.to),
                false => earliest = earliest.min(write.deadline),
            }
            !is_late
        };
        self.common.retain_mut(&mut is_alive);
        for queue in &mut self.others {
            let mut at = 0;
            let mut applied = queue.applied;
            queue.writes.retain_mut(|write| {
                let is_kept = is_alive(write);
                applied -= usize::from(!is_kept && at < queue.applied);
                at += 1;
                is_kept
            });
            queue.applied = applied;
        }
        self.look.again(earliest, now);
    }

    /// Takes everybody who waits: leadership is lost, and other entries may come in their place.
    pub fn drain(&mut self) -> impl Iterator<Item = ReplyTo> {
        let others = self.others.drain(..).flat_map(|queue| queue.writes);
        self.common.drain(..).chain(others).map(|write| write.to)
    }
}

fn push_last(queue: &mut VecDeque<PendingWrite>, write: PendingWrite) {
    assert!(queue.back().is_none_or(|last| last.index < write.index));
    queue.push_back(write);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Instant = Instant(1_000_000_000);

    fn to(tag: u32) -> ReplyTo {
        ReplyTo { connection: 1, tag }
    }

    fn written(index: u64) -> Answer {
        Answer::Written { version: LogIndex(index) }
    }

    /// Three voters: one with W = 1, one with W = 2, one with W = 3.
    fn pending() -> PendingWrites {
        let mut pending = PendingWrites::new(2);
        for voters in 1..=3 {
            let index = LogIndex(voters as u64);
            let tag = u32::try_from(voters).unwrap();
            pending.push(index, Needed::Count(voters), to(tag), LATER);
        }
        pending
    }

    #[test]
    fn a_majority_is_answered_by_being_applied() {
        let mut pending = pending();
        assert_eq!(pending.applied(LogIndex(1), || written(1)), None);
        assert_eq!(pending.applied(LogIndex(2), || written(2)), Some((to(2), written(2))));
    }

    #[test]
    fn fewer_copies_answer_before_the_commit() {
        let mut pending = pending();
        let held = |voters| LogIndex(if voters == 1 { 1 } else { 0 });
        assert_eq!(pending.take_other(held, |_| Some(written(1))), Some((to(1), written(1))));
        assert_eq!(pending.take_other(held, |_| Some(written(1))), None);
    }

    #[test]
    fn an_answer_that_is_open_waits_until_it_is_applied() {
        let mut pending = pending();
        let held = |_| LogIndex(3);
        assert_eq!(pending.take_other(held, |_| None), None);
        assert_eq!(pending.applied(LogIndex(1), || written(1)), None);
        assert_eq!(pending.take_other(held, |_| None), Some((to(1), written(1))));
    }

    #[test]
    fn more_copies_answer_when_all_hold_it_and_it_is_applied() {
        let mut pending = pending();
        let foretell = |index: LogIndex| Some(written(index.0));
        let all_hold = |voters| LogIndex(if voters == 1 { 0 } else { 3 });
        assert_eq!(pending.take_other(all_hold, foretell), None, "not applied yet");
        for index in 1..=3 {
            pending.applied(LogIndex(index), || written(index));
        }
        let two_hold = |voters| LogIndex(if voters == 2 { 3 } else { 2 });
        assert_eq!(pending.take_other(two_hold, foretell), Some((to(1), written(1))));
        assert_eq!(pending.take_other(two_hold, foretell), None, "the third copy is missing");
        assert_eq!(pending.take_other(all_hold, foretell), Some((to(3), written(3))));
        assert!(!pending.has_others());
    }

    #[test]
    fn a_number_stays_what_it_is_when_a_voter_goes() {
        // Of four voters; the first asks for a majority, which is three, the second for three.
        let mut pending = PendingWrites::new(3);
        pending.push(LogIndex(1), Needed::Majority, to(1), LATER);
        pending.push(LogIndex(2), Needed::Count(3), to(2), LATER);
        pending.set_majority(2);
        pending.push(LogIndex(3), Needed::Count(2), to(3), LATER);
        pending.push(LogIndex(4), Needed::Count(3), to(4), LATER);
        let applied: Vec<_> = (1..=4)
            .filter_map(|index| pending.applied(LogIndex(index), || written(index)))
            .collect();
        assert_eq!(applied, [(to(1), written(1)), (to(3), written(3))]);
        let held = |held| move |voters| LogIndex(if voters == 3 { held } else { 9 });
        assert_eq!(pending.take_other(held(1), |_| None), None, "two voters hold it");
        assert_eq!(pending.take_other(held(2), |_| None), Some((to(2), written(2))));
        assert_eq!(pending.take_other(held(2), |_| None), None);
        assert_eq!(pending.take_other(held(4), |_| None), Some((to(4), written(4))));
        assert!(!pending.has_others());
    }

    #[test]
    fn what_was_given_up_is_not_answered_again() {
        let mut pending = pending();
        let mut refused = Vec::new();
        pending.expire(LATER, |to| refused.push(to));
        assert_eq!(refused, [to(2), to(1), to(3)]);
        assert_eq!(pending.applied(LogIndex(2), || written(2)), None);
        assert_eq!(pending.take_other(|_| LogIndex(3), |_| Some(written(1))), None);
        assert_eq!(pending.drain().count(), 0);
    }
}
