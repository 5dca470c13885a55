//! The log of a simulated process: the real writer, driven as `src/net/log_thread.rs` drives it,
//! with a sync that takes virtual time. One group of records is on its way at a time; while it is,
//! the next one grows.

use std::time::{Duration, Instant};

use kvorum::core::{NextSegment, Record};
use kvorum::wal::{WalError, Writer};
use kvorum_protocol::{LogIndex, Lsn};

use crate::queue::Time;

/// How the log stands, for the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub durable: Lsn,
    pub staged: Lsn,
    pub room_bytes: u64,
    pub next_segment: NextSegment,
}

/// What became of a group that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// There was none, or one is on its way already.
    Nothing,
    /// It is written. A sync begins.
    Written,
    /// The disk has no room for it. It stays.
    LacksRoom,
}

pub struct Log {
    writer: Writer,
    /// The writer knows time only as differences.
    epoch: Instant,
    /// Sealed, and not yet with the writer.
    waiting: Vec<(Lsn, Record)>,
    /// With the writer, and not known to be durable.
    group: Vec<(Lsn, Record)>,
    lacks_room: bool,
    /// The last record of a group that was synced.
    durable: Lsn,
    /// Index of the last entry that the writer has.
    staged_end: LogIndex,
    /// Highest index known to be committed.
    committed: LogIndex,
}

impl Log {
    pub fn new(writer: Writer, epoch: Instant, end: LogIndex) -> Log {
        Log {
            durable: writer.durable(),
            writer,
            epoch,
            waiting: Vec::new(),
            group: Vec::new(),
            lacks_room: false,
            staged_end: end,
            committed: LogIndex(0),
        }
    }

    pub fn standing(&self) -> Standing {
        Standing {
            durable: self.durable,
            staged: self.writer.staged(),
            room_bytes: self.writer.room(),
            next_segment: self.writer.next_segment(),
        }
    }

    /// Records of a turn.
    pub fn take(&mut self, records: &mut Vec<(Lsn, Record)>, committed: LogIndex) {
        self.waiting.append(records);
        self.committed = self.committed.max(committed);
    }

    /// Writes what waits, if nothing is on its way.
    pub fn submit(&mut self) -> Result<Submitted, WalError> {
        if !self.group.is_empty() || self.waiting.is_empty() {
            return Ok(Submitted::Nothing);
        }
        self.group = std::mem::take(&mut self.waiting);
        for (lsn, record) in &self.group {
            self.writer.stage(*lsn, record);
            match record {
                Record::Batch(batch) => self.staged_end = batch.header().last_index(),
                Record::Truncate { end } | Record::Install { end } => self.staged_end = end.index,
                Record::TermVote { .. } => {}
            }
        }
        // Not before: what is decided by now may be the entries that this group puts in the place
        // of others.
        self.writer.set_commit(self.committed.min(self.staged_end));
        self.write()
    }

    fn write(&mut self) -> Result<Submitted, WalError> {
        match self.writer.write() {
            Ok(_) => {
                self.lacks_room = false;
                Ok(Submitted::Written)
            }
            Err(error) if !error.is_fatal() => {
                self.lacks_room = true;
                Ok(Submitted::LacksRoom)
            }
            Err(error) => Err(error),
        }
    }

    /// Snapshots cover everything up to `index`, and nobody needs it.
    pub fn release(&mut self, index: LogIndex) {
        self.writer.release(index);
    }

    /// What the disk has no room for.
    pub fn lacking(&self) -> impl Iterator<Item = &Record> {
        let written = self.writer.written();
        let lacking = self.group.iter().filter(move |(lsn, _)| *lsn > written);
        lacking.map(|(_, record)| record)
    }

    /// The sync is through. Answers with the records that are durable now.
    pub fn synced(&mut self) -> Result<Vec<(Lsn, Record)>, WalError> {
        assert!(!self.lacks_room, "what is not written is not synced");
        self.durable = self.writer.sync()?;
        Ok(std::mem::take(&mut self.group))
    }

    /// What happens beside the groups, and when again. While a sync is under way the log has no
    /// time for it.
    pub fn tend(&mut self, now: Time) -> Result<(Submitted, Option<Time>), WalError> {
        let is_syncing = !self.group.is_empty() && !self.lacks_room;
        if is_syncing {
            return Ok((Submitted::Nothing, None));
        }
        let at = self.writer.tend(self.epoch + Duration::from_nanos(now))?;
        let has_room_again = self.lacks_room && !self.writer.lacks_next_segment();
        let submitted = if has_room_again { self.write()? } else { Submitted::Nothing };
        let at = at.map(|at| {
            let nanos = at.saturating_duration_since(self.epoch).as_nanos();
            Time::try_from(nanos).expect("worlds are short")
        });
        Ok((submitted, at))
    }
}
