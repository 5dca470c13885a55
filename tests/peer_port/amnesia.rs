//! A voter whose data directory is gone or old must not count as the one that it was.
//! RELIABILITY.md, A6.

use std::fs;

use crate::support::cluster::Cluster;
use crate::support::server::Exit;
use crate::support::{tool, until};
use crate::{assert_works, lines};

/// It said once what is wrong and what to do, and where.
#[track_caller]
fn assert_forgot(cluster: &Cluster, id: usize, exit: &Exit) {
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let words = exit.last_words();
    assert!(words.contains(cluster.data(id).to_str().unwrap()), "{words}");
    assert!(words.contains("is empty or older than what node"), "{words}");
    assert!(words.contains("bring back the newest directory"), "{words}");
    assert_eq!(lines(exit, "is empty or older").len(), 1, "{}", exit.stderr);
}

/// Waits until node `id` has noted, durably, that node `of` remembers `term`.
fn wait_until_known(cluster: &Cluster, id: usize, of: usize, term: u64) {
    until("the term is known", || {
        let text = fs::read_to_string(cluster.data(id).join("peers")).ok()?;
        let start = format!("node {of} ");
        let line = text.lines().find(|line| line.starts_with(&start))?;
        let known: u64 = line.rsplit_once(' ')?.1.parse().ok()?;
        (known >= term).then_some(())
    });
}

#[test]
fn a_voter_with_an_empty_directory_stops_before_it_counts() {
    let mut cluster = Cluster::start(3);
    assert_works(&cluster);
    let id = cluster.followers()[0];
    cluster.kill(id);
    fs::remove_dir_all(cluster.data(id)).unwrap();
    let exit = cluster.start_in_vain(id);
    assert_forgot(&cluster, id, &exit);
    assert_works(&cluster);
}

#[test]
fn a_voter_with_an_old_directory_stops_before_it_counts() {
    let mut cluster = Cluster::start(3);
    assert_works(&cluster);
    let id = cluster.followers()[0];
    let other = cluster.followers()[1];
    cluster.terminate(id);
    let (data, old) = (cluster.data(id), cluster.data(id).with_extension("old"));
    tool("cp", &["-a", data.to_str().unwrap(), old.to_str().unwrap()]);
    cluster.start_node(id);
    let before = cluster.node(id).status_number("term");
    let leader = cluster.leader();
    assert_ne!(leader, id, "it was started again");
    cluster.kill(leader);
    cluster.node(id).wait_for_status("term", |term| term > before);
    wait_until_known(&cluster, other, id, before + 1);
    cluster.start_node(leader);
    cluster.leader();
    cluster.kill(id);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&old, &data).unwrap();
    let exit = cluster.start_in_vain(id);
    assert_forgot(&cluster, id, &exit);
    assert_works(&cluster);
}

#[test]
fn a_voter_that_crashes_again_and_again_is_still_known() {
    let mut cluster = Cluster::start(3);
    for round in 0..6 {
        let id = if round % 2 == 0 { cluster.leader() } else { cluster.followers()[0] };
        cluster.kill(id);
        cluster.start_node(id);
        assert_works(&cluster);
    }
    cluster.wait_until_applied(&[1, 2, 3]);
}

#[test]
fn a_learner_may_come_back_with_nothing() {
    let mut cluster = Cluster::start_with(1, 1, &[]);
    assert_works(&cluster);
    cluster.wait_until_applied(&[2]);
    cluster.kill(2);
    fs::remove_dir_all(cluster.data(2)).unwrap();
    cluster.start_node(2);
    cluster.wait_until_applied(&[2]);
    let mut client = cluster.text(2);
    assert_eq!(client.ask("QUORUM r=1"), "OK");
    assert_eq!(client.ask("GET still"), "VALUE works");
}
