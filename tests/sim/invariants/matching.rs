//! Log matching (Raft paper, figure 3): logs that agree on one entry agree on all before it.

use std::collections::BTreeMap;

use kvorum_protocol::{Batch, BatchHeader, LogIndex, Term};

use super::{Checked, ensure};

/// Every batch that was ever written. Each names the checksum of the one before, so it is enough
/// that there are no two of the same term that start at the same place.
#[derive(Default)]
pub struct Matching {
    batches: BTreeMap<(Term, LogIndex), BatchHeader>,
}

impl Matching {
    /// Somebody writes a batch. Answers whether it was never seen before.
    pub fn appends(&mut self, batch: &Batch) -> Checked<bool> {
        let header = batch.header();
        let key = (header.term, header.first_index);
        let Some(known) = self.batches.get(&key) else {
            self.batches.insert(key, *header);
            return Ok(true);
        };
        ensure(known == header, "logs match", || {
            format!("two batches of term {} at index {}: {known:?}, {header:?}", key.0, key.1)
        })?;
        Ok(false)
    }
}
