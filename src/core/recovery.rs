//! Building the state from what the log remembers.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;
use kvorum_protocol::{
    Batch, BatchHeader, DecodeError, LogIndex, Lsn, Member, MemberList, NodeId, Op, Term, batch,
};

use super::apply::{apply, for_each_entry};
use super::log::{LogEnd, LogStart};
use super::sessions::SessionBounds;
use super::state::State;

/// What the log has told so far. Records come in the order of their positions, and follow from
/// each other: the log has checked that.
///
/// In a cluster only what is known to be committed is applied: another leader may still replace
/// the rest, which stays in memory until Raft decides. A node that has always been alone is the
/// majority: whatever stands in its log is decided, and applied as it is read.
pub struct Recovery {
    pub(super) state: State,
    pub(super) log: LogStart,
    pub(super) term: Term,
    pub(super) voted_for: Option<NodeId>,
    /// Whose log it is.
    own: Option<NodeId>,
    /// The lists in the log by the index of their entries: the last one that is known to be
    /// committed, and all behind it.
    pub(super) lists: Vec<(LogIndex, MemberList)>,
    /// No list so far has named anybody but this node.
    was_always_alone: bool,
    /// The highest index that a record has called committed.
    commit_hint: LogIndex,
    /// For tests of the simulator: apply whatever stands there.
    #[cfg(feature = "seeded-bugs")]
    pub applies_all: bool,
}

/// A sound record that this version can not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// A member list that is none.
    Members(DecodeError),
    /// Entries are taken back that are decided, or in the middle of a batch.
    Truncation,
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Members(error) => write!(f, "the member list: {error}"),
            ReplayError::Truncation => f.write_str("it takes back entries that were decided"),
        }
    }
}

impl std::error::Error for ReplayError {}

impl Recovery {
    /// Nothing read yet. `hash_seed` keys the table of the state.
    #[must_use]
    pub fn new(hash_seed: u64) -> Recovery {
        Recovery::with_session_bounds(hash_seed, SessionBounds::default())
    }

    /// The same for a cluster that keeps fewer sessions, for tests.
    #[must_use]
    pub fn with_session_bounds(hash_seed: u64, bounds: SessionBounds) -> Recovery {
        Recovery {
            state: State::new(hash_seed, bounds),
            log: LogStart::default(),
            term: Term(0),
            voted_for: None,
            own: None,
            lists: Vec::new(),
            was_always_alone: true,
            commit_hint: LogIndex(0),
            #[cfg(feature = "seeded-bugs")]
            applies_all: false,
        }
    }

    /// The same, told whose log it is: only then it can find that nobody else has a say.
    #[must_use]
    pub fn of(self, own: NodeId) -> Recovery {
        Recovery { own: Some(own), ..self }
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
        assert_eq!(header.first_index, self.log.end.index.next(), "the log was checked");
        self.learn_members(header, bytes)?;
        self.log.end = LogEnd::of(header);
        self.log.last_lsn = lsn;
        self.log.terms.push(header.last_index(), header.term);
        if self.log.undecided.is_empty() && (self.is_alone() || self.is_decided(header)) {
            self.apply(header, bytes);
        } else {
            let copy = Batch::decode(Bytes::copy_from_slice(bytes));
            self.log.undecided.push_back(copy.expect("the bytes were checked"));
        }
        Ok(())
    }

    /// A member list counts from the moment it stands in the log (Raft paper, section 6). It is
    /// always alone in its batch.
    fn learn_members(&mut self, header: &BatchHeader, bytes: &[u8]) -> Result<(), ReplayError> {
        if header.count > 1 {
            return Ok(());
        }
        for (_, command) in batch::entries(header.first_index, bytes) {
            if let Op::Membership(members) = command.op {
                let list = MemberList::decode(members).map_err(ReplayError::Members)?;
                let members = list.members();
                let is_alone = members.len() == 1 && Some(members[0].id) == self.own;
                self.was_always_alone &= is_alone;
                self.lists.push((header.first_index, list));
            }
        }
        Ok(())
    }

    fn is_alone(&self) -> bool {
        #[cfg(feature = "seeded-bugs")]
        if self.applies_all {
            return true;
        }
        self.was_always_alone && !self.lists.is_empty()
    }

    fn is_decided(&self, header: &BatchHeader) -> bool {
        header.last_index() <= self.commit_hint
    }

    fn apply(&mut self, header: &BatchHeader, bytes: &[u8]) {
        let (offset, first) = (batch::BATCH_HEADER_BYTES, header.first_index);
        let _ = for_each_entry(
            bytes,
            offset,
            first,
            &mut self.state,
            |state| &state.store,
            |state, entry| {
                apply(state, header.log_time, entry);
                ControlFlow::Continue(())
            },
        );
        self.log.committed = LogEnd::of(header);
        let decided = self.lists.partition_point(|(index, _)| *index <= header.last_index());
        self.lists.drain(..decided.saturating_sub(1));
    }

    /// The record at `lsn` is a term and a vote.
    pub fn term_vote(&mut self, lsn: Lsn, term: Term, voted_for: Option<NodeId>) {
        self.term = term;
        self.voted_for = voted_for;
        self.log.last_lsn = lsn;
    }

    /// The record at `lsn` took back what came behind `end`.
    ///
    /// # Errors
    /// When that was decided.
    pub fn truncate(&mut self, lsn: Lsn, end: LogEnd) -> Result<(), ReplayError> {
        let undecided = &mut self.log.undecided;
        while undecided.pop_back_if(|last| last.header().last_index() > end.index).is_some() {}
        let last = undecided.back().map_or(self.log.committed, |last| LogEnd::of(last.header()));
        if last != end {
            return Err(ReplayError::Truncation);
        }
        self.log.end = end;
        self.log.terms.truncate(end.index);
        self.log.last_lsn = lsn;
        self.lists.retain(|(index, _)| *index <= end.index);
        Ok(())
    }

    /// Entries up to `commit` are known to be decided.
    pub fn committed(&mut self, commit: LogIndex) {
        self.commit_hint = self.commit_hint.max(commit);
        while let Some(first) = self.log.undecided.front() {
            if !self.is_decided(first.header()) {
                break;
            }
            let batch = self.log.undecided.pop_front().expect("there is a first");
            self.apply(batch.header(), batch.bytes());
        }
    }

    /// Index of the last entry read.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.end.index
    }

    /// The current term, as far as it was read.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// How many keys there are.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.state.store.len()
    }

    /// What a list in the log says of a member that the last one leaves out, as long as that is
    /// not known to be committed.
    #[must_use]
    pub fn earlier_member(&self, id: NodeId) -> Option<&Member> {
        let (last, earlier) = self.lists.split_last()?;
        let is_open = last.0 > self.log.committed.index;
        earlier.iter().rev().find_map(|(_, list)| list.get(id)).filter(|_| is_open)
    }

    /// The last member list in the log; `None` on first boot.
    #[must_use]
    pub fn members(&self) -> Option<&MemberList> {
        self.lists.last().map(|(_, list)| list)
    }
}
