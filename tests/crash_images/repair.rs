//! Giving up what is damaged: whatever byte is hit, and wherever a crash interrupts the repair,
//! what is kept is a beginning of what was there, and term, vote and former end are not forgotten.

use std::collections::BTreeMap;
use std::time::Instant;

use kvorum::core::log::EntryId;
use kvorum::disk::BLOCK_BYTES;
use kvorum::wal::{self, LogState, Recovered, WalConfig, WalError, diagnose};
use kvorum_protocol::{LogIndex, Lsn, NodeId, Term};

use crate::log_workload::{Fact, Journal, Running, Summed, Told, config};
use crate::memory_disk::{Loss, MemoryDisk};

/// Segments of a few blocks, so that every byte of a log can be tried.
fn small() -> WalConfig {
    WalConfig {
        segment_bytes_min: 20 << 10,
        segment_bytes_max: 20 << 10,
        batch_bytes_max: 4 << 10,
        reserve_bytes: 0,
        ..config()
    }
}

fn segment(sequence: u64) -> String {
    format!("segment-{sequence:016x}.log")
}

/// Three segments with terms, votes, batches and a truncation in each. Everything is durable.
fn log() -> (MemoryDisk, Journal) {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open_with(&disk, &mut journal, small()).unwrap();
    for round in 0..3 {
        log.vote(&mut journal);
        log.batch(&mut journal, 300);
        log.sync(&mut journal).unwrap();
        log.commit(&mut journal, 0);
        log.batch(&mut journal, 1500 + round);
        log.batch(&mut journal, 5);
        log.sync(&mut journal).unwrap();
        log.truncate(&mut journal, 1);
        log.vote_for(&mut journal, NodeId(3));
        log.sync(&mut journal).unwrap();
    }
    log.writer.tend(Instant::now()).unwrap();
    log.writer.close().unwrap();
    (disk, journal)
}

type Read = (BTreeMap<Lsn, Fact>, Recovered);

fn read(disk: &MemoryDisk) -> Result<Read, WalError> {
    let mut told = Told::default();
    let (_, recovered) = wal::open(disk.handle(), small(), &mut told)?;
    Ok((told.facts, recovered))
}

/// Finds the damage, and does what the order says.
fn repair(disk: &MemoryDisk) -> Result<Option<Read>, WalError> {
    let none = LogIndex(0);
    let Some(repair) = diagnose(&*disk.handle(), none, none)? else { return Ok(None) };
    repair.order(&*disk.handle())?;
    read(disk).map(Some)
}

/// What nobody may forget of the log of this journal.
fn promised(journal: &Journal) -> (Term, Option<NodeId>, EntryId) {
    let Summed { term, voted_for, ends } = journal.summed();
    (term, voted_for, ends.last().expect("there are batches").id())
}

/// The log was cut somewhere, and goes on with the record of all that was promised.
fn check_repaired(journal: &Journal, (mut facts, recovered): Read) -> Lsn {
    let (lsn, last) = facts.pop_last().expect("the repair is told");
    let Fact::Repair(state) = last else { panic!("{last:?}") };
    let LogState { term, voted_for, former_end, .. } = state;
    assert_eq!((term, voted_for, former_end), promised(journal));
    assert_eq!((recovered.last_lsn, recovered.state), (lsn, state));
    let sent = journal.sent.iter().take(facts.len());
    assert!(facts.iter().eq(sent), "a beginning of what was there");
    assert_eq!(lsn, Lsn(facts.len() as u64 + 1));
    lsn
}

fn flipped(disk: &MemoryDisk, name: &str, at: usize) -> MemoryDisk {
    let copy = disk.after_power_cut(Loss::All, 0);
    let mut bytes = copy.contents(name);
    bytes[at] ^= 1 << (at % 8);
    copy.tamper(name, bytes);
    copy
}

#[test]
fn whatever_byte_is_hit_no_promise_is_forgotten() {
    let (disk, journal) = log();
    let (mut sound, mut repaired, mut refused) = (0, 0, 0);
    for sequence in 1..=3 {
        let name = segment(sequence);
        for at in 0..disk.contents(&name).len() {
            let damaged = flipped(&disk, &name, at);
            let refuses = read(&damaged.after_power_cut(Loss::All, 0)).is_err();
            match repair(&damaged) {
                Ok(None) => {
                    assert!(!refuses, "{name} at {at}");
                    sound += 1;
                }
                Ok(Some(read_back)) => {
                    assert!(refuses, "{name} at {at}");
                    check_repaired(&journal, read_back);
                    // And from now on it is a log like every other.
                    let (facts, _) = read(&damaged).unwrap();
                    assert!(matches!(facts.last_key_value(), Some((_, Fact::Repair(_)))));
                    repaired += 1;
                }
                Err(WalError::EndLost { .. }) => {
                    assert!(refuses && sequence == 3, "{name} at {at}");
                    refused += 1;
                }
                Err(WalError::Version { .. }) => assert!((8..12).contains(&at), "{name} at {at}"),
                Err(error) => panic!("{name} at {at}: {error}"),
            }
        }
    }
    // In the header of the last segment, and what nothing stands behind.
    assert!(sound > 1000 && repaired > 5000 && refused < 500, "{sound} {repaired} {refused}");
}

#[test]
fn a_lost_segment_is_given_up_with_all_behind_it() {
    let (disk, journal) = log();
    for sequence in 1..=2 {
        let copy = disk.after_power_cut(Loss::All, 0);
        copy.lose(&segment(sequence));
        assert!(matches!(read(&copy), Err(WalError::Missing { .. })));
        let lsn = check_repaired(&journal, repair(&copy).unwrap().unwrap());
        assert_eq!(lsn == Lsn(1), sequence == 1, "without the first nothing is left");
    }
    // Of the last one nobody can tell what stood in it, be the next one prepared or not.
    let copy = disk.after_power_cut(Loss::All, 0);
    assert!(copy.handle().list().unwrap().contains(&segment(4)), "a spare");
    copy.lose(&segment(3));
    assert!(matches!(repair(&copy), Err(WalError::EndLost { .. })));
    let copy = disk.after_power_cut(Loss::All, 0);
    let bytes = copy.contents(&segment(3));
    copy.tamper(&segment(3), bytes[..bytes.len() - BLOCK_BYTES].to_vec());
    assert!(matches!(repair(&copy), Err(WalError::EndLost { .. })));
}

#[test]
fn a_crash_in_the_middle_of_a_repair_loses_nothing() {
    let (disk, journal) = log();
    for (sequence, at) in [(1, 100), (1, 4126), (2, 8222), (3, 4126)] {
        let damaged = flipped(&disk, &segment(sequence), at);
        let operations = |disk: &MemoryDisk| {
            disk.heal();
            let read_back = repair(disk).unwrap().unwrap();
            check_repaired(&journal, read_back);
            disk.operations()
        };
        let all = operations(&damaged.after_power_cut(Loss::All, 0));
        assert!(all > 8, "{all}");
        for crash_at in 1..=all {
            for loss in Loss::EACH {
                let running = damaged.after_power_cut(Loss::All, 0);
                running.crash_at(crash_at);
                let interrupted = repair(&running);
                assert!(interrupted.is_err() || crash_at == all, "at {crash_at} of {all}");
                let after = running.after_power_cut(loss, crash_at);
                // Whoever asks for the repair again, and not for a start, gets the same.
                let again = after.after_power_cut(Loss::All, 0);
                match repair(&again) {
                    Ok(Some(read_back)) => drop(check_repaired(&journal, read_back)),
                    Ok(None) => drop(check_repaired(&journal, read(&again).unwrap())),
                    Err(error) => panic!("at {crash_at} of {all}: {error}"),
                }
                // Nothing was decided yet, or it is done now.
                let read_back = match read(&after) {
                    Ok(read_back) => read_back,
                    Err(WalError::Corrupt { .. }) => repair(&after).unwrap().unwrap(),
                    Err(error) => panic!("at {crash_at} of {all}: {error}"),
                };
                check_repaired(&journal, read_back);
                let names = after.handle().list().unwrap();
                assert!(!names.iter().any(|name| name.starts_with("repair")), "{names:?}");
            }
        }
    }
}

#[test]
fn a_log_can_be_repaired_again_before_it_is_filled() {
    let (disk, journal) = log();
    let damaged = flipped(&disk, &segment(2), 8222);
    check_repaired(&journal, repair(&damaged).unwrap().unwrap());
    let again = flipped(&damaged, &segment(1), 8222);
    check_repaired(&journal, repair(&again).unwrap().unwrap());
}

/// The log goes on behind a snapshot that can not be used any more: it is useless from there on.
#[test]
fn a_log_behind_a_lost_snapshot_is_cut_before_it() {
    let (disk, mut journal) = log();
    let mut log = Running::open_with(&disk, &mut journal, small()).unwrap();
    log.install(&mut journal, 50);
    log.batch(&mut journal, 10);
    log.sync(&mut journal).unwrap();
    log.writer.close().unwrap();
    let end = promised(&journal).2;
    let handle = disk.handle();
    let covered = diagnose(&*handle, end.index, LogIndex(0)).unwrap();
    assert!(covered.is_none(), "its snapshot is there");
    let found = diagnose(&*handle, LogIndex(0), LogIndex(0)).unwrap().expect("it is not");
    assert_eq!(found.former_end(), end);
    found.order(&*handle).unwrap();
    check_repaired(&journal, read(&disk).unwrap());
}

/// What a snapshot that is damaged may have been acknowledged for is promised, too.
#[test]
fn a_lost_snapshot_is_claimed() {
    let (disk, journal) = log();
    let (term, voted_for, end) = promised(&journal);
    let claimed = LogIndex(end.index.0 + 9);
    assert!(diagnose(&*disk.handle(), LogIndex(0), end.index).unwrap().is_none());
    let found = diagnose(&*disk.handle(), LogIndex(0), claimed).unwrap().expect("it lacks that");
    assert_eq!(found.former_end(), EntryId { term, index: claimed });
    assert!(found.damage.is_none());
    found.order(&*disk.handle()).unwrap();
    let (facts, recovered) = read(&disk).unwrap();
    assert_eq!(facts.len(), journal.sent.len() + 1, "nothing is cut");
    assert_eq!((recovered.state.term, recovered.state.voted_for), (term, voted_for));
}

#[test]
fn an_order_of_another_directory_is_not_carried_out() {
    let (disk, _) = log();
    let damaged = flipped(&disk, &segment(2), 8222);
    let none = LogIndex(0);
    diagnose(&*damaged.handle(), none, none).unwrap().unwrap().order(&*damaged.handle()).unwrap();
    let order = damaged.contents("repair");
    for change in [0, order.len() / 2, order.len() - 2] {
        let copy = damaged.after_power_cut(Loss::All, 0);
        let mut bytes = order.clone();
        bytes[change] ^= 1;
        copy.tamper("repair", bytes);
        assert!(matches!(read(&copy), Err(WalError::OrderDamaged { .. })));
    }
}
