//! What a node that does not lead knows of its leader, in the current term.

use std::collections::VecDeque;

use kvorum_protocol::{Batch, LogIndex, Term};

use super::time::Instant;

/// More than a leader has on its way at once.
const PARKED_BYTES_MAX: usize = 32 << 20;

/// Batches that the leader has sent and the log has no room for yet: consecutive ones, the first of
/// which follows the end of the log. Nobody was told that they are here.
#[derive(Debug, Default)]
pub struct Parked {
    batches: VecDeque<Batch>,
    bytes: usize,
}

impl Parked {
    /// The first batch.
    pub fn first(&self) -> Option<&Batch> {
        self.batches.front()
    }

    /// Whether there are any and the last one ends with this entry.
    pub fn ends_with(&self, index: LogIndex, term: Term) -> bool {
        let last = self.batches.back().map(Batch::header);
        last.is_some_and(|last| (last.last_index(), last.term) == (index, term))
    }

    /// Keeps a batch, if it is the next one. What is too much is dropped, as any message may be.
    pub fn push(&mut self, batch: Batch) {
        let last = self.batches.back().map(|last| last.header().last_index());
        let is_next = last.is_none_or(|last| batch.header().first_index == last.next());
        if is_next && self.bytes < PARKED_BYTES_MAX {
            self.bytes += batch.bytes().len();
            self.batches.push_back(batch);
        }
    }

    /// Gives out the first batch.
    pub fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        self.bytes -= batch.bytes().len();
        Some(batch)
    }
}

/// A follower's or learner's side of replication. New in every term.
#[derive(Debug, Default)]
pub struct Following {
    /// Up to here this log is known to be the leader's: the end of a batch. Acknowledgements never
    /// go beyond.
    pub matched: LogIndex,
    /// The highest round that the leader has asked for.
    pub round: u64,
    /// When the leader was heard last.
    pub heard_at: Option<Instant>,
    /// When the leader's process was found to be gone.
    pub lost_at: Option<Instant>,
    /// The leader waits for an answer.
    pub owes_ack: bool,
    /// What waits for room in the log.
    pub parked: Parked,
    /// The checkpoint whose hash the leader wants to know, as long as it is not reached.
    pub asked_hash_at: Option<LogIndex>,
    /// The checkpoint and the hash that the leader was told last.
    pub told_hash: Option<(LogIndex, u64)>,
    /// What was durable in the last acknowledgement.
    pub acked_durable: LogIndex,
}
