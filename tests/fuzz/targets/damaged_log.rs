//! Recovery on a disk that has damaged the log: flipped bits, lost, stale and misdirected sectors,
//! files that are short, long, gone or swapped. The log is refused with the disk left as it was,
//! or comes back as a beginning of what was written, takes more, and comes back again.
//!
//! The faults are those that checksums must catch whatever they hit. Bytes of a fuzzer's choice
//! can have any checksum: `forged_log` is about those.
#![no_main]

#[path = "../../support/log_workload.rs"]
#[allow(dead_code, reason = "shared with the tests of the log")]
mod log_workload;
#[path = "../../support/memory_disk.rs"]
mod memory_disk;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use kvorum::disk::Disk as _;
use kvorum::wal::WalConfig;
use kvorum_fuzz::{bounded, choice};
use kvorum_protocol::Lsn;
use libfuzzer_sys::fuzz_target;
use log_workload::{Journal, Running};
use memory_disk::MemoryDisk;

const SECTOR_BYTES: usize = 512;

/// A CRC-32 finds any three wrong bits in a record of these sizes, and only most of more.
const FLIPS_MAX: u32 = 3;

/// Many times all files together.
const MEMORY_BYTES: usize = 4 << 20;

fuzz_target!(|input: &[u8]| {
    let moments = moments();
    let (first, rest) = choice(input);
    let moment = usize::from(first) % moments.len();
    let (files, journal) = &moments[moment];
    let mut journal = journal.clone();
    let mut damaged = files.clone();
    damage(&mut damaged, &moments[..=moment], rest);
    if damaged != *files {
        journal.durable = Lsn(0);
    }
    bounded(MEMORY_BYTES, || check(damaged, journal));
});

type Files = BTreeMap<String, Vec<u8>>;

fn check(files: Files, mut journal: Journal) {
    let disk = disk_with(&files);
    let mut log = match Running::open_with(&disk, &mut journal, config()) {
        Ok(log) => log,
        Err(error) => {
            assert!(journal.durable == Lsn(0), "nothing was damaged: {error}");
            assert!(!error.to_string().contains('\n'), "{error}");
            assert_eq!(files_of(&disk), files, "refused, and changed: {error}");
            return;
        }
    };
    log.vote(&mut journal);
    log.batch(&mut journal, 700);
    log.sync(&mut journal).expect("the log goes on");
    drop(log);
    let again = Running::open_with(&disk, &mut journal, config()).expect("the log comes back");
    assert!(again.recovered.cut.is_none(), "cut twice: {:?}", again.recovered.cut);
}

fn config() -> WalConfig {
    WalConfig {
        segment_bytes_min: 8 << 10,
        segment_bytes_max: 16 << 10,
        batch_bytes_max: 2 << 10,
        reserve_bytes: 4 << 10,
        ..log_workload::config()
    }
}

/// The files of a log, and what was sent to it, at some moments of its life.
fn moments() -> &'static [(Files, Journal)] {
    static MOMENTS: OnceLock<Vec<(Files, Journal)>> = OnceLock::new();
    MOMENTS.get_or_init(|| live().expect("nothing fails here"))
}

fn live() -> Result<Vec<(Files, Journal)>, kvorum::wal::WalError> {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut moments = Vec::new();
    let mut log = Running::open_with(&disk, &mut journal, config())?;
    let mut note = |journal: &Journal| moments.push((files_of(&disk), journal.clone()));
    note(&journal);
    log.vote(&mut journal);
    log.sync(&mut journal)?;
    log.tend()?;
    note(&journal);
    for round in 0..6 {
        log.batch(&mut journal, 10 + 200 * round);
        log.batch(&mut journal, 1500);
        log.sync(&mut journal)?;
        log.tend()?;
        note(&journal);
    }
    // Written and not synced.
    log.batch(&mut journal, 900);
    log.writer.write()?;
    note(&journal);
    log.batch(&mut journal, 30);
    log.truncate(&mut journal, 1);
    log.batch(&mut journal, 40);
    log.sync(&mut journal)?;
    note(&journal);
    // Old segments come back as new ones.
    log.release(&mut journal);
    for round in 0..5 {
        log.tend()?;
        log.batch(&mut journal, 300 * round);
        log.batch(&mut journal, 1800);
        log.sync(&mut journal)?;
        note(&journal);
    }
    log.writer.close()?;
    note(&journal);
    drop(Running::open_with(&disk, &mut journal, config())?);
    moments.push((files_of(&disk), journal.clone()));
    Ok(moments)
}

/// Carries out the faults in `recipe`, five bytes each.
fn damage(files: &mut Files, until_now: &[(Files, Journal)], recipe: &[u8]) {
    let mut flips = 0;
    for fault in recipe.as_chunks::<5>().0 {
        let &[kind, file, at, low, high] = fault;
        let number = usize::from(u16::from_le_bytes([low, high]));
        let Some(name) = pick(files, file) else { return };
        let sector = usize::from(at) * SECTOR_BYTES;
        let mut bytes = files.remove(&name).expect("it was picked");
        match kind % 8 {
            0 if flips < FLIPS_MAX && !bytes.is_empty() => {
                flips += 1;
                let byte = (sector + number / 8) % bytes.len();
                bytes[byte] ^= 1 << (number % 8);
            }
            1 => put_sector(&mut bytes, sector, &[0; SECTOR_BYTES]),
            // A stale sector, or one of another file.
            2 => {
                let other = &until_now[usize::from(low) % until_now.len()].0;
                if let Some(other) = other.get(&name) {
                    copy_sector(&mut bytes, sector, other, sector);
                }
            }
            3 => {
                if let Some(other) = pick(files, low) {
                    let from = usize::from(high) * SECTOR_BYTES;
                    copy_sector(&mut bytes, sector, &files[&other], from);
                }
            }
            4 => bytes.truncate(sector + number % SECTOR_BYTES),
            5 => bytes.resize(bytes.len() + number % 16 * SECTOR_BYTES, 0),
            6 => {
                if let Some(other) = pick(files, low) {
                    std::mem::swap(&mut bytes, files.get_mut(&other).expect("it was picked"));
                }
            }
            7 => continue,
            _ => {}
        }
        files.insert(name, bytes);
    }
}

fn pick(files: &Files, number: u8) -> Option<String> {
    let at = usize::from(number).checked_rem(files.len())?;
    files.keys().nth(at).cloned()
}

fn copy_sector(bytes: &mut [u8], to: usize, other: &[u8], from: usize) {
    if let Some(sector) = other.get(from..from + SECTOR_BYTES) {
        put_sector(bytes, to, sector);
    }
}

fn put_sector(bytes: &mut [u8], at: usize, sector: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + SECTOR_BYTES) {
        place.copy_from_slice(sector);
    }
}

fn disk_with(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new();
    for (name, bytes) in files {
        disk.tamper(name, bytes.clone());
    }
    disk
}

fn files_of(disk: &MemoryDisk) -> Files {
    let names = disk.list().expect("nothing fails here");
    names.into_iter().map(|name| (name.clone(), disk.contents(&name))).collect()
}
