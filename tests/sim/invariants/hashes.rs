//! State machine safety (Raft paper, figure 3) at every moment: equal entries make equal states.

use std::collections::BTreeMap;

use kvorum_protocol::LogIndex;

use super::{Checked, ensure};
use crate::network::Place;

/// The state hash at each index at which some node has stopped applying for a while, and who was
/// the first to show it.
#[derive(Default)]
pub struct Hashes {
    seen: BTreeMap<LogIndex, (u64, Place)>,
}

impl Hashes {
    /// Whoever has applied as much has the same state, in this life or in another.
    pub fn shows(&mut self, place: Place, applied: LogIndex, hash: u64) -> Checked {
        let (known, first) = *self.seen.entry(applied).or_insert((hash, place));
        ensure(known == hash, "equal entries make equal states", || {
            let (first, place) = (first + 1, place + 1);
            format!("at index {applied} n{first} has {known:016x}, n{place} has {hash:016x}")
        })
    }
}
