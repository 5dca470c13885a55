//! The in-memory end of the replicated log: what is open, what is on its way to the disk, what is
//! durable, committed and applied.

use std::collections::VecDeque;

use kvorum_protocol::{Batch, BatchBuilder, BatchHeader, Command, LogIndex, LogTimeMs, Lsn, Term};

use super::output::Record;

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

/// A batch that is written to the log but not known to be durable.
#[derive(Debug)]
struct Staged {
    lsn: Lsn,
    last_index: LogIndex,
    term: Term,
    bytes: usize,
}

/// Invariant: `applied <= committed <= last`, `durable <= last`.
#[derive(Debug)]
pub struct Log {
    /// Entries of this turn, not sealed yet.
    open: BatchBuilder,
    end: LogEnd,
    /// Position of the next record of any kind. Never goes back, not even by a truncation.
    next_lsn: Lsn,
    /// Sealed batches that are not durable yet, in order.
    staged: VecDeque<Staged>,
    /// Sum of `bytes` of `staged`.
    staged_bytes: usize,
    durable_lsn: Lsn,
    durable: LogIndex,
    /// Term of the entry at `durable`.
    durable_term: Term,
    committed: LogIndex,
    applied: LogIndex,
    /// Sealed batches whose last entry is not applied yet, in order.
    unapplied: VecDeque<Batch>,
    /// Position of the first entry of `unapplied[0]` that is not applied.
    apply_offset: usize,
}

impl Log {
    /// A log whose last `end` and `last_lsn` were read back from the disk, all of it durable and
    /// applied.
    pub fn new(end: LogEnd, last_lsn: Lsn) -> Log {
        Log {
            open: BatchBuilder::new(end.index.next()),
            end,
            next_lsn: last_lsn.next(),
            staged: VecDeque::new(),
            staged_bytes: 0,
            durable_lsn: last_lsn,
            durable: end.index,
            durable_term: end.term,
            committed: end.index,
            applied: end.index,
            unapplied: VecDeque::new(),
            apply_offset: kvorum_protocol::batch::BATCH_HEADER_BYTES,
        }
    }

    /// Adds a command to the open batch.
    #[inline]
    pub fn push(&mut self, command: &Command<'_>) -> LogIndex {
        self.open.push(command)
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

    /// Bytes of the sealed batches behind `lsn`, each with `overhead`, as far as they are not
    /// durable.
    pub fn staged_bytes_behind(&self, lsn: Lsn, overhead: u64) -> u64 {
        let behind = self.staged.iter().rev().take_while(|staged| staged.lsn > lsn);
        behind.map(|staged| staged.bytes as u64 + overhead).sum()
    }

    /// Seals the open batch, if it holds anything, into a record for the disk.
    pub fn seal(&mut self, term: Term, wall_ms: u64) -> Option<(Lsn, Record)> {
        let time = self.end.time.max(LogTimeMs(wall_ms));
        let batch = self.open.seal(term, time, self.end.crc)?;
        self.end = LogEnd::of(batch.header());
        let lsn = self.take_lsn();
        let bytes = batch.bytes().len();
        self.staged.push_back(Staged { lsn, last_index: self.end.index, term, bytes });
        self.staged_bytes += bytes;
        self.unapplied.push_back(batch.clone());
        Some((lsn, Record::Batch(batch)))
    }

    /// The position for a record that is no batch.
    pub fn take_lsn(&mut self) -> Lsn {
        let lsn = self.next_lsn;
        self.next_lsn = lsn.next();
        lsn
    }

    /// Every record up to `upto` survives a power cut.
    pub fn mark_durable(&mut self, upto: Lsn) {
        assert!(upto < self.next_lsn, "durable {upto}, but only {} was given out", self.next_lsn);
        assert!(upto >= self.durable_lsn, "durable positions never go back");
        self.durable_lsn = upto;
        while let Some(staged) = self.staged.front().filter(|staged| staged.lsn <= upto) {
            self.durable = staged.last_index;
            self.durable_term = staged.term;
            self.staged_bytes -= staged.bytes;
            self.staged.pop_front();
        }
    }

    /// Entries up to `index` are decided.
    pub fn commit(&mut self, index: LogIndex) {
        assert!(index >= self.committed, "the commit index never goes back");
        assert!(index <= self.end.index, "only sealed entries are ever committed");
        self.committed = index;
    }

    /// The batch that holds the next committed entry to apply, and where in it that entry is.
    pub fn next_to_apply(&self) -> Option<(Batch, usize)> {
        if self.applied == self.committed {
            return None;
        }
        let batch = self.unapplied.front().expect("what is committed and not applied is kept");
        Some((batch.clone(), self.apply_offset))
    }

    /// The entry before `offset` of the front batch was applied.
    pub fn mark_applied(&mut self, index: LogIndex, offset: usize) {
        assert!(index <= self.committed && index == self.applied.next());
        self.applied = index;
        self.apply_offset = offset;
        let batch = self.unapplied.front().expect("the entry came from it");
        if index == batch.header().last_index() {
            self.unapplied.pop_front();
            self.apply_offset = kvorum_protocol::batch::BATCH_HEADER_BYTES;
        }
    }

    /// Where the next batch attaches.
    pub fn end(&self) -> &LogEnd {
        &self.end
    }

    /// Position of the last record that is durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// Index of the last durable entry, and its term.
    pub fn durable(&self) -> (LogIndex, Term) {
        (self.durable, self.durable_term)
    }

    /// Index of the last decided entry.
    pub fn committed(&self) -> LogIndex {
        self.committed
    }

    /// Index of the last entry in the state.
    #[inline]
    pub fn applied(&self) -> LogIndex {
        self.applied
    }
}
