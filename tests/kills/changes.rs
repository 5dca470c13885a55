//! Changes of the members.

use std::thread;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::books::under_load;
use crate::support::cluster::Cluster;
use crate::support::until;
use crate::{ARGUMENTS, change, rounds, servers, write_ballast};

/// Makes one change, while a voter is killed: at once, or as soon as the change is in force
/// somewhere.
fn change_and_kill(cluster: &mut Cluster, chance: &mut SmallRng, words: &[&str]) {
    let leader = cluster.leader();
    let before = cluster.node(leader).status("members");
    let victim = if chance.random_bool(0.5) { leader } else { chance.random_range(1..=3) };
    let waits = chance.random_bool(0.5);
    let servers = servers(cluster);
    thread::scope(|scope| {
        let changes = scope.spawn(|| change(&servers, words));
        if waits {
            until("it is in force", || {
                (cluster.node(leader).status("members") != before || changes.is_finished())
                    .then_some(())
            });
        }
        cluster.kill(victim);
        cluster.start_node(victim);
        changes.join().expect("the change is made");
    });
}

/// Anybody may be killed while a node is added, promoted, demoted and removed, and each of these
/// happens once.
#[test]
fn voters_are_killed_while_members_change() {
    let mut cluster = Cluster::start_with(3, 0, &ARGUMENTS);
    write_ballast(cluster.text(cluster.leader()));
    let mut chance = SmallRng::seed_from_u64(4);
    under_load(&mut cluster, |cluster| {
        for _ in 0..rounds() {
            let new = cluster.add_node();
            let place = format!("{new}={}/{}", cluster.address(new), cluster.peer_address(new));
            let id = new.to_string();
            change_and_kill(cluster, &mut chance, &["add", "--learner", &place]);
            cluster.start_node(new);
            change_and_kill(cluster, &mut chance, &["add", &place]);
            change_and_kill(cluster, &mut chance, &["demote", &id]);
            change_and_kill(cluster, &mut chance, &["promote", &id]);
            change_and_kill(cluster, &mut chance, &["remove", &id]);
            let exit = cluster.wait_for_end(new);
            assert!(exit.last_words().contains("was removed"), "{exit:?}");
            until("everybody counts the same", || {
                let counts = |id| cluster.node(id).status("voters") == "1,2,3";
                (1..=3).all(counts).then_some(())
            });
        }
    });
}
