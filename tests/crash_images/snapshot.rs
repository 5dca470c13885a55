//! Snapshots, written and received: a power cut at every operation, with every kind of loss; every
//! operation that fails; a full disk.

use kvorum::core::SessionBounds;
use kvorum::disk::Disk as _;
use kvorum::snapshot::{self, Arrivals, Incoming, SnapshotError, SnapshotInfo};
use kvorum_protocol::peer::SnapshotChunk;
use kvorum_protocol::{LogIndex, Term};

use crate::memory_disk::{Failure, Loss, MemoryDisk, Operation};
use crate::snapshot_workload::{CLUSTER, Contents, Living, load};

/// How a new snapshot comes to be.
type Making = fn(&MemoryDisk) -> Result<SnapshotInfo, SnapshotError>;

const MAKINGS: [(Making, &str); 2] = [(write, "snapshot.tmp"), (receive, "install.tmp")];

fn newer() -> Living {
    let mut living = Living::new(60, 400);
    (10..20).for_each(|key| living.set(key, 9));
    living
}

fn write(disk: &MemoryDisk) -> Result<SnapshotInfo, SnapshotError> {
    newer().write_snapshot(disk.handle(), 2000)
}

fn receive(disk: &MemoryDisk) -> Result<SnapshotInfo, SnapshotError> {
    let sender = MemoryDisk::new();
    let sent = write(&sender).unwrap();
    let bytes = sender.contents(&snapshot::snapshot_name(sent.index));
    let mut incoming = Incoming::create(disk.handle(), sent.index)?;
    for piece in bytes.chunks(5000) {
        incoming.write(incoming.offset(), piece)?;
    }
    incoming.finish(Some(CLUSTER))
}

/// A disk with a snapshot, durable, and what that holds.
fn with_older() -> (MemoryDisk, SnapshotInfo, Contents) {
    let disk = MemoryDisk::new();
    let mut living = Living::new(40, 300);
    let contents = living.contents();
    let info = living.write_snapshot(disk.handle(), 1000).unwrap();
    (disk, info, contents)
}

/// What the next process finds must be usable: the older snapshot as it was, the newer one whole
/// or not at all. Says whether the newer one is there.
fn check(disk: &MemoryDisk, older: &SnapshotInfo, contents: &Contents) -> bool {
    snapshot::remove_strays(disk).unwrap();
    let names = disk.list().unwrap();
    assert!(names.iter().all(|name| name.starts_with("snapshot-")), "{names:?}");
    let mut found = snapshot::list(disk).unwrap();
    assert_eq!(found.pop().as_ref(), Some(older));
    assert!(load(disk, older, 1).unwrap().1 == *contents);
    let Some(newer_info) = found.pop() else { return false };
    assert!(found.is_empty());
    assert!(load(disk, &newer_info, 2).unwrap().1 == newer().contents());
    true
}

fn operations(making: Making) -> u64 {
    let (disk, ..) = with_older();
    disk.crash_at(u64::MAX);
    making(&disk).unwrap();
    disk.operations()
}

#[test]
fn a_power_cut_at_any_operation_leaves_the_older_snapshot_and_the_newer_one_whole_or_not_at_all() {
    let (mut with, mut without) = (0, 0);
    for (making, _) in MAKINGS {
        let operations = operations(making);
        assert!(operations >= 5, "{operations}");
        for at in 1..=operations {
            let (disk, older, contents) = with_older();
            disk.crash_at(at);
            assert!(making(&disk).is_err(), "operation {at} was reached");
            for loss in Loss::EACH {
                for seed in 0..6 {
                    println!("power cut at operation {at}, loss {loss:?}, seed {seed}");
                    let found = disk.after_power_cut(loss, at * 10 + seed);
                    if check(&found, &older, &contents) {
                        with += 1
                    } else {
                        without += 1
                    }
                    making(&found).unwrap();
                    assert!(check(&found, &older, &contents));
                }
            }
        }
        // It was durable when it was told.
        let (disk, older, contents) = with_older();
        making(&disk).unwrap();
        assert!(check(&disk.after_power_cut(Loss::All, 0), &older, &contents));
    }
    assert!(with > 0 && without > 0, "{with} and {without}");
}

#[test]
fn an_operation_that_fails_is_told_and_leaves_nothing_behind() {
    for (making, name) in MAKINGS {
        for how in [Failure::Io, Failure::Full, Failure::Short, Failure::Descriptors] {
            for at in 1..=operations(making) {
                println!("operation {at} fails: {how:?}");
                let (disk, older, contents) = with_older();
                disk.fail_at(at, how);
                let error = making(&disk).unwrap_err();
                assert!(matches!(error, SnapshotError::Io { .. }), "{error}");
                assert!(error.to_string().contains(name), "{error}");
                disk.heal();
                assert!(!disk.list().unwrap().iter().any(|left| left == name));
                check(&disk, &older, &contents);
            }
        }
    }
}

#[test]
fn a_full_disk_in_the_middle_is_named() {
    let (disk, older, contents) = with_older();
    disk.fail_next(Operation::Write, 2, Failure::Full);
    let error = write(&disk).unwrap_err().to_string();
    assert!(error.contains("free disk space") && error.contains("snapshot.tmp"), "{error}");
    assert!(!check(&disk, &older, &contents));
}

#[test]
fn what_is_received_in_part_or_changed_never_gets_a_name() {
    let sender = MemoryDisk::new();
    let sent = write(&sender).unwrap();
    let bytes = sender.contents(&snapshot::snapshot_name(sent.index));
    let receive = |index: LogIndex, bytes: &[u8]| {
        let (disk, older, contents) = with_older();
        let mut incoming = Incoming::create(disk.handle(), index).unwrap();
        let gap = incoming.write(1, b"x").unwrap_err();
        assert!(matches!(gap, SnapshotError::Gap { found: 1, expected: 0, .. }), "{gap}");
        incoming.write(0, bytes).unwrap();
        let received = incoming.finish(Some(CLUSTER));
        assert_eq!(check(&disk, &older, &contents), received.is_ok());
        received
    };
    // Behind the last chunk's body are zeros to the end of the block: those may be left out.
    for length in (0..bytes.len() - 4000).step_by(1000) {
        assert!(receive(sent.index, &bytes[..length]).is_err(), "{length} bytes");
    }
    for at in (0..bytes.len()).step_by(997) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(receive(sent.index, &changed).is_err(), "byte {at}");
    }
    let other = receive(sent.index.next(), &bytes).unwrap_err();
    assert!(matches!(other, SnapshotError::OtherIndex { .. }), "{other}");
    receive(sent.index, &bytes).unwrap();
}

#[test]
fn dropping_what_is_not_finished_removes_it() {
    let (disk, older, contents) = with_older();
    let mut incoming = Incoming::create(disk.handle(), LogIndex(7)).unwrap();
    incoming.write(0, &[1; 3 << 20]).unwrap();
    assert_eq!(incoming.offset(), 3 << 20);
    drop(incoming);
    assert!(!check(&disk, &older, &contents));
}

/// A file that can not be loaded when it has got its name is known to nobody, and goes; then it can
/// come again.
#[test]
fn what_arrives_and_is_not_loaded_does_not_stay() {
    let sender = MemoryDisk::new();
    let sent = write(&sender).unwrap();
    let name = snapshot::snapshot_name(sent.index);
    let bytes = sender.contents(&name);
    let whole = SnapshotChunk {
        term: Term(1),
        index: sent.index,
        index_term: Term(1),
        total_bytes: sent.bytes,
        file: 1,
        offset: 0,
        bytes: bytes.into(),
    };
    let disk = MemoryDisk::new();
    let mut arrivals = Arrivals::new(disk.handle());
    assert_eq!(arrivals.take(&whole).unwrap(), Some(sent.bytes));
    disk.make_unreadable(&name);
    assert!(arrivals.finish(CLUSTER, 1, SessionBounds::default()).is_err());
    assert!(disk.list().unwrap().is_empty());

    disk.make_unreadable("another");
    assert_eq!(arrivals.take(&whole).unwrap(), Some(sent.bytes));
    let (info, _) = arrivals.finish(CLUSTER, 1, SessionBounds::default()).unwrap();
    assert_eq!(snapshot::list(&disk).unwrap(), [info]);
}
