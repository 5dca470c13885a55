//! A snapshot of many keys and of as many sessions as there may be: how long its slices hold a turn
//! up, how fast it is written, and how long a start takes that loads it, from the page cache and
//! from the disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hdrhistogram::Histogram;

use kvorum::core::log::LogEnd;
use kvorum::core::outcome::{Applied, Outcome};
use kvorum::core::sessions::Sessions;
use kvorum::core::state::State;
use kvorum::core::{SessionBounds, SnapshotHead};
use kvorum::disk::FileDisk;
use kvorum::snapshot::{self, SnapshotInfo, SnapshotWriter};
use kvorum_protocol::limits::{SESSION_SLOTS_MAX, SESSIONS_MAX};
use kvorum_protocol::{ClusterId, LogIndex, LogTimeMs, MemberList, NodeId, SessionSequence, Term};
use rustix::fs::{Advice, fadvise};

use super::grow::histogram;
use super::{VALUE, numbered};

const CLUSTER: ClusterId = ClusterId(1);

/// Those of the server.
const SLICE_BUCKETS: usize = 512;
const SLICE_BYTES: usize = 128 << 10;
const SLICE_SESSIONS: usize = 256;

/// All windows are as large as they may be together, and full.
const WINDOW: u64 = (SESSION_SLOTS_MAX / SESSIONS_MAX) as u64;

/// Takes a snapshot of `keys` keys of 16 bytes with values of 100, loads it, and prints what that
/// took.
pub fn run(keys: u64) {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let disk = FileDisk::open(directory.path(), false).expect("it is empty");
    let disk = Arc::new(disk);
    println!("{keys} keys of 16 + 100 bytes");
    let info = write(keys, &disk);
    for threads in [1, std::thread::available_parallelism().map_or(1, usize::from)] {
        load(&disk, &info, threads, "the page cache");
        forget(&info.path);
        load(&disk, &info, threads, "the disk");
    }
}

/// Lets the page cache forget a file that is synced.
fn forget(path: &Path) {
    let file = File::open(path).expect("the file is there");
    fadvise(&file, 0, None, Advice::DontNeed).expect("it is a plain file");
}

fn write(keys: u64, disk: &Arc<FileDisk>) -> SnapshotInfo {
    let mut state = State::new(1, SessionBounds::default());
    for number in 0..keys {
        state.store.set(LogIndex(number + 1), &numbered(number), &VALUE);
    }
    let index = fill(&mut state.sessions);
    let end =
        LogEnd { index: index.max(LogIndex(keys)), term: Term(1), crc: 1, time: LogTimeMs(1) };
    let head = SnapshotHead {
        end,
        members: MemberList::lone(NodeId(1), "127.0.0.1:6381").expect("a good address"),
        members_index: LogIndex(0),
        terms: vec![(LogIndex(1), Term(1))],
        hash_seed: state.store.hash_seed(),
        state_hash: state.hash(),
        keys,
    };
    let (mut slices, mut session_slices) = (histogram(), histogram());
    let start = Instant::now();
    let mut writer =
        SnapshotWriter::create(disk.clone(), CLUSTER, &head).expect("the disk takes it");
    state.sessions.begin_walk(end.index);
    state.store.begin_walk(end.index);
    let mut body = Vec::with_capacity(2 * SLICE_BYTES);
    loop {
        body.clear();
        let slice = timed(&mut session_slices, || {
            state.sessions.walk(SLICE_SESSIONS, SLICE_BYTES, &mut body)
        });
        writer.sessions(slice.sessions, &body).expect("the disk takes it");
        if slice.is_last {
            break;
        }
    }
    loop {
        body.clear();
        let slice = timed(&mut slices, || state.store.walk(SLICE_BUCKETS, SLICE_BYTES, &mut body));
        let written = writer.items(slice.first_shard, slice.last_shard, slice.items, &body);
        written.expect("the disk takes it");
        if slice.is_last {
            break;
        }
    }
    let info = writer.finish().expect("the disk takes it");
    let seconds = start.elapsed().as_secs_f64();
    print_slices("keys", &slices);
    print_slices("sessions", &session_slices);
    println!("  written   {} bytes in {seconds:.2} s, at once and durably", info.bytes);
    info
}

/// Opens all sessions and fills their windows; answers the last index that it took.
fn fill(sessions: &mut Sessions) -> LogIndex {
    let window = u32::try_from(WINDOW).expect("a small one");
    let count = SESSIONS_MAX as u64;
    (1..=count).for_each(|id| sessions.open(LogIndex(id), LogTimeMs(1), window));
    let mut index = LogIndex(count);
    for sequence in 1..=WINDOW {
        for session in 1..=count {
            index = index.next();
            let name = SessionSequence { session, sequence };
            let known = sessions.outcome_of(name, index, LogTimeMs(1)).expect("it is there");
            known.note(Outcome { version: index, applied: Applied::Written });
        }
    }
    index
}

fn timed<T>(slices: &mut Histogram<u64>, slice: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = slice();
    slices.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    result
}

fn print_slices(of: &str, slices: &Histogram<u64>) {
    let at = |quantile| slices.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "  a slice of the {of}   p50 {:.0}  p99 {:.0}  max {:.0} us; all {:.2} s",
        at(0.5),
        at(0.99),
        at(1.0),
        slices.mean() * slices.len() as f64 / 1e9,
    );
}

fn load(disk: &FileDisk, info: &SnapshotInfo, threads: usize, from: &str) {
    let start = Instant::now();
    let loaded = snapshot::load(disk, info, Some(CLUSTER), threads, SessionBounds::default());
    let (head, state) = loaded.expect("it is sound");
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(state.store.len() as u64, head.keys);
    println!("  loaded    {seconds:.2} s on {threads} threads, from {from}");
}
