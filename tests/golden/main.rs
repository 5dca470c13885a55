//! Golden traces of the core: each file in `node/` is a script that drives one
//! [`Node`](kvorum::core::Node), with everything that it said. One behaviour a file, its title as a
//! sentence.
//!
//! `UPDATE_GOLDENFILES=1 cargo test --test golden` writes what the core says now into the scripts;
//! the difference is then for a person to judge.

mod machine;
mod script;
mod words;

use std::path::Path;

use script::Script;

test_each_file::test_each_path! { in "./tests/golden/node" as node => run }

fn run(path: &Path) {
    goldenscript::run(&mut Script::default(), path).expect("the script runs");
}
