//! Snapshots on their way from a leader to a node that lacks what the log does not hold any more.

use std::fs;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::books::under_load;
use crate::support::cluster::Cluster;
use crate::support::until;
use crate::{ARGUMENTS, change, file_bytes, part_of_a_snapshot, rounds, servers, write_ballast};

/// Far above what 16 MB of keys need, and far below what is written until a pause after a failure
/// is over.
const DISK_BYTES_MAX: u64 = 800 << 20;

/// Whom it hits.
#[derive(Clone, Copy, Debug)]
enum End {
    Receiver,
    Sender,
    Both,
}

/// Writes until none of these nodes has the log that follows `index`.
fn give_up_log(cluster: &Cluster, ids: &[usize], index: u64) {
    until("the log is given up", || {
        write_ballast(cluster.text(cluster.leader()));
        let is_gone = |id: &usize| cluster.node(*id).status_number("log_from") > index + 1;
        ids.iter().all(is_gone).then_some(())
    });
}

/// Waits until so much of a snapshot has come to a node; false when all of it was there before
/// anybody looked.
fn wait_for_part(cluster: &Cluster, id: usize, part: u64, lacks: u64) -> bool {
    let temporary = cluster.data(id).join("install.tmp");
    until("a snapshot is on its way", || {
        if file_bytes(&temporary) >= part {
            return Some(true);
        }
        (cluster.node(id).status_number("snapshot") > lacks).then_some(false)
    })
}

/// What the files of a data directory take.
fn directory_bytes(data: &Path) -> u64 {
    let entries = fs::read_dir(data).unwrap();
    // A file may go while the directory is read.
    entries.filter_map(|entry| entry.unwrap().metadata().ok()).map(|file| file.len()).sum()
}

/// Whether a whole snapshot is there.
fn has_snapshot(data: &Path) -> bool {
    let mut names = fs::read_dir(data).into_iter().flatten().map(|entry| entry.unwrap().path());
    names.any(|path| path.extension().is_some_and(|kind| kind == "kv"))
}

fn is_cut_off_at(end: End) {
    let mut cluster = Cluster::start_with(3, 0, &ARGUMENTS);
    write_ballast(cluster.text(cluster.leader()));
    let mut chance = SmallRng::seed_from_u64(end as u64);
    let mut cut_off = 0;
    under_load(&mut cluster, |cluster| {
        for _ in 0..rounds() {
            let away = cluster.followers()[chance.random_range(0..2)];
            cluster.kill(away);
            let staying: Vec<usize> = cluster.running().collect();
            let gone_at = cluster.node(cluster.leader()).status_number("last");
            give_up_log(cluster, &staying, gone_at);
            let leader = cluster.leader();
            cluster.start_node(away);
            let part = part_of_a_snapshot(&mut chance);
            cut_off += u64::from(wait_for_part(cluster, away, part, gone_at));
            let victims = match end {
                End::Receiver => vec![away],
                End::Sender => vec![leader],
                End::Both => vec![leader, away],
            };
            victims.iter().for_each(|id| cluster.kill(*id));
            victims.iter().for_each(|id| cluster.start_node(*id));
            cluster.node(away).wait_for_status("snapshot", |index| index > gone_at);
            cluster.wait_until_applied(&[1, 2, 3]);
        }
    });
    assert!(cut_off > 0, "none was killed in time");
}

#[test]
fn an_install_is_cut_off_at_the_receiver() {
    is_cut_off_at(End::Receiver);
}

#[test]
fn an_install_is_cut_off_at_the_sender() {
    is_cut_off_at(End::Sender);
}

#[test]
fn an_install_is_cut_off_at_both_ends() {
    is_cut_off_at(End::Both);
}

/// It begins with nothing, and the log does not begin at its beginning any more.
#[test]
fn a_joining_node_is_killed_while_it_gets_its_first_snapshot() {
    let mut cluster = Cluster::start_with(1, 0, &ARGUMENTS);
    let mut chance = SmallRng::seed_from_u64(3);
    let mut cut_off = 0;
    under_load(&mut cluster, |cluster| {
        for round in 0..rounds().min(6) {
            let staying: Vec<usize> = cluster.running().collect();
            let last = cluster.node(cluster.leader()).status_number("last");
            give_up_log(cluster, &staying, last);
            for id in &staying {
                // Also of those that have just come by a snapshot: they take their own at once.
                let bytes = directory_bytes(&cluster.data(*id));
                assert!(bytes < DISK_BYTES_MAX, "{bytes} bytes on the disk of node {id}");
            }
            // Who has the list: the new one learns of itself late.
            let servers = servers(cluster);
            let id = cluster.add_node();
            let place = format!("{id}={}/{}", cluster.address(id), cluster.peer_address(id));
            change(&servers, &["add", "--learner", &place]);
            let part = part_of_a_snapshot(&mut chance);
            let data = cluster.data(id);
            let temporary = data.join("install.tmp");
            cluster
                .start_node_and_kill(id, || file_bytes(&temporary) >= part || has_snapshot(&data));
            cut_off += u64::from(temporary.exists());
            // It knows whom it joins, also without any flag.
            cluster.tell_nothing(id);
            cluster.start_node(id);
            change(&servers, &["add", &place]);
            let node = cluster.node(id);
            assert!(node.status_number("snapshot") > 0, "it came by a snapshot");
            assert!(node.status_number("log_from") > 1, "the log began behind it");
            let voters: Vec<String> = (1..=round + 2).map(|id| id.to_string()).collect();
            until("it is a voter", || (node.status("voters") == voters.join(",")).then_some(()));
        }
    });
    assert!(cut_off > 0, "none was killed in time");
}
