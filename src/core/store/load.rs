//! Filling an empty store, with several hands at once: each has some neighbouring shards for
//! itself.

use std::ops::RangeInclusive;

use foldhash::quality::FixedState;
use hashbrown::HashTable;

use crate::core::digest::Sum;

use super::{EncodedItem, Item, KeyHash, SHARDS, Store, hash_key, rehash, shard_of, term};

/// Fills some of the shards of a store. What is put there counts when the store is told what the
/// loader says at its end ([`Store::take_in`]).
pub struct ShardLoader<'a> {
    hasher: &'a FixedState,
    first_shard: usize,
    shards: &'a mut [HashTable<Item>],
    /// A table has room for so many from the start.
    keys_per_shard: usize,
    keys: usize,
    item_bytes: usize,
    digest: Sum,
}

/// What a loader has put into its shards.
#[derive(Debug)]
#[must_use = "the store has to be told"]
pub struct Loaded {
    keys: usize,
    item_bytes: usize,
    table_bytes: usize,
    digest: Sum,
}

impl Store {
    /// Divides an empty store that will hold `keys`: a loader for the shards from each of `starts`
    /// to before the next, which are ascending; what is before the first has none.
    ///
    /// # Panics
    /// When `starts` do not ascend, or the store is not empty.
    pub fn loaders(&mut self, starts: &[u16], keys: usize) -> Vec<ShardLoader<'_>> {
        assert!(self.is_empty(), "only an empty store is loaded");
        let mut loaders = Vec::with_capacity(starts.len());
        let mut rest = &mut self.shards[..];
        for start in starts.iter().rev() {
            let first_shard = usize::from(*start);
            let (before, shards) = rest.split_at_mut(first_shard);
            rest = before;
            loaders.push(ShardLoader {
                hasher: &self.hasher,
                first_shard,
                shards,
                keys_per_shard: keys / SHARDS,
                keys: 0,
                item_bytes: 0,
                digest: Sum::default(),
            });
        }
        loaders.reverse();
        loaders
    }

    /// Counts what a loader has brought.
    pub fn take_in(&mut self, loaded: &Loaded) {
        self.keys += loaded.keys;
        self.item_bytes += loaded.item_bytes;
        self.table_bytes += loaded.table_bytes;
        self.digest = self.digest.and(loaded.digest);
    }

    /// The shard that holds a key.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> u16 {
        shard_number(self.hash(key))
    }
}

impl ShardLoader<'_> {
    /// The hash of a key, and the number of its shard.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> (KeyHash, u16) {
        let hash = hash_key(self.hasher, key);
        (hash, shard_number(hash))
    }

    /// The shards that it fills.
    #[inline]
    #[must_use]
    pub fn shards(&self) -> RangeInclusive<u16> {
        let last = self.first_shard + self.shards.len() - 1;
        let number = |shard| u16::try_from(shard).expect("there are fewer shards");
        number(self.first_shard)..=number(last)
    }

    /// Puts an item into its shard; answers false, and does nothing, when the key is there.
    ///
    /// # Panics
    /// When another loader fills that shard.
    #[inline]
    #[must_use]
    pub fn insert(&mut self, hash: KeyHash, item: &EncodedItem<'_>) -> bool {
        let shard = &mut self.shards[shard_of(hash) - self.first_shard];
        if shard.capacity() == 0 {
            shard.reserve(self.keys_per_shard, |item| rehash(self.hasher, item));
        }
        if shard.find(hash.0, |found| found.key() == item.key).is_some() {
            return false;
        }
        let item = Item::new(item.version, item.key, item.value);
        self.item_bytes += item.bytes();
        self.digest.add(term(&item));
        self.keys += 1;
        shard.insert_unique(hash.0, item, |item| rehash(self.hasher, item));
        true
    }

    /// Nothing more comes.
    pub fn finish(self) -> Loaded {
        let table_bytes = self.shards.iter().map(HashTable::allocation_size).sum();
        let ShardLoader { keys, item_bytes, digest, .. } = self;
        Loaded { keys, item_bytes, table_bytes, digest }
    }
}

#[inline]
fn shard_number(hash: KeyHash) -> u16 {
    u16::try_from(shard_of(hash)).expect("there are fewer shards")
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::LogIndex;

    use super::*;

    #[test]
    fn loaders_fill_a_store_each_its_part() {
        let keys: Vec<_> = (0..30_000u32).map(u32::to_le_bytes).collect();
        let mut loaded = Store::new(5);
        let mut parts = Vec::new();
        for mut loader in loaded.loaders(&[0, 1, 1000, 4095], keys.len()) {
            for (version, key) in (1..).map(LogIndex).zip(&keys) {
                let (hash, shard) = loader.hash(key);
                if loader.shards().contains(&shard) {
                    let item = EncodedItem { version, key, value: b"some value" };
                    assert!(loader.insert(hash, &item));
                    assert!(!loader.insert(hash, &item), "it is there");
                }
            }
            parts.push(loader.finish());
        }
        parts.iter().for_each(|part| loaded.take_in(part));
        for (version, key) in (1..).map(LogIndex).zip(&keys) {
            assert_eq!(loaded.get(key), Some((version, &b"some value"[..])));
        }
        assert_eq!(loaded.len(), keys.len());
        assert_eq!(loaded.digest(), loaded.digest_from_scratch());
        let tables: usize = loaded.shards.iter().map(HashTable::allocation_size).sum();
        assert_eq!(loaded.bytes(), keys.len() * (12 + 4 + 10) + tables);
    }
}
