//! A power cut at every single operation, with every kind of loss; and every operation that fails.

use crate::log_workload::{Journal, Running, SCRIPTS, Script, check_recovers};
use crate::memory_disk::{Failure, Loss, MemoryDisk};
use kvorum::wal::WalError;

/// How many operations the script takes when nothing fails.
fn operations(script: Script) -> u64 {
    let disk = MemoryDisk::new();
    disk.crash_at(u64::MAX);
    script(&disk, &mut Journal::default()).unwrap();
    disk.operations()
}

/// Each script with each of its operations, or each of every so many.
fn each_operation(step: usize) -> impl Iterator<Item = (Script, u64)> {
    SCRIPTS.into_iter().flat_map(move |script| {
        let operations = operations(script);
        assert!(operations > 100, "the script is long enough to mean something: {operations}");
        (1..=operations).step_by(step).map(move |at| (script, at))
    })
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_durable_and_invents_nothing() {
    for (script, at) in each_operation(1) {
        let disk = MemoryDisk::new();
        disk.crash_at(at);
        let mut journal = Journal::default();
        let outcome = script(&disk, &mut journal);
        assert!(outcome.is_err(), "operation {at} was reached");
        for loss in Loss::EACH {
            let seeds = if matches!(loss, Loss::All | Loss::Nothing) { 1 } else { 4 };
            for seed in 0..seeds {
                let seed = at * 10 + seed;
                println!("power cut at operation {at}, loss {loss:?}, seed {seed}");
                let found = disk.after_power_cut(loss, seed);
                check_recovers(&found, &journal, |disk| disk.after_power_cut(loss, seed));
            }
        }
    }
}

#[test]
fn a_second_power_cut_during_recovery_loses_nothing_either() {
    for (script, at) in each_operation(3) {
        let disk = MemoryDisk::new();
        disk.crash_at(at);
        let mut journal = Journal::default();
        assert!(script(&disk, &mut journal).is_err());
        for again in 1.. {
            println!("power cuts at operation {at} and at operation {again} of recovery");
            let found = disk.after_power_cut(Loss::Torn, at);
            found.crash_at(again);
            let mut second = journal.clone();
            let outcome = Running::open(&found, &mut second);
            let found = found.after_power_cut(Loss::Torn, again);
            check_recovers(&found, &journal, |disk| disk.after_power_cut(Loss::All, 0));
            if outcome.is_ok() {
                break;
            }
        }
    }
}

#[test]
fn an_operation_that_fails_stops_the_log_or_is_tried_again_and_loses_nothing() {
    for how in [Failure::Io, Failure::Full, Failure::Short] {
        for (script, at) in each_operation(1) {
            println!("operation {at} fails: {how:?}");
            let disk = MemoryDisk::new();
            disk.fail_at(at, how);
            let mut journal = Journal::default();
            match script(&disk, &mut journal) {
                // The preparation of a segment: made up for later.
                Ok(()) => {}
                Err(WalError::Io { .. } | WalError::NoRoom { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            // The process is started again: it reads what the kernel still has in memory, which
            // after a failed sync is not what the disk has. Then the power goes.
            disk.heal();
            check_recovers(&disk, &journal, |disk| disk.after_power_cut(Loss::All, 0));
        }
    }
}

#[test]
fn a_sync_covers_what_was_written_and_not_what_is_staged() {
    let disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    log.vote(&mut journal);
    let written = log.writer.write().unwrap();
    log.batch(&mut journal, 10);
    assert_eq!(log.writer.durable().0, 0, "not synced yet");
    assert_eq!(log.writer.sync().unwrap(), written);
    journal.durable = log.writer.durable();
    assert!(log.writer.staged() > journal.durable);
    drop(log);
    check_recovers(&disk.after_power_cut(Loss::All, 0), &journal, |disk| disk.clone());
}
