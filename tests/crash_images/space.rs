//! A full disk: known before it hurts, and over when there is space again.

use std::time::{Duration, Instant};

use kvorum::core::NextSegment;
use kvorum::wal::{WalConfig, WalError, footprint};

use crate::log_workload::{Journal, Running, config};
use crate::memory_disk::{Failure, Loss, MemoryDisk};

const VALUE_BYTES: usize = 3000;

/// More than a batch with such a value takes.
const BATCH_FOOTPRINT: u64 = 4096;

#[test]
fn a_full_disk_is_told_before_anything_is_lost_and_ends_when_there_is_space() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    disk.set_space(Some(100 << 10));
    let mut now = Instant::now();
    log.vote(&mut journal);
    log.sync(&mut journal).unwrap();
    let mut batches = 0;
    loop {
        log.writer.tend(now).unwrap();
        if log.writer.room() < BATCH_FOOTPRINT {
            break;
        }
        // All that is promised at once: it must fit.
        for _ in 0..log.writer.room() / BATCH_FOOTPRINT {
            log.batch(&mut journal, VALUE_BYTES);
            batches += 1;
        }
        log.sync(&mut journal).unwrap();
    }
    assert_eq!(log.writer.next_segment(), NextSegment::Lacking);
    assert!(batches >= 8, "{batches}");
    // The reserve still takes a vote.
    log.vote(&mut journal);
    log.sync(&mut journal).unwrap();
    // Who goes on regardless keeps everything staged.
    let error = loop {
        log.batch(&mut journal, VALUE_BYTES);
        if let Err(error) = log.sync(&mut journal) {
            break error;
        }
    };
    assert!(matches!(error, WalError::NoRoom { .. }) && !error.is_fatal(), "{error}");
    assert!(log.writer.staged() > log.writer.durable());
    // The next attempt comes after a second and not before.
    disk.set_space(None);
    let retry = log.writer.tend(now).unwrap().expect("it is tried again");
    assert_eq!(log.writer.next_segment(), NextSegment::Lacking);
    now = retry.max(now + Duration::from_secs(1)) + Duration::from_secs(5);
    log.writer.tend(now).unwrap();
    assert_ne!(log.writer.next_segment(), NextSegment::Lacking);
    log.sync(&mut journal).unwrap();
    assert!(log.writer.room() >= BATCH_FOOTPRINT);
    drop(log);
    let disk = disk.after_power_cut(Loss::All, 0);
    Running::open(&disk, &mut journal).unwrap();
}

/// Keeps `tend` going for a minute after the disk became full; answers how often it was looked at.
fn tend_for_a_minute(log: &mut Running, start: Instant) -> u32 {
    let mut looks = 0;
    let mut now = start;
    while now < start + Duration::from_secs(60) {
        let next = log.writer.tend(now).unwrap().expect("it is tried again");
        assert_eq!(log.writer.next_segment(), NextSegment::Lacking);
        assert!(next > now && next <= now + Duration::from_secs(10));
        now = next;
        looks += 1;
    }
    looks
}

/// Nobody knows yet whether the next segment can be made: what is promised goes without it.
#[test]
fn a_segment_that_is_not_made_yet_is_not_promised() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    disk.set_space(Some(33 << 10));
    log.vote(&mut journal);
    while log.writer.room() >= BATCH_FOOTPRINT {
        assert_ne!(log.writer.next_segment(), NextSegment::Lacking);
        for _ in 0..log.writer.room() / BATCH_FOOTPRINT {
            log.batch(&mut journal, VALUE_BYTES);
        }
        log.sync(&mut journal).unwrap();
    }
    log.vote(&mut journal);
    log.sync(&mut journal).unwrap();
}

#[test]
fn a_full_file_system_is_asked_often_and_not_written_to() {
    let disk = MemoryDisk::new();
    let mut log = Running::open(&disk, &mut Journal::default()).unwrap();
    disk.set_space(Some(33 << 10));
    let start = Instant::now();
    assert_eq!(tend_for_a_minute(&mut log, start), 60);
    assert_eq!(disk.full_creations(), 0);
    disk.set_space(None);
    assert_eq!(log.writer.tend(start + Duration::from_secs(61)).unwrap(), None);
    assert!(!log.writer.lacks_next_segment());
}

#[test]
fn a_limit_that_nobody_tells_is_tried_ever_less_often() {
    let disk = MemoryDisk::new();
    let mut log = Running::open(&disk, &mut Journal::default()).unwrap();
    disk.set_space(Some(33 << 10));
    disk.hide_limit();
    // After 1, 2, 4, 8 seconds, then every 10.
    let looks = tend_for_a_minute(&mut log, Instant::now());
    assert_eq!((looks, disk.full_creations()), (9, 9));
}

#[test]
fn a_want_of_descriptors_is_not_taken_for_a_full_disk() {
    let disk = MemoryDisk::new();
    let mut log = Running::open(&disk, &mut Journal::default()).unwrap();
    disk.fail_at(1, Failure::Descriptors);
    let retry = log.writer.tend(Instant::now()).unwrap().expect("it is tried again");
    assert_eq!(log.writer.next_segment(), NextSegment::Coming);
    assert!(log.writer.lacks_next_segment());
    log.writer.tend(retry).unwrap();
    assert!(!log.writer.lacks_next_segment());
}

#[test]
fn a_batch_of_the_largest_size_always_fits_into_a_segment() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    log.vote(&mut journal);
    log.tend().unwrap();
    let largest = config().batch_bytes_max;
    for _ in 0..20 {
        assert!(log.writer.room() >= footprint(largest));
        log.batch(&mut journal, largest - 100);
        log.sync(&mut journal).unwrap();
        log.tend().unwrap();
    }
}

#[test]
fn a_spare_from_before_the_limits_were_raised_is_replaced() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    log.vote(&mut journal);
    log.sync(&mut journal).unwrap();
    log.tend().unwrap();
    drop(log);
    assert_eq!(disk.contents("segment-0000000000000002.log").len(), 32 << 10);
    let largest = 100 << 10;
    let raised = || WalConfig { batch_bytes_max: largest, ..config() };
    // The old spare's space is needed for the new one.
    disk.set_space(Some(144 << 10));
    let mut log = Running::open_with(&disk, &mut journal, raised()).unwrap();
    assert!(log.writer.room() < footprint(largest), "{}", log.writer.room());
    log.tend().unwrap();
    assert_ne!(log.writer.next_segment(), NextSegment::Lacking);
    assert!(log.writer.room() >= footprint(largest), "{}", log.writer.room());
    log.batch(&mut journal, largest - 100);
    log.sync(&mut journal).unwrap();
    drop(log);
    Running::open_with(&disk, &mut journal, raised()).unwrap();
}

#[test]
fn an_even_larger_batch_gets_a_segment_of_its_own() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    log.vote(&mut journal);
    log.tend().unwrap();
    log.batch(&mut journal, 200 << 10);
    log.batch(&mut journal, 10);
    log.sync(&mut journal).unwrap();
    drop(log);
    Running::open(&disk, &mut journal).unwrap();
}

#[test]
fn a_mark_is_set_once_after_a_second_without_writes() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    let start = Instant::now();
    assert_eq!(log.writer.tend(start).unwrap(), None, "nothing to mark");
    log.vote(&mut journal);
    log.writer.write().unwrap();
    assert_eq!(log.writer.tend(start).unwrap(), None, "a mark would have to sync");
    log.sync(&mut journal).unwrap();
    let due = log.writer.tend(start).unwrap().expect("a mark is due");
    let room = log.writer.room();
    assert_eq!(log.writer.tend(start).unwrap(), Some(due));
    assert_eq!(log.writer.tend(due).unwrap(), None);
    assert_eq!(log.writer.tend(due + Duration::from_secs(9)).unwrap(), None);
    assert!(log.writer.room() <= room);
    // A sync that comes late does not let the second begin again.
    log.vote(&mut journal);
    log.writer.write().unwrap();
    assert_eq!(log.writer.tend(start).unwrap(), None);
    log.sync(&mut journal).unwrap();
    assert_eq!(log.writer.tend(start + Duration::from_secs(1)).unwrap(), None);
    drop(log);
    let bytes = disk.contents("segment-0000000000000001.log");
    let records = bytes.chunks(4096).filter(|block| block.starts_with(b"KVR1")).count();
    assert_eq!(records, 4, "two votes, and a mark behind each");
}
