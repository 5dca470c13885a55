//! Snapshots that are written, and the log behind them.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::books::under_load;
use crate::support::cluster::Cluster;
use crate::support::until;
use crate::{ARGUMENTS, file_bytes, part_of_a_snapshot, rounds, write_ballast};

/// A snapshot that was not finished is none, and the one before and the log are as good as ever.
#[test]
fn a_node_is_killed_while_it_writes_a_snapshot() {
    let mut cluster = Cluster::start_with(3, 0, &ARGUMENTS);
    write_ballast(cluster.text(cluster.leader()));
    let mut chance = SmallRng::seed_from_u64(1);
    let mut cut_off = 0;
    under_load(&mut cluster, |cluster| {
        for _ in 0..rounds() {
            let victim = chance.random_range(1..=3);
            let newest = cluster.node(victim).status_number("snapshot");
            let part = part_of_a_snapshot(&mut chance);
            let temporary = cluster.data(victim).join("snapshot.tmp");
            let mut client = cluster.text(victim);
            client.send("SNAPSHOT");
            until("it is being written", || {
                let is_there = file_bytes(&temporary) >= part;
                (is_there || client.raw().has_reply()).then_some(())
            });
            cluster.kill(victim);
            cut_off += u64::from(temporary.exists());
            cluster.start_node(victim);
            assert!(!temporary.exists(), "what was not finished is removed");
            assert!(cluster.node(victim).status_number("snapshot") >= newest);
        }
    });
    assert!(cut_off > 0, "none was killed in time");
}

/// All nodes give up log, and whoever is killed just then finds its snapshot and what is left.
#[test]
fn nodes_are_killed_while_they_give_up_log() {
    let mut cluster = Cluster::start_with(3, 0, &ARGUMENTS);
    let mut chance = SmallRng::seed_from_u64(2);
    under_load(&mut cluster, |cluster| {
        for _ in 0..rounds() {
            let victim = chance.random_range(1..=3);
            let node = cluster.node(victim);
            let from = node.status_number("log_from");
            // Two are kept: what the older one covers is given up with the next.
            for _ in 0..2 {
                write_ballast(cluster.text(cluster.leader()));
                assert!(cluster.text(victim).ask("SNAPSHOT").starts_with("SNAPSHOT"));
            }
            node.wait_for_status("log_from", |now| now > from);
            cluster.kill(victim);
            cluster.start_node(victim);
            assert!(cluster.node(victim).status_number("log_from") > from);
        }
    });
}
