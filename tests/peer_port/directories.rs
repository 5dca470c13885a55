//! Data directories that are not what the command line says, or have no room.

use crate::assert_works;
use crate::support::cluster::Cluster;
use crate::support::disk::SmallDisk;
use crate::support::server::{Exit, Server};
use crate::support::until;

/// It said that the directory belongs to another cluster than was asked for.
#[track_caller]
fn assert_other_cluster(cluster: &Cluster, exit: &Exit) {
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let words = exit.last_words();
    assert!(words.contains(cluster.data(1).to_str().unwrap()), "{words}");
    assert!(words.contains("belongs to another cluster"), "{words}");
}

#[test]
fn a_directory_of_another_cluster_is_refused() {
    let mut one = Cluster::start(3);
    let mut other = Cluster::prepare(3, 0, &[]);
    one.terminate(1);
    other.keep_data_in(1, one.data(1));
    let exit = other.start_in_vain(1);
    assert_other_cluster(&other, &exit);
    // Nothing was done to it.
    one.start_node(1);
    one.leader();
    one.wait_until_applied(&[1, 2, 3]);
}

#[test]
fn a_directory_of_a_lone_node_does_not_join_a_cluster() {
    let mut cluster = Cluster::prepare(3, 0, &[]);
    let mut lone = Server::start_in(&cluster.data(1), &[]);
    assert_eq!(lone.text().ask("SET k v"), "OK");
    lone.terminate();
    let exit = cluster.start_in_vain(1);
    assert_other_cluster(&cluster, &exit);
    lone.start_again();
    assert_eq!(lone.text().ask("GET k"), "VALUE v");
}

#[test]
fn without_a_list_the_log_says_who_the_members_are() {
    let mut cluster = Cluster::start(3);
    cluster.wait_until_applied(&[1, 2, 3]);
    cluster.terminate(1);
    let node = Server::start_in(&cluster.data(1), &[]);
    let committed = cluster.node(cluster.leader()).status_number("commit");
    node.wait_for_status("applied", |applied| applied >= committed);
    assert_eq!(node.status("voters"), "1,2,3");
}

/// What a node must note of a member before it lets it in needs no new space.
#[test]
fn a_full_disk_keeps_no_member_out() {
    let disk = SmallDisk::new(64);
    let mut cluster = Cluster::prepare(3, 0, &[]);
    cluster.keep_data_in(1, disk.path().join("data"));
    (1..=3).for_each(|id| cluster.start_node(id));
    assert_works(&cluster);
    let _ballast = disk.fill_to_the_brim();
    cluster.kill(3);
    // In a new term there is something to note.
    let leader = cluster.leader();
    let to = 3 - leader;
    assert_eq!(cluster.text(leader).ask(&format!("TRANSFER {to}")), "OK");
    until("it has moved", || (cluster.leader() == to).then_some(()));
    cluster.start_node(3);
    cluster.wait_until_applied(&[3]);
    // Node 1 and node 3 have nobody else now.
    cluster.kill(2);
    cluster.leader();
}
