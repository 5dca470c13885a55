//! The disk in memory does to a log what it says: the other tests rely on it.

use std::io;

use kvorum::disk::{AlignedBuffer, Disk, DiskFile};
use kvorum::wal::WalError;

use crate::log_workload::{Journal, Running, check_recovers};
use crate::memory_disk::{Failure, Loss, MemoryDisk, Operation};

const BLOCKS: usize = 4;

/// A durable file of zeros, open.
fn file(disk: &MemoryDisk) -> Box<dyn DiskFile> {
    let file = disk.create_zeroed("file", BLOCKS as u64 * 4096).unwrap();
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    file
}

fn write(file: &dyn DiskFile, block: usize, byte: u8) -> io::Result<()> {
    let mut bytes = AlignedBuffer::new();
    bytes.extend_from_slice(&[byte; 4096]);
    file.write_at(block as u64 * 4096, bytes.as_slice())
}

/// The byte that each sector is full of.
fn sectors(disk: &MemoryDisk) -> Vec<u8> {
    let contents = disk.contents("file");
    let sectors = contents.chunks(512);
    sectors
        .map(|sector| {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "a sector is never torn");
            sector[0]
        })
        .collect()
}

/// What is left of four blocks that were written in order, for many seeds.
fn left(loss: Loss) -> Vec<Vec<u8>> {
    let disk = MemoryDisk::new();
    let file = file(&disk);
    for (block, byte) in (0..BLOCKS).zip(1..) {
        write(&*file, block, byte).unwrap();
    }
    let images = (0..100).map(|seed| sectors(&disk.after_power_cut(loss, seed)));
    let images: Vec<Vec<u8>> = images.collect();
    let again = (0..100).map(|seed| sectors(&disk.after_power_cut(loss, seed)));
    assert!(again.eq(images.iter().cloned()), "a seed says it all");
    images
}

#[test]
fn each_kind_of_loss_leaves_what_it_says_and_all_of_it() {
    // How many sectors are left of each block.
    let counts = |image: &Vec<u8>| -> Vec<usize> {
        let blocks = image.chunks(8);
        blocks.map(|block| block.iter().filter(|byte| **byte != 0).count()).collect()
    };
    assert!(left(Loss::All).iter().all(|image| counts(image) == [0; BLOCKS]));
    assert!(left(Loss::Nothing).iter().all(|image| counts(image) == [8; BLOCKS]));
    let some: Vec<_> = left(Loss::Some).iter().map(counts).collect();
    assert!(some.iter().flatten().all(|count| [0, 8].contains(count)));
    assert!(some.contains(&vec![0, 8, 0, 8]) && some.contains(&vec![8, 0, 0, 8]));
    let torn: Vec<_> = left(Loss::Torn).iter().map(counts).collect();
    assert!(torn.iter().filter(|counts| counts.iter().all(|n| (1..8).contains(n))).count() > 80);
    let tails: Vec<_> = left(Loss::Tail).iter().map(counts).collect();
    for counts in &tails {
        let torn = counts.iter().position(|count| *count < 8).unwrap_or(BLOCKS);
        assert!(counts.iter().skip(torn + 1).all(|count| *count == 0), "{counts:?}");
    }
    for last in 0..BLOCKS {
        let ends_there = |counts: &&Vec<usize>| {
            (1..8).contains(&counts[last]) && counts[..last].iter().all(|count| *count == 8)
        };
        assert!(tails.iter().any(|counts| ends_there(&counts)), "torn in block {last}");
    }
}

#[test]
fn a_sync_that_takes_time_covers_what_was_written_before_it_began() {
    let disk = MemoryDisk::new();
    let file = file(&disk);
    write(&*file, 0, 1).unwrap();
    disk.begin_syncs();
    write(&*file, 1, 2).unwrap();
    file.sync().unwrap();
    let durable = |disk: &MemoryDisk| sectors(&disk.after_power_cut(Loss::All, 0));
    assert_eq!(durable(&disk)[..16], [[1; 8], [0; 8]].concat());
    assert_eq!(sectors(&disk)[..16], [[1; 8], [2; 8]].concat(), "and all of it is read");
    disk.end_syncs();
    assert_eq!(durable(&disk)[..16], [[1; 8], [0; 8]].concat(), "it is still pending");
    file.sync().unwrap();
    assert_eq!(durable(&disk)[..16], [[1; 8], [2; 8]].concat());
}

#[test]
fn a_failed_sync_that_takes_time_loses_what_it_would_have_covered_and_no_more() {
    let disk = MemoryDisk::new();
    let file = file(&disk);
    write(&*file, 0, 1).unwrap();
    disk.begin_syncs();
    write(&*file, 1, 2).unwrap();
    disk.fail_next(Operation::Sync, 0, Failure::Io);
    assert!(file.sync().is_err());
    disk.end_syncs();
    file.sync().unwrap();
    let durable = sectors(&disk.after_power_cut(Loss::Nothing, 0));
    assert_eq!(durable[..16], [[0; 8], [2; 8]].concat(), "the pages were called clean");
}

#[test]
fn a_trap_catches_the_operation_it_is_set_for_once() {
    let disk = MemoryDisk::new();
    let file = file(&disk);
    disk.fail_next(Operation::Write, 2, Failure::Full);
    disk.fail_next(Operation::Sync, 1, Failure::Io);
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let written = write(&*file, 0, 1);
        outcomes.push((written.map_err(|error| error.kind()), file.sync().is_ok()));
    }
    let full = Err(io::ErrorKind::StorageFull);
    assert_eq!(outcomes, [(Ok(()), true), (Ok(()), false), (full, true), (Ok(()), true)]);
    disk.fail_next(Operation::Name, 0, Failure::Io);
    disk.fail_next(Operation::SyncDirectory, 0, Failure::Io);
    assert!(disk.rename("file", "other").is_err() && disk.sync_dir().is_err());
    disk.rename("file", "other").unwrap();
    disk.fail_next(Operation::Write, 0, Failure::Io);
    disk.heal();
    write(&*file, 0, 1).unwrap();
}

#[test]
fn a_corrupt_sector_is_read_by_everyone_until_it_is_written_again() {
    let disk = MemoryDisk::new();
    let file = file(&disk);
    let reading = disk.open_to_read("file").unwrap();
    disk.corrupt_sector("file", 4096 + 600, 7);
    let mut block = AlignedBuffer::new();
    block.extend_zeros(4096);
    reading.read_at(4096, block.as_mut_slice()).unwrap();
    let is_damaged = |bytes: &[u8]| {
        let zeros = bytes.chunks(512).map(|sector| sector.iter().all(|byte| *byte == 0));
        assert!(zeros.eq((0..bytes.len() / 512).map(|number| number != 1)));
    };
    is_damaged(block.as_slice());
    is_damaged(&disk.after_power_cut(Loss::All, 0).contents("file")[4096..]);
    write(&*file, 1, 0).unwrap();
    file.sync().unwrap();
    assert_eq!(sectors(&disk), [0; 8 * BLOCKS]);
}

/// The writer can not do so by itself: it writes nothing while it syncs. Who drives it with syncs
/// that take time could.
#[test]
fn who_counts_on_a_sync_for_what_was_written_during_it_is_found_out() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    log.vote(&mut journal);
    log.sync(&mut journal).unwrap();
    let before = journal.clone();
    log.batch(&mut journal, 100);
    log.writer.write().unwrap();
    disk.begin_syncs();
    log.batch(&mut journal, 100);
    log.writer.write().unwrap();
    log.writer.sync().unwrap();
    let written = log.writer.durable();
    drop(log);
    let found = disk.after_power_cut(Loss::All, 0);
    let mut after = journal.clone();
    let recovered = Running::open(&found, &mut after).unwrap().recovered;
    assert_eq!(recovered.last_lsn.0, before.durable.0 + 1, "the first of the two batches");
    assert!(recovered.last_lsn < written, "a crash shows who counted on too much");
}

#[test]
fn a_failed_write_or_sync_of_the_log_stops_it_for_good_and_loses_nothing() {
    for operation in [Operation::Write, Operation::Sync] {
        for how in [Failure::Io, Failure::Full, Failure::Short] {
            for after in 0..3 {
                let disk = MemoryDisk::new();
                let mut journal = Journal::default();
                let mut log = Running::open(&disk, &mut journal).unwrap();
                log.vote(&mut journal);
                disk.fail_next(operation, after, how);
                let failed = (0..20).find_map(|_| {
                    log.batch(&mut journal, 100);
                    log.sync(&mut journal).err()
                });
                assert!(matches!(failed, Some(WalError::Io { .. })), "{failed:?}");
                assert!(matches!(log.writer.sync(), Err(WalError::Stopped)));
                drop(log);
                check_recovers(&disk, &journal, |disk| disk.after_power_cut(Loss::All, 0));
            }
        }
    }
}
