//! Building the state from what the log remembers.

use std::fmt;
use std::ops::ControlFlow;

use kvorum_protocol::{
    BatchHeader, DecodeError, LogIndex, Lsn, MemberList, NodeId, Op, Term, batch,
};

use super::apply::{apply, for_each_entry};
use super::log::LogEnd;
use super::store::Store;

/// What the log has told so far. Records come in the order of their positions, and follow from
/// each other: the log has checked that.
///
/// A lone voter is a majority: whatever stands in its log is decided, so entries are applied as
/// they are read.
pub struct Recovery {
    pub(super) store: Store,
    pub(super) end: LogEnd,
    pub(super) term: Term,
    pub(super) voted_for: Option<NodeId>,
    pub(super) last_lsn: Lsn,
    members: Option<MemberList>,
}

/// A sound record that this version can not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// A member list that is none.
    Members(DecodeError),
    /// Entries were taken back, which never happens to a lone voter.
    Truncation,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Members(error) => write!(f, "the member list: {error}"),
            ReplayError::Truncation => f.write_str("it takes entries back, as only a cluster does"),
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
            members: None,
        }
    }

    /// The record at `lsn` is a batch that [`batch::check`] has accepted.
    ///
    /// # Errors
    /// When it holds something that this version can not use.
    ///
    /// # Panics
    /// When it does not continue the log.
    pub fn batch(
        &mut self,
        lsn: Lsn,
        header: &BatchHeader,
        bytes: &[u8],
    ) -> Result<(), ReplayError> {
        assert_eq!(header.first_index, self.end.index.next(), "the log was checked");
        let first = header.first_index;
        let offset = batch::BATCH_HEADER_BYTES;
        let mut result = Ok(());
        let _ = for_each_entry(
            bytes,
            offset,
            first,
            self,
            |this| &this.store,
            |this, entry| {
                if let Op::Membership(members) = entry.command.op {
                    match MemberList::decode(members) {
                        Ok(members) => this.members = Some(members),
                        Err(error) => {
                            result = Err(ReplayError::Members(error));
                            return ControlFlow::Break(());
                        }
                    }
                }
                apply(&mut this.store, entry);
                ControlFlow::Continue(())
            },
        );
        self.end = LogEnd::of(header);
        self.last_lsn = lsn;
        result
    }

    /// The record at `lsn` is a term and a vote.
    pub fn term_vote(&mut self, lsn: Lsn, term: Term, voted_for: Option<NodeId>) {
        self.term = term;
        self.voted_for = voted_for;
        self.last_lsn = lsn;
    }

    /// The record at `lsn` took back what came behind `end`.
    ///
    /// # Errors
    /// When that can not be.
    pub fn truncate(&mut self, _lsn: Lsn, _end: LogEnd) -> Result<(), ReplayError> {
        Err(ReplayError::Truncation)
    }

    /// Entries up to `commit` are known to be decided.
    pub fn committed(&mut self, _commit: LogIndex) {}

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

    /// The last member list in the log; `None` on first boot.
    #[must_use]
    pub fn members(&self) -> Option<&MemberList> {
        self.members.as_ref()
    }
}
