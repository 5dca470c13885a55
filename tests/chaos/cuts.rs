//! Networks that are cut, wholly, in part, and in one direction.

use std::time::Duration;

use crate::trial::{Plan, Trial, Wires};

fn plan(name: &'static str) -> Plan {
    Plan { wires: Wires::Network, ..Plan::new(name) }
}

/// All voters but these.
fn others(trial: &Trial<'_>, but: &[usize]) -> Vec<usize> {
    trial.cluster.running().filter(|id| !but.contains(id)).collect()
}

fn term(trial: &Trial<'_>, node: usize) -> u64 {
    trial.cluster.node(node).status_number("term")
}

/// The others elect one of them; the old leader says nothing that is out of date, and when it can
/// be heard again, it follows without an election.
#[test]
fn an_isolated_leader_is_replaced_and_comes_back_quietly() {
    plan("the leader isolated both ways, then healed").run(|trial| {
        let old = trial.cluster.leader();
        let mut witness = trial.traffic.witness(old);
        let majority = others(trial, &[old]);
        majority.iter().for_each(|&other| trial.network().cut(old, other));
        let outage = trial.traffic.writes(1);
        witness.ask(&trial.traffic.recorder);
        let new = trial.cluster.leader_of(&majority);
        let elected = term(trial, new);
        trial.traffic.writes(100);
        trial.network().heal();
        witness.hear(&trial.traffic.recorder);
        assert_eq!(trial.cluster.leader(), new, "the old leader disturbs the new one");
        assert_eq!(term(trial, new), elected, "the old leader disturbs the new one");
        trial.note(&format!("{} ms to the first write without it", outage.as_millis()));
    });
}

#[test]
fn a_leader_that_is_heard_and_hears_nothing_is_replaced() {
    plan("a leader that sends and does not receive").run(|trial| {
        is_replaced_when(trial, |trial, old, other| trial.network().cut_one_way(other, old));
    });
}

#[test]
fn a_leader_that_hears_and_is_not_heard_is_replaced() {
    plan("a leader that receives and does not send").run(|trial| {
        is_replaced_when(trial, |trial, old, other| trial.network().cut_one_way(old, other));
    });
}

/// Cuts something between the leader and each of the others: another one leads.
fn is_replaced_when(trial: &mut Trial<'_>, cut: impl Fn(&Trial<'_>, usize, usize)) {
    let old = trial.cluster.leader();
    let majority = others(trial, &[old]);
    majority.iter().for_each(|&other| cut(trial, old, other));
    let outage = trial.traffic.writes(1);
    assert_ne!(trial.cluster.leader_of(&majority), old);
    trial.traffic.writes(100);
    trial.network().heal();
    trial.cluster.leader();
    trial.note(&format!("{} ms to the first write without it", outage.as_millis()));
}

/// Cuts one follower off by `cut(trial, leader, follower)`, long enough for it to stand for
/// election several times if anybody let it.
fn cut_a_follower_off(name: &'static str, cut: impl Fn(&Trial<'_>, usize, usize) + Sync) {
    plan(name).run(|trial| {
        let leader = trial.cluster.leader();
        let term_before = term(trial, leader);
        let follower = others(trial, &[leader])[0];
        others(trial, &[follower]).into_iter().for_each(|other| cut(trial, other, follower));
        trial.traffic.last(Duration::from_secs(3));
        trial.traffic.writes(100);
        let committed = trial.cluster.node(leader).status_number("commit");
        let applied = trial.cluster.node(follower).status_number("applied");
        assert!(applied + 50 < committed, "the follower was not cut off: {applied}, {committed}");
        trial.network().heal();
        assert_eq!(trial.cluster.leader(), leader, "a follower disturbs the leader");
        assert_eq!(term(trial, leader), term_before, "a follower disturbs the leader");
    });
}

#[test]
fn a_follower_that_hears_nothing_disturbs_nobody() {
    cut_a_follower_off("a follower that sends and does not receive", |trial, other, follower| {
        trial.network().cut_one_way(other, follower);
    });
}

#[test]
fn a_follower_that_is_not_heard_disturbs_nobody() {
    cut_a_follower_off("a follower that receives and does not send", |trial, other, follower| {
        trial.network().cut_one_way(follower, other);
    });
}

/// The outage of Cloudflare in November 2020: the third node hears no leader, the second does, and
/// without checks of each other's claims the leadership wanders for as long as the cut lasts.
#[test]
fn a_cut_between_two_of_three_changes_the_leader_twice_at_most() {
    plan("a cut between the leader and one of two followers").run(|trial| {
        let leader = trial.cluster.leader();
        let term_before = term(trial, leader);
        let [middle, far] = others(trial, &[leader])[..] else { panic!("three voters") };
        trial.network().cut(leader, far);
        trial.traffic.last(Duration::from_secs(4));
        trial.traffic.writes(100);
        let changes = term(trial, middle) - term_before;
        assert!(changes <= 2, "{changes} elections behind a partial partition");
        trial.network().heal();
        trial.cluster.leader();
    });
}

/// The leader and one other of five on the one side.
#[test]
fn a_minority_of_five_waits_for_the_others() {
    let plan = Plan { voters: 5, ..plan("five nodes, the leader in the smaller part") };
    plan.run(|trial| {
        let leader = trial.cluster.leader();
        let friend = others(trial, &[leader])[0];
        let majority = others(trial, &[leader, friend]);
        for &other in &majority {
            trial.network().cut(leader, other);
            trial.network().cut(friend, other);
        }
        trial.traffic.writes(1);
        let new = trial.cluster.leader_of(&majority);
        trial.traffic.writes(100);
        trial.network().heal();
        assert_eq!(trial.cluster.leader(), new, "the smaller part disturbs the larger");
    });
}
