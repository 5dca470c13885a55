//! Reads that wait until the state has reached an index.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use kvorum_protocol::{KeyList, LogIndex, Read};

use super::output::ReplyTo;
use super::rounds::Condition;
use super::time::Instant;

/// A read that may be answered once its index is applied, from exactly that state.
#[derive(Debug)]
pub struct PendingRead {
    /// Where the answer goes.
    pub to: ReplyTo,
    /// What was asked.
    pub read: OwnedRead,
    /// What has to be confirmed besides, if anything.
    pub condition: Option<Condition>,
    /// When it is given up.
    pub deadline: Instant,
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
    /// Copies the keys.
    pub fn new(read: &Read<'_>) -> OwnedRead {
        let (kind, keys) = match *read {
            Read::Get(key) => (ReadKind::Get, key),
            Read::GetMany(keys) => (ReadKind::GetMany, keys.as_bytes()),
            Read::Exists(keys) => (ReadKind::Exists, keys.as_bytes()),
            Read::Length(key) => (ReadKind::Length, key),
        };
        OwnedRead { kind, keys: keys.into() }
    }

    /// Bytes of the keys.
    pub fn key_bytes(&self) -> usize {
        self.keys.len()
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
pub const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// When to look for what has waited too long, though not at every deadline: they may be many and
/// close together, and a look takes long.
#[derive(Debug)]
pub struct Look {
    /// At most `LOOK_INTERVAL` after the earliest deadline of what waits.
    at: Instant,
}

impl Default for Look {
    fn default() -> Look {
        Look { at: Instant::NEVER }
    }
}

impl Look {
    /// Something waits until `deadline`.
    #[inline]
    pub fn note(&mut self, deadline: Instant) {
        self.at = self.at.min(deadline);
    }

    /// When there is something to look at.
    pub fn deadline(&self) -> Instant {
        self.at
    }

    /// After a look: the earliest deadline that was met.
    pub fn again(&mut self, earliest: Instant, now: Instant) {
        self.at = earliest.max(now.after(LOOK_INTERVAL));
        if earliest == Instant::NEVER {
            self.at = Instant::NEVER;
        }
    }
}

/// Reads that wait for an index.
#[derive(Debug, Default)]
pub struct PendingReads {
    /// By the index each waits for. Invariant: no queue is empty.
    reads: BTreeMap<LogIndex, VecDeque<PendingRead>>,
    /// How many reads all queues hold.
    len: usize,
    /// Bytes of the keys that they ask for.
    key_bytes: usize,
    look: Look,
}

impl PendingReads {
    /// A read waits for `index`.
    pub fn push(&mut self, index: LogIndex, read: PendingRead) {
        self.look.note(read.deadline);
        self.key_bytes += read.read.key_bytes();
        self.reads.entry(index).or_default().push_back(read);
        self.len += 1;
    }

    /// The lowest index that a read waits for.
    #[inline]
    pub fn first_index(&self) -> Option<LogIndex> {
        if self.reads.is_empty() {
            return None;
        }
        self.reads.first_key_value().map(|(index, _)| *index)
    }

    /// Takes the next read that waits for an index up to `applied`.
    pub fn take(&mut self, applied: LogIndex) -> Option<PendingRead> {
        let mut first = self.reads.first_entry().filter(|first| *first.key() <= applied)?;
        let read = first.get_mut().pop_front().expect("no queue is empty");
        if first.get().is_empty() {
            first.remove();
        }
        self.len -= 1;
        self.key_bytes -= read.read.key_bytes();
        Some(read)
    }

    /// How many reads wait.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the keys that all waiting reads ask for.
    #[inline]
    pub fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    /// When [`expire`](PendingReads::expire) has something to look at.
    pub fn deadline(&self) -> Instant {
        self.look.deadline()
    }

    /// Gives up what has waited too long.
    pub fn expire(&mut self, now: Instant, mut refuse: impl FnMut(ReplyTo)) {
        if self.deadline() > now {
            return;
        }
        let mut earliest = Instant::NEVER;
        self.retain(|read| {
            let is_late = read.deadline <= now;
            match is_late {
                true => refuse(read.to),
                false => earliest = earliest.min(read.deadline),
            }
            !is_late
        });
        self.look.again(earliest, now);
    }

    /// Gives up what waits for a confirmation, because the node does not lead any more.
    pub fn void_conditional(&mut self, mut refuse: impl FnMut(ReplyTo)) {
        self.retain(|read| {
            if read.condition.is_some() {
                refuse(read.to);
            }
            read.condition.is_none()
        });
    }

    fn retain(&mut self, mut keep: impl FnMut(&PendingRead) -> bool) {
        let (mut len, mut key_bytes) = (0, 0);
        self.reads.retain(|_, queue| {
            queue.retain(|read| {
                let is_kept = keep(read);
                if is_kept {
                    len += 1;
                    key_bytes += read.read.key_bytes();
                }
                is_kept
            });
            !queue.is_empty()
        });
        (self.len, self.key_bytes) = (len, key_bytes);
    }
}
