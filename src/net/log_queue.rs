//! The way of records from the core to the thread that writes them.
//!
//! The core is asked for the records of a turn when the thread is free to take them: while the
//! disk is at work the batch grows, and is as large as the disk is slow. In a cluster that is not
//! all: the others must get their entries even when this node's own disk is stuck. So after a
//! while the core is asked nevertheless, and the records wait here.

use std::collections::VecDeque;
use std::time::Duration;

use kvorum_protocol::{LogIndex, Lsn, Term};

use super::log_thread::{LogThread, News};
use crate::core::{Instant, Record};
use crate::wal::WalError;

/// For how long a batch may grow while the disk is at work and other members wait for it. Several
/// times what a good disk takes for a sync, so that batches are not cut for nothing; little beside
/// a heartbeat.
const GROWTH_MAX: Duration = Duration::from_millis(1);

/// How the log ends at one of its records. Whatever is durable up to that record, a restart finds
/// this or what came later, never an earlier state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The highest term that the node has entered.
    pub term: Term,
    /// The last entry.
    pub last: LogIndex,
}

/// Records on their way to the log thread.
#[derive(Debug)]
pub struct LogQueue {
    thread: LogThread,
    /// Not taken by the thread yet, with consecutive positions.
    waiting: Vec<(Lsn, Record)>,
    /// The last entry of the log that the thread has.
    handed: LogIndex,
    /// When the core was last asked for its records.
    sealed_at: Instant,
    /// How the log ends at each record that is not durable yet, with the position of the record.
    states: VecDeque<(Lsn, LogState)>,
    /// How it ends at the last of them.
    newest: LogState,
    /// Whether other members wait for the batches, too.
    has_readers: bool,
}

impl LogQueue {
    /// Nothing waits behind `recovered`, which is durable.
    pub fn new(thread: LogThread, recovered: LogState) -> LogQueue {
        LogQueue {
            thread,
            waiting: Vec::new(),
            handed: LogIndex(0),
            sealed_at: Instant::default(),
            states: VecDeque::new(),
            newest: recovered,
            has_readers: false,
        }
    }

    /// Whether the core should be asked for its records now.
    pub fn wants_records(&self, now: Instant) -> bool {
        !self.thread.is_busy() || self.has_readers && self.growth_ends() <= now
    }

    /// When it should be asked at the latest, if it has any.
    pub fn growth_ends(&self) -> Instant {
        if self.has_readers { self.sealed_at.after(GROWTH_MAX) } else { Instant::NEVER }
    }

    /// The core was asked.
    pub fn note_sealed(&mut self, now: Instant) {
        self.sealed_at = now;
    }

    /// Takes records, and leaves their room behind.
    pub fn push(&mut self, records: &mut Vec<(Lsn, Record)>) {
        for (lsn, record) in records.iter() {
            match record {
                Record::TermVote { term, .. } => self.newest.term = *term,
                Record::Batch(batch) => self.newest.last = batch.header().last_index(),
                Record::Truncate { end } | Record::Install { end } => {
                    self.newest.last = end.index;
                }
            }
            self.states.push_back((*lsn, self.newest));
        }
        self.waiting.append(records);
    }

    /// Hands what waits to the thread, if it is free; answers whether it did. Entries up to
    /// `committed` are decided.
    pub fn submit(&mut self, committed: LogIndex) -> bool {
        if self.thread.is_busy() || self.waiting.is_empty() {
            return false;
        }
        // A follower may learn that an entry is decided before it has it in its own log.
        let committed = committed.min(self.handed);
        for (_, record) in &self.waiting {
            match record {
                Record::Batch(batch) => self.handed = batch.header().last_index(),
                Record::Truncate { end } | Record::Install { end } => self.handed = end.index,
                Record::TermVote { .. } => {}
            }
        }
        self.thread.submit(std::mem::take(&mut self.waiting), committed);
        true
    }

    /// Whether other members wait for the batches, too.
    pub fn set_readers(&mut self, has_readers: bool) {
        self.has_readers = has_readers;
    }

    /// Everything up to `durable` survives a power cut; answers how the log ends there, if that is
    /// new.
    pub fn note_durable(&mut self, durable: Lsn) -> Option<LogState> {
        let mut newest = None;
        while let Some((_, state)) = self.states.pop_front_if(|(lsn, _)| *lsn <= durable) {
            newest = Some(state);
        }
        newest
    }

    /// Whether anything is on its way.
    pub fn is_busy(&self) -> bool {
        self.thread.is_busy() || !self.waiting.is_empty()
    }

    /// Snapshots cover everything up to `index`, and nobody else needs it.
    pub fn release(&mut self, index: LogIndex) {
        self.thread.release(index);
    }

    /// How the log stands, if that has changed.
    ///
    /// # Errors
    /// What makes the log unusable: the process has to stop.
    pub fn news(&mut self) -> Result<Option<News>, WalError> {
        self.thread.news()
    }

    /// The same, after waiting at most `timeout` for the records that are on their way.
    ///
    /// # Errors
    /// As [`news`](LogQueue::news).
    pub fn wait_for_news(&mut self, timeout: Duration) -> Result<Option<News>, WalError> {
        self.thread.wait_for_news(timeout)
    }

    /// Ends the log: writes what the thread has, syncs it, marks the end, and waits for that.
    ///
    /// # Errors
    /// As [`LogThread::stop`].
    pub fn stop(&mut self) -> Result<(), WalError> {
        self.thread.stop()
    }
}
