//! Members that go, or are gone.

use std::fs;

use crate::load::under_load;
use crate::support::cluster::Cluster;
use crate::support::until;
use crate::{CALM, assert_works, change, grow, wait_for_voters};

#[test]
fn a_dead_node_is_replaced_under_load() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    under_load(&mut cluster, |cluster| {
        let dead = cluster.followers()[0];
        cluster.kill(dead);
        change(cluster, &["remove", &dead.to_string()]);
        let id = grow(cluster);
        let mut left: Vec<usize> = cluster.running().collect();
        left.sort_unstable();
        assert_eq!(id, 4);
        let expected: Vec<String> = left.iter().map(usize::to_string).collect();
        wait_for_voters(cluster, &expected.join(","));
        // The dead one comes back, and is told.
        let exit = cluster.start_in_vain(dead);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        let words = exit.last_words().to_owned();
        assert!(words.contains(&format!("node {dead} was removed from its cluster")), "{words}");
        // It knows now, or is told again.
        let exit = cluster.start_in_vain(dead);
        assert_eq!(exit.code, Some(1), "{exit:?}");
    });
    assert_works(&cluster);
}

#[test]
fn a_voter_that_lost_its_directory_is_told_the_way_back() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    let id = cluster.followers()[0];
    cluster.kill(id);
    fs::remove_dir_all(cluster.data(id)).expect("it can be removed");
    let exit = cluster.start_in_vain(id);
    let way = format!("kvorum member remove {id}, then kvorum member add");
    assert!(exit.last_words().contains(&way), "{}", exit.last_words());
    change(&cluster, &["remove", &id.to_string()]);
    grow(&mut cluster);
    assert_works(&cluster);
}

#[test]
fn a_removed_leader_hands_over_under_load() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    under_load(&mut cluster, |cluster| {
        let leader = cluster.leader();
        change(cluster, &["remove", &leader.to_string()]);
        let exit = cluster.wait_for_end(leader);
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.last_words().contains("was removed"), "{exit:?}");
        let leader = cluster.leader();
        change(cluster, &["remove", &leader.to_string()]);
        cluster.wait_for_end(leader);
    });
    assert_works(&cluster);
    assert_eq!(cluster.running().count(), 1);
}

#[test]
fn a_demoted_leader_hands_over_and_stays() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    let leader = cluster.leader();
    under_load(&mut cluster, |cluster| {
        change(cluster, &["demote", &leader.to_string()]);
        until("another one leads", || (cluster.leader() != leader).then_some(()));
    });
    until("it follows", || (cluster.node(leader).status("role") == "learner").then_some(()));
    change(&cluster, &["promote", &leader.to_string()]);
    wait_for_voters(&cluster, "1,2,3");
    assert_works(&cluster);
}
