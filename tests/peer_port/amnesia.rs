//! A voter whose data directory is gone or old must not count as the one that it was.
//! RELIABILITY.md, A6.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::caller::term;
use crate::support::child::Ends as _;
use crate::support::cluster::Cluster;
use crate::support::server::Exit;
use crate::support::until;
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
        // The file has two versions.
        let lines = text.lines().filter(|line| line.starts_with(&start));
        let known = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).max();
        (known >= Some(term)).then_some(())
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
    cluster.terminate(id);
    let copy = copy_of(&cluster, id);
    let before = term(&cluster, id).0;
    cluster.start_node(id);
    // On a starved machine it may be that very node: then its term is a later one already.
    let leader = Some(cluster.leader()).filter(|leader| *leader != id);
    if let Some(leader) = leader {
        cluster.kill(leader);
    }
    cluster.node(id).wait_for_status("term", |term| term > before);
    if let Some(leader) = leader {
        cluster.start_node(leader);
    }
    // Both others have to know it. Whoever does not lets the node in, and if that one is elected
    // before the node has met the other, its term is a later one than anybody knows of.
    for other in (1..=3).filter(|other| *other != id) {
        wait_until_known(&cluster, other, id, before + 1);
    }
    cluster.kill(id);
    bring_back(&cluster, id, &copy);
    let exit = cluster.start_in_vain(id);
    assert_forgot(&cluster, id, &exit);
    assert_works(&cluster);
}

/// The directory of node `id` as it is now, beside it. The node may run, and then prepares its next
/// segment in a file that gets another name.
fn copy_of(cluster: &Cluster, id: usize) -> PathBuf {
    let copy = cluster.data(id).with_extension("old");
    until("no file got another name meanwhile", || {
        let _ = fs::remove_dir_all(&copy);
        let copied = Command::new("cp").arg("-a").args([&cluster.data(id), &copy]).output_in_time();
        copied.expect("cp can be run").status.success().then_some(())
    });
    copy
}

/// Puts that copy in the place of what node `id`, which does not run, has now.
fn bring_back(cluster: &Cluster, id: usize, copy: &Path) {
    fs::remove_dir_all(cluster.data(id)).unwrap();
    fs::rename(copy, cluster.data(id)).unwrap();
}

/// Nothing happens between the copy and its return but writes: no term tells it from the newest.
#[test]
fn a_voter_with_an_old_directory_of_the_same_term_stops_before_it_counts() {
    for stop in [Cluster::kill, |cluster: &mut Cluster, id| _ = cluster.terminate(id)] {
        // A machine that is busy with other tests must not bring an election.
        let mut cluster = Cluster::start_with(3, 0, &["--election-timeout-ms", "1000"]);
        assert_works(&cluster);
        let (leader, id) = (cluster.leader(), cluster.followers()[0]);
        let term = cluster.node(leader).status_number("term");
        cluster.wait_until_applied(&[id]);
        let copy = copy_of(&cluster, id);
        let mut client = cluster.text(leader);
        assert_eq!(client.ask("QUORUM w=all"), "OK");
        assert_eq!(client.ask("SET forgotten by-one"), "OK");
        stop(&mut cluster, id);
        bring_back(&cluster, id, &copy);
        let exit = cluster.start_in_vain(id);
        assert_forgot(&cluster, id, &exit);
        assert_eq!(cluster.text(leader).ask("GET forgotten"), "VALUE by-one");
        assert_works(&cluster);
        assert_eq!(cluster.node(leader).status_number("term"), term, "another term would tell");
    }
}

/// A leader acknowledges nothing; what it has is known from what it says itself.
#[test]
fn a_leader_with_an_old_directory_of_its_own_term_stops_before_it_counts() {
    let mut cluster = Cluster::start(3);
    let id = cluster.leader();
    let copy = copy_of(&cluster, id);
    assert_works(&cluster);
    let last = cluster.node(id).status_number("last");
    cluster.node(id).wait_for_status("durable", |durable| durable >= last);
    // The next heartbeats say it. A read asks for some, and waits until a follower has heard them.
    assert_eq!(cluster.text(id).ask("GET still"), "VALUE works");
    cluster.kill(id);
    bring_back(&cluster, id, &copy);
    let exit = cluster.start_in_vain(id);
    assert_forgot(&cluster, id, &exit);
    assert_works(&cluster);
}

/// A crash, a truncation and a longer log of the same term are nothing to be refused for.
#[test]
fn a_voter_that_crashes_under_load_is_still_known() {
    let mut cluster = Cluster::start(3);
    for round in 0..6 {
        let leader = cluster.leader();
        let mut client = cluster.text(leader);
        for write in 0..200 {
            client.send(&format!("SET k{write} {round}"));
        }
        let id = if round % 2 == 0 { leader } else { cluster.followers()[0] };
        cluster.kill(id);
        cluster.start_node(id);
        assert_works(&cluster);
    }
    cluster.wait_until_applied(&[1, 2, 3]);
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
