//! Nodes that die or stand still.

use crate::trial::Plan;

const DEFAULTS: &[&str] = &[];

#[test]
fn the_leader_is_killed_again_and_again() {
    let plan = Plan { arguments: DEFAULTS, ..Plan::new("kill -9 of the leader, again and again") };
    plan.run(|trial| {
        let mut outages = Vec::new();
        for _ in 0..8 {
            let leader = trial.cluster.leader();
            trial.cluster.kill(leader);
            outages.push(trial.traffic.writes(1));
            trial.traffic.answers(100);
            trial.cluster.start_node(leader);
        }
        outages.sort_unstable();
        let [middle, worst] = [outages.len() / 2, outages.len() - 1].map(|at| outages[at]);
        let millis = |time: std::time::Duration| time.as_secs_f64() * 1e3;
        trial.note(&format!(
            "from kill -9 to the next acknowledged write: p50 {:.1} ms, worst {:.1} ms",
            millis(middle),
            millis(worst)
        ));
    });
}

#[test]
fn all_nodes_are_killed_at_once_ten_times() {
    Plan::new("kill -9 of all at once, ten times").run(|trial| {
        for _ in 0..10 {
            for id in 1..=3 {
                trial.cluster.pause(id);
            }
            for id in 1..=3 {
                trial.cluster.kill(id);
            }
            for id in 1..=3 {
                trial.cluster.start_node(id);
            }
            trial.traffic.writes(1);
            trial.traffic.answers(100);
        }
    });
}

#[test]
fn a_leader_that_stood_still_answers_no_stale_read() {
    Plan::new("SIGSTOP of the leader, then SIGCONT").run(|trial| {
        for _ in 0..2 {
            let old = trial.cluster.leader();
            let mut witness = trial.traffic.witness(old);
            trial.cluster.pause(old);
            let others: Vec<usize> = (1..=3).filter(|&id| id != old).collect();
            let new = trial.cluster.leader_of(&others);
            assert_ne!(new, old);
            trial.traffic.last(std::time::Duration::from_secs(1));
            trial.traffic.writes(50);
            // It finds these when it wakes up, and does not know yet how long it slept.
            witness.ask(&trial.traffic.recorder);
            trial.cluster.resume(old);
            witness.hear(&trial.traffic.recorder);
            trial.traffic.answers(100);
            trial.cluster.leader();
        }
    });
}

#[test]
fn five_nodes_serve_without_two() {
    let plan = Plan { voters: 5, ..Plan::new("five nodes, two of them killed") };
    plan.run(|trial| {
        for _ in 0..2 {
            let leader = trial.cluster.leader();
            let other = trial.cluster.followers()[0];
            trial.cluster.kill(leader);
            trial.cluster.kill(other);
            trial.traffic.writes(100);
            trial.cluster.start_node(other);
            trial.cluster.start_node(leader);
            trial.traffic.answers(100);
        }
    });
}
