//! Entries are read back from a log in use: through truncations and rewrites, from segment to
//! segment, in jumps, beside the thread that writes.

#[path = "support/memory_disk.rs"]
mod memory_disk;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use kvorum::core::log::LogEnd;
use kvorum::core::{Fetch, Record, Recovery};
use kvorum::disk::{Disk, FileDisk};
use kvorum::wal::{self, Fault, Fetcher, Identity, WalConfig, WalError, Writer};
use kvorum_protocol::{
    Batch, BatchBuilder, ClusterId, Command, LogIndex, LogTimeMs, Lsn, NodeId, Op, Term,
};
use memory_disk::MemoryDisk;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Small segments, so that there are many.
fn config() -> WalConfig {
    let identity = Identity { cluster: ClusterId(0xc1), node: NodeId(1), incarnation: 0x1c };
    WalConfig {
        segment_bytes_min: 16 << 10,
        segment_bytes_max: 64 << 10,
        batch_bytes_max: 16 << 10,
        reserve_bytes: 4 << 10,
        prepare_in_background: false,
        ..WalConfig::new(identity)
    }
}

/// A log, and beside it what is valid in it.
struct Log {
    writer: Writer,
    lsn: Lsn,
    term: Term,
    batches: Vec<Batch>,
    counter: u64,
}

impl Log {
    fn open(disk: Arc<dyn Disk>, config: WalConfig) -> Log {
        let (writer, _) = wal::open(disk, config, &mut Recovery::new(1)).unwrap();
        let mut log = Log { writer, lsn: Lsn(0), term: Term(0), batches: Vec::new(), counter: 0 };
        log.enter_term();
        log
    }

    fn on(disk: &MemoryDisk) -> Log {
        Log::open(disk.handle(), config())
    }

    fn stage(&mut self, record: &Record) {
        self.lsn = self.lsn.next();
        self.writer.stage(self.lsn, record);
    }

    fn enter_term(&mut self) {
        self.term = Term(self.term.0 + 1);
        self.stage(&Record::TermVote { term: self.term, voted_for: Some(NodeId(1)) });
    }

    fn end(&self) -> LogEnd {
        self.batches.last().map(|batch| LogEnd::of(batch.header())).unwrap_or_default()
    }

    /// A batch of so many entries, the first with a value of this length.
    fn batch(&mut self, entries: usize, value_bytes: usize) {
        let end = self.end();
        let mut builder = BatchBuilder::new(end.index.next());
        let value = vec![b'v'; value_bytes];
        builder.push(&Command::new(Op::Set { key: b"key", value: &value }));
        for _ in 1..entries {
            self.counter += 1;
            let value = self.counter.to_le_bytes();
            builder.push(&Command::new(Op::Set { key: b"key", value: &value }));
        }
        let time = LogTimeMs(end.time.0 + 1);
        let batch = builder.seal(self.term, time, end.crc).unwrap();
        self.again(batch);
    }

    /// A batch that was made before, perhaps in the log before.
    fn again(&mut self, batch: Batch) {
        self.stage(&Record::Batch(batch.clone()));
        self.batches.push(batch);
    }

    /// Takes back the last batches.
    fn truncate(&mut self, count: usize) -> Vec<Batch> {
        let cut = self.batches.split_off(self.batches.len() - count);
        let end = self.end();
        self.stage(&Record::Truncate { end });
        cut
    }

    fn sync(&mut self) {
        self.writer.write().unwrap();
        self.writer.sync().unwrap();
        self.writer.tend(Instant::now()).unwrap();
    }
}

/// Asks for what is in `batches`, which are valid and begin with index 1.
fn fetch(batches: &[Batch], member: u16, from: u64, end: u64, bytes_max: usize) -> Fetch {
    let mut terms: Vec<(LogIndex, Term)> = Vec::new();
    for header in batches.iter().map(Batch::header) {
        if terms.last().is_none_or(|(_, term)| *term != header.term) {
            terms.push((header.first_index, header.term));
        }
    }
    let before = terms.partition_point(|(first, _)| first.0 <= from).saturating_sub(1);
    let terms = terms.split_off(before);
    let (member, from, end) = (NodeId(member), LogIndex(from), LogIndex(end));
    Fetch { member, from, end, bytes_max, terms }
}

/// What the answer has to be.
fn expected<'b>(batches: &'b [Batch], fetch: &Fetch) -> &'b [Batch] {
    let first = batches.partition_point(|batch| batch.header().last_index() < fetch.from);
    let mut bytes = 0;
    let wanted = batches[first..].iter().enumerate().take_while(|(number, batch)| {
        bytes += batch.bytes().len();
        batch.header().last_index() < fetch.end && (*number == 0 || bytes <= fetch.bytes_max)
    });
    &batches[first..first + wanted.count()]
}

#[track_caller]
fn check(fetcher: &mut Fetcher, batches: &[Batch], fetch: &Fetch) -> u64 {
    let found = fetcher.fetch(fetch).unwrap_or_else(|error| panic!("{fetch:?}: {error}"));
    assert_eq!(found, expected(batches, fetch), "{fetch:?}");
    found.last().map_or(fetch.from.0, |batch| batch.header().last_index().0 + 1)
}

#[test]
fn every_valid_batch_is_found_and_no_leftover_in_random_histories() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = MemoryDisk::new();
        let mut log = Log::on(&disk);
        let mut fetcher = Fetcher::new(disk.handle());
        let mut followers = [1, 1, 1];
        for _ in 0..300 {
            match rng.random_range(0..20) {
                0 => log.enter_term(),
                1..=2 if !log.batches.is_empty() => {
                    let count = rng.random_range(1..=log.batches.len().min(12));
                    let cut = log.truncate(count);
                    log.enter_term();
                    // What a leader had cut off may come back from another one that kept it,
                    // with something else in between.
                    if rng.random_bool(0.5) {
                        if rng.random_bool(0.5) {
                            log.batch(1, 10);
                            log.truncate(1);
                            log.enter_term();
                        }
                        let back = rng.random_range(0..=cut.len());
                        cut.into_iter().take(back).for_each(|batch| log.again(batch));
                    }
                    // Nothing that was cut off was ever fetched: it was not committed.
                    let next = log.end().index.0 + 1;
                    followers.iter_mut().for_each(|follower| *follower = next.min(*follower));
                }
                _ => log.batch(rng.random_range(1..5), rng.random_range(0..3000)),
            }
            if rng.random_bool(0.6) {
                log.sync();
            }
            if log.writer.durable() < log.writer.staged() {
                continue;
            }
            let next = log.end().index.0 + 1;
            let bytes_max = rng.random_range(0..20_000);
            for (number, follower) in (2..).zip(&mut followers) {
                if rng.random_bool(0.3) && *follower < next {
                    let fetch = fetch(&log.batches, number, *follower, next, bytes_max);
                    *follower = check(&mut fetcher, &log.batches, &fetch);
                }
            }
            // One that jumps, and does not always ask for all there is.
            let from = rng.random_range(1..=next);
            let end = rng.random_range(from..=next);
            check(&mut fetcher, &log.batches, &fetch(&log.batches, 9, from, end, bytes_max));
        }
    }
}

#[test]
fn a_batch_that_comes_back_after_a_truncation_is_found() {
    let disk = MemoryDisk::new();
    let mut log = Log::on(&disk);
    log.batch(2, 10);
    log.batch(2, 10);
    let cut = log.truncate(1);
    log.enter_term();
    log.batch(1, 10);
    log.truncate(1);
    log.again(cut[0].clone());
    log.batch(1, 10);
    log.sync();
    let mut fetcher = Fetcher::new(disk.handle());
    for from in 1..=5 {
        let next = check(&mut fetcher, &log.batches, &fetch(&log.batches, 2, from, 6, 1 << 20));
        assert_eq!(next, 6);
    }
}

#[test]
fn the_answer_keeps_to_its_limits() {
    let disk = MemoryDisk::new();
    let mut log = Log::on(&disk);
    for _ in 0..4 {
        log.batch(3, 10_000);
    }
    log.sync();
    let mut fetcher = Fetcher::new(disk.handle());
    let mut count = |from, end, bytes_max| {
        let fetch = fetch(&log.batches, 2, from, end, bytes_max);
        check(&mut fetcher, &log.batches, &fetch);
        expected(&log.batches, &fetch).len()
    };
    assert_eq!(count(2, 13, 0), 1, "at least one");
    assert_eq!(count(1, 13, 25_000), 2);
    assert_eq!(count(4, 13, 1 << 20), 3);
    assert_eq!(count(4, 12, 1 << 20), 2, "the last batch holds an entry that is not wanted");
    assert_eq!(count(5, 6, 1 << 20), 0, "so does the first one");
    assert_eq!(count(7, 7, 1 << 20), 0);
}

#[test]
fn a_member_that_lags_reads_each_segment_about_once() {
    let disk = MemoryDisk::new();
    let big = WalConfig {
        segment_bytes_min: 1 << 20,
        segment_bytes_max: 1 << 20,
        batch_bytes_max: 64 << 10,
        ..config()
    };
    let mut log = Log::open(disk.handle(), big);
    for _ in 0..1000 {
        log.batch(20, 4000);
        log.sync();
    }
    let log_bytes = log.batches.iter().map(|batch| wal::footprint(batch.bytes().len())).sum();
    let mut fetcher = Fetcher::new(disk.handle());
    let end = log.end().index.0 + 1;
    let (mut next, mut fetches) = (1, 0);
    let before: u64 = disk.read_bytes();
    while next < end {
        let fetch = fetch(&log.batches, 2, next, end, 256 << 10);
        next = check(&mut fetcher, &log.batches, &fetch);
        fetches += 1;
    }
    let read: u64 = disk.read_bytes() - before;
    assert!(fetches > 10 && read > log_bytes, "{fetches} fetches");
    assert!(read < 3 * log_bytes, "{read} bytes of a log of {log_bytes} in {fetches} fetches");
}

#[test]
fn what_was_given_up_is_missed_by_name_and_what_is_left_is_found() {
    let disk = MemoryDisk::new();
    let mut log = Log::on(&disk);
    let mut fetcher = Fetcher::new(disk.handle());
    let mut released = LogIndex(0);
    for round in 0..120 {
        log.batch(2, 3000);
        log.sync();
        let next = log.end().index.0 + 1;
        if round == 60 {
            // A member that will find its place gone.
            check(&mut fetcher, &log.batches, &fetch(&log.batches, 7, 1, 20, 1000));
        }
        if round % 20 == 19 && round > 60 {
            released = LogIndex(next / 2);
            log.writer.set_commit(released);
            log.writer.release(released);
            log.writer.tend(Instant::now()).unwrap();
        }
        let from = next - 1;
        check(&mut fetcher, &log.batches, &fetch(&log.batches, 2, from, next, 1 << 20));
        let from = released.0 + 1;
        check(&mut fetcher, &log.batches, &fetch(&log.batches, 3, from, next, 1 << 20));
    }
    let next = log.end().index.0 + 1;
    let error = fetcher.fetch(&fetch(&log.batches, 4, 1, next, 1000)).unwrap_err();
    assert!(matches!(error, WalError::Missing { .. }), "{error}");
    // A cursor in a file that is gone, or another segment by now.
    let error = fetcher.fetch(&fetch(&log.batches, 7, 3, next, 1000)).unwrap_err();
    assert!(matches!(error, WalError::Io { .. } | WalError::Corrupt { .. }), "{error}");
    check(&mut fetcher, &log.batches, &fetch(&log.batches, 7, next - 1, next, 1000));
}

#[test]
fn damage_is_named_and_what_stands_before_it_is_served() {
    const NAME: &str = "segment-0000000000000001.log";
    let disk = MemoryDisk::new();
    let mut log = Log::on(&disk);
    for _ in 0..30 {
        log.batch(1, 3000);
        log.sync();
    }
    let all = fetch(&log.batches, 2, 1, log.end().index.0 + 1, 1 << 20);
    let sound = disk.contents(NAME);
    // The vote and the first batch are at 4096, the second batch at 8192.
    let (mut header, mut body) = (sound.clone(), sound.clone());
    header[8192] ^= 1;
    body[8192 + 500] ^= 1;
    for (bytes, fault) in [
        (body, Fault::BodyChecksum),
        (header, Fault::RecordsMissing { next_segment_starts: Lsn(0) }),
    ] {
        disk.tamper(NAME, bytes);
        let mut fetcher = Fetcher::new(disk.handle());
        assert_eq!(fetcher.fetch(&all).unwrap(), &log.batches[..1]);
        let rest = Fetch { from: LogIndex(2), ..all.clone() };
        for _ in 0..2 {
            let error = fetcher.fetch(&rest).unwrap_err();
            let WalError::Corrupt { path, offset, lsn, index, fault: found } = error else {
                panic!("{error}")
            };
            assert_eq!((path, offset, lsn, index), (disk.path(NAME), 8192, Lsn(3), LogIndex(2)));
            assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&fault));
        }
    }
    disk.tamper(NAME, sound);
    disk.make_unreadable(NAME);
    let mut fetcher = Fetcher::new(disk.handle());
    let error = fetcher.fetch(&all).unwrap_err();
    assert!(matches!(error, WalError::Io { action: "read", .. }), "{error}");
}

#[test]
fn what_is_not_there_yet_is_an_error_and_found_when_it_is() {
    let disk = MemoryDisk::new();
    let mut log = Log::on(&disk);
    let mut fetcher = Fetcher::new(disk.handle());
    for round in 0..40 {
        log.batch(1, 4000);
        let fetch = fetch(&log.batches, 2, round + 1, round + 2, 1000);
        let error = fetcher.fetch(&fetch).unwrap_err();
        assert!(matches!(error, WalError::Corrupt { index, .. } if index.0 == round + 1));
        log.sync();
        check(&mut fetcher, &log.batches, &fetch);
    }
}

fn follow_beside_a_writer(directory: &Path, direct_io: bool) {
    const ROUNDS: u64 = 1500;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(directory, direct_io).unwrap());
    let config = WalConfig {
        segment_bytes_min: 1 << 20,
        segment_bytes_max: 1 << 20,
        batch_bytes_max: 64 << 10,
        prepare_in_background: true,
        ..config()
    };
    let mut log = Log::open(Arc::clone(&disk), config);
    let valid = Arc::new(Mutex::new(Vec::new()));
    let durable = Arc::new(AtomicU64::new(0));
    let (writes_valid, writes_durable) = (Arc::clone(&valid), Arc::clone(&durable));
    let writing = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            log.batch(3, usize::try_from(round * 37 % 9000).unwrap());
            if round % 50 == 49 {
                log.sync();
                log.truncate(1);
                log.enter_term();
                log.batch(1, 100);
            }
            log.writer.write().unwrap();
            if round % 4 == 0 {
                log.sync();
                writes_valid.lock().unwrap().clone_from(&log.batches);
                writes_durable.store(log.end().index.0, Ordering::Release);
            }
        }
        log.sync();
        writes_valid.lock().unwrap().clone_from(&log.batches);
        writes_durable.store(u64::MAX, Ordering::Release);
    });
    let mut fetcher = Fetcher::new(disk);
    let (mut next, mut answers) = (1, 0);
    loop {
        let is_all = durable.load(Ordering::Acquire) == u64::MAX;
        let batches = valid.lock().unwrap().clone();
        let end = batches.last().map_or(1, |batch: &Batch| batch.header().last_index().0 + 1);
        // As the core: the last ones are still in memory, and may be taken back.
        let end = if is_all { end } else { end.saturating_sub(8).max(next) };
        let first = batches.partition_point(|batch| batch.header().last_index().0 < end);
        let end = batches[..first].last().map_or(end, |batch| batch.header().last_index().0 + 1);
        if next < end {
            next = check(&mut fetcher, &batches, &fetch(&batches, 2, next, end, 20_000));
            answers += 1;
        }
        if is_all && next >= end {
            break;
        }
    }
    writing.join().unwrap();
    assert!(answers > 10, "{answers} answers");
}

#[test]
fn a_follower_keeps_up_beside_the_writer_of_files() {
    for direct_io in [true, false] {
        let temp = tempfile::tempdir().unwrap();
        follow_beside_a_writer(temp.path(), direct_io);
    }
}
