//! Any sequence of what can be done with a log, with kills and power cuts anywhere.

use kvorum_protocol::NodeId;
use proptest::prelude::*;

use crate::log_workload::{Journal, Running, check_recovers, run_script};
use crate::memory_disk::{Loss, MemoryDisk};

#[derive(Clone, Debug)]
enum Step {
    Batch(usize),
    Vote,
    VoteFor(u16),
    Commit(usize),
    Truncate(usize),
    Write,
    Sync,
    Tend,
    Mark,
    Release,
    Kill,
    PowerCut(Loss, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let loss = prop::sample::select(&Loss::EACH[..]);
    let step = prop_oneof![
        8 => (0..9000usize).prop_map(Step::Batch),
        1 => Just(Step::Vote),
        1 => (2..4u16).prop_map(Step::VoteFor),
        1 => (0..6usize).prop_map(Step::Commit),
        2 => (1..8usize).prop_map(Step::Truncate),
        4 => Just(Step::Write),
        4 => Just(Step::Sync),
        2 => Just(Step::Tend),
        1 => Just(Step::Mark),
        1 => Just(Step::Release),
        1 => Just(Step::Kill),
        1 => (loss, any::<u64>()).prop_map(|(loss, seed)| Step::PowerCut(loss, seed)),
    ];
    prop::collection::vec(step, 1..120)
}

fn run(steps: Vec<Step>) {
    let mut disk = MemoryDisk::new();
    let mut journal = Journal::default();
    let mut log = Running::open(&disk, &mut journal).unwrap();
    log.vote(&mut journal);
    for step in steps {
        match step {
            Step::Batch(bytes) => log.batch(&mut journal, bytes),
            Step::Vote => log.vote(&mut journal),
            Step::VoteFor(node) => {
                log.enter_term(&mut journal);
                log.vote_for(&mut journal, NodeId(node));
            }
            Step::Commit(open_batches) => log.commit(&mut journal, open_batches),
            Step::Truncate(batches) => log.truncate(&mut journal, batches),
            Step::Write => drop(log.writer.write().unwrap()),
            Step::Sync => log.sync(&mut journal).unwrap(),
            Step::Tend => log.tend().unwrap(),
            Step::Mark => {
                log.sync(&mut journal).unwrap();
                log.writer.mark().unwrap();
            }
            Step::Release => {
                log.sync(&mut journal).unwrap();
                log.release(&mut journal);
            }
            Step::Kill => {
                drop(log);
                log = Running::open(&disk, &mut journal).unwrap();
                log.vote(&mut journal);
            }
            Step::PowerCut(loss, seed) => {
                drop(log);
                disk = disk.after_power_cut(loss, seed);
                log = Running::open(&disk, &mut journal).unwrap();
                log.vote(&mut journal);
            }
        }
    }
    drop(log);
    check_recovers(&disk, &journal, |disk| disk.after_power_cut(Loss::All, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_done_with_a_log_it_keeps_what_it_reported(steps in steps()) {
        run(steps);
    }

    /// Arbitrary damage: no panic, and nothing that was never sent.
    #[test]
    fn arbitrary_bytes_in_a_segment_are_refused_or_ignored(
        wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        file in any::<prop::sample::Index>(),
        block in any::<Option<prop::sample::Index>>(),
    ) {
        use kvorum::disk::Disk;
        let disk = MemoryDisk::new();
        let mut journal = Journal::default();
        run_script(&disk, &mut journal).unwrap();
        let names = disk.list().unwrap();
        let name = file.get(&names);
        let mut bytes = disk.contents(name);
        for (at, byte) in wounds {
            *at.get_mut(&mut bytes) = byte;
        }
        // One block takes the place of another, as when a write goes astray.
        if let Some(block) = block.filter(|_| bytes.len() >= 8192) {
            let blocks = bytes.len() / 4096;
            let from = block.index(blocks) * 4096;
            let to = (from / 4096 * 7 + 1) % blocks * 4096;
            bytes.copy_within(from..from + 4096, to);
        }
        disk.tamper(name, bytes);
        // What was durable may be gone: a last group cannot be told from a torn one.
        journal.durable = kvorum_protocol::Lsn(0);
        let _ = Running::open(&disk, &mut journal);
    }
}
