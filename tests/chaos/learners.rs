//! A replica without a vote that is away for long.

use std::fmt::Write as _;

use crate::trial::Plan;

/// Far more than the leader keeps in memory for those who are behind.
const ENTRIES: usize = 150_000;

/// Lines that are sent at once.
const BATCH: usize = 1000;

#[test]
fn a_learner_catches_up_from_the_log() {
    let plan = Plan { learners: 1, ..Plan::new("a learner that was away for 150,000 writes") };
    plan.run(|trial| {
        let learner = 4;
        let exit = trial.cluster.terminate(learner);
        assert_eq!(exit.code, Some(0), "{exit:?}");
        let mut writer = trial.cluster.text(trial.cluster.leader());
        for first in (0..ENTRIES).step_by(BATCH) {
            let mut lines = String::new();
            for n in first..first + BATCH {
                writeln!(lines, "SET away{} {n:0100}", n % 500).expect("a String takes it");
            }
            writer.raw().send(lines.as_bytes());
            (0..BATCH).for_each(|_| assert_eq!(writer.reply(), "OK"));
        }
        let began = std::time::Instant::now();
        trial.cluster.start_node(learner);
        trial.cluster.wait_until_applied(&[learner]);
        let applied = trial.cluster.node(learner).status_number("applied");
        assert!(applied > ENTRIES as u64, "{applied}");
        // The last of them is there.
        let mut reader = trial.cluster.text(learner);
        assert_eq!(reader.ask("QUORUM r=1"), "OK");
        let last = ENTRIES - 1;
        let expected = format!("VALUE {last:0100}");
        assert_eq!(reader.ask(&format!("GET away{}", last % 500)), expected);
        trial.note(&format!("caught up in {} ms", began.elapsed().as_millis()));
    });
}
