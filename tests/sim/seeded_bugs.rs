//! Does the simulator have teeth? Bugs that other systems really had are built in, one at a time,
//! and each has to be found soon. One that is not found would mean that a fault or a rule is
//! missing here.

use std::collections::BTreeMap;

use kvorum::core::seeded::Bug;

use crate::runner;

/// Every bug has to be found within so many seeds.
const SEEDS_MAX: u64 = 500;

/// Where the searches begin: the median of them is printed.
const STARTS: [u64; 5] = [0, 100_000, 200_000, 300_000, 400_000];

/// What the searches for one bug have found.
struct Found {
    /// How many seeds each search took; `None` where it found nothing.
    seeds: Vec<Option<u64>>,
    /// Which rules were broken, how often.
    rules: BTreeMap<&'static str, usize>,
}

fn search(bug: Bug) -> Found {
    let mut found = Found { seeds: Vec::new(), rules: BTreeMap::new() };
    for start in STARTS {
        match runner::run(start..start + SEEDS_MAX, Some(bug), |_| {}) {
            Err(failed) => {
                found.seeds.push(Some(failed.seed - start + 1));
                *found.rules.entry(failed.violation.rule).or_default() += 1;
            }
            Ok(_) => found.seeds.push(None),
        }
    }
    found
}

impl Found {
    fn median(&self) -> Option<u64> {
        let mut seeds: Vec<u64> =
            self.seeds.iter().map(|seeds| seeds.unwrap_or(u64::MAX)).collect();
        seeds.sort_unstable();
        Some(seeds[seeds.len() / 2]).filter(|median| *median < u64::MAX)
    }
}

#[test]
fn every_seeded_bug_is_found() {
    let mut missed = Vec::new();
    println!("| bug | seeds to find it (median of {}) | broken rule |", STARTS.len());
    println!("|---|---|---|");
    for bug in Bug::ALL {
        let found = search(bug);
        let rules: Vec<&str> = found.rules.keys().copied().collect();
        let median = found.median().map_or("not found".to_owned(), |median| median.to_string());
        println!("| {bug:?} | {median} | {} |", rules.join("; "));
        if found.seeds.contains(&None) {
            missed.push(bug);
        }
    }
    assert!(missed.is_empty(), "not found within {SEEDS_MAX} seeds: {missed:?}");
}

/// A node that applies wrongly is found by the nodes themselves, not only by an observer who sees
/// all states.
#[test]
fn the_nodes_find_a_state_that_differs() {
    const RULE: &str = "nobody is found to have another state";
    let is_found = |seed| {
        let run = runner::run(seed..seed + 1, Some(Bug::DeleteSkipped), |_| {});
        run.is_err_and(|failed| failed.violation.rule == RULE)
    };
    assert!((0..100).any(is_found), "nobody has noticed");
}
