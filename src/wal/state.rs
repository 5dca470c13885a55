//! What the records of a log add up to: term, vote, and where the replicated log ends.

use std::fmt;

use kvorum_protocol::{BatchHeader, LogIndex, NodeId, Term};

use crate::core::log::{EntryId, LogEnd};

/// The persistent state of a Raft server (Raft paper, figure 2), the entries reduced to their end.
/// The writer follows what it is given and the reader what it finds, by the same rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The current term.
    pub term: Term,
    /// Who got this node's vote in that term.
    pub voted_for: Option<NodeId>,
    /// The last batch of the replicated log.
    pub end: LogEnd,
    /// Where it ended before a repair has cut off what was damaged; index 0 without one.
    pub former_end: EntryId,
}

/// A record that can not come next, though its checksums are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discontinuity {
    /// The batch does not start right behind the last entry, or names another batch before it.
    Batch {
        /// The index that comes next.
        expected: LogIndex,
        /// The index of the batch.
        found: LogIndex,
    },
    /// The batch is older than the one before it, or of a term that was never entered.
    BatchTerm(Term),
    /// Log time goes back.
    LogTime,
    /// The term goes back, or a vote changes within its term.
    Vote {
        /// The current term.
        term: Term,
        /// The term of the record.
        found: Term,
    },
    /// Entries are called committed that are not in the log.
    Commit {
        /// Up to where.
        commit: LogIndex,
        /// Where the log ends.
        last: LogIndex,
    },
    /// The truncation does not shorten the log, or would cut committed entries.
    Truncation {
        /// Where it would end the log.
        to: LogIndex,
    },
    /// The snapshot holds less than what is committed, or comes from a later term.
    Install {
        /// Up to where it goes.
        to: LogIndex,
    },
    /// What is said of the state is not what the records before add up to.
    State,
}

impl fmt::Display for Discontinuity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Discontinuity::Batch { expected, found } if expected == found => {
                write!(f, "the batch at index {found} names another batch as the one before it")
            }
            Discontinuity::Batch { expected, found } => {
                write!(f, "a batch starts at index {found} where {expected} comes next")
            }
            Discontinuity::BatchTerm(term) => {
                write!(f, "a batch of term {term} can not come here")
            }
            Discontinuity::LogTime => f.write_str("log time goes back"),
            Discontinuity::Vote { term, found } => {
                write!(f, "a vote of term {found} can not follow the one of term {term}")
            }
            Discontinuity::Commit { commit, last } => {
                write!(f, "it calls index {commit} committed where the log ends with {last}")
            }
            Discontinuity::Truncation { to } => {
                write!(f, "a truncation to index {to} can not come here")
            }
            Discontinuity::Install { to } => {
                write!(f, "a snapshot up to index {to} can not come here")
            }
            Discontinuity::State => f.write_str("its state is not that of the records before it"),
        }
    }
}

impl LogState {
    /// A batch comes next.
    ///
    /// # Errors
    /// When it can not; the state is then unchanged.
    #[inline]
    pub fn batch(&mut self, header: &BatchHeader) -> Result<(), Discontinuity> {
        let (expected, found) = (self.end.index.next(), header.first_index);
        if found != expected || header.prev_crc != self.end.crc {
            return Err(Discontinuity::Batch { expected, found });
        }
        if header.term < self.end.term || header.term > self.term {
            return Err(Discontinuity::BatchTerm(header.term));
        }
        if header.log_time < self.end.time {
            return Err(Discontinuity::LogTime);
        }
        self.end = LogEnd {
            index: header.last_index(),
            term: header.term,
            crc: header.crc,
            time: header.log_time,
        };
        self.reach_former_end();
        Ok(())
    }

    /// A term and vote come next.
    ///
    /// # Errors
    /// When the term goes back, or the vote changes within its term.
    pub fn term_vote(
        &mut self,
        term: Term,
        voted_for: Option<NodeId>,
    ) -> Result<(), Discontinuity> {
        let changes_vote = self.voted_for.is_some() && voted_for != self.voted_for;
        if term < self.term || (term == self.term && changes_vote) {
            return Err(Discontinuity::Vote { term: self.term, found: term });
        }
        (self.term, self.voted_for) = (term, voted_for);
        Ok(())
    }

    /// The replicated log is cut back to `end`.
    ///
    /// # Errors
    /// When it would grow, or lose entries up to `commit`.
    pub fn truncate(&mut self, end: LogEnd, commit: LogIndex) -> Result<(), Discontinuity> {
        if end.index >= self.end.index || end.index < commit || end.term > self.end.term {
            return Err(Discontinuity::Truncation { to: end.index });
        }
        self.end = end;
        Ok(())
    }

    /// A snapshot takes the place of the log: the next batch follows `end`.
    ///
    /// # Errors
    /// When it knows less than what is committed, or is of a term that was never entered.
    pub fn install(&mut self, end: LogEnd, commit: LogIndex) -> Result<(), Discontinuity> {
        if end.index < commit || end.term > self.term {
            return Err(Discontinuity::Install { to: end.index });
        }
        self.end = end;
        self.reach_former_end();
        Ok(())
    }

    /// When the log ends at or behind its former end again, that is over for good.
    #[inline]
    fn reach_former_end(&mut self) {
        if self.end.id() >= self.former_end {
            self.former_end = EntryId::default();
        }
    }

    /// What was damaged behind the records so far is cut off; `repaired` is the state from here on:
    /// the same end, and term, vote and former end as they were in what is lost.
    ///
    /// # Errors
    /// When it forgets something.
    pub fn repair(&mut self, repaired: &LogState) -> Result<(), Discontinuity> {
        let mut state = *self;
        state.term_vote(repaired.term, repaired.voted_for)?;
        let (end, former_end) = (self.end, repaired.former_end);
        let forgets = former_end < self.former_end || former_end.term > repaired.term;
        if forgets || repaired.end != end {
            return Err(Discontinuity::State);
        }
        *self = LogState { former_end, ..state };
        Ok(())
    }

    /// The state is said to be `state`.
    ///
    /// # Errors
    /// When it is another.
    #[inline]
    pub fn check(&self, state: &LogState) -> Result<(), Discontinuity> {
        if self == state { Ok(()) } else { Err(Discontinuity::State) }
    }

    /// Entries up to `commit` are called committed.
    ///
    /// # Errors
    /// When they are not all there.
    #[inline]
    pub fn check_commit(&self, commit: LogIndex) -> Result<(), Discontinuity> {
        let last = self.end.index;
        if commit <= last { Ok(()) } else { Err(Discontinuity::Commit { commit, last }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::LogTimeMs;

    fn batch(first: u64, term: u64, time: u64, prev_crc: u32) -> BatchHeader {
        BatchHeader {
            crc: u32::try_from(first).unwrap() + 100,
            count: 2,
            first_index: LogIndex(first),
            term: Term(term),
            log_time: LogTimeMs(time),
            prev_crc,
        }
    }

    #[test]
    fn batches_follow_without_gaps_and_nothing_goes_back() {
        let mut state = LogState::default();
        assert_eq!(state.batch(&batch(1, 1, 5, 0)), Err(Discontinuity::BatchTerm(Term(1))));
        state.term_vote(Term(2), None).unwrap();
        state.batch(&batch(1, 2, 5, 0)).unwrap();
        assert_eq!(state.end.index, LogIndex(2));
        let gap = Discontinuity::Batch { expected: LogIndex(3), found: LogIndex(4) };
        assert_eq!(state.batch(&batch(4, 2, 5, 101)), Err(gap));
        let chain = Discontinuity::Batch { expected: LogIndex(3), found: LogIndex(3) };
        assert_eq!(state.batch(&batch(3, 2, 5, 7)), Err(chain));
        assert_eq!(state.batch(&batch(3, 1, 5, 101)), Err(Discontinuity::BatchTerm(Term(1))));
        assert_eq!(state.batch(&batch(3, 2, 4, 101)), Err(Discontinuity::LogTime));
        state.batch(&batch(3, 2, 5, 101)).unwrap();
    }

    #[test]
    fn one_vote_a_term() {
        let mut state = LogState::default();
        state.term_vote(Term(2), None).unwrap();
        state.term_vote(Term(2), Some(NodeId(1))).unwrap();
        state.term_vote(Term(2), Some(NodeId(1))).unwrap();
        assert!(state.term_vote(Term(2), Some(NodeId(3))).is_err());
        assert!(state.term_vote(Term(2), None).is_err());
        assert!(state.term_vote(Term(1), Some(NodeId(1))).is_err());
        state.term_vote(Term(3), Some(NodeId(3))).unwrap();
    }

    #[test]
    fn a_truncation_shortens_and_spares_what_is_committed() {
        let mut state = LogState { term: Term(2), ..LogState::default() };
        state.batch(&batch(1, 1, 5, 0)).unwrap();
        let first = state.end;
        state.batch(&batch(3, 1, 5, 101)).unwrap();
        assert!(state.truncate(state.end, LogIndex(0)).is_err());
        assert!(state.truncate(first, LogIndex(3)).is_err());
        assert!(state.truncate(LogEnd { term: Term(2), ..first }, LogIndex(0)).is_err());
        state.truncate(first, LogIndex(2)).unwrap();
        state.batch(&batch(3, 2, 9, 101)).unwrap();
        state.check_commit(LogIndex(4)).unwrap();
        let beyond = Discontinuity::Commit { commit: LogIndex(5), last: LogIndex(4) };
        assert_eq!(state.check_commit(LogIndex(5)), Err(beyond));
    }

    #[test]
    fn a_snapshot_takes_the_place_of_a_log_that_knows_less() {
        let mut state = LogState { term: Term(2), ..LogState::default() };
        state.batch(&batch(1, 1, 5, 0)).unwrap();
        let end = LogEnd { index: LogIndex(9), term: Term(2), crc: 77, time: LogTimeMs(8) };
        assert!(state.install(LogEnd { term: Term(3), ..end }, LogIndex(2)).is_err());
        assert!(state.install(end, LogIndex(10)).is_err());
        state.install(end, LogIndex(2)).unwrap();
        state.batch(&batch(10, 2, 8, 77)).unwrap();
    }
}
