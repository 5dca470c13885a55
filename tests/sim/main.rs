//! A simulator of whole clusters. It runs the real core ([`kvorum::core::Node`]) and the real log
//! ([`kvorum::wal`]) of every node in one thread, with a clock, a network, disks and clients that
//! are not real, and in which everything goes wrong that can. An observer who sees all of it checks
//! after every step that every promise is kept.
//!
//! # Reading it
//! - [`world`]: what happens, one event after the other; [`turn`]: what a process does;
//!   [`life`]: how it begins and ends; [`wire`]: what nodes say, as the frames that they send.
//! - [`options`]: what one seed is about; [`nemesis`]: what goes wrong; [`members`]: who comes and
//!   goes.
//! - [`invariants`]: what must always be true; [`ending`]: what must come true when all faults end;
//!   [`clients`]: what clients may see; [`sessions`]: how they send again what may be lost.
//!
//! # Running it
//! `cargo test --test sim` runs the short form. With these in the environment:
//! - `KVORUM_SIM_SEED=7` runs one seed and prints its options and its last events, or as many as
//!   `KVORUM_SIM_LINES` says;
//! - `KVORUM_SIM_SEEDS=0..100` runs these;
//! - `KVORUM_SIM_FOREVER=1` runs until it is stopped, from a seed that the clock gives.
//!
//! [`seeded_bugs`] builds known bugs into the core, one after the other, and finds each. With
//! `KVORUM_SIM_BUG=VotesTwice` all of the above runs with that one.

// Parts of these are for other tests.
#[allow(dead_code)]
#[path = "../support/history.rs"]
mod history;
#[allow(dead_code)]
#[path = "../support/linearizable.rs"]
mod linearizable;
#[path = "../support/memory_disk.rs"]
mod memory_disk;
#[allow(dead_code)]
#[path = "../support/register.rs"]
mod register;

mod chance;
mod clients;
mod clock;
mod ending;
mod image;
mod invariants;
mod life;
mod log;
mod members;
mod nemesis;
mod network;
mod node;
mod options;
mod queue;
mod runner;
mod seeded_bugs;
mod sessions;
mod snapshots;
mod trace;
mod turn;
mod wire;
mod world;

use std::ops::Range;

use kvorum::core::seeded::Bug;

/// The short form.
const SEEDS: Range<u64> = 0..2500;

/// How many events a failure shows.
const LINES: usize = 60;

fn number<N: std::str::FromStr>(text: &str) -> N {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn seeds(text: &str) -> Range<u64> {
    let parsed = text
        .split_once("..")
        .and_then(|(start, end)| Some(start.trim().parse().ok()?..end.trim().parse().ok()?));
    parsed.unwrap_or_else(|| panic!("KVORUM_SIM_SEEDS={text}: it is written 0..100"))
}

/// The bug that the environment asks for.
fn bug() -> Option<Bug> {
    let name = variable("KVORUM_SIM_BUG")?;
    let bug = Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == name);
    Some(bug.unwrap_or_else(|| panic!("KVORUM_SIM_BUG={name}: one of {:?}", Bug::ALL)))
}

fn run(seeds: Range<u64>, progress: impl FnMut(&runner::Total) + Send) {
    match runner::run(seeds, bug(), progress) {
        Ok(total) => println!("{total}"),
        Err(failed) => {
            let story = runner::replay(failed.seed, bug(), LINES);
            let is_same = story.result.as_ref().err() == Some(&failed.violation);
            println!("{story}");
            assert!(is_same, "it did not fail again in the same way: {failed:?}");
            panic!("seed {}: {}: {}", failed.seed, failed.violation.rule, failed.violation.what);
        }
    }
}

#[test]
fn whole_clusters_keep_every_promise() {
    if variable("KVORUM_SIM_SEED").is_some() {
        return;
    }
    if variable("KVORUM_SIM_FOREVER").is_none() {
        let chosen = variable("KVORUM_SIM_SEEDS").map(|text| seeds(&text));
        return run(chosen.unwrap_or(SEEDS), |_| {});
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let start = u64::from(now.expect("the clock is set").subsec_nanos()) << 20;
    println!("from seed {start} on");
    run(start..u64::MAX, |total| {
        if total.seeds.is_multiple_of(500) {
            println!("{total}");
        }
    });
}

/// Nothing but the seed decides what happens.
#[test]
fn the_same_seed_is_the_same_world() {
    let replay = |seed| runner::replay(seed, None, LINES);
    for seed in 0..8 {
        let (once, again) = (replay(seed), replay(seed));
        assert_eq!(once.hash, again.hash, "seed {seed}");
        assert_ne!(once.hash, replay(seed + 1).hash);
    }
}

/// With `KVORUM_SIM_SEED`, tells all about one seed.
#[test]
fn replay() {
    let Some(seed) = variable("KVORUM_SIM_SEED") else { return };
    let lines = variable("KVORUM_SIM_LINES").map_or(LINES, |lines| number(&lines));
    let story = runner::replay(number(&seed), bug(), lines);
    println!("{story}");
    assert!(story.result.is_ok(), "seed {seed} fails");
}
