//! How much the node's own log is certain to take.
//!
//! What is given to the log beyond its room may have to wait for a segment that can not be made,
//! on a full disk, and every later record waits behind it: terms and votes, too.

use super::log::Log;

/// Room that a record takes in the log beyond its body: its header, and the rest of a disk block.
pub const RECORD_OVERHEAD_BYTES: u64 = 2 * 4096;

/// The segment of the log behind the one that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NextSegment {
    /// It is there, and counts as room.
    Ready,
    /// It is being made, and nobody knows yet whether it can be.
    Coming,
    /// It could not be made, most likely for want of space. That is tried again.
    Lacking,
}

/// Room in the log, for what is not sealed yet.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    bytes: u64,
    next: NextSegment,
}

impl Room {
    /// These bytes are certain; what comes next is not known yet.
    pub fn new(bytes: u64) -> Room {
        Room { bytes, next: NextSegment::Coming }
    }

    /// The log takes `bytes` behind what it has seen; `unseen_bytes` are still on their way to it.
    pub fn set(&mut self, bytes: u64, unseen_bytes: u64, next: NextSegment) {
        *self = Room { bytes: bytes.saturating_sub(unseen_bytes), next };
    }

    /// Whether a batch of so many bytes is certain to find its place.
    #[inline]
    pub fn holds(&self, batch_bytes: usize) -> bool {
        batch_bytes as u64 + RECORD_OVERHEAD_BYTES <= self.bytes
    }

    /// Whether two batches of so many bytes are.
    pub fn holds_both(&self, one_bytes: usize, other_bytes: usize) -> bool {
        (one_bytes + other_bytes) as u64 + 2 * RECORD_OVERHEAD_BYTES <= self.bytes
    }

    /// The same for a batch of another node, which can not be made smaller. One that is too large
    /// even for an empty log with its next segment would never find more room: it gets a segment
    /// of its own.
    pub fn takes(&self, batch_bytes: usize, log: &Log) -> bool {
        let is_all_there_is = self.next == NextSegment::Ready && log.staged_bytes() == 0;
        self.holds(batch_bytes) || is_all_there_is
    }

    /// A batch is on its way to the log.
    pub fn use_up(&mut self, batch_bytes: usize) {
        let bytes = batch_bytes as u64 + RECORD_OVERHEAD_BYTES;
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether more room may not come.
    #[inline]
    pub fn is_last(&self) -> bool {
        self.next == NextSegment::Lacking
    }
}
