//! Links that are slow, lie, or stop half-way.

use std::time::Duration;

use crate::proxy::Fault;
use crate::trial::{Plan, Wires};

fn plan(name: &'static str) -> Plan {
    Plan { wires: Wires::Proxies, ..Plan::new(name) }
}

/// Nobody takes a distant leader for a dead one.
#[test]
fn delayed_links_cause_no_election() {
    plan("75 +- 50 ms on every link").run(|trial| {
        let leader = trial.cluster.leader();
        let term = trial.cluster.node(leader).status("term");
        let (mean, spread) = (Duration::from_millis(75), Duration::from_millis(50));
        trial.proxies().set_all(Fault::Delay { mean, spread });
        trial.traffic.writes(50);
        assert_eq!(trial.cluster.node(leader).status("term"), term, "an election for nothing");
        trial.proxies().set_all(Fault::Clean);
    });
}

/// Whatever part of a message is wrong, it is thrown away, and said again.
#[test]
fn corrupted_bytes_are_never_accepted() {
    plan("wrong bytes on every link").run(|trial| {
        for share in [0.01, 0.1] {
            trial.proxies().set_all(Fault::Corrupt { share });
            let before = trial.proxies().corrupted();
            while trial.proxies().corrupted() < before + 30 {
                trial.traffic.writes(20);
            }
        }
        trial.proxies().set_all(Fault::Clean);
        let corrupted = trial.proxies().corrupted();
        trial.note(&format!("{corrupted} wrong bytes"));
    });
}

#[test]
fn half_closed_connections_are_opened_again() {
    plan("every connection closed by halves, again and again").run(|trial| {
        for _ in 0..8 {
            trial.proxies().half_close_all();
            trial.traffic.writes(50);
        }
    });
}

/// First around a follower, then around the leader. What was held back arrives when it is long out
/// of date.
#[test]
fn a_black_hole_swallows_a_node() {
    plan("a black hole around a follower, then the leader").run(|trial| {
        for swallow_leader in [false, true] {
            let leader = trial.cluster.leader();
            let victim = if swallow_leader { leader } else { trial.cluster.followers()[0] };
            for other in (1..=3).filter(|&id| id != victim) {
                trial.proxies().set(victim, other, Fault::BlackHole);
                trial.proxies().set(other, victim, Fault::BlackHole);
            }
            trial.traffic.last(Duration::from_secs(2));
            trial.traffic.writes(50);
            let others: Vec<usize> = (1..=3).filter(|&id| id != victim).collect();
            let leads_on = trial.cluster.leader_of(&others) == leader;
            assert_eq!(leads_on, !swallow_leader);
            trial.proxies().set_all(Fault::Clean);
            trial.cluster.leader();
            trial.traffic.answers(50);
        }
    });
}

/// A follower behind a thin line does not hold the others back.
#[test]
fn a_slow_link_slows_nobody_else() {
    plan("a follower behind a line of 10 kB/s").run(|trial| {
        let leader = trial.cluster.leader();
        let follower = trial.cluster.followers()[0];
        trial.proxies().set(leader, follower, Fault::SlowDrain { bytes_per_second: 10_000 });
        trial.traffic.last(Duration::from_secs(2));
        trial.traffic.writes(200);
        let committed = trial.cluster.node(leader).status_number("commit");
        let applied = trial.cluster.node(follower).status_number("applied");
        assert!(applied + 50 < committed, "the line was not slow: {applied}, {committed}");
        trial.proxies().set_all(Fault::Clean);
    });
}
