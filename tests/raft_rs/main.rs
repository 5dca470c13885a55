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

use std::panic::catch_unwind;

use kvorum::core::seeded::Bug;
use world::{Tally, World};

/// Virtual hours pass in seconds.
const SEEDS: std::ops::Range<u64> = 0..200;

fn run(seed: u64, bug: Option<Bug>) -> Tally {
    let mut world = World::new(seed, bug);
    world.run();
    world.end()
}

#[test]
fn mixed_clusters_elect_and_commit_the_same() {
    let mut tally = Tally::default();
    SEEDS.for_each(|seed| tally.add(&run(seed, None)));
    println!("{tally}");
    // Otherwise it was no mixture.
    assert!(tally.leaders_of_kvorum > 100 && tally.leaders_of_raft_rs > 100);
    assert!(tally.committed_under_kvorum > 1000 && tally.committed_under_raft_rs > 1000);
}

/// The known bugs that such worlds can find: those in elections and replication. Nobody reads here,
/// and some need rarer accidents.
const SHOWN: [Bug; 11] = [
    Bug::TermNotPersisted,
    Bug::VotesTwice,
    Bug::LongerLogWins,
    Bug::CountsOwnUnsynced,
    Bug::AcksBeforeDurable,
    Bug::CommitsWithoutQuorum,
    Bug::TruncatesBehindAppend,
    Bug::CommitsUnmatched,
    Bug::SkipsLogCheck,
    Bug::WaitersSurviveLeadership,
    Bug::RefusedButLogged,
];

#[test]
fn a_misreading_of_raft_shows() {
    for bug in SHOWN {
        let is_wrong = |seed: &u64| catch_unwind(|| run(*seed, Some(bug))).is_err();
        let seed = SEEDS.into_iter().find(is_wrong);
        println!("{bug:?}: {seed:?}");
        assert!(seed.is_some(), "{bug:?} goes unnoticed");
    }
}
