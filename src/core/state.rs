//! The replicated state: all that applied entries have made, the same on every node that has
//! applied as many.

use super::digest;
use super::sessions::{SessionBounds, Sessions};
use super::store::Store;

/// What [`apply`](super::apply::apply) changes, and nothing else does.
pub struct State {
    /// The keys and their values.
    pub store: Store,
    /// What is remembered so that a write which is sent again is not applied again.
    pub sessions: Sessions,
    /// For tests of the simulator.
    #[cfg(feature = "seeded-bugs")]
    pub bug: Option<super::seeded::Bug>,
}

impl State {
    /// The state before the first entry. `hash_seed` keys the table.
    #[must_use]
    pub fn new(hash_seed: u64, bounds: SessionBounds) -> State {
        State {
            store: Store::new(hash_seed),
            sessions: Sessions::new(bounds),
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        }
    }

    /// The state hash, which is kept up to date with every change.
    #[must_use]
    pub fn hash(&self) -> u64 {
        digest::state(self.store.digest(), self.sessions.digest())
    }

    /// The same, summed up from nothing: it takes a walk over the whole state. It differs from
    /// [`hash`](State::hash) when memory was damaged.
    #[must_use]
    pub fn hash_from_scratch(&self) -> u64 {
        let (store, sessions) = (&self.store, &self.sessions);
        digest::state(store.digest_from_scratch(), sessions.digest_from_scratch())
    }

    /// Bytes asked of the allocator: what `--memory-max` limits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.store.bytes() + self.sessions.bytes()
    }
}
