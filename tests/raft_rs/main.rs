//! Others' judgement: clusters in which some nodes run another Raft, and etcd's data about quorums.
//!
//! raft-rs, the Raft of TiKV, is a port of etcd's. A node that runs it speaks through
//! [`translation`]: what the two have to say to each other is the same, in other words. Any
//! misreading of Raft on our side shows at once: they elect no leader, or commit different things.

#[path = "../support/package.rs"]
mod package;

mod kvorum_node;
mod quorum_data;
mod raft_rs_node;
mod translation;
mod world;

use world::{Tally, World};

/// Virtual hours pass in seconds.
const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn mixed_clusters_elect_and_commit_the_same() {
    let mut tally = Tally::default();
    for seed in SEEDS {
        let mut world = World::new(seed);
        world.run();
        tally.add(&world.end());
    }
    println!("{tally}");
    // Otherwise it was no mixture.
    assert!(tally.leaders_of_kvorum > 100 && tally.leaders_of_raft_rs > 100);
    assert!(tally.committed_under_kvorum > 1000 && tally.committed_under_raft_rs > 1000);
}
