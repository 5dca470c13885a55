//! Files of format version 1 that an earlier program has written are read as what they were. They
//! stand in `fixtures/format1`: a snapshot, the directory of a log, and that of one that was
//! repaired.
//!
//! Run with `KVORUM_WRITE_FIXTURES=DIRECTORY`, this writes such files into a directory, for a new
//! version of a format. Those of version 1 never change.

#[path = "support/memory_disk.rs"]
mod memory_disk;
#[path = "support/snapshot_workload.rs"]
mod snapshot_workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use kvorum::core::log::{EntryId, LogEnd};
use kvorum::core::{Record, ReplayError};
use kvorum::disk::{BLOCK_BYTES, Disk, FileDisk};
use kvorum::snapshot;
use kvorum::wal::{self, Identity, LogState, RecordView, RecoverySink, WalConfig};
use kvorum_protocol::{
    BatchBuilder, ClusterId, Command, KeyList, Limits, LogIndex, LogTimeMs, Lsn, Member,
    MemberList, NodeId, Op, PairList, Role, SessionSequence, Term, batch,
};
use memory_disk::{Loss, MemoryDisk};
use snapshot_workload::{CLUSTER, Living, load};

fn format1() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format1")
}

/// A copy that a program may write to, as it does when it opens a log.
fn copy_of(directory: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

// A snapshot

fn living() -> Living {
    Living::new(25, 60)
}

#[test]
fn a_snapshot_of_version_1_is_read() {
    check_snapshot(&format1().join("snapshot"));
}

fn check_snapshot(directory: &Path) {
    let directory = copy_of(directory);
    let disk = FileDisk::open(directory.path(), false).unwrap();
    let infos = snapshot::list(&disk).unwrap();
    let [info] = &infos[..] else { panic!("{infos:?}") };
    let mut written = living();
    let (head, contents) = load(&disk, info, 2).unwrap();
    assert_eq!(head, written.head());
    assert_eq!(contents, written.contents());
    let name = snapshot::snapshot_name(info.index);
    let summary = snapshot::verify(&disk, &name, Some(CLUSTER)).unwrap();
    assert_eq!((summary.keys, summary.sessions, summary.term), (25, 3, Term(3)));
}

// A log

fn log_config() -> WalConfig {
    let identity = Identity { cluster: ClusterId(0xc1), node: NodeId(2), incarnation: 0x1c };
    WalConfig {
        segment_bytes_min: 16 << 10,
        segment_bytes_max: 16 << 10,
        batch_bytes_max: 4 << 10,
        reserve_bytes: 4 << 10,
        prepare_in_background: false,
        ..WalConfig::new(identity)
    }
}

fn members() -> MemberList {
    let member = |text, role| Member::parse(text, role).unwrap();
    MemberList::new(vec![
        member("1=127.0.0.1:6381/127.0.0.1:7381", Role::Voter),
        member("2=[::1]:6382/node-2.lan:7382", Role::Voter),
        member("9=127.0.0.1:6389/127.0.0.1:7389", Role::Learner),
    ])
    .unwrap()
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fact {
    TermVote(Term, Option<NodeId>),
    /// A batch of this term: its first index, and its commands.
    Batch(Term, LogIndex, Vec<Vec<u8>>),
    Truncate(LogEnd),
    Install(LogEnd),
    Repair(LogState),
}

/// The commands of three batches: one of each kind.
fn commands() -> [Vec<Vec<u8>>; 3] {
    let mut list = Vec::new();
    members().encode(&mut list);
    let (mut pairs, mut keys) = (Vec::new(), Vec::new());
    let some = [(&b"a"[..], &b"1"[..]), (b"b", b""), (b"", b"3")];
    let pairs = PairList::encode(some.into_iter(), &Limits::MAX, &mut pairs).unwrap();
    let some = [&b"a"[..], b"none"];
    let keys = KeyList::encode(some.into_iter(), &Limits::MAX, &mut keys).unwrap();
    let session = Some(SessionSequence { session: 3, sequence: 2 });
    let plain = |op| encoded(&Command::new(op));
    [
        vec![plain(Op::Membership(&list))],
        vec![plain(Op::Noop), plain(Op::OpenSession { window: 64 })],
        vec![
            plain(Op::Set { key: b"key", value: &[7; 1500] }),
            encoded(&Command { session, op: Op::Set { key: b"once", value: b"v" } }),
            plain(Op::Delete { key: b"key" }),
            plain(Op::SetMany(pairs)),
            plain(Op::DeleteMany(keys)),
        ],
    ]
}

fn encoded(command: &Command<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    command.encode(&mut bytes);
    bytes
}

/// Where the second batch ends, and where a snapshot of another node does.
const SECOND_END: LogEnd =
    LogEnd { index: LogIndex(3), term: Term(1), crc: 0x1aec_b6d1, time: LogTimeMs(2000) };
const INSTALLED: LogEnd =
    LogEnd { index: LogIndex(70), term: Term(3), crc: 0xfeed_0001, time: LogTimeMs(9000) };

/// The records of the log.
fn facts() -> Vec<Fact> {
    let [members, opening, changes] = commands();
    vec![
        Fact::TermVote(Term(1), None),
        Fact::TermVote(Term(1), Some(NodeId(1))),
        Fact::Batch(Term(1), LogIndex(1), members),
        Fact::Batch(Term(1), LogIndex(2), opening),
        Fact::Batch(Term(1), LogIndex(4), changes.clone()),
        Fact::TermVote(Term(2), None),
        Fact::Truncate(SECOND_END),
        Fact::Batch(Term(2), LogIndex(4), changes.clone()),
        Fact::TermVote(Term(3), Some(NodeId(2))),
        Fact::Install(INSTALLED),
        Fact::Batch(Term(3), LogIndex(71), changes),
    ]
}

#[derive(Default)]
struct Told(Vec<Fact>);

impl RecoverySink for Told {
    fn record(&mut self, _: Lsn, _: LogIndex, record: &RecordView<'_>) -> Result<(), ReplayError> {
        self.0.push(match record {
            RecordView::Batch { header, bytes } => {
                let entries = batch::entries(header.first_index, bytes);
                let commands = entries.map(|(_, command)| encoded(&command)).collect();
                Fact::Batch(header.term, header.first_index, commands)
            }
            RecordView::TermVote { term, voted_for } => Fact::TermVote(*term, *voted_for),
            RecordView::Truncate { end } => Fact::Truncate(*end),
            RecordView::Install { end } => Fact::Install(*end),
            RecordView::Repair { state } => Fact::Repair(*state),
            RecordView::State { .. } | RecordView::Mark => panic!("marks are not told"),
        });
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {}
}

#[test]
fn a_log_of_version_1_is_read() {
    check_log(&format1().join("log"));
}

fn check_log(directory: &Path) {
    let directory = copy_of(directory);
    let disk = Arc::new(FileDisk::open(directory.path(), false).unwrap());
    let mut told = Told::default();
    let (_, recovered) = wal::open(disk, log_config(), &mut told).unwrap();
    assert_eq!(told.0, facts());
    assert!(recovered.cut.is_none());
    assert_eq!(recovered.identity, log_config().identity);
    assert_eq!(recovered.state.end.index, LogIndex(75));
    assert_eq!((recovered.commit, recovered.last_lsn), (LogIndex(70), Lsn(11)));
}

/// Writes the records of the log, each in a group of its own.
fn write_log(disk: &MemoryDisk) {
    let (mut writer, _) = wal::open(disk.handle(), log_config(), &mut Told::default()).unwrap();
    let mut end = LogEnd::default();
    for (lsn, fact) in (1..).map(Lsn).zip(facts()) {
        let record = match fact {
            Fact::TermVote(term, voted_for) => Record::TermVote { term, voted_for },
            Fact::Batch(term, first, commands) => {
                let mut builder = BatchBuilder::new(first);
                for command in &commands {
                    builder.push(&Command::decode(command).unwrap());
                }
                let time = LogTimeMs(end.time.0 + 1000);
                let batch = builder.seal(term, time, end.crc).unwrap();
                end = LogEnd::of(batch.header());
                Record::Batch(batch)
            }
            Fact::Truncate(back) => {
                assert!(back.index < end.index);
                end = back;
                Record::Truncate { end }
            }
            Fact::Install(installed) => {
                end = installed;
                Record::Install { end }
            }
            Fact::Repair(_) => unreachable!("this log was never damaged"),
        };
        writer.stage(lsn, &record);
        if let Record::Install { end } = record {
            writer.set_commit(end.index);
        }
        writer.write().unwrap();
        writer.sync().unwrap();
        writer.tend(Instant::now()).unwrap();
    }
    writer.close().unwrap();
}

// A log that was repaired

#[test]
fn a_repaired_log_of_version_1_is_read() {
    check_repaired(&format1().join("repaired"));
}

/// Its second segment was damaged, at its first record.
fn check_repaired(directory: &Path) {
    let directory = copy_of(directory);
    let disk = Arc::new(FileDisk::open(directory.path(), false).unwrap());
    let mut told = Told::default();
    let (_, recovered) = wal::open(disk, log_config(), &mut told).unwrap();
    let Some(Fact::Repair(state)) = told.0.pop() else { panic!("{:?}", told.0) };
    assert!(!told.0.is_empty() && facts().starts_with(&told.0));
    let LogState { term, voted_for, former_end, .. } = state;
    assert_eq!((term, voted_for), (Term(3), Some(NodeId(2))));
    assert_eq!(former_end, EntryId { term: Term(3), index: LogIndex(75) });
    assert_eq!(recovered.state, state);
}

fn repair_log(disk: &MemoryDisk) {
    let name = "segment-0000000000000002.log";
    let mut bytes = disk.contents(name);
    bytes[BLOCK_BYTES] ^= 1;
    disk.tamper(name, bytes);
    let none = LogIndex(0);
    let repair = wal::diagnose(&*disk.handle(), none, none).unwrap().expect("there is damage");
    repair.order(&*disk.handle()).unwrap();
    let (writer, _) = wal::open(disk.handle(), log_config(), &mut ()).unwrap();
    writer.close().unwrap();
}

#[test]
fn what_this_version_writes_is_read_as_well() {
    let temp = tempfile::tempdir().unwrap();
    let asked = std::env::var_os("KVORUM_WRITE_FIXTURES").map(PathBuf::from);
    let target = asked.unwrap_or_else(|| temp.path().to_owned());
    let (snapshot, log) = (MemoryDisk::new(), MemoryDisk::new());
    living().write_snapshot(snapshot.handle(), 300).unwrap();
    write_log(&log);
    let repaired = log.after_power_cut(Loss::Nothing, 0);
    repair_log(&repaired);
    for (name, disk) in [("snapshot", snapshot), ("log", log), ("repaired", repaired)] {
        let directory = target.join(name);
        fs::create_dir_all(&directory).unwrap();
        for file in disk.list().unwrap() {
            fs::write(directory.join(&file), disk.contents(&file)).unwrap();
        }
    }
    check_snapshot(&target.join("snapshot"));
    check_log(&target.join("log"));
    check_repaired(&target.join("repaired"));
}
