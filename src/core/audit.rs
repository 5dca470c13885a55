//! Do all nodes have the same state? The leader asks from time to time for the hash of the state
//! at one index, and counts.
//!
//! Nodes can only be compared at the same index, and none can go back to an earlier one. So each
//! remembers its hash at *checkpoints*, the indexes that are a multiple of one number, as it passes
//! them by applying entries one after the other. A checkpoint that was not passed in this way, be
//! it that a snapshot reached beyond it, is not remembered and never counts. Only what is
//! decided is applied, so no election and no truncation changes what was remembered.
//!
//! Whoever differs from what a majority of the voters has must stop. Where no hash has a majority
//! nobody can know who is right, and all there is to do is to say so.

use std::collections::VecDeque;
use std::time::Duration;

use kvorum_protocol::{LogIndex, NodeId};

use super::quorum::majority;
use super::time::Instant;

/// How many checkpoints are remembered: as many as a node may be ahead of the question.
const CHECKPOINTS_KEPT: usize = 16;

/// The leader asks at most so often.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// How many questions a leader remembers: for members that are as many intervals behind.
const QUESTIONS_KEPT: usize = 16;

/// The state hash at the last checkpoints.
#[derive(Debug)]
pub struct Checkpoints {
    /// Checkpoints are the multiples of it.
    interval: u64,
    /// The next one, from where this node was last known to be.
    next: LogIndex,
    kept: VecDeque<(LogIndex, u64)>,
}

impl Checkpoints {
    /// Of a node that has applied the entries up to `applied`.
    ///
    /// # Panics
    /// When `interval` is 0.
    pub fn new(interval: u64, applied: LogIndex) -> Checkpoints {
        let kept = VecDeque::with_capacity(CHECKPOINTS_KEPT);
        let mut checkpoints = Checkpoints { interval, next: applied, kept };
        checkpoints.move_behind(applied);
        checkpoints
    }

    /// The entry at `index` was applied. `hash` is only called for when that is a checkpoint.
    #[inline]
    pub fn pass(&mut self, index: LogIndex, hash: impl FnOnce() -> u64) {
        if index >= self.next {
            self.reach(index, hash);
        }
    }

    #[cold]
    fn reach(&mut self, index: LogIndex, hash: impl FnOnce() -> u64) {
        if index.0.is_multiple_of(self.interval) {
            if self.kept.len() == CHECKPOINTS_KEPT {
                self.kept.pop_front();
            }
            self.kept.push_back((index, hash()));
        }
        self.move_behind(index);
    }

    fn move_behind(&mut self, index: LogIndex) {
        self.next = LogIndex((index.0 / self.interval + 1) * self.interval);
    }

    /// The last one.
    pub fn last(&self) -> Option<(LogIndex, u64)> {
        self.kept.back().copied()
    }

    /// The hash at `index`, if this node has passed it and still knows.
    pub fn at(&self, index: LogIndex) -> Option<u64> {
        self.kept.iter().find(|(at, _)| *at == index).map(|(_, hash)| *hash)
    }
}

/// What the answers to one question come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is what a majority of the voters has. Others may still answer.
    Majority(u64),
    /// Too few have answered.
    Open,
    /// Whatever the others will answer, no hash has a majority.
    Split,
}

/// What a leader wants to know of all.
#[derive(Debug)]
pub struct Question {
    /// The checkpoint that it is about.
    pub index: LogIndex,
    /// The leader's own hash there.
    pub own: u64,
    /// Who has said what, the leader itself among them; each once.
    pub answers: Vec<(NodeId, u64)>,
    /// All were told that they differ.
    is_split_told: bool,
}

impl Question {
    fn note(&mut self, from: NodeId, hash: u64) {
        match self.answers.iter_mut().find(|(id, _)| *id == from) {
            Some((_, known)) => *known = hash,
            None => self.answers.push((from, hash)),
        }
    }

    /// What the voters have said so far.
    pub fn verdict(&self, voters: &[NodeId]) -> Verdict {
        let said: Vec<u64> = self.answers_of(voters).collect();
        let count_of = |hash: u64| said.iter().filter(|other| **other == hash).count();
        let most = said.iter().map(|hash| (count_of(*hash), *hash)).max();
        let Some((count, hash)) = most else { return Verdict::Open };
        let needed = majority(voters.len());
        match count + (voters.len() - said.len()) {
            _ if count >= needed => Verdict::Majority(hash),
            reachable if reachable >= needed => Verdict::Open,
            _ => Verdict::Split,
        }
    }

    /// Whether two voters have said different things.
    pub fn is_disputed(&self, voters: &[NodeId]) -> bool {
        let mut answers = self.answers_of(voters);
        let first = answers.next();
        answers.any(|hash| Some(hash) != first)
    }

    fn answers_of(&self, voters: &[NodeId]) -> impl Iterator<Item = u64> {
        let counts = |(id, _): &&(NodeId, u64)| voters.contains(id);
        self.answers.iter().filter(counts).map(|(_, hash)| *hash)
    }

    /// Who has said something else than the majority, voters and learners alike; each is named
    /// once.
    pub fn take_outvoted(&mut self, majority: u64) -> Vec<NodeId> {
        let outvoted = self.answers.extract_if(.., |(_, hash)| *hash != majority);
        outvoted.map(|(id, _)| id).collect()
    }
}

/// A leader's questions.
#[derive(Debug, Default)]
pub struct Audit {
    /// The last ones, in the order of their indexes.
    questions: VecDeque<Question>,
    /// Not before.
    ask_at: Instant,
}

impl Audit {
    /// Whether it is time to ask about this checkpoint.
    pub fn is_due(&self, index: LogIndex, now: Instant) -> bool {
        let is_new = self.last().is_none_or(|last| last.index < index);
        is_new && now >= self.ask_at
    }

    /// The question that was asked last.
    pub fn last(&self) -> Option<&Question> {
        self.questions.back()
    }

    /// Asks about a checkpoint, where the leader itself, `own`, has `hash`.
    pub fn ask(&mut self, index: LogIndex, own: NodeId, hash: u64, now: Instant) {
        if self.questions.len() == QUESTIONS_KEPT {
            self.questions.pop_front();
        }
        let answers = vec![(own, hash)];
        let question = Question { index, own: hash, answers, is_split_told: false };
        self.questions.push_back(question);
        self.ask_at = now.after(ASK_INTERVAL);
    }

    /// The question about `index`, if it is still remembered and this is the first time that all
    /// are to hear that they differ.
    pub fn tell_split(&mut self, index: LogIndex) -> Option<&Question> {
        let question = self.questions.iter_mut().find(|question| question.index == index)?;
        (!std::mem::replace(&mut question.is_split_told, true)).then_some(question)
    }

    /// A member answers; the question, if it is still remembered.
    pub fn answer(&mut self, from: NodeId, index: LogIndex, hash: u64) -> Option<&mut Question> {
        let question = self.questions.iter_mut().find(|question| question.index == index)?;
        question.note(from, hash);
        Some(question)
    }
}

/// Two nodes have applied the same entries and have different states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// A majority of the voters agrees, and not with this node: it must stop, at once.
    Outvoted {
        /// The index.
        index: LogIndex,
        /// This node's hash of its state there.
        own: u64,
        /// That of the majority.
        majority: u64,
    },
    /// No hash has a majority: nobody can know who is right.
    Split {
        /// The index.
        index: LogIndex,
        /// This node's hash of its state there.
        own: u64,
        /// What another node has.
        other: u64,
    },
}

impl std::fmt::Display for Disagreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Disagreement::Outvoted { index, own, majority } => write!(
                f,
                "the state of this node differs from that of the majority: at index {index} its \
                 hash is {own:016x}, theirs {majority:016x}"
            ),
            Disagreement::Split { index, own, other } => write!(
                f,
                "the nodes have different states, and no hash has a majority: at index {index} \
                 that of this node is {own:016x}, another's is {other:016x}; compare their data \
                 (kvorum export), and rebuild the one that is wrong from the other"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOTERS: [NodeId; 4] = [NodeId(1), NodeId(2), NodeId(3), NodeId(4)];

    fn verdict(voters: usize, answers: &[(u16, u64)]) -> Verdict {
        let mut audit = Audit::default();
        let index = LogIndex(4096);
        let (own, own_hash) = answers[0];
        audit.ask(index, NodeId(own), own_hash, Instant(0));
        for (id, hash) in answers {
            audit.answer(NodeId(*id), index, *hash);
        }
        audit.last().expect("it was asked").verdict(&VOTERS[..voters])
    }

    #[test]
    fn a_majority_of_all_voters_decides() {
        use Verdict::{Majority, Open, Split};
        assert_eq!(verdict(1, &[(1, 7)]), Majority(7));
        assert_eq!(verdict(2, &[(1, 7)]), Open);
        assert_eq!(verdict(2, &[(1, 7), (2, 7)]), Majority(7));
        assert_eq!(verdict(2, &[(1, 7), (2, 8)]), Split);
        assert_eq!(verdict(3, &[(1, 7), (2, 8)]), Open);
        assert_eq!(verdict(3, &[(1, 7), (2, 8), (3, 8)]), Majority(8));
        assert_eq!(verdict(3, &[(1, 7), (2, 8), (3, 9)]), Split);
        assert_eq!(verdict(4, &[(1, 7), (2, 8), (3, 7)]), Open);
        assert_eq!(verdict(4, &[(1, 7), (2, 8), (3, 7), (4, 8)]), Split);
    }

    #[test]
    fn learners_and_repetitions_do_not_count() {
        assert_eq!(verdict(3, &[(1, 7), (4, 7), (9, 7)]), Verdict::Open);
        assert_eq!(verdict(3, &[(1, 7), (2, 8), (2, 8)]), Verdict::Open);
        assert_eq!(verdict(3, &[(1, 7), (2, 8), (2, 7)]), Verdict::Majority(7));
    }

    #[test]
    fn only_checkpoints_that_were_passed_are_known() {
        let mut checkpoints = Checkpoints::new(10, LogIndex(10));
        for index in (11..=35).chain(48..=65) {
            checkpoints.pass(LogIndex(index), || index);
        }
        let known: Vec<u64> = checkpoints.kept.iter().map(|(index, _)| index.0).collect();
        assert_eq!(known, [20, 30, 50, 60]);
        assert_eq!(checkpoints.at(LogIndex(40)), None, "a snapshot was installed there");
        for index in 66..=1000 {
            checkpoints.pass(LogIndex(index), || index);
        }
        assert_eq!(checkpoints.kept.len(), CHECKPOINTS_KEPT);
        assert_eq!(checkpoints.last(), Some((LogIndex(1000), 1000)));
    }
}
