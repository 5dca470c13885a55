//! A walk against a model: whatever happens between its slices, it hands out the state of the cut.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::core::store::EncodedItem;

const SEED: u64 = 7;

/// The shards that the tests fill: the first, two neighbours, the last.
const FILLED: [usize; 4] = [0, 1300, 1301, SHARDS - 1];

const KEYS_PER_SHARD: usize = 240;

/// Keys of these shards: few shards with many keys are what growth in the middle of a walk needs.
static KEYS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let store = Store::new(SEED);
    let mut by_shard = FILLED.map(|shard| (shard, Vec::new()));
    for number in 0u32.. {
        let key = number.to_le_bytes().to_vec();
        let shard = shard_of(store.hash(&key));
        if let Some((_, keys)) = by_shard.iter_mut().find(|(filled, _)| *filled == shard) {
            keys.push(key);
        }
        if by_shard.iter().all(|(_, keys)| keys.len() >= KEYS_PER_SHARD) {
            break;
        }
    }
    by_shard.into_iter().flat_map(|(_, keys)| keys.into_iter().take(KEYS_PER_SHARD)).collect()
});

type Model = BTreeMap<Vec<u8>, (LogIndex, Vec<u8>)>;

/// A store, what it should hold, and what a walk should hand out and has handed out.
struct Walked {
    store: Store,
    model: Model,
    next: LogIndex,
    cut: Option<Model>,
    found: Model,
    last_shard: u16,
    is_through: bool,
}

impl Walked {
    fn new() -> Walked {
        Walked {
            store: Store::new(SEED),
            model: Model::new(),
            next: LogIndex(1),
            cut: None,
            found: Model::new(),
            last_shard: 0,
            is_through: false,
        }
    }

    fn set(&mut self, key: &[u8], value_len: usize) {
        let value = vec![self.next.0.to_le_bytes()[0]; value_len];
        self.store.set(self.next, key, &value);
        self.model.insert(key.to_vec(), (self.next, value));
        self.next = self.next.next();
    }

    fn delete(&mut self, key: &[u8]) {
        assert_eq!(self.store.delete(key), self.model.remove(key).is_some());
        self.next = self.next.next();
    }

    fn begin(&mut self) {
        self.store.begin_walk(LogIndex(self.next.0 - 1));
        self.cut = Some(self.model.clone());
    }

    fn slice(&mut self, buckets_max: usize, bytes_max: usize) {
        let mut out = b"what was there".to_vec();
        let slice = self.store.walk(buckets_max, bytes_max, &mut out);
        let out = out.strip_prefix(b"what was there").unwrap();
        assert!(slice.first_shard >= self.last_shard && slice.last_shard >= slice.first_shard);
        self.last_shard = slice.last_shard;
        self.is_through = slice.is_last;
        let shards = usize::from(slice.first_shard)..=usize::from(slice.last_shard);
        let lengths = self.found(out, slice.items, |shard| shards.contains(&shard));
        assert!(lengths.len() <= buckets_max);
        let before_last: usize = lengths.iter().rev().skip(1).sum();
        assert!(lengths.is_empty() || before_last < bytes_max);
    }

    fn take_strays(&mut self) {
        while let Some((items, bytes)) = self.store.take_strays() {
            self.found(&bytes, items, |_| true);
        }
        assert_eq!(self.store.stray_bytes(), 0);
    }

    /// Notes encoded items; returns how long each is.
    fn found(
        &mut self,
        mut bytes: &[u8],
        items: u32,
        is_shard: impl Fn(usize) -> bool,
    ) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !bytes.is_empty() {
            let (EncodedItem { version, key, value }, rest) = EncodedItem::decode(bytes).unwrap();
            assert!(is_shard(shard_of(self.store.hash(key))));
            let before = self.found.insert(key.to_vec(), (version, value.to_vec()));
            assert_eq!(before, None, "handed out twice: {key:?}");
            lengths.push(bytes.len() - rest.len());
            bytes = rest;
        }
        assert_eq!(lengths.len(), items as usize);
        lengths
    }

    fn end(&mut self) {
        while !self.is_through {
            self.slice(1000, 1 << 20);
        }
        self.take_strays();
        self.store.end_walk();
        let cut = self.cut.take().expect("a walk went on");
        assert!(self.found == cut, "{} items of {}", self.found.len(), cut.len());
        for (key, (version, value)) in &self.model {
            assert_eq!(self.store.get(key), Some((*version, value.as_slice())));
        }
        assert_eq!(self.store.len(), self.model.len());
        let items: usize = self.model.iter().map(|(key, (_, v))| 12 + key.len() + v.len()).sum();
        let tables: usize = self.store.shards.iter().map(HashTable::allocation_size).sum();
        assert_eq!(self.store.bytes(), items + tables);
        (self.found, self.last_shard, self.is_through) = (Model::new(), 0, false);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set {
        key: usize,
        value_len: usize,
    },
    Delete {
        key: usize,
    },
    /// Sets or removes neighbours: growth, and the traces of removals, come in numbers.
    SetRun {
        key: usize,
        count: usize,
    },
    DeleteRun {
        key: usize,
        count: usize,
    },
    Slice {
        buckets_max: usize,
        bytes_max: usize,
    },
    TakeStrays,
    End,
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..FILLED.len() * KEYS_PER_SHARD;
    let buckets_max = prop_oneof![4 => 1usize..60, 1 => 1000usize..2000, 1 => Just(usize::MAX)];
    let bytes_max = prop_oneof![3 => 1usize..2000, 1 => Just(usize::MAX)];
    prop_oneof![
        8 => (key(), 0usize..40).prop_map(|(key, value_len)| Step::Set { key, value_len }),
        8 => key().prop_map(|key| Step::Delete { key }),
        2 => (key(), 1usize..100).prop_map(|(key, count)| Step::SetRun { key, count }),
        2 => (key(), 1usize..100).prop_map(|(key, count)| Step::DeleteRun { key, count }),
        4 => (buckets_max, bytes_max)
            .prop_map(|(buckets_max, bytes_max)| Step::Slice { buckets_max, bytes_max }),
        1 => Just(Step::TakeStrays),
        1 => Just(Step::End),
    ]
}

proptest! {
    #[test]
    fn every_item_of_the_cut_is_handed_out_once_and_nothing_newer(
        filled in 0..=FILLED.len() * KEYS_PER_SHARD,
        steps in proptest::collection::vec(step(), 0..200),
    ) {
        let mut walked = Walked::new();
        for at in 0..filled {
            walked.set(&KEYS[at * 7 % KEYS.len()], 5);
        }
        walked.begin();
        let run = |key: usize, count: usize| &KEYS[key..KEYS.len().min(key + count)];
        for step in steps {
            match step {
                Step::Set { key, value_len } => walked.set(&KEYS[key], value_len),
                Step::Delete { key } => walked.delete(&KEYS[key]),
                Step::SetRun { key, count } => {
                    run(key, count).iter().for_each(|key| walked.set(key, 5));
                }
                Step::DeleteRun { key, count } => {
                    run(key, count).iter().for_each(|key| walked.delete(key));
                }
                Step::Slice { buckets_max, bytes_max } => walked.slice(buckets_max, bytes_max),
                Step::TakeStrays => walked.take_strays(),
                Step::End => {
                    walked.end();
                    walked.begin();
                }
            }
        }
        walked.end();
    }
}

/// Where the item of a key stands.
fn bucket_of(store: &Store, key: &[u8]) -> (usize, Option<usize>) {
    let hash = store.hash(key);
    let shard = &store.shards[shard_of(hash)];
    (shard.num_buckets(), shard.find_bucket_index(hash.0, |item| item.key() == key))
}

/// A table that is full of the traces of removals clears them away instead of growing, and moves
/// items within the same buckets: those that once found their own place taken.
#[test]
fn items_that_move_without_growth_are_handed_out_once() {
    const KEPT: usize = 20;
    // As many as the table holds, and some to come later.
    let (filled, later) = KEYS[..KEYS_PER_SHARD].split_at(224);
    let (removed, kept) = filled.split_at(224 - KEPT);
    for passed in [1, 50, 100, 200, 255] {
        let mut walked = Walked::new();
        filled.iter().for_each(|key| walked.set(key, 3));
        walked.begin();
        walked.slice(passed, usize::MAX);
        removed.iter().for_each(|key| walked.delete(key));
        let places = |walked: &Walked| -> Vec<_> {
            kept.iter().map(|key| bucket_of(&walked.store, key)).collect()
        };
        let before = places(&walked);
        for key in removed.iter().chain(later) {
            let capacity = walked.store.shards[FILLED[0]].capacity();
            walked.set(key, 3);
            // It has taken the place of a removed one: that brings the end no nearer.
            if walked.store.shards[FILLED[0]].capacity() != capacity {
                walked.delete(key);
            }
        }
        let after = places(&walked);
        assert_eq!(before[0].0, after[0].0, "the table has kept its size");
        assert_ne!(before, after, "the table was never cleared");
        walked.end();
    }
}

#[test]
fn growth_in_the_middle_hands_out_the_rest_first() {
    let keys = &KEYS[..KEYS_PER_SHARD];
    let mut walked = Walked::new();
    let mut grown = 0;
    for (count, key) in keys.iter().enumerate() {
        let buckets = walked.store.shards[0].num_buckets();
        walked.begin();
        walked.slice(count / 2 + 1, usize::MAX);
        walked.set(key, 9);
        if walked.store.shards[0].num_buckets() > buckets && count > 3 {
            assert!(walked.store.stray_bytes() > 0);
            grown += 1;
        }
        walked.end();
    }
    assert!(grown >= 4, "{grown}");
}

#[test]
fn an_empty_store_is_walked_in_no_items() {
    let mut walked = Walked::new();
    walked.begin();
    walked.slice(SHARDS - 1, 1);
    assert!(!walked.is_through);
    walked.slice(1, 1);
    assert!(walked.is_through);
    walked.set(b"later", 3);
    walked.slice(1, 1);
    walked.end();
}

#[test]
fn a_walk_that_is_given_up_leaves_nothing() {
    let mut walked = Walked::new();
    KEYS.iter().for_each(|key| walked.set(key, 30));
    let bytes = walked.store.bytes();
    walked.store.begin_walk(walked.next);
    KEYS.iter().for_each(|key| walked.set(key, 30));
    assert!(walked.store.bytes() >= bytes + KEYS.len() * 30);
    walked.store.end_walk();
    assert_eq!(walked.store.bytes(), bytes);
    walked.begin();
    walked.end();
}

#[test]
fn strays_are_handed_out_in_pieces_that_are_all_counted() {
    let mut walked = Walked::new();
    let lengths = [10, 100_000, 100_000, 300_000, 10, 20, 40_000];
    let keys = || KEYS.iter().zip(lengths);
    keys().for_each(|(key, length)| walked.set(key, length));
    let bytes = walked.store.bytes();
    walked.begin();
    keys().for_each(|(key, length)| walked.set(key, length));
    let held = walked.store.stray_bytes();
    assert_eq!(walked.store.bytes(), bytes + held);
    assert!(held >= lengths.iter().sum() && held < 2 * lengths.iter().sum::<usize>());
    let mut pieces = Vec::new();
    while let Some((items, bytes)) = walked.store.take_strays() {
        assert!(walked.store.stray_bytes() + bytes.len() <= held);
        walked.found(&bytes, items, |_| true);
        pieces.push(items);
    }
    assert_eq!(pieces, [2, 1, 1, 3]);
    walked.end();
}
