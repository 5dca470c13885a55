//! The log on real files: direct and buffered, prepared in the background, looked at while it is
//! written, refused to a second process.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum::core::log::LogEnd;
use kvorum::core::{Record, ReplayError};
use kvorum::disk::{DiskError, FileDisk};
use kvorum::wal::{
    self, Identity, RecordView, Recovered, RecoverySink, WalConfig, WalError, Writer, footprint,
};
use kvorum_protocol::{
    BatchBuilder, Command, KeyList, Limits, LogIndex, LogTimeMs, Lsn, NodeId, Op, PairList,
    SessionSequence, Term,
};

#[derive(Default)]
struct Told {
    records: Vec<Lsn>,
    entries: u64,
    progress: u64,
}

impl RecoverySink for Told {
    fn record(
        &mut self,
        lsn: Lsn,
        _: LogIndex,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError> {
        self.records.push(lsn);
        if let RecordView::Batch { header, .. } = record {
            self.entries += u64::from(header.count);
        }
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {
        self.progress += 1;
    }
}

fn config() -> WalConfig {
    WalConfig {
        segment_bytes_min: 1 << 20,
        segment_bytes_max: 2 << 20,
        batch_bytes_max: 256 << 10,
        ..WalConfig::new(Identity::random(NodeId(1), None))
    }
}

fn open(directory: &Path, direct_io: bool) -> (Writer, Recovered, Told) {
    let mut told = Told::default();
    let disk = Arc::new(FileDisk::open(directory, direct_io).unwrap());
    let (writer, recovered) = wal::open(disk, config(), &mut told).unwrap();
    (writer, recovered, told)
}

/// One SET with a value of this length, behind `end`.
fn set(end: &mut LogEnd, value_bytes: usize) -> Record {
    let value = vec![b'v'; value_bytes];
    batch(end, &[Command::new(Op::Set { key: b"a key", value: &value })])
}

fn batch(end: &mut LogEnd, commands: &[Command<'_>]) -> Record {
    let mut builder = BatchBuilder::new(end.index.next());
    for command in commands {
        builder.push(command);
    }
    let batch = builder.seal(Term(1), LogTimeMs(end.time.0 + 1), end.crc).unwrap();
    let header = batch.header();
    let (index, crc) = (header.last_index(), header.crc);
    *end = LogEnd { index, term: header.term, crc, time: header.log_time };
    Record::Batch(batch)
}

fn vote() -> Record {
    Record::TermVote { term: Term(1), voted_for: Some(NodeId(1)) }
}

#[test]
fn what_was_synced_comes_back_from_files_written_directly_and_through_the_cache() {
    for direct_io in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let (mut writer, recovered, _) = open(temp.path(), direct_io);
        assert!(recovered.first_boot);
        writer.stage(Lsn(1), &vote());
        let mut end = LogEnd::default();
        let mut lsn = Lsn(1);
        for round in 0..60 {
            lsn = lsn.next();
            writer.stage(lsn, &set(&mut end, round * 4000));
            writer.write().unwrap();
            assert_eq!(writer.sync().unwrap(), lsn);
            writer.tend(Instant::now()).unwrap();
        }
        writer.close().unwrap();
        // Back with the other kind of I/O.
        let (writer, recovered, told) = open(temp.path(), !direct_io);
        assert_eq!(recovered.last_lsn, lsn);
        assert_eq!(recovered.state.end, end);
        assert!(recovered.cut.is_none() && !recovered.first_boot && recovered.segments > 3);
        assert_eq!(told.records, (1..=lsn.0).map(Lsn).collect::<Vec<_>>());
        assert!(told.progress > 3);
        drop(writer);
    }
}

#[test]
fn the_next_segment_is_ready_before_it_is_needed_and_old_ones_are_used_again() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(temp.path(), false);
    writer.stage(Lsn(1), &vote());
    let mut end = LogEnd::default();
    let mut lsn = Lsn(1);
    let deadline = Instant::now() + Duration::from_secs(30);
    for _ in 0..100 {
        lsn = lsn.next();
        writer.stage(lsn, &set(&mut end, 200_000));
        writer.write().unwrap();
        writer.sync().unwrap();
        writer.release(end.index);
        // Until nothing is in flight any more.
        while writer.tend(Instant::now()).unwrap().is_some_and(|at| {
            at.saturating_duration_since(Instant::now()) < Duration::from_millis(100)
        }) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(writer.room() >= footprint(256 << 10));
    }
    // 20 MB went through; what is left is the active segment, a spare, one to recycle.
    drop(writer);
    let segments = std::fs::read_dir(temp.path()).unwrap();
    let names: Vec<_> = segments.map(|entry| entry.unwrap().file_name()).collect();
    let count = names.iter().filter(|name| name.to_string_lossy().starts_with("segment-")).count();
    assert!(count <= 4, "{names:?}");
    let disk = Arc::new(FileDisk::open(temp.path(), false).unwrap());
    let config = WalConfig { snapshot_index: end.index, ..config() };
    let (_, recovered) = wal::open(disk, config, &mut Told::default()).unwrap();
    assert_eq!((recovered.last_lsn, recovered.state.end), (lsn, end));
    assert_eq!(recovered.state.term, Term(1), "though the vote's own segment is gone");
}

/// Whoever writes without a pause for the background work still uses what is there.
#[test]
fn a_segment_that_is_needed_at_once_is_made_of_an_old_one() {
    let temp = tempfile::tempdir().unwrap();
    let disk = Arc::new(FileDisk::open(temp.path(), false).unwrap());
    let config = WalConfig { segment_bytes_max: 1 << 20, ..config() };
    let (mut writer, _) = wal::open(disk, config, &mut Told::default()).unwrap();
    let mut end = LogEnd::default();
    writer.stage(Lsn(1), &vote());
    for lsn in 2..=50 {
        writer.stage(Lsn(lsn), &set(&mut end, 200_000));
        writer.write().unwrap();
        writer.release(end.index);
    }
    drop(writer);
    let names = std::fs::read_dir(temp.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let count = names.filter(|name| name.to_string_lossy().starts_with("segment-")).count();
    assert!(count <= 3, "{count} segments for 10 MB in segments of 1 MiB");
}

#[test]
fn a_second_process_and_another_node_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let (writer, _, _) = open(temp.path(), false);
    assert!(matches!(FileDisk::open(temp.path(), false), Err(DiskError::Locked { .. })));
    drop(writer);
    let other = WalConfig { identity: Identity::random(NodeId(9), None), ..config() };
    let disk = Arc::new(FileDisk::open(temp.path(), false).unwrap());
    let error = wal::open(disk, other, &mut Told::default()).err().unwrap();
    assert!(matches!(error, WalError::OtherNode { .. }), "{error}");
}

#[test]
fn a_dump_shows_every_record_of_a_log_in_use() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(temp.path(), false);
    let mut scratch = (Vec::new(), Vec::new());
    let limits = Limits::default();
    let pairs = [(&b"a"[..], &b"x y"[..]), (b"b", b"")];
    let pairs = PairList::encode(pairs.into_iter(), &limits, &mut scratch.0).unwrap();
    let keys = [&b"a"[..], b""];
    let keys = KeyList::encode(keys.into_iter(), &limits, &mut scratch.1).unwrap();
    let long = vec![b'l'; 100];
    let session = Some(SessionSequence { session: 255, sequence: 7 });
    let mut end = LogEnd::default();
    let commands = [
        Command::new(Op::Noop),
        Command { session, op: Op::Set { key: b"a key", value: b"two\nlines and \xff" } },
        Command::new(Op::Set { key: b"long", value: &long }),
        Command::new(Op::Delete { key: b"a key" }),
        Command::new(Op::SetMany(pairs)),
        Command::new(Op::DeleteMany(keys)),
        Command::new(Op::OpenSession { window: 8 }),
    ];
    writer.stage(Lsn(1), &vote());
    writer.stage(Lsn(2), &batch(&mut end, &commands));
    let keep = end;
    writer.write().unwrap();
    writer.sync().unwrap();
    writer.stage(Lsn(3), &batch(&mut end, &commands[..1]));
    writer.stage(Lsn(4), &Record::Truncate { end: keep });
    writer.write().unwrap();
    writer.mark().unwrap();
    let mut text = Vec::new();
    let summary = wal::dump(temp.path(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let expected = [
        "segment-0000000000000001.log bytes=1048576 cluster=",
        "lsn=1 offset=4096 TERM term=1 vote=1 commit=0\n",
        "lsn=2 offset=4176 BATCH term=1 index=1..7 time=1 bytes=",
        "\n  1 NOOP\n",
        "  2 SET a\\x20key two\\nlines and \\xff session=255 sequence=7\n",
        "lll...(+36)\n",
        "  4 DELETE a\\x20key\n",
        "  5 SET_MANY 2 a x\\x20y b \"\"\n",
        "  6 DELETE_MANY 2 a \"\"\n",
        "  7 OPEN_SESSION window=8\n",
        "lsn=3 offset=8192 BATCH term=1 index=8..8 ",
        "lsn=4 offset=8312 TRUNCATE index=8..8 last_term=1 last=7 crc=",
        "lsn=4 offset=12288 MARK synced=12288 commit=0\n",
        "segments=1 records=4 batches=2 entries=8 lsn=4 term=1 vote=1 last_term=1 last=7 commit=0 ",
    ];
    let mut rest = text.as_str();
    for part in expected {
        let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} comes in\n{text}"));
        rest = &rest[at + part.len()..];
    }
    assert_eq!((summary.records, summary.last_lsn, summary.last_index), (4, Lsn(4), LogIndex(7)));
    assert!(summary.tail.torn.is_none());
}

/// What is asked when two nodes disagree: who led and was voted for, which entries came from whom,
/// which were taken back, and what each knew to be decided.
#[test]
fn an_outline_tells_the_story_of_a_member_without_the_entries() {
    let temp = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(temp.path(), false);
    let mut end = LogEnd::default();
    let term = |term, voted_for| Record::TermVote { term: Term(term), voted_for };
    let mut records = vec![term(1, Some(NodeId(2)))];
    records.push(set(&mut end, 10));
    let keep = end;
    records.extend([set(&mut end, 10), set(&mut end, 10), term(2, None)]);
    end = keep;
    records.push(Record::Truncate { end });
    records.push(term(2, Some(NodeId(3))));
    records.push(set(&mut end, 10));
    for (lsn, record) in (1..).map(Lsn).zip(&records) {
        writer.stage(lsn, record);
    }
    writer.set_commit(LogIndex(2));
    writer.close().unwrap();
    let mut text = Vec::new();
    wal::outline(temp.path(), &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    let expected = format!(
        "TERM term=1 vote=2 commit=0
BATCH term=1 index=1..1 time=1 bytes=71 prev=00000000 crc={:08x} commit=0
BATCH term=1 index=2..2 time=2
BATCH term=1 index=3..3 time=3
TERM term=2 vote=none commit=0
TRUNCATE index=2..3 last_term=1 last=1 crc={:08x} commit=0
TERM term=2 vote=3 commit=0
BATCH term=1 index=2..2 time=2
MARK synced=8192 commit=2
",
        keep.crc, keep.crc
    );
    let lines: Vec<&str> = text.lines().collect();
    let [segment, records @ .., summary] = &lines[..] else { panic!("{text}") };
    assert!(segment.ends_with("lsn=1 term=0 vote=none last_term=0 last=0 commit=0"), "{text}");
    assert_eq!(records.len(), expected.lines().count(), "{text}");
    for (line, expected) in records.iter().zip(expected.lines()) {
        let words = line.splitn(3, ' ').nth(2).unwrap();
        assert!(words.starts_with(expected), "{expected}\n{text}");
    }
    assert!(summary.contains(" lsn=8 term=2 vote=3 last_term=1 last=2 commit=2 "), "{text}");
}

#[test]
fn verify_tells_a_torn_tail_from_damage() {
    use std::os::unix::fs::FileExt;
    let temp = tempfile::tempdir().unwrap();
    let (mut writer, _, _) = open(temp.path(), false);
    let mut end = LogEnd::default();
    writer.stage(Lsn(1), &vote());
    for lsn in 2..5 {
        writer.stage(Lsn(lsn), &set(&mut end, 100));
        writer.write().unwrap();
        writer.sync().unwrap();
    }
    drop(writer);
    let path = temp.path().join("segment-0000000000000001.log");
    let file = std::fs::File::options().write(true).open(path).unwrap();
    let flip = |offset: u64| file.write_all_at(&[0xee], offset).unwrap();
    // In the last group: nothing behind it says that it was ever durable.
    flip(12288 + 150);
    let mut text = Vec::new();
    let summary = wal::verify(temp.path(), &mut text).unwrap();
    assert_eq!((summary.last_lsn, summary.tail.offset), (Lsn(3), 12288));
    assert!(summary.tail.torn.is_some());
    assert!(String::from_utf8(text).unwrap().contains("torn (the record body's checksum"));
    // In the first one.
    flip(4096 + 150);
    let error = wal::verify(temp.path(), &mut Vec::new()).err().unwrap();
    assert!(matches!(error, WalError::Corrupt { offset: 4176, .. }), "{error}");
    let mut text = Vec::new();
    assert!(wal::dump(temp.path(), &mut text).is_err());
    assert!(text.starts_with(b"segment-"), "what stands before the damage is shown");
}

#[test]
fn a_log_can_be_verified_at_any_moment_while_it_is_written() {
    let temp = tempfile::tempdir().unwrap();
    let (writer, _, _) = open(temp.path(), false);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                wal::verify(temp.path(), &mut Vec::new()).unwrap();
                looks += 1;
            }
            looks
        });
        // As in the server, the log belongs to a thread of its own.
        let mut writer = writer;
        let write = move || {
            let mut end = LogEnd::default();
            writer.stage(Lsn(1), &vote());
            for lsn in 2..400 {
                writer.stage(Lsn(lsn), &set(&mut end, 20_000));
                writer.write().unwrap();
                writer.sync().unwrap();
                writer.tend(Instant::now()).unwrap();
            }
        };
        let written = scope.spawn(write).join();
        done.store(true, std::sync::atomic::Ordering::Release);
        written.unwrap();
        assert!(looks.join().unwrap() > 0);
    });
}
