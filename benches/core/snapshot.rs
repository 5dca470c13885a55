//! A snapshot of many keys: how long its slices hold a turn up, how fast it is written, and how
//! long a start takes that loads it.

use std::sync::Arc;
use std::time::Instant;

use kvorum::core::log::LogEnd;
use kvorum::core::state::State;
use kvorum::core::{SessionBounds, SnapshotHead};
use kvorum::disk::FileDisk;
use kvorum::snapshot::{self, SnapshotInfo, SnapshotWriter};
use kvorum_protocol::{ClusterId, LogIndex, LogTimeMs, MemberList, NodeId, Term};

use super::grow::histogram;
use super::{VALUE, numbered};

const CLUSTER: ClusterId = ClusterId(1);

/// Those of the server.
const SLICE_BUCKETS: usize = 512;
const SLICE_BYTES: usize = 128 << 10;

/// Takes a snapshot of `keys` keys of 16 bytes with values of 100, loads it, and prints what that
/// took.
pub fn run(keys: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = FileDisk::open(directory.path(), false).expect("it is empty");
    let disk = Arc::new(disk);
    println!("{keys} keys of 16 + 100 bytes");
    let info = write(keys, &disk);
    for threads in [1, std::thread::available_parallelism().map_or(1, usize::from)] {
        load(&disk, &info, threads);
    }
}

fn write(keys: u64, disk: &Arc<FileDisk>) -> SnapshotInfo {
    let mut state = State::new(1, SessionBounds::default());
    for number in 0..keys {
        state.store.set(LogIndex(number + 1), &numbered(number), &VALUE);
    }
    let end = LogEnd { index: LogIndex(keys), term: Term(1), crc: 1, time: LogTimeMs(1) };
    let head = SnapshotHead {
        end,
        members: MemberList::lone(NodeId(1), "127.0.0.1:6381").expect("a good address"),
        members_index: LogIndex(0),
        terms: vec![(LogIndex(1), Term(1))],
        hash_seed: state.store.hash_seed(),
        state_hash: state.hash(),
        keys,
    };
    let mut slices = histogram();
    let start = Instant::now();
    let mut writer =
        SnapshotWriter::create(disk.clone(), CLUSTER, &head).expect("the disk takes it");
    state.store.begin_walk(end.index);
    let mut body = Vec::with_capacity(2 * SLICE_BYTES);
    loop {
        body.clear();
        let slice_start = Instant::now();
        let slice = state.store.walk(SLICE_BUCKETS, SLICE_BYTES, &mut body);
        let nanos = slice_start.elapsed().as_nanos();
        slices.saturating_record(u64::try_from(nanos).unwrap_or(u64::MAX));
        let written = writer.items(slice.first_shard, slice.last_shard, slice.items, &body);
        written.expect("the disk takes it");
        if slice.is_last {
            break;
        }
    }
    let info = writer.finish().expect("the disk takes it");
    let seconds = start.elapsed().as_secs_f64();
    let at = |quantile| slices.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "  a slice   p50 {:.0}  p99 {:.0}  max {:.0} us; all {:.2} s",
        at(0.5),
        at(0.99),
        at(1.0),
        slices.mean() * slices.len() as f64 / 1e9,
    );
    println!("  written   {} bytes in {seconds:.2} s, at once and durably", info.bytes);
    info
}

fn load(disk: &FileDisk, info: &SnapshotInfo, threads: usize) {
    let start = Instant::now();
    let loaded = snapshot::load(disk, info, Some(CLUSTER), threads, SessionBounds::default());
    let (head, state) = loaded.expect("it is sound");
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(state.store.len() as u64, head.keys);
    println!("  loaded    {seconds:.2} s on {threads} threads");
}
