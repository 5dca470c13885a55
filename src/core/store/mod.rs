//! The table: every live key in memory, as a hash table of many small tables.
//!
//! One large table would stop the world when it grows (0.2 to 1 s at ten million keys). With
//! `SHARDS` small ones an insert grows at most one of them, a few thousand keys at ten million.
//! The walk of a snapshot, and loading one, go shard by shard.
//!
//! Hashing is keyed with a seed given by the caller, random in the server and fixed in tests: a
//! client can not aim its keys at one shard, and no order of iteration is ever observable.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
use hashbrown::HashTable;
use kvorum_protocol::LogIndex;

use super::digest::{self, Sum};

pub use encoded::EncodedItem;
pub use item::{Item, VERSION_END};
pub use load::{Loaded, ShardLoader};
use walk::Walk;
pub use walk::WalkSlice;

mod encoded;
mod item;
mod load;
mod walk;

/// How many small tables. Snapshots have them in ascending order, so it is a part of their format.
pub const SHARDS: usize = 1 << 12;

/// The hash of a key in one store: computed once, used for the prefetch and for the lookup.
#[derive(Clone, Copy, Debug)]
pub struct KeyHash(u64);

/// All keys and values, with the log index that last changed each.
pub struct Store {
    shards: Box<[HashTable<Item>]>,
    hasher: FixedState,
    /// How many items all shards hold.
    keys: usize,
    /// Sum of `Item::bytes` of all items.
    item_bytes: usize,
    /// Sum of `allocation_size` of all shards.
    table_bytes: usize,
    hash_seed: u64,
    /// The state of an earlier index is being handed out.
    walk: Option<Walk>,
    /// The part of all items in the state hash.
    digest: Sum,
}

impl Store {
    /// An empty store whose hashing is keyed with `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Store {
        Store {
            shards: (0..SHARDS).map(|_| HashTable::new()).collect(),
            hasher: FixedState::with_seed(seed),
            keys: 0,
            item_bytes: 0,
            table_bytes: 0,
            hash_seed: seed,
            walk: None,
            digest: Sum::default(),
        }
    }

    /// What keys the hashing.
    #[must_use]
    pub fn hash_seed(&self) -> u64 {
        self.hash_seed
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys == 0
    }

    /// Bytes asked of the allocator for items, tables and the strays of a walk: what
    /// `--memory-max` limits.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.item_bytes + self.table_bytes + self.stray_bytes()
    }

    /// The part of all items in the state hash.
    #[must_use]
    pub fn digest(&self) -> Sum {
        self.digest
    }

    /// The same, summed up from nothing.
    #[must_use]
    pub fn digest_from_scratch(&self) -> Sum {
        let mut sum = Sum::default();
        self.shards.iter().flatten().for_each(|item| sum.add(term(item)));
        sum
    }

    /// Hashes a key.
    #[inline]
    #[must_use]
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        hash_key(&self.hasher, key)
    }

    /// Starts bringing the item of a key near. A run of requests is looked up much faster when
    /// all of them are announced first, because their cache misses then overlap.
    #[inline]
    pub fn prefetch(&self, hash: KeyHash) {
        for item in self.shards[shard_of(hash)].iter_hash(hash.0) {
            item.prefetch();
        }
    }

    /// The value of a key, with its version.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<(LogIndex, &[u8])> {
        self.get_hashed(self.hash(key), key)
    }

    /// As [`get`](Store::get), with the hash that was computed for the prefetch.
    #[inline]
    #[must_use]
    pub fn get_hashed(&self, hash: KeyHash, key: &[u8]) -> Option<(LogIndex, &[u8])> {
        let item = self.shards[shard_of(hash)].find(hash.0, |item| item.key() == key)?;
        Some((item.version(), item.value()))
    }

    /// Stores a value; `version` is the index of the entry that says so.
    #[inline]
    pub fn set(&mut self, version: LogIndex, key: &[u8], value: &[u8]) {
        let hash = self.hash(key);
        self.set_hashed(hash, version, key, value);
    }

    /// As [`set`](Store::set), with the hash that was computed for the prefetch.
    #[inline]
    pub fn set_hashed(&mut self, hash: KeyHash, version: LogIndex, key: &[u8], value: &[u8]) {
        if self.walk.is_some() {
            self.before_change(hash, key);
        }
        let print = digest::key(key);
        self.digest.add(digest::item(print, version, value));
        let shard = &mut self.shards[shard_of(hash)];
        if let Some(item) = shard.find_mut(hash.0, |item| item.key() == key) {
            self.digest.subtract(digest::item(print, item.version(), item.value()));
            if item.overwrite(version, value) {
                return;
            }
            self.item_bytes -= item.bytes();
            *item = Item::new(version, key, value);
            self.item_bytes += item.bytes();
            return;
        }
        let item = Item::new(version, key, value);
        self.item_bytes += item.bytes();
        self.keys += 1;
        let grows = shard.len() == shard.capacity();
        let bytes_before = if grows { shard.allocation_size() } else { 0 };
        if grows {
            // Growing hashes every key again, and most are far away: fetch them all at once.
            shard.iter().for_each(Item::prefetch_key);
        }
        let hasher = &self.hasher;
        shard.insert_unique(hash.0, item, |item| rehash(hasher, item));
        if grows {
            self.table_bytes = self.table_bytes + shard.allocation_size() - bytes_before;
        }
    }

    /// Removes a key; answers whether it was there.
    #[inline]
    pub fn delete(&mut self, key: &[u8]) -> bool {
        let hash = self.hash(key);
        if self.walk.is_some() {
            self.before_change(hash, key);
        }
        let shard = &mut self.shards[shard_of(hash)];
        let Ok(found) = shard.find_entry(hash.0, |item| item.key() == key) else { return false };
        let (item, _) = found.remove();
        self.digest.subtract(term(&item));
        self.item_bytes -= item.bytes();
        self.keys -= 1;
        true
    }
}

/// The term of an item in the state hash.
#[inline]
fn term(item: &Item) -> u64 {
    digest::item(digest::key(item.key()), item.version(), item.value())
}

#[inline]
fn hash_key(hasher: &FixedState, key: &[u8]) -> KeyHash {
    let mut hasher = hasher.build_hasher();
    hasher.write(key);
    KeyHash(hasher.finish())
}

#[inline]
fn rehash(hasher: &FixedState, item: &Item) -> u64 {
    hash_key(hasher, item.key()).0
}

/// The small tables use the lowest and the highest bits themselves; these are from the middle.
#[inline]
fn shard_of(hash: KeyHash) -> usize {
    (hash.0 >> 32) as usize & (SHARDS - 1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_map(
            ops in proptest::collection::vec((0u8..40, 0usize..40, any::<bool>()), 0..400),
        ) {
            let mut store = Store::new(7);
            let mut model: BTreeMap<Vec<u8>, (LogIndex, Vec<u8>)> = BTreeMap::new();
            for (step, (key, value_len, delete)) in ops.into_iter().enumerate() {
                let key = format!("key{key}").into_bytes();
                let version = LogIndex(step as u64 + 1);
                if delete {
                    prop_assert_eq!(store.delete(&key), model.remove(&key).is_some());
                } else {
                    let value = vec![key[3]; value_len];
                    store.set(version, &key, &value);
                    model.insert(key, (version, value));
                }
                prop_assert_eq!(store.len(), model.len());
                let bytes: usize = model.iter().map(|(k, (_, v))| 12 + k.len() + v.len()).sum();
                prop_assert_eq!(store.item_bytes, bytes);
                prop_assert_eq!(store.digest(), store.digest_from_scratch());
            }
            for (key, (version, value)) in &model {
                prop_assert_eq!(store.get(key), Some((*version, value.as_slice())));
            }
            // Another table, filled in another order, has the same digest.
            let mut other = Store::new(8);
            model.iter().for_each(|(key, (version, value))| other.set(*version, key, value));
            prop_assert_eq!(store.digest(), other.digest());
            let tables: usize = store.shards.iter().map(HashTable::allocation_size).sum();
            prop_assert_eq!(store.table_bytes, tables);
        }
    }

    #[test]
    fn growth_keeps_every_key() {
        let mut store = Store::new(1);
        for n in 0..200_000u64 {
            store.set(LogIndex(n + 1), &n.to_le_bytes(), b"v");
        }
        assert_eq!(store.len(), 200_000);
        for n in 0..200_000u64 {
            let hash = store.hash(&n.to_le_bytes());
            store.prefetch(hash);
            assert_eq!(store.get(&n.to_le_bytes()), Some((LogIndex(n + 1), &b"v"[..])));
        }
        let tables: usize = store.shards.iter().map(HashTable::allocation_size).sum();
        assert_eq!(store.table_bytes, tables);
    }
}
