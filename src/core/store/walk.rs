//! Handing out the state of one index, a slice at a time, while later entries change the store.
//!
//! A walk passes over all buckets of all shards once. An item's version says whether it belongs to
//! the cut: what is newer is passed over. An item of the cut that is about to change or go before
//! the walk has come to it is copied aside first: a *stray*. So every item of the cut is handed
//! out exactly once, by a slice or as a stray, and nothing newer ever is.
//!
//! A table that grows, or that clears away what removals have left in it, moves its items to other
//! buckets. If the walk stands in its middle, the rest of it becomes strays at that moment.

use std::collections::VecDeque;

use hashbrown::HashTable;
use kvorum_protocol::LogIndex;

use super::{Item, KeyHash, SHARDS, Store, shard_of};

/// So many buckets are brought near at once, that their cache misses overlap.
const LOOKAHEAD: usize = 32;

/// Strays are kept in pieces of so many bytes, unless one is larger.
const STRAY_PIECE_BYTES: usize = 128 << 10;

/// A walk that goes on.
pub(super) struct Walk {
    /// What has a higher version came after the cut.
    cut: LogIndex,
    /// The shard that the walk stands in; `SHARDS` when it is through.
    shard: usize,
    /// The first bucket of that shard that it has not passed.
    bucket: usize,
    /// Encoded items that had to be copied aside: how many, and their bytes. In pieces, so that
    /// none ever has to be moved to make room for more.
    strays: VecDeque<(u32, Vec<u8>)>,
    /// Sum of the pieces' capacities.
    stray_bytes: usize,
}

/// What a slice of a walk has handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkSlice {
    /// No item of it is of an earlier shard.
    pub first_shard: u16,
    /// Nor of a later one. The next slice begins with this shard or behind it.
    pub last_shard: u16,
    /// How many items were appended.
    pub items: u32,
    /// The walk is through: what is left to be handed out are strays, if any.
    pub is_last: bool,
}

impl Store {
    /// Begins to hand out the state of `cut`: the index of the last entry that changed the store.
    ///
    /// # Panics
    /// When a walk goes on.
    pub fn begin_walk(&mut self, cut: LogIndex) {
        assert!(self.walk.is_none(), "one walk at a time");
        let strays = VecDeque::new();
        self.walk = Some(Walk { cut, shard: 0, bucket: 0, strays, stray_bytes: 0 });
    }

    /// Appends the next items to `out`, each as an [`EncodedItem`](super::EncodedItem): passes at
    /// most `buckets_max` buckets, and stops behind the item that takes it past `bytes_max` bytes.
    ///
    /// # Panics
    /// When no walk goes on.
    pub fn walk(&mut self, buckets_max: usize, bytes_max: usize, out: &mut Vec<u8>) -> WalkSlice {
        let walk = self.walk.as_mut().expect("a walk goes on");
        let first_shard = walk.shard.min(SHARDS - 1);
        let mut last_shard = first_shard;
        let (mut items, mut left) = (0, buckets_max);
        let out_end = out.len().saturating_add(bytes_max);
        while walk.shard < SHARDS && left > 0 && out.len() < out_end {
            last_shard = walk.shard;
            let shard = &self.shards[walk.shard];
            let start = walk.bucket;
            let end = shard.num_buckets().min(start.saturating_add(left.min(LOOKAHEAD)));
            (start..end).filter_map(|bucket| shard.get_bucket(bucket)).for_each(Item::prefetch);
            while walk.bucket < end && out.len() < out_end {
                items += walk.pass(shard, out);
            }
            left -= walk.bucket - start;
            if walk.bucket == shard.num_buckets() {
                walk.next_shard();
            }
        }
        let shard = |number| u16::try_from(number).expect("there are fewer shards");
        WalkSlice {
            first_shard: shard(first_shard),
            last_shard: shard(last_shard),
            items,
            is_last: walk.shard == SHARDS,
        }
    }

    /// Bytes held by strays until they are taken. Part of [`bytes`](Store::bytes).
    #[must_use]
    pub fn stray_bytes(&self) -> usize {
        self.walk.as_ref().map_or(0, |walk| walk.stray_bytes)
    }

    /// Takes some of the strays, of any shards and in no order: how many, and their encoding.
    /// `None` when there are none left. To be called often: they grow with every change while the
    /// walk goes on.
    ///
    /// # Panics
    /// When no walk goes on.
    pub fn take_strays(&mut self) -> Option<(u32, Vec<u8>)> {
        let walk = self.walk.as_mut().expect("a walk goes on");
        let piece = walk.strays.pop_front()?;
        walk.stray_bytes -= piece.1.capacity();
        Some(piece)
    }

    /// Ends the walk, through or not; does nothing when none goes on. Answers what was kept for it,
    /// its strays, which may take long to drop.
    pub fn end_walk(&mut self) -> impl Send + use<> {
        self.walk.take()
    }

    /// An item with this key is about to be changed, removed or made.
    #[inline(never)]
    pub(super) fn before_change(&mut self, hash: KeyHash, key: &[u8]) {
        let walk = self.walk.as_mut().expect("a walk goes on");
        let number = shard_of(hash);
        if number < walk.shard {
            return;
        }
        let shard = &self.shards[number];
        let found = shard.find_bucket_index(hash.0, |item| item.key() == key);
        match found {
            Some(bucket) if number > walk.shard || bucket >= walk.bucket => {
                let item = shard.get_bucket(bucket).expect("it was found there");
                walk.keep(item);
            }
            // A table without room for one more may move its items when one comes.
            None if number == walk.shard && shard.len() == shard.capacity() => {
                walk.keep_rest(shard);
            }
            _ => {}
        }
    }
}

impl Walk {
    /// Passes a bucket; returns how many items it appended.
    #[inline]
    fn pass(&mut self, shard: &HashTable<Item>, out: &mut Vec<u8>) -> u32 {
        let item = shard.get_bucket(self.bucket).filter(|item| item.version() <= self.cut);
        self.bucket += 1;
        if let Some(item) = item {
            item.encoded().encode(out);
        }
        u32::from(item.is_some())
    }

    fn keep(&mut self, item: &Item) {
        if item.version() > self.cut {
            return;
        }
        let bytes = item.bytes();
        let has_room = |(_, piece): &(u32, Vec<u8>)| piece.capacity() - piece.len() >= bytes;
        if !self.strays.back().is_some_and(has_room) {
            let piece = Vec::with_capacity(bytes.max(STRAY_PIECE_BYTES));
            self.stray_bytes += piece.capacity();
            self.strays.push_back((0, piece));
        }
        let (items, piece) = self.strays.back_mut().expect("there is one with room");
        item.encoded().encode(piece);
        *items += 1;
    }

    /// Makes strays of what the walk has not passed of the shard that it stands in, and goes on to
    /// the next one.
    fn keep_rest(&mut self, shard: &HashTable<Item>) {
        for bucket in self.bucket..shard.num_buckets() {
            if let Some(item) = shard.get_bucket(bucket) {
                self.keep(item);
            }
        }
        self.next_shard();
    }

    fn next_shard(&mut self) {
        (self.shard, self.bucket) = (self.shard + 1, 0);
    }
}

#[cfg(test)]
mod tests;
