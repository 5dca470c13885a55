//! Microbenchmarks of the core: the store, the node, a batch.
//!
//! `cargo bench --bench core` takes a minute. `cargo bench --bench core -- --grow` is another
//! program: it inserts ten million keys, or as many as a number behind it says, and prints how long
//! the inserts took and what a key costs in memory. `-- --catch-up` writes logs of two million
//! entries, or as many as are named, reads them back as for a follower that lags, and replays them
//! as at a start. `-- --snapshot` takes a snapshot of ten million keys, or as many as are named,
//! and loads it. Compare figures of one run on one machine only.

mod catch_up;
mod grow;
mod snapshot;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use kvorum::core::store::Store;
use kvorum::core::{
    Asker, Instant, Node, NodeConfig, Now, Options, Output, ReadOutcome, Recovery, ReplyTo,
    WriteOutcome,
};
use kvorum_protocol::{
    BatchBuilder, Command, LogIndex, LogTimeMs, MemberList, NodeId, Op, Read, Term,
};

/// That of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// More than the caches hold, as on a server.
const KEYS: u64 = 1_000_000;

/// What one turn looks up together.
const LOOKAHEAD: usize = 16;

const VALUE: [u8; 100] = [b'v'; 100];
const NOW: Now = Now { monotonic: Instant(0), wall_ms: 1000 };
const TO: ReplyTo = ReplyTo { connection: 1, tag: 1 };

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number_behind = |option: &str, otherwise: u64| {
        let at = arguments.iter().position(|argument| argument == option)?;
        let number = arguments.get(at + 1).and_then(|number| number.parse().ok());
        Some(number.unwrap_or(otherwise))
    };
    if let Some(keys) = number_behind("--grow", 10_000_000) {
        return grow::run(keys);
    }
    if let Some(entries) = number_behind("--catch-up", 2_000_000) {
        return catch_up::run(entries);
    }
    if let Some(keys) = number_behind("--snapshot", 10_000_000) {
        return snapshot::run(keys);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    store(&mut criterion);
    node(&mut criterion);
    batch(&mut criterion);
    criterion.final_summary();
}

/// One of `KEYS` keys of 16 bytes, in an order that no cache foresees.
fn key(counter: u64) -> [u8; 16] {
    // Fibonacci hashing spreads the counter; its low bits alone would come in order.
    let number = (counter.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % KEYS;
    numbered(number)
}

fn numbered(number: u64) -> [u8; 16] {
    let mut key = *b"key:............";
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn filled() -> Store {
    let mut store = Store::new(1);
    for number in 0..KEYS {
        store.set(LogIndex(1), &numbered(number), &VALUE);
    }
    store
}

fn store(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    let mut store = filled();
    let mut counter = 0u64;
    let mut next = move || {
        counter += 1;
        key(counter)
    };
    group.throughput(Throughput::Elements(1));
    group.bench_function("get", |bencher| {
        bencher.iter(|| black_box(store.get(&next())).is_some());
    });
    group.bench_function("set, same length", |bencher| {
        bencher.iter(|| store.set(LogIndex(2), &next(), &VALUE));
    });
    group.bench_function("delete and insert", |bencher| {
        bencher.iter(|| {
            let key = next();
            store.delete(&key);
            store.set(LogIndex(3), &key, &VALUE);
        });
    });
    group.throughput(Throughput::Elements(LOOKAHEAD as u64));
    group.bench_function(BenchmarkId::new("get, announced", LOOKAHEAD), |bencher| {
        bencher.iter(|| {
            let keys: [_; LOOKAHEAD] = std::array::from_fn(|_| next());
            let hashes = keys.map(|key| store.hash(&key));
            hashes.iter().for_each(|hash| store.prefetch(*hash));
            for (hash, key) in hashes.into_iter().zip(&keys) {
                black_box(store.get_hashed(hash, key));
            }
        });
    });
}

/// A leader whose state holds all keys.
fn leader() -> (Node, Output) {
    let members = MemberList::lone(NodeId(1), "localhost:6379").unwrap();
    let config = NodeConfig::new(NodeId(1), members);
    let mut node = Node::new(config, Recovery::new(1), 1 << 40);
    let mut out = Output::default();
    node.tick(&NOW);
    while !node.is_ready() {
        commit(&mut node, &mut out);
    }
    for number in 0..KEYS {
        set(&mut node, &numbered(number));
        if number % 1000 == 999 {
            commit(&mut node, &mut out);
        }
    }
    (node, out)
}

fn set(node: &mut Node, key: &[u8]) {
    let set = Command::new(Op::Set { key, value: &VALUE });
    let outcome = node.write(&NOW, TO, &set, &Options::default());
    assert!(matches!(outcome, WriteOutcome::Waiting(_)), "{outcome:?}");
}

/// The end of a turn, with a log that is durable at once.
fn commit(node: &mut Node, out: &mut Output) {
    node.seal(&NOW, out);
    if let Some((lsn, _)) = out.records.last() {
        node.durable(*lsn);
    }
    while node.poll(out) {}
    black_box(&out.replies);
    out.clear();
}

/// Whole turns of so many requests: admitted, sealed, durable, applied, answered.
fn node(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("node");
    let (mut node, mut out) = leader();
    let mut counter = 0u64;
    for requests in [1, 16, 256] {
        group.throughput(Throughput::Elements(requests));
        group.bench_function(BenchmarkId::new("SET, a turn of", requests), |bencher| {
            bencher.iter(|| {
                for _ in 0..requests {
                    counter += 1;
                    set(&mut node, &key(counter));
                }
                commit(&mut node, &mut out);
            });
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("GET", |bencher| {
        let asker = Asker { to: TO, after: LogIndex(0), hash: None, options: Options::default() };
        let mut scratch = Vec::new();
        bencher.iter(|| {
            counter += 1;
            let key = key(counter);
            let outcome = node.read(&NOW, &asker, &Read::Get(&key), &mut scratch);
            assert!(matches!(outcome, Ok(ReadOutcome::Ready(_))));
        });
    });
}

fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch");
    for entries in [1, 64, 4096] {
        group.throughput(Throughput::Elements(entries));
        group.bench_function(BenchmarkId::new("push and seal", entries), |bencher| {
            let mut builder = BatchBuilder::new(LogIndex(1));
            let set = Command::new(Op::Set { key: b"key:000000000001", value: &VALUE });
            bencher.iter(|| {
                (0..entries).for_each(|_| {
                    builder.push(&set);
                });
                builder.seal(Term(1), LogTimeMs(1000), 0)
            });
        });
    }
    group.throughput(Throughput::Elements(64));
    group.bench_function(BenchmarkId::new("check, as recovery does", 64), |bencher| {
        let mut builder = BatchBuilder::new(LogIndex(1));
        let set = Command::new(Op::Set { key: b"key:000000000001", value: &VALUE });
        (0..64).for_each(|_| {
            builder.push(&set);
        });
        let batch = builder.seal(Term(1), LogTimeMs(1000), 0).expect("it has entries");
        let bytes = || batch.bytes().clone();
        bencher.iter_batched(
            bytes,
            |bytes| kvorum_protocol::batch::check(&bytes),
            BatchSize::SmallInput,
        );
    });
}
