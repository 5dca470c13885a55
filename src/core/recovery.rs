//! Building the state from what the log remembers.

use std::fmt;
use std::ops::ControlFlow;

use kvorum_protocol::{BatchHeader, LogIndex, Lsn, NodeId, Op, Term, batch};

use super::apply::{apply, for_each_entry};
use super::log::LogEnd;
use super::store::Store;

/// What the log has told so far. Records come in the order of their positions.
///
/// A lone voter is a majority: whatever stands in its log is decided, so entries are applied as
/// they are read.
pub struct Recovery {
    pub(super) store: Store,
    pub(super) end: LogEnd,
    pub(super) term: Term,
    pub(super) voted_for: Option<NodeId>,
    pub(super) last_lsn: Lsn,
    /// The last member list in the log, encoded; empty when there is none.
    pub(super) members: Vec<u8>,
}

/// A record that does not follow from the ones before it: the log is not this node's, or damaged
/// in a way that every checksum missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// The batch starts at another index than the one that comes next.
    Index {
        /// What should come.
        expected: LogIndex,
        /// What came.
        found: LogIndex,
    },
    /// The batch names another batch as the one before it.
    Chain {
        /// First index of the batch.
        at: LogIndex,
    },
    /// A term went back.
    Term {
        /// What was reached.
        reached: Term,
        /// What came.
        found: Term,
    },
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Index { expected, found } => {
                write!(f, "entry {expected} should come next, but entry {found} does")
            }
            ReplayError::Chain { at } => {
                write!(f, "the batch at index {at} does not continue the one before it")
            }
            ReplayError::Term { reached, found } => {
                write!(f, "term {found} comes after term {reached}")
            }
        }
    }
}

impl std::error::Error for ReplayError {}

impl Recovery {
    /// Nothing read yet. `hash_seed` keys the table of the state.
    #[must_use]
    pub fn new(hash_seed: u64) -> Recovery {
        Recovery {
            store: Store::new(hash_seed),
            end: LogEnd::default(),
            term: Term(0),
            voted_for: None,
            last_lsn: Lsn(0),
            members: Vec::new(),
        }
    }

    /// The record at `lsn` is a batch that [`batch::check`] has accepted.
    ///
    /// # Errors
    /// When it does not continue the log.
    pub fn batch(
        &mut self,
        lsn: Lsn,
        header: &BatchHeader,
        bytes: &[u8],
    ) -> Result<(), ReplayError> {
        let expected = self.end.index.next();
        if header.first_index != expected {
            return Err(ReplayError::Index { expected, found: header.first_index });
        }
        if header.prev_crc != self.end.crc {
            return Err(ReplayError::Chain { at: header.first_index });
        }
        if header.term < self.end.term || header.term > self.term {
            return Err(ReplayError::Term { reached: self.term, found: header.term });
        }
        let first = header.first_index;
        let offset = batch::BATCH_HEADER_BYTES;
        let done = for_each_entry(
            bytes,
            offset,
            first,
            self,
            |this| &this.store,
            |this, entry| {
                if let Op::Membership(members) = entry.command.op {
                    this.members = members.to_vec();
                }
                apply(&mut this.store, entry);
                ControlFlow::Continue(())
            },
        );
        assert!(done.is_continue(), "nothing breaks off a replay");
        self.end = LogEnd {
            index: header.last_index(),
            term: header.term,
            crc: header.crc,
            time: header.log_time,
        };
        self.last_lsn = lsn;
        Ok(())
    }

    /// The record at `lsn` is a term and a vote.
    ///
    /// # Errors
    /// When the term goes back.
    pub fn term_vote(
        &mut self,
        lsn: Lsn,
        term: Term,
        voted_for: Option<NodeId>,
    ) -> Result<(), ReplayError> {
        if term < self.term {
            return Err(ReplayError::Term { reached: self.term, found: term });
        }
        self.term = term;
        self.voted_for = voted_for;
        self.last_lsn = lsn;
        Ok(())
    }

    /// Index of the last entry read.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.end.index
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.store.len()
    }

    /// The last member list in the log, encoded; `None` on first boot.
    #[must_use]
    pub fn members(&self) -> Option<&[u8]> {
        (!self.members.is_empty()).then_some(&self.members)
    }
}
