//! Disks that fail, freeze and fill up, each under one node of three.

use std::time::{Duration, Instant};

use crate::support::client::Text;
use crate::support::strace::{DISK_SYNCS, Strace};
use crate::trial::{Plan, Trial};

/// Room for the log of a scenario, and little more.
const DISK_MEBIBYTES: u64 = 160;

fn plan(name: &'static str) -> Plan {
    Plan { disk_mebibytes: Some(DISK_MEBIBYTES), ..Plan::new(name) }
}

/// Whose disk it is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Leader,
    Follower,
}

impl Whose {
    fn node(self, trial: &Trial<'_>) -> usize {
        match self {
            Whose::Leader => trial.cluster.leader(),
            Whose::Follower => trial.cluster.followers()[0],
        }
    }
}

/// A node whose sync fails says so and ends; the others serve, and it comes back clean.
#[test]
fn a_failed_sync_ends_one_node_and_not_the_service() {
    Plan::new("EIO from the n-th fdatasync of a node").run(|trial| {
        for whose in [Whose::Leader, Whose::Follower, Whose::Leader, Whose::Follower] {
            let node = whose.node(trial);
            let nth = rand::random_range(1..=30);
            let what = format!("error=EIO:when={nth}+");
            let strace = Strace::inject(trial.cluster.node(node).pid(), DISK_SYNCS, &what);
            let exit = trial.cluster.wait_for_end(node);
            drop(strace);
            assert_eq!(exit.code, Some(1), "after sync {nth}: {exit:?}");
            assert!(exit.last_words().contains("check the disk"), "{exit:?}");
            trial.traffic.writes(50);
            trial.cluster.start_node(node);
            trial.cluster.leader();
            trial.traffic.answers(50);
        }
    });
}

/// Writes at a node until its answer is not OK, or there is enough of it: what is answered last.
fn write_much(trial: &Trial<'_>, node: usize, is_enough: impl Fn() -> bool) -> String {
    let value = "v".repeat(256 << 10);
    let mut client: Text = trial.cluster.text(node);
    for n in 0..4 * DISK_MEBIBYTES {
        let reply = client.ask(&format!("SET ballast{} {value}", n % 16));
        if reply != "OK" || is_enough() {
            return reply;
        }
    }
    panic!("more was written than there is room for");
}

/// Writes are refused, or somebody with room leads; with room again, writes are accepted.
#[test]
fn a_leader_without_disk_space_refuses_or_hands_over() {
    plan("the leader's disk is full").run(|trial| {
        let leader = trial.cluster.leader();
        let ballast = trial.disk(leader).fill();
        let reply = write_much(trial, leader, || false);
        let word = reply.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let is_true = reply.starts_with("ERROR DISK_FULL ") || reply.starts_with("NOT_LEADER ");
        assert!(is_true, "a leader without space answered {reply}");
        drop(ballast);
        trial.traffic.writes(50);
        trial.note(&format!("answered with {word}"));
    });
}

#[test]
fn a_follower_without_disk_space_holds_nobody_up() {
    plan("a follower's disk is full").run(|trial| {
        let leader = trial.cluster.leader();
        let term = trial.cluster.node(leader).status("term");
        let follower = trial.cluster.followers()[0];
        let ballast = trial.disk(follower).fill();
        let lag = || {
            let committed = trial.cluster.node(leader).status_number("commit");
            committed.saturating_sub(trial.cluster.node(follower).status_number("durable"))
        };
        // Far more than is ever on its way.
        let reply = write_much(trial, leader, || lag() > 200);
        assert_eq!(reply, "OK", "a follower without space makes the leader refuse");
        trial.traffic.writes(50);
        assert_eq!(trial.cluster.node(leader).status("term"), term, "an election for nothing");
        drop(ballast);
    });
}

#[test]
fn a_frozen_disk_of_a_follower_causes_no_election() {
    plan("a follower's disk freezes for 3 s").run(|trial| {
        let leader = trial.cluster.leader();
        let term = trial.cluster.node(leader).status("term");
        let follower = trial.cluster.followers()[0];
        let frozen = trial.disk(follower).freeze();
        let thaw_at = Instant::now() + Duration::from_secs(3);
        trial.traffic.writes(200);
        trial.traffic.last(thaw_at.saturating_duration_since(Instant::now()));
        trial.traffic.writes(50);
        drop(frozen);
        assert_eq!(trial.cluster.node(leader).status("term"), term, "an election for nothing");
    });
}

/// The others' disks are a majority; when it lasts, one of them takes over, once.
#[test]
fn a_frozen_disk_of_the_leader_stops_no_writes() {
    plan("the leader's disk freezes for 3 s").run(|trial| {
        let leader = trial.cluster.leader();
        let term = trial.cluster.node(leader).status_number("term");
        let frozen = trial.disk(leader).freeze();
        let frozen_at = Instant::now();
        let outage = trial.traffic.writes(1);
        trial.traffic.writes(200);
        let left = Duration::from_secs(3).saturating_sub(frozen_at.elapsed());
        trial.traffic.last(left);
        trial.traffic.writes(50);
        drop(frozen);
        let now = trial.cluster.leader();
        let changes = trial.cluster.node(now).status_number("term") - term;
        assert!(changes <= 1, "{changes} elections because of one frozen disk");
        trial.note(&format!("{} ms to the first write, {changes} hand-overs", outage.as_millis()));
    });
}
