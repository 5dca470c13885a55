//! Golden traces of the core: each file in `node/` is a script that drives one
//! [`Node`](kvorum::core::Node), each file in `cluster/` one that drives several, with everything
//! that they said. One behaviour a file, its title as a sentence.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test golden` writes what the core says now into the scripts;
//! the difference is then for a person to judge.

mod cluster;
mod cluster_script;
mod disk;
mod machine;
mod network;
mod script;
mod snapshots;
mod words;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use kvorum::core::seeded::Bug;
use script::Script;

test_each_file::test_each_path! { in "./tests/golden/node" as node => run_node }
test_each_file::test_each_path! { in "./tests/golden/cluster" as clusters => run_cluster }

fn run_node(path: &Path) {
    goldenscript::run(&mut Script::default(), path).expect("the script runs");
}

fn run_cluster(path: &Path) {
    goldenscript::run(&mut cluster_script::Script::default(), path).expect("the script runs");
}

/// The traces would not be what they are with the bugs that other systems had: each is told by at
/// least one of them. (Or by what holds in every trace: then the script panics.)
#[test]
fn each_known_bug_changes_a_trace() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cluster");
    let scripts = fs::read_dir(folder).expect("the scripts are there");
    let mut scripts: Vec<_> = scripts
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap().replace("\r\n", "\n"))
        .collect();
    scripts.sort_unstable_by_key(String::len);
    let shows = |bug, script: &String| {
        let mut runner = cluster_script::Script::with_bug(bug);
        let traced = catch_unwind(AssertUnwindSafe(|| goldenscript::generate(&mut runner, script)));
        !matches!(traced, Ok(Ok(trace)) if trace == *script)
    };
    let not_shown: Vec<Bug> = Bug::ALL
        .into_iter()
        .filter(|bug| !scripts.iter().any(|script| shows(*bug, script)))
        .collect();
    assert_eq!(not_shown, []);
}
