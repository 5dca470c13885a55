//! Requests that wait: writes for their quorum, reads for an index.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kvorum_protocol::{KeyList, LogIndex, Read};

use super::output::ReplyTo;
use super::time::Instant;

/// A write in the log whose answer is due.
#[derive(Debug)]
struct PendingWrite {
    index: LogIndex,
    /// `None` once it was answered early (its quorum came too late).
    to: Option<ReplyTo>,
    deadline: Instant,
}

/// A read that may be answered once its index is applied, from exactly that state.
#[derive(Debug)]
pub struct PendingRead {
    /// Where the answer goes.
    pub to: ReplyTo,
    /// What was asked.
    pub read: OwnedRead,
    deadline: Instant,
}

/// A [`Read`] that outlives the buffer it was read from.
#[derive(Debug)]
pub struct OwnedRead {
    kind: ReadKind,
    keys: Box<[u8]>,
}

#[derive(Clone, Copy, Debug)]
enum ReadKind {
    Get,
    GetMany,
    Exists,
    Length,
}

impl OwnedRead {
    fn new(read: &Read<'_>) -> OwnedRead {
        let (kind, keys) = match *read {
            Read::Get(key) => (ReadKind::Get, key),
            Read::GetMany(keys) => (ReadKind::GetMany, keys.as_bytes()),
            Read::Exists(keys) => (ReadKind::Exists, keys.as_bytes()),
            Read::Length(key) => (ReadKind::Length, key),
        };
        OwnedRead { kind, keys: keys.into() }
    }

    /// What was asked.
    pub fn borrow(&self) -> Read<'_> {
        let list = || KeyList::decode(&self.keys).expect("it was a list when it was stored");
        match self.kind {
            ReadKind::Get => Read::Get(&self.keys),
            ReadKind::GetMany => Read::GetMany(list()),
            ReadKind::Exists => Read::Exists(list()),
            ReadKind::Length => Read::Length(&self.keys),
        }
    }
}

/// What has waited too long is given up this much late, at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Everything that waits.
#[derive(Debug, Default)]
pub struct Pending {
    /// In the order of their indexes.
    writes: VecDeque<PendingWrite>,
    /// By the index each waits for. Invariant: no queue is empty.
    reads: BTreeMap<LogIndex, VecDeque<PendingRead>>,
    /// How many reads all queues hold.
    reads_len: usize,
    /// Bytes of the keys that they ask for.
    reads_bytes: usize,
    /// When to look for what has waited too long: at most `LOOK_INTERVAL` after the earliest
    /// deadline of what waits; `None` when nothing has waited since the last look.
    earliest: Option<Instant>,
}

impl Pending {
    /// A write waits for `index`.
    #[inline]
    pub fn push_write(&mut self, index: LogIndex, to: ReplyTo, deadline: Instant) {
        assert!(self.writes.back().is_none_or(|last| last.index < index));
        self.note_deadline(deadline);
        self.writes.push_back(PendingWrite { index, to: Some(to), deadline });
    }

    /// A read waits for `index`.
    pub fn push_read(&mut self, index: LogIndex, to: ReplyTo, read: &Read<'_>, deadline: Instant) {
        self.note_deadline(deadline);
        let read = PendingRead { to, read: OwnedRead::new(read), deadline };
        self.reads_bytes += read.read.keys.len();
        self.reads.entry(index).or_default().push_back(read);
        self.reads_len += 1;
    }

    #[inline]
    fn note_deadline(&mut self, deadline: Instant) {
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    /// Takes the write at `index`, if it waits.
    #[inline]
    pub fn take_write(&mut self, index: LogIndex) -> Option<ReplyTo> {
        let first = self.writes.front()?;
        assert!(first.index >= index, "a write was passed over");
        if first.index > index {
            return None;
        }
        self.writes.pop_front()?.to
    }

    /// The lowest index that a read waits for.
    #[inline]
    pub fn first_read_index(&self) -> Option<LogIndex> {
        if self.reads.is_empty() {
            return None;
        }
        self.reads.first_key_value().map(|(index, _)| *index)
    }

    /// Takes the next read that waits for an index up to `applied`.
    pub fn take_read(&mut self, applied: LogIndex) -> Option<PendingRead> {
        let mut first = self.reads.first_entry().filter(|first| *first.key() <= applied)?;
        let read = first.get_mut().pop_front().expect("no queue is empty");
        if first.get().is_empty() {
            first.remove();
        }
        self.reads_len -= 1;
        self.reads_bytes -= read.read.keys.len();
        Some(read)
    }

    /// How many reads wait.
    #[inline]
    pub fn reads_len(&self) -> usize {
        self.reads_len
    }

    /// Bytes of the keys that all waiting reads ask for.
    #[inline]
    pub fn reads_bytes(&self) -> usize {
        self.reads_bytes
    }

    /// When [`expire`](Pending::expire) has something to look at.
    pub fn deadline(&self) -> Instant {
        self.earliest.unwrap_or(Instant::NEVER)
    }

    /// Gives up what has waited too long: writes stay in the log, without anybody to answer.
    pub fn expire(
        &mut self,
        now: Instant,
        mut write_expired: impl FnMut(ReplyTo),
        mut read_expired: impl FnMut(ReplyTo),
    ) {
        if self.deadline() > now {
            return;
        }
        let mut earliest: Option<Instant> = None;
        for write in &mut self.writes {
            if write.deadline <= now {
                if let Some(to) = write.to.take() {
                    write_expired(to);
                }
            } else if write.to.is_some() {
                earliest = Some(earliest.map_or(write.deadline, |e| e.min(write.deadline)));
            }
        }
        self.reads.retain(|_, queue| {
            queue.retain(|read| {
                if read.deadline <= now {
                    read_expired(read.to);
                    self.reads_len -= 1;
                    self.reads_bytes -= read.read.keys.len();
                    return false;
                }
                earliest = Some(earliest.map_or(read.deadline, |e| e.min(read.deadline)));
                true
            });
            !queue.is_empty()
        });
        // Deadlines may be many and close together; looking at all of them has to stay rare.
        self.earliest = earliest.map(|earliest| earliest.max(now.after(LOOK_INTERVAL)));
    }
}
