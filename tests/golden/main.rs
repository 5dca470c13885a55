//! Golden traces of the core: each file in `node/` is a script that drives one
//! [`Node`](kvorum::core::Node), each file in `cluster/` one that drives several, with everything
//! that they said. One behaviour a file, its title as a sentence.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test golden` writes what the core says now into the scripts;
//! the difference is then for a person to judge.

mod cluster;
mod cluster_script;
mod machine;
mod network;
mod script;
mod words;

use std::path::Path;

use script::Script;

test_each_file::test_each_path! { in "./tests/golden/node" as node => run_node }
test_each_file::test_each_path! { in "./tests/golden/cluster" as clusters => run_cluster }

fn run_node(path: &Path) {
    goldenscript::run(&mut Script::default(), path).expect("the script runs");
}

fn run_cluster(path: &Path) {
    goldenscript::run(&mut cluster_script::Script::default(), path).expect("the script runs");
}
