//! Building the state from what the log remembers.

use std::fmt;
use std::ops::ControlFlow;

use bytes::Bytes;
use kvorum_protocol::{
    Batch, BatchHeader, DecodeError, LogIndex, Lsn, Member, MemberList, NodeId, Op, Term, batch,
};

use super::apply::{apply, for_each_entry};
use super::log::{EntryId, LogEnd, LogStart};
use super::sessions::SessionBounds;
use super::snapshot::SnapshotHead;
use super::state::State;
use super::terms::Terms;

/// What the log has told so far. Records come in the order of their positions, and follow from
/// each other: the log has checked that.
///
/// In a cluster only what is known to be committed is applied: another leader may still replace
/// the rest, which stays in memory until Raft decides. A node that has always been alone is the
/// majority: whatever stands in its log is decided, and applied as it is read.
///
/// With a snapshot, the log may begin anywhere before the snapshot's end, or not reach it at all:
/// then it is void, and goes on behind the snapshot (`Record::Install`). As long as the batch that
/// the snapshot ends with has not come, nothing is applied.
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
    /// Where the snapshot ends; index 0 without one.
    base: LogEnd,
    /// The log, as far as it was read, goes through `base`.
    reached: bool,
    /// The highest index that a record has called committed.
    commit_hint: LogIndex,
    /// For tests of the simulator: apply whatever stands there.
    #[cfg(feature = "seeded-bugs")]
    pub applies_all: bool,
    /// The same: an install voids the vote before it.
    #[cfg(feature = "seeded-bugs")]
    pub loses_vote: bool,
    /// The same: a repair goes on with the vote that stands before the damage.
    #[cfg(feature = "seeded-bugs")]
    pub repair_loses_vote: bool,
}

/// A sound record that this version can not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayError {
    /// A member list that is none.
    Members(DecodeError),
    /// Entries are taken back that are decided, or in the middle of a batch.
    Truncation,
    /// It goes on behind a snapshot that is not there.
    SnapshotMissing(LogIndex),
}

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplayError::Members(error) => write!(f, "the member list: {error}"),
            ReplayError::Truncation => f.write_str("it takes back entries that were decided"),
            ReplayError::SnapshotMissing(index) => {
                write!(f, "it goes on behind a snapshot of index {index}, which is not there")
            }
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
            base: LogEnd::default(),
            reached: true,
            commit_hint: LogIndex(0),
            #[cfg(feature = "seeded-bugs")]
            applies_all: false,
            #[cfg(feature = "seeded-bugs")]
            loses_vote: false,
            #[cfg(feature = "seeded-bugs")]
            repair_loses_vote: false,
        }
    }

    /// The same, told whose log it is: only then it can find that nobody else has a say.
    #[must_use]
    pub fn of(self, own: NodeId) -> Recovery {
        let is_own = |(_, list): &(LogIndex, MemberList)| is_alone_in(list, own);
        let was_always_alone = self.lists.iter().all(is_own);
        Recovery { own: Some(own), was_always_alone, ..self }
    }

    /// The state of a snapshot, with nothing of the log read yet.
    #[must_use]
    pub fn from_snapshot(head: SnapshotHead, state: State) -> Recovery {
        let SnapshotHead { end, members, members_index, terms, .. } = head;
        Recovery {
            state,
            log: LogStart {
                committed: end,
                terms: Terms::from_firsts(terms, end.index).expect("a snapshot's head is checked"),
                ..LogStart::default()
            },
            term: Term(0),
            voted_for: None,
            own: None,
            lists: vec![(members_index, members)],
            was_always_alone: false,
            base: end,
            reached: false,
            commit_hint: LogIndex(0),
            #[cfg(feature = "seeded-bugs")]
            applies_all: false,
            #[cfg(feature = "seeded-bugs")]
            loses_vote: false,
            #[cfg(feature = "seeded-bugs")]
            repair_loses_vote: false,
        }
    }

    /// The records up to `lsn` are not told: this is what they add up to.
    ///
    /// # Panics
    /// When anything was told before.
    pub fn start(&mut self, lsn: Lsn, term: Term, voted_for: Option<NodeId>, end: LogEnd) {
        assert_eq!(self.log.last_lsn, Lsn(0), "the beginning comes first");
        assert!(end.index <= self.base.index, "the log was checked");
        (self.term, self.voted_for) = (term, voted_for);
        (self.log.last_lsn, self.log.floor) = (lsn, end.index);
        self.goes_on_behind(end);
    }

    /// The log once ended with `former_end`, before a repair.
    pub fn once_ended(&mut self, former_end: EntryId) {
        self.log.former_end = self.log.former_end.max(former_end);
    }

    /// The log ends here, as far as it was read.
    fn goes_on_behind(&mut self, end: LogEnd) {
        self.log.end = end;
        self.reached |= end == self.base;
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
        self.log.last_lsn = lsn;
        self.goes_on_behind(LogEnd::of(header));
        self.reach_former_end(LogEnd::of(header));
        if header.last_index() <= self.base.index {
            return Ok(());
        }
        if !self.reached {
            // Behind other entries than the snapshot covers: it is void, or soon taken back.
            return Ok(());
        }
        self.learn_members(header, bytes)?;
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
                self.was_always_alone &= self.own.is_some_and(|own| is_alone_in(&list, own));
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

    /// The record at `lsn` says that what stood behind the one before was damaged, and is cut off:
    /// it was the end of the log, and told this term and vote.
    pub fn repair(&mut self, lsn: Lsn, term: Term, voted_for: Option<NodeId>, former_end: EntryId) {
        self.once_ended(former_end);
        #[cfg(feature = "seeded-bugs")]
        if self.repair_loses_vote {
            self.log.last_lsn = lsn;
            return;
        }
        self.term_vote(lsn, term, voted_for);
    }

    /// The log, as the disk has it, ends here: maybe as far as before a repair.
    fn reach_former_end(&mut self, end: LogEnd) {
        if end.id() >= self.log.former_end {
            self.log.former_end = EntryId::default();
        }
    }

    /// The record at `lsn` took back what came behind `end`.
    ///
    /// # Errors
    /// When that was decided.
    pub fn truncate(&mut self, lsn: Lsn, end: LogEnd) -> Result<(), ReplayError> {
        if !self.reached || end.index < self.base.index {
            // What the snapshot covers was not decided yet when the log had it for the first time.
            self.log.last_lsn = lsn;
            self.leave_snapshot();
            self.goes_on_behind(end);
            return Ok(());
        }
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

    /// The record at `lsn` says that a snapshot took the place of the log up to `end`.
    ///
    /// # Errors
    /// When it is another one than that which was loaded, and not an older one.
    pub fn install(&mut self, lsn: Lsn, end: LogEnd) -> Result<(), ReplayError> {
        if end.index > self.base.index || end.index == self.base.index && end != self.base {
            return Err(ReplayError::SnapshotMissing(end.index));
        }
        #[cfg(feature = "seeded-bugs")]
        if self.loses_vote {
            (self.term, self.voted_for) = (end.term, None);
        }
        self.log.last_lsn = lsn;
        self.leave_snapshot();
        self.log.floor = end.index;
        self.goes_on_behind(end);
        self.reach_former_end(end);
        Ok(())
    }

    /// What the log has told of behind the snapshot is void.
    fn leave_snapshot(&mut self) {
        self.reached = false;
        self.log.undecided.clear();
        self.lists.truncate(1);
        self.log.terms.truncate(self.base.index);
    }

    /// What the log does not reach has to be told to it: the snapshot takes its place.
    pub(super) fn void_log(&mut self) -> Option<LogEnd> {
        if self.reached {
            return None;
        }
        self.log.floor = self.base.index;
        self.goes_on_behind(self.base);
        Some(self.base)
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
        self.log.end.index.max(self.base.index)
    }

    /// Where the log ended before a repair, as long as it does not reach that far again.
    #[must_use]
    pub fn former_end(&self) -> Option<EntryId> {
        let end = if self.reached { self.log.end } else { self.base };
        Some(self.log.former_end).filter(|former| end.id() < *former)
    }

    /// The last entry that this node has ever had: what others may count on.
    #[must_use]
    pub fn claimed_index(&self) -> LogIndex {
        let former = self.former_end().map_or(LogIndex(0), |former| former.index);
        self.last_index().max(former)
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

/// Whether the list names this node and nobody else.
fn is_alone_in(list: &MemberList, own: NodeId) -> bool {
    list.members().len() == 1 && list.members()[0].id == own
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::{BatchBuilder, Command, LogTimeMs};

    use super::*;

    /// A log of one SET a batch, all of the term that `term_of` tells.
    fn log(length: u64, term_of: impl Fn(u64) -> u64) -> Vec<Batch> {
        let mut batches: Vec<Batch> = Vec::new();
        for index in 1..=length {
            let prev_crc = batches.last().map_or(0, |batch| batch.header().crc);
            let mut builder = BatchBuilder::new(LogIndex(index));
            let value = format!("{index}");
            builder.push(&Command::new(Op::Set { key: b"k", value: value.as_bytes() }));
            let sealed = builder.seal(Term(term_of(index)), LogTimeMs(index), prev_crc);
            batches.push(sealed.expect("it holds an entry"));
        }
        batches
    }

    /// What a node knows that has loaded a snapshot of the first `covered` entries.
    fn loaded(log: &[Batch], covered: usize) -> Recovery {
        let mut recovery = Recovery::new(1);
        recovery.committed(LogIndex(covered as u64));
        for (lsn, batch) in (1..).zip(&log[..covered]) {
            recovery.batch(Lsn(lsn), batch.header(), batch.bytes()).unwrap();
        }
        let head = SnapshotHead {
            end: recovery.log.committed,
            members: MemberList::lone(NodeId(1), "a:1").unwrap(),
            members_index: LogIndex(1),
            terms: recovery.log.terms.between(LogIndex(1), LogIndex(covered as u64 + 1)),
            hash_seed: 1,
            state_hash: 0,
            keys: 1,
        };
        Recovery::from_snapshot(head, recovery.state)
    }

    fn end_of(batch: &Batch) -> LogEnd {
        LogEnd::of(batch.header())
    }

    fn read(recovery: &mut Recovery, lsn: u64, batches: &[Batch]) {
        for (lsn, batch) in (lsn..).zip(batches) {
            recovery.batch(Lsn(lsn), batch.header(), batch.bytes()).unwrap();
        }
    }

    fn version(recovery: &Recovery) -> Option<LogIndex> {
        recovery.state.store.get(b"k").map(|(version, _)| version)
    }

    #[test]
    fn what_the_snapshot_covers_is_passed_over_and_the_rest_waits_for_its_decision() {
        let log = log(9, |index| 1 + index / 5);
        let mut recovery = loaded(&log, 6);
        recovery.start(Lsn(3), Term(1), None, end_of(&log[2]));
        read(&mut recovery, 4, &log[3..]);
        assert_eq!(recovery.log.end, end_of(&log[8]));
        assert_eq!(recovery.log.undecided.len(), 3);
        recovery.committed(LogIndex(8));
        assert_eq!((recovery.log.undecided.len(), version(&recovery)), (1, Some(LogIndex(8))));
        assert_eq!(recovery.log.terms.term_at(LogIndex(9)), Some(Term(2)));
        assert_eq!((recovery.log.last_lsn, recovery.log.floor), (Lsn(9), LogIndex(3)));
        assert_eq!(recovery.void_log(), None);
    }

    #[test]
    fn a_log_may_begin_exactly_behind_the_snapshot() {
        let log = log(4, |_| 1);
        let mut recovery = loaded(&log, 2);
        recovery.start(Lsn(2), Term(1), Some(NodeId(3)), end_of(&log[1]));
        assert_eq!((recovery.term, recovery.voted_for), (Term(1), Some(NodeId(3))));
        read(&mut recovery, 3, &log[2..]);
        assert_eq!((recovery.log.end, recovery.void_log()), (end_of(&log[3]), None));
    }

    #[test]
    fn what_was_taken_back_below_the_snapshot_is_never_applied() {
        let (good, void) = (log(9, |index| 1 + index / 5), log(8, |_| 1));
        let mut recovery = loaded(&good, 7);
        recovery.start(Lsn(0), Term(1), None, LogEnd::default());
        // Until another leader came, the log went another way, and further than the snapshot.
        recovery.committed(LogIndex(4));
        read(&mut recovery, 1, &void);
        assert_eq!(recovery.log.undecided.len(), 0);
        recovery.truncate(Lsn(9), end_of(&void[3])).unwrap();
        read(&mut recovery, 10, &good[4..]);
        recovery.committed(LogIndex(9));
        assert_eq!((recovery.log.end, version(&recovery)), (end_of(&good[8]), Some(LogIndex(9))));
        assert_eq!(recovery.void_log(), None);
    }

    #[test]
    fn a_log_that_does_not_reach_the_snapshot_is_void() {
        let (good, void) = (log(9, |index| 1 + index / 5), log(8, |_| 1));
        for batches in [&good[..5], &void[..]] {
            let mut recovery = loaded(&good, 7);
            recovery.start(Lsn(0), Term(1), None, LogEnd::default());
            read(&mut recovery, 1, batches);
            recovery.committed(LogIndex(5));
            assert_eq!(recovery.void_log(), Some(end_of(&good[6])));
            assert_eq!(
                (recovery.log.end, version(&recovery)),
                (end_of(&good[6]), Some(LogIndex(7)))
            );
            assert!(recovery.log.undecided.is_empty());
        }
    }

    #[test]
    fn an_install_needs_its_snapshot() {
        let log = log(9, |_| 1);
        let mut recovery = loaded(&log, 7);
        recovery.start(Lsn(0), Term(1), None, LogEnd::default());
        read(&mut recovery, 1, &log[..2]);
        // An older one, which the newer one has taken the place of.
        recovery.install(Lsn(3), end_of(&log[3])).unwrap();
        read(&mut recovery, 4, &log[4..5]);
        recovery.install(Lsn(5), end_of(&log[6])).unwrap();
        read(&mut recovery, 6, &log[7..]);
        recovery.committed(LogIndex(9));
        assert_eq!((recovery.log.end, version(&recovery)), (end_of(&log[8]), Some(LogIndex(9))));
        let missing = ReplayError::SnapshotMissing(LogIndex(9));
        assert_eq!(loaded(&log, 7).install(Lsn(1), end_of(&log[8])), Err(missing));
    }

    #[test]
    fn what_the_snapshot_covers_may_have_been_taken_back_and_come_again() {
        let log = log(9, |_| 1);
        let mut recovery = loaded(&log, 5);
        recovery.start(Lsn(0), Term(1), None, LogEnd::default());
        // Undecided at that time, it was cut by one leader and brought again by another.
        read(&mut recovery, 1, &log[..7]);
        assert_eq!(recovery.truncate(Lsn(8), end_of(&log[3])), Ok(()));
        assert!(recovery.log.undecided.is_empty());
        read(&mut recovery, 9, &log[4..]);
        recovery.committed(LogIndex(8));
        assert_eq!((recovery.log.end, version(&recovery)), (end_of(&log[8]), Some(LogIndex(8))));
        assert_eq!(recovery.void_log(), None);
        assert_eq!(recovery.truncate(Lsn(15), end_of(&log[6])), Err(ReplayError::Truncation));
    }
}
