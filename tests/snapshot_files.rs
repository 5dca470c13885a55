//! Snapshot files: loaded by any number of threads as they were written, refused when a single
//! byte differs, named by `kvorum snapshot verify`.

#[path = "support/memory_disk.rs"]
mod memory_disk;
#[path = "support/snapshot_workload.rs"]
mod snapshot_workload;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use kvorum::disk::{Disk as _, FileDisk};
use kvorum::snapshot::{self, Chunk, Fault, Reader, SnapshotError, SnapshotInfo, SnapshotWriter};
use kvorum::wal;
use kvorum_protocol::{ClusterId, LogIndex};
use memory_disk::{Failure, Loss, MemoryDisk, Operation};
use snapshot_workload::{CLUSTER, Living, encoded_sessions, load};

/// A snapshot of a few blocks with a chunk of every kind.
fn small() -> (MemoryDisk, SnapshotInfo) {
    let disk = MemoryDisk::new();
    let info = Living::new(30, 40).write_snapshot(disk.handle(), 200).unwrap();
    (disk, info)
}

fn name_of(info: &SnapshotInfo) -> String {
    snapshot::snapshot_name(info.index)
}

#[test]
fn a_snapshot_is_the_state_of_its_cut_for_any_number_of_threads_and_slices() {
    for (keys, value_bytes, slice_bytes) in
        [(0, 0, 1), (1, 10, 1), (2000, 100, 999), (9000, 1500, 40_000), (300, 200_000, 1 << 20)]
    {
        let disk = MemoryDisk::new();
        let mut living = Living::new(keys, value_bytes);
        let (head, expected) = (living.head(), living.contents());
        let info = living.write_snapshot(disk.handle(), slice_bytes).unwrap();
        assert_eq!(snapshot::list(&disk).unwrap(), std::slice::from_ref(&info));
        assert!(keys < 2 || living.contents() != expected, "it has gone on meanwhile");
        for threads in [1, 2, 3, 16] {
            let (found_head, found) = load(&disk, &info, threads).unwrap();
            assert_eq!(found_head, head);
            assert!(found == expected, "{keys} keys, {threads} threads");
        }
        let summary = snapshot::verify(&disk, &name_of(&info), Some(CLUSTER)).unwrap();
        assert_eq!((summary.index, summary.bytes), (head.end.index, info.bytes));
        assert_eq!((summary.keys, summary.sessions), (head.keys, 3));
    }
}

#[test]
fn a_reader_hands_out_what_makes_the_same_snapshot_again() {
    let (disk, info) = small();
    let name = name_of(&info);
    let mut reader = Reader::open(&disk, &name, None).unwrap();
    let other = MemoryDisk::new();
    let head = reader.head().clone();
    let mut writer = SnapshotWriter::create(other.handle(), reader.cluster(), &head).unwrap();
    let mut kinds = [0; 3];
    while let Some(chunk) = reader.next_chunk().unwrap() {
        match chunk {
            Chunk::Sessions { count, body } => {
                kinds[0] += 1;
                writer.sessions(count, body).unwrap();
            }
            Chunk::Items { first_shard, last_shard, count, body } => {
                kinds[1] += 1;
                writer.items(first_shard, last_shard, count, body).unwrap();
            }
            Chunk::Strays { count, body } => {
                kinds[2] += 1;
                writer.strays(count, body).unwrap();
            }
        }
    }
    assert_eq!((kinds, reader.offset()), ([1, 1, 1], info.bytes));
    writer.finish().unwrap();
    assert_eq!(other.contents(&name), disk.contents(&name));
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let (disk, info) = small();
    let name = name_of(&info);
    let good = disk.contents(&name);
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        disk.tamper(&name, bytes);
        let verified = snapshot::verify(&disk, &name, Some(CLUSTER)).map(|_| ());
        let loaded = load(&disk, &info, 2).map(|_| ());
        let [Err(verified), Err(loaded)] = [verified, loaded] else { panic!("byte {at}") };
        let (verified, loaded) = (verified.to_string(), loaded.to_string());
        assert!(verified.contains(&name) && !verified.contains('\n'), "{verified}");
        let is_body = loaded.contains("checksum") || loaded.contains("no snapshot");
        assert!(is_body || loaded == verified, "{loaded}; {verified}");
    }
}

#[test]
fn a_file_that_ends_early_or_goes_on_is_refused() {
    let (disk, info) = small();
    let name = name_of(&info);
    let good = disk.contents(&name);
    for length in (0..good.len()).step_by(100) {
        disk.tamper(&name, good[..length].to_vec());
        assert!(snapshot::verify(&disk, &name, None).is_err(), "{length} bytes");
        assert!(load(&disk, &info, 1).is_err(), "{length} bytes");
    }
    for more in [1, 4096] {
        disk.tamper(&name, [&good[..], &vec![0; more]].concat());
        let error = load(&disk, &info, 1).unwrap_err();
        let is_told = matches!(error, SnapshotError::Corrupt { fault: Fault::TrailingBytes, .. });
        assert!(is_told, "{error}");
    }
}

/// Whole blocks that are sound by themselves, but not there.
#[test]
fn chunks_that_moved_or_belong_to_another_snapshot_are_refused() {
    let (disk, info) = small();
    let name = name_of(&info);
    let good = disk.contents(&name);
    let other_disk = MemoryDisk::new();
    let other = Living::new(31, 40).write_snapshot(other_disk.handle(), 200).unwrap();
    let other = other_disk.contents(&name_of(&other));
    let blocks: Vec<&[u8]> = good.chunks(4096).collect();
    assert!(blocks.len() >= 5);
    let refused = |blocks: &[&[u8]]| {
        disk.tamper(&name, blocks.concat());
        assert!(snapshot::verify(&disk, &name, None).is_err());
        assert!(load(&disk, &info, 1).is_err());
    };
    for at in 0..blocks.len() {
        let mut without = blocks.clone();
        without.remove(at);
        refused(&without);
        let mut foreign = blocks.clone();
        foreign[at] = &other[at * 4096..][..4096];
        refused(&foreign);
        for with in 0..at {
            let mut swapped = blocks.clone();
            swapped.swap(at, with);
            refused(&swapped);
        }
    }
}

#[test]
fn a_key_or_a_session_that_is_there_twice_is_refused() {
    let mut living = Living::new(5, 10);
    let mut head = living.head();
    head.keys = 10;
    let mut items = Vec::new();
    living.state.store.begin_walk(head.end.index);
    let slice = living.state.store.walk(usize::MAX, usize::MAX, &mut items);
    let (count, sessions) = encoded_sessions(&living.state);
    let fault = |times: u32| {
        let disk = MemoryDisk::new();
        let mut writer = SnapshotWriter::create(disk.handle(), CLUSTER, &head).unwrap();
        for _ in 0..times {
            writer.sessions(count, &sessions).unwrap();
        }
        writer.items(slice.first_shard, slice.last_shard, slice.items, &items).unwrap();
        writer.strays(slice.items, &items).unwrap();
        let info = writer.finish().unwrap();
        match load(&disk, &info, 2) {
            Err(SnapshotError::Corrupt { fault, chunk, .. }) => (fault, chunk),
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    assert_eq!(fault(1), (Fault::Twice, 3));
    assert_eq!(fault(2), (Fault::Twice, 1));
}

#[test]
fn what_is_not_the_state_of_the_cut_is_refused() {
    let mut living = Living::new(5, 10);
    let mut head = living.head();
    let mut items = Vec::new();
    living.state.store.begin_walk(head.end.index);
    let slice = living.state.store.walk(usize::MAX, usize::MAX, &mut items);
    let (count, sessions) = encoded_sessions(&living.state);
    let write = |head: &_, shards: (u16, u16)| {
        let disk = MemoryDisk::new();
        let mut writer = SnapshotWriter::create(disk.handle(), CLUSTER, head).unwrap();
        writer.sessions(count, &sessions).unwrap();
        writer.items(shards.0, shards.1, slice.items, &items).unwrap();
        let info = writer.finish().unwrap();
        let name = name_of(&info);
        [load(&disk, &info, 2).map(|_| ()), snapshot::verify(&disk, &name, None).map(|_| ())]
    };
    let faults = |results: [Result<(), SnapshotError>; 2]| {
        results.map(|result| match result {
            Err(SnapshotError::Corrupt { fault, .. }) => fault,
            other => panic!("{other:?}"),
        })
    };
    write(&head, (0, 4095)).into_iter().for_each(Result::unwrap);
    assert_eq!(faults(write(&head, (4094, 4095))), [Fault::ForeignItem; 2]);
    head.keys += 1;
    assert_eq!(faults(write(&head, (0, 4095))), [Fault::Count("keys"); 2]);
    head.keys -= 1;
    head.state_hash ^= 1;
    assert_eq!(faults(write(&head, (0, 4095))), [Fault::StateHash; 2]);
    head.end.index = LogIndex(head.end.index.0 - 1);
    assert_eq!(faults(write(&head, (0, 4095))), [Fault::TooNew; 2]);
}

#[test]
fn other_versions_clusters_and_indexes_are_named() {
    let (disk, info) = small();
    let name = name_of(&info);
    let other = snapshot::verify(&disk, &name, Some(ClusterId(9))).unwrap_err().to_string();
    assert!(other.contains("00000000000000c1") && other.contains("0000000000000009"), "{other}");
    let bytes = disk.contents(&name);
    let renamed = SnapshotInfo { index: LogIndex(2), ..info };
    disk.tamper(&name_of(&renamed), bytes.clone());
    let error = load(&disk, &renamed, 1).unwrap_err();
    assert!(matches!(error, SnapshotError::OtherIndex { .. }), "{error}");
    // A first chunk of version 2, with all its checksums.
    let mut bytes = bytes;
    let body_bytes = u32::from_le_bytes(*bytes[16..].first_chunk().unwrap()) as usize;
    bytes[32] = 2;
    let body_crc = crc32fast::hash(&bytes[32..32 + body_bytes]);
    bytes[12..16].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32fast::hash(&bytes[8..32]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    disk.tamper(&name, bytes);
    let error = snapshot::verify(&disk, &name, None).unwrap_err();
    assert!(matches!(error, SnapshotError::Version { found: 2, .. }), "{error}");
}

#[test]
fn strays_larger_than_a_chunk_are_divided() {
    let disk = MemoryDisk::new();
    let mut living = Living::new(12, 0);
    (0..12).for_each(|key| living.set(key, 8 << 20));
    let (head, expected) = (living.head(), living.contents());
    living.state.store.begin_walk(head.end.index);
    (0..12).for_each(|key| living.delete(key));
    let mut writer = SnapshotWriter::create(disk.handle(), CLUSTER, &head).unwrap();
    let (sessions_count, sessions) = encoded_sessions(&living.state);
    writer.sessions(sessions_count, &sessions).unwrap();
    let (mut count, mut strays) = (0, Vec::new());
    while let Some((items, bytes)) = living.state.store.take_strays() {
        count += items;
        strays.extend_from_slice(&bytes);
    }
    writer.strays(count, &strays).unwrap();
    let info = writer.finish().unwrap();
    assert!(load(&disk, &info, 2).unwrap().1 == expected);
}

/// Whether a name is durable is not known when the sync of the directory fails.
#[test]
fn a_snapshot_whose_name_may_not_be_durable_is_none() {
    for fails in [Failure::Io, Failure::Full] {
        let disk = MemoryDisk::new();
        let mut living = Living::new(30, 40);
        let older = living.write_snapshot(disk.handle(), 200).unwrap();
        disk.fail_next(Operation::SyncDirectory, 0, fails);
        living.write_snapshot(disk.handle(), 200).unwrap_err();
        assert_eq!(snapshot::list(&disk).unwrap(), std::slice::from_ref(&older));
        // The next one finds nothing in its way.
        let newer = living.write_snapshot(disk.handle(), 200).unwrap();
        assert_eq!(snapshot::list(&disk).unwrap(), [newer, older]);
    }
}

/// A crash between the name and the sync of the directory leaves a snapshot that the next power cut
/// may take away: whoever starts from it has made sure before.
#[test]
fn a_snapshot_that_is_there_at_the_start_stays() {
    let disk = MemoryDisk::new();
    let mut living = Living::new(30, 40);
    let info = living.write_snapshot(disk.handle(), 200).unwrap();
    let (name, moved) = (name_of(&info), "elsewhere");
    disk.rename(&name, moved).unwrap();
    disk.sync_dir().unwrap();
    disk.rename(moved, &name).unwrap();
    snapshot::remove_strays(&disk).unwrap();
    let after = disk.after_power_cut(Loss::All, 1);
    assert_eq!(snapshot::list(&after).unwrap(), [info]);
}

#[test]
fn snapshots_on_real_files_are_listed_loaded_and_none_of_the_log_s_business() {
    for direct_io in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let disk = Arc::new(FileDisk::open(temp.path(), direct_io).unwrap());
        let mut living = Living::new(5000, 700);
        let expected = living.contents();
        let older = living.write_snapshot(disk.clone(), 30_000).unwrap();
        let newer = living.write_snapshot(disk.clone(), 30_000).unwrap();
        for stray in ["snapshot.tmp", "install.tmp", "snapshot-1.kv"] {
            disk.write_file(stray, b"left over").unwrap();
        }
        assert_eq!(snapshot::list(&*disk).unwrap(), [newer, older.clone()]);
        assert_eq!(older.path.metadata().unwrap().len(), older.bytes);
        assert!(load(&*disk, &older, 2).unwrap().1 == expected);
        snapshot::remove_strays(&*disk).unwrap();
        let identity = wal::Identity::random(kvorum_protocol::NodeId(1), None);
        let mut recovery = kvorum::core::Recovery::new(1);
        wal::open(disk.clone(), wal::WalConfig::new(identity), &mut recovery).unwrap();
        let mut left = disk.list().unwrap();
        left.sort();
        assert!(left.iter().any(|name| *name == name_of(&older)), "{left:?}");
        assert!(!left.iter().any(|name| name.ends_with(".tmp")), "{left:?}");
        snapshot::remove(&*disk, &older).unwrap();
        assert_eq!(snapshot::list(&*disk).unwrap().len(), 1);
    }
}

fn verify_command(file: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvorum"));
    command.args(["snapshot", "verify"]).arg(file).output().unwrap()
}

#[test]
fn the_command_says_what_a_snapshot_is_or_what_is_wrong_with_it() {
    let temp = tempfile::tempdir().unwrap();
    let (disk, info) = small();
    let good = disk.contents(&name_of(&info));
    let file = temp.path().join("a backup");
    std::fs::write(&file, &good).unwrap();
    let link = temp.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link] {
        let output = verify_command(path);
        assert!(output.status.success(), "{output:?}");
        let line = format!(
            "index={} term=3 keys=30 sessions=3 bytes={} cluster=00000000000000c1\n",
            info.index, info.bytes
        );
        assert_eq!(String::from_utf8(output.stdout).unwrap(), line);
    }
    let refused = |path: &Path, expected: &str| {
        let output = verify_command(path);
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.lines().count() == 1 && said.contains(expected), "{said}");
        assert!(said.contains(path.to_str().unwrap()), "{said}");
    };
    let with = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        file.as_path()
    };
    refused(with(&good[..good.len() / 2]), "ends too early");
    let mut changed = good.clone();
    changed[5000] ^= 1;
    refused(with(&changed), "corrupt at offset 4096");
    refused(with(b""), "no snapshot");
    refused(with(b"#!/bin/sh\necho this is a script\n"), "no snapshot");
    refused(with(&[7; 10_000]), "no snapshot");
    refused(temp.path(), "no snapshot");
    refused(&temp.path().join("nothing"), "check the path");
}
