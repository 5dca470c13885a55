//! The in-memory end of the replicated log: what is open, what is on its way to the disk, what is
//! durable, committed and applied.

use std::collections::VecDeque;

use kvorum_protocol::batch::BATCH_HEADER_BYTES;
use kvorum_protocol::{Batch, BatchBuilder, BatchHeader, Command, LogIndex, LogTimeMs, Lsn, Term};

use super::output::Record;
use super::terms::Terms;

/// Where the next batch attaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// Index of the last sealed entry; 0 when there is none.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
    /// Checksum of its batch.
    pub crc: u32,
    /// Its log time.
    pub time: LogTimeMs,
}

impl LogEnd {
    /// The end that a batch with this header makes.
    pub fn of(header: &BatchHeader) -> LogEnd {
        LogEnd {
            index: header.last_index(),
            term: header.term,
            crc: header.crc,
            time: header.log_time,
        }
    }
}

/// The last entry of a log, as elections compare logs (Raft paper, section 5.4.1): by the term
/// first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    /// Its term.
    pub term: Term,
    /// Its index; 0 when there is no entry.
    pub index: LogIndex,
}

impl LogEnd {
    /// The last entry.
    #[must_use]
    pub fn id(&self) -> EntryId {
        EntryId { term: self.term, index: self.index }
    }
}

/// A batch that is written to the log but not known to be durable.
#[derive(Debug)]
struct Staged {
    lsn: Lsn,
    last_index: LogIndex,
    bytes: usize,
}

/// What the disk remembers when a node starts.
#[derive(Debug, Default)]
pub struct LogStart {
    /// The last batch of the log.
    pub end: LogEnd,
    /// Position of the last record.
    pub last_lsn: Lsn,
    /// The last batch that is known to be committed, and is in the state.
    pub committed: LogEnd,
    /// The batches behind it, which another leader may replace.
    pub undecided: VecDeque<Batch>,
    /// The terms of all entries.
    pub terms: Terms,
    /// The disk has no entry up to here: a snapshot has taken their place.
    pub floor: LogIndex,
    /// Where the log ended before a repair has cut off what was damaged; index 0 without one.
    pub former_end: EntryId,
}

/// The end of the replicated log, and how far what is known of it.
///
/// Invariants: `applied <= committed <= end`, `durable <= end`; `committed` and `durable` are ends
/// of batches, and no batch at or before `committed` is ever replaced.
#[derive(Debug)]
pub struct Log {
    /// Entries of this turn, not sealed yet.
    open: BatchBuilder,
    end: LogEnd,
    /// Position of the next record of any kind. Never goes back, not even by a truncation.
    next_lsn: Lsn,
    /// Sealed batches that are not durable yet, in order. What was truncated is not among them, so
    /// that the sync of a batch never vouches for the one that took its place.
    staged: VecDeque<Staged>,
    /// Sum of `bytes` of `staged`.
    staged_bytes: usize,
    durable_lsn: Lsn,
    durable: LogIndex,
    /// The last committed batch.
    committed: LogEnd,
    applied: LogIndex,
    /// The last batches of the log, without a gap: all that are not applied, and before them as
    /// many as `kept_bytes_max` allows, for members that are a little behind.
    tail: VecDeque<Batch>,
    /// How many batches of `tail` are applied as a whole.
    tail_applied: usize,
    /// Their bytes.
    kept_bytes: usize,
    kept_bytes_max: usize,
    /// Bytes of the batches behind `committed`.
    undecided_bytes: usize,
    /// Position of the first entry of `tail[tail_applied]` that is not applied.
    apply_offset: usize,
    terms: Terms,
    /// Entries up to here may be gone from the disk; `floor <= committed`.
    floor: LogIndex,
    /// Where the log ended before a repair has cut off what was damaged, until it ends there again:
    /// this node has voted, and acknowledged entries, as one whose log goes up to there. Index 0
    /// without a repair.
    former_end: EntryId,
    /// For a bug that the simulator must find.
    #[cfg(feature = "seeded-bugs")]
    pub keeps_durable_mark: bool,
}

impl Log {
    /// A log as it was read back from the disk, all of it durable. Of what is applied,
    /// `kept_bytes_max` bytes stay in memory.
    pub fn new(start: LogStart, kept_bytes_max: usize) -> Log {
        let LogStart { end, last_lsn, committed, undecided, terms, floor, former_end } = start;
        Log {
            open: BatchBuilder::new(end.index.next()),
            end,
            next_lsn: last_lsn.next(),
            staged: VecDeque::new(),
            staged_bytes: 0,
            durable_lsn: last_lsn,
            durable: end.index,
            applied: committed.index,
            committed,
            undecided_bytes: undecided.iter().map(|batch| batch.bytes().len()).sum(),
            tail: undecided,
            tail_applied: 0,
            kept_bytes: 0,
            kept_bytes_max,
            apply_offset: BATCH_HEADER_BYTES,
            terms,
            floor,
            former_end,
            #[cfg(feature = "seeded-bugs")]
            keeps_durable_mark: false,
        }
    }

    // Growing and shrinking

    /// Adds a command to the open batch.
    #[inline]
    pub fn push(&mut self, command: &Command<'_>) -> LogIndex {
        self.open.push(command)
    }

    /// Forgets the open batch: nobody has seen it.
    pub fn discard_open(&mut self) {
        self.open = BatchBuilder::new(self.end.index.next());
    }

    /// Seals the open batch, if it holds anything, into a record for the disk.
    pub fn seal(&mut self, term: Term, wall_ms: u64) -> Option<(Lsn, Record)> {
        let time = self.end.time.max(LogTimeMs(wall_ms));
        let batch = self.open.seal(term, time, self.end.crc)?;
        Some(self.stage(batch))
    }

    /// Takes over a batch that another node made.
    ///
    /// # Errors
    /// What does not fit to the end of this log, in words; nothing has changed then.
    pub fn append(&mut self, batch: Batch) -> Result<(Lsn, Record), &'static str> {
        let header = batch.header();
        if header.first_index != self.end.index.next() {
            return Err("a batch does not start behind the last one");
        }
        if header.prev_crc != self.end.crc {
            return Err("a batch follows another one than the last one here");
        }
        if header.term < self.end.term || header.log_time < self.end.time {
            return Err("a batch is older than the one before it");
        }
        let staged = self.stage(batch);
        self.discard_open();
        Ok(staged)
    }

    fn stage(&mut self, batch: Batch) -> (Lsn, Record) {
        self.end = LogEnd::of(batch.header());
        self.reach_former_end();
        self.terms.push(self.end.index, self.end.term);
        let lsn = self.take_lsn();
        let bytes = batch.bytes().len();
        self.staged.push_back(Staged { lsn, last_index: self.end.index, bytes });
        self.staged_bytes += bytes;
        self.undecided_bytes += bytes;
        self.tail.push_back(batch.clone());
        (lsn, Record::Batch(batch))
    }

    /// Takes back the batch that starts at `first`, and all behind it.
    ///
    /// # Panics
    /// When it is committed, or no batch starts there.
    pub fn truncate(&mut self, first: LogIndex) -> (Lsn, Record) {
        assert!(first > self.committed.index, "what is committed is never taken back");
        let at = self.position(first).expect("what is not committed is in memory");
        assert_eq!(self.tail[at].header().first_index, first, "a log is cut between batches");
        let before = at.checked_sub(1).map(|before| LogEnd::of(self.tail[before].header()));
        self.end = before.unwrap_or(self.committed);
        for batch in self.tail.drain(at..) {
            self.undecided_bytes -= batch.bytes().len();
        }
        while let Some(staged) = self.staged.pop_back_if(|last| last.last_index > self.end.index) {
            self.staged_bytes -= staged.bytes;
        }
        #[cfg(feature = "seeded-bugs")]
        let kept = self.keeps_durable_mark.then_some(self.durable);
        self.durable = self.durable.min(self.end.index);
        #[cfg(feature = "seeded-bugs")]
        if let Some(kept) = kept {
            self.durable = kept;
        }
        self.terms.truncate(self.end.index);
        self.discard_open();
        (self.take_lsn(), Record::Truncate { end: self.end })
    }

    /// A snapshot that is durable takes the place of all entries. It ends with a batch that is
    /// committed, and that is not here.
    ///
    /// # Panics
    /// When that would lose something.
    pub fn install(&mut self, end: LogEnd, terms: Terms) -> (Lsn, Record) {
        assert!(end.index > self.committed.index, "what is committed is never taken back");
        assert_ne!(self.terms.term_at(end.index), Some(end.term), "it is in the log");
        self.staged.clear();
        self.tail.clear();
        (self.staged_bytes, self.undecided_bytes, self.kept_bytes) = (0, 0, 0);
        (self.tail_applied, self.apply_offset) = (0, BATCH_HEADER_BYTES);
        (self.end, self.committed, self.terms) = (end, end, terms);
        self.reach_former_end();
        (self.durable, self.applied, self.floor) = (end.index, end.index, end.index);
        self.discard_open();
        (self.take_lsn(), Record::Install { end })
    }

    /// When the log ends at or behind its former end again, that is over for good: what another
    /// leader takes back later was not committed. The disk forgets it by the same rule.
    fn reach_former_end(&mut self) {
        if self.end.id() >= self.former_end {
            self.former_end = EntryId::default();
        }
    }

    /// Entries up to `index` may go from the disk now.
    pub fn raise_floor(&mut self, index: LogIndex) {
        self.floor = self.floor.max(index.min(self.committed.index));
    }

    /// The position for a record that is no batch.
    pub fn take_lsn(&mut self) -> Lsn {
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        lsn
    }

    // Progress

    /// Of what is applied, so many bytes stay in memory from now on.
    pub fn set_kept_bytes_max(&mut self, bytes: usize) {
        self.kept_bytes_max = bytes;
    }

    /// Every record up to `upto` survives a power cut.
    pub fn mark_durable(&mut self, upto: Lsn) {
        assert!(upto < self.next_lsn, "durable {upto}, but only {} was given out", self.next_lsn);
        assert!(upto >= self.durable_lsn, "durable positions never go back");
        self.durable_lsn = upto;
        while let Some(staged) = self.staged.pop_front_if(|staged| staged.lsn <= upto) {
            self.durable = staged.last_index;
            self.staged_bytes -= staged.bytes;
        }
    }

    /// Entries up to `index` are decided. Leaders commit whole batches: should a message that made
    /// it past all checksums name the middle of one, then only those before it are.
    pub fn commit(&mut self, index: LogIndex) {
        assert!(index > self.committed.index, "the commit index never goes back");
        assert!(index <= self.end.index, "only sealed entries are ever committed");
        let first = self.position(self.committed.index.next()).expect("it is in the log");
        for batch in self.tail.range(first..) {
            if batch.header().last_index() > index {
                break;
            }
            self.committed = LogEnd::of(batch.header());
            self.undecided_bytes -= batch.bytes().len();
        }
    }

    /// The batch that holds the next committed entry to apply, and where in it that entry is.
    pub fn next_to_apply(&self) -> Option<(Batch, usize)> {
        if self.applied == self.committed.index {
            return None;
        }
        let batch = self.tail.get(self.tail_applied).expect("what is not applied is kept");
        Some((batch.clone(), self.apply_offset))
    }

    /// The entry before `offset` of the batch that is being applied was applied.
    #[inline]
    pub fn mark_applied(&mut self, index: LogIndex, offset: usize) {
        assert!(index <= self.committed.index && index == self.applied.next());
        self.applied = index;
        self.apply_offset = offset;
        let batch = self.tail.get(self.tail_applied).expect("the entry came from it");
        if index == batch.header().last_index() {
            self.kept_bytes += batch.bytes().len();
            self.tail_applied += 1;
            self.apply_offset = BATCH_HEADER_BYTES;
            self.drop_surplus();
        }
    }

    /// What is not durable here can not be read back from the disk, so it stays.
    fn drop_surplus(&mut self) {
        while self.kept_bytes > self.kept_bytes_max && self.tail_applied > 0 {
            let durable = self.durable;
            let Some(batch) =
                self.tail.pop_front_if(|batch| batch.header().last_index() <= durable)
            else {
                return;
            };
            self.kept_bytes -= batch.bytes().len();
            self.tail_applied -= 1;
        }
    }

    // What is where

    /// Where in `tail` the batch with this entry is, if it is there.
    fn position(&self, index: LogIndex) -> Option<usize> {
        let behind = self.tail.partition_point(|batch| batch.header().first_index <= index);
        let at = behind.checked_sub(1)?;
        (self.tail[at].header().last_index() >= index).then_some(at)
    }

    /// The batch that holds an entry, if it is in memory.
    pub fn batch_with(&self, index: LogIndex) -> Option<&Batch> {
        self.position(index).map(|at| &self.tail[at])
    }

    /// The batches in memory from the one that holds `index` on; none when it is not in memory.
    pub fn batches_from(&self, index: LogIndex) -> impl Iterator<Item = &Batch> {
        let start = self.position(index).unwrap_or(self.tail.len());
        self.tail.range(start..)
    }

    /// The batches that are not applied as a whole.
    pub fn unapplied(&self) -> impl Iterator<Item = &Batch> {
        self.tail.range(self.tail_applied..)
    }

    /// The first entry in memory; the one behind the end when there is none.
    pub fn first_in_memory(&self) -> LogIndex {
        let first = self.tail.front().map(|batch| batch.header().first_index);
        first.unwrap_or(self.end.index.next())
    }

    /// Entries up to here may be gone from the disk.
    pub fn floor(&self) -> LogIndex {
        self.floor
    }

    /// Whether the log lacks what a repair has cut off: it is not yet what it once was.
    ///
    /// Once it ends at or behind the former end, in the order of elections, it holds everything
    /// committed that it has ever held: a committed entry is in the log of every leader of its
    /// term or a later one (leader completeness), and this log is that of the leader that made its
    /// last entry (log matching).
    #[must_use]
    pub fn lacks_former_end(&self) -> bool {
        self.end.id() < self.former_end
    }

    /// How this node compares its log with that of others in elections: as it ends, or as it once
    /// ended. What it has acknowledged may be committed, so it must not help anybody to office who
    /// does not have it, though it does not have it itself.
    #[must_use]
    pub fn claim(&self) -> EntryId {
        self.end.id().max(self.former_end)
    }

    /// The last entry that this node has ever had durable, as far as others may count on it.
    #[must_use]
    pub fn durable_claim(&self) -> EntryId {
        let term = self.terms.term_at(self.durable).expect("what is durable is in the log");
        EntryId { term, index: self.durable }.max(self.former_end)
    }

    /// The last decided batch.
    pub fn committed_end(&self) -> &LogEnd {
        &self.committed
    }

    /// The terms of the entries.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Where the next batch attaches.
    pub fn end(&self) -> &LogEnd {
        &self.end
    }

    /// The index that the next command pushed gets.
    pub fn next_index(&self) -> LogIndex {
        self.open.next_index()
    }

    /// Bytes in the open batch.
    #[inline]
    pub fn open_bytes(&self) -> usize {
        self.open.len()
    }

    /// Bytes sealed but not durable.
    #[inline]
    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Bytes sealed but not decided.
    #[inline]
    pub fn undecided_bytes(&self) -> usize {
        self.undecided_bytes
    }

    /// Bytes of the sealed batches behind `lsn`, each with `overhead`, as far as they are not
    /// durable.
    pub fn staged_bytes_behind(&self, lsn: Lsn, overhead: u64) -> u64 {
        let behind = self.staged.iter().rev().take_while(|staged| staged.lsn > lsn);
        behind.map(|staged| staged.bytes as u64 + overhead).sum()
    }

    /// Position of the last record that is durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// Index of the last durable entry: the end of a batch.
    pub fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Index of the last decided entry: the end of a batch.
    #[inline]
    pub fn committed(&self) -> LogIndex {
        self.committed.index
    }

    /// Index of the last entry in the state.
    #[inline]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }
}
