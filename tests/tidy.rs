//! The rules of the house that no compiler knows. A rule that stands in the way is changed here,
//! with its reason, never worked around.

use std::fs;
use std::path::{Path, PathBuf};

/// Which modules of the root package each module may name. The pure core names no other; a module
/// that is not listed here is in no layer yet.
const LAYERS: [(&str, &[&str]); 9] = [
    ("core", &[]),
    ("config", &[]),
    ("disk", &[]),
    ("snapshot", &["core", "disk"]),
    ("wal", &["core", "disk"]),
    ("client", &[]),
    ("net", &["config", "core", "disk", "snapshot", "wal"]),
    ("bench", &["client"]),
    ("cli", &["bench", "client", "config", "core", "disk", "net", "snapshot", "wal"]),
];

/// Where no I/O, clock, thread or global randomness may be: time and seeds are arguments.
const PURE: [&str; 4] =
    ["src/client/pipeline/plan/", "src/client/route/", "src/core/", "protocol/src/"];

/// What the pure layers may not name.
const IMPURE: [&str; 17] = [
    "std::fs",
    "std::net",
    "std::io",
    "std::thread",
    "std::env",
    "std::process",
    "std::sync",
    "std::os",
    "Instant::now",
    "SystemTime",
    "mio::",
    "println!",
    "print!(",
    "rand::rng(",
    "rand::random",
    "RandomState",
    "thread_local!",
];

/// Constants of the compiler, and nothing of the environment.
const PURE_AFTER_ALL: [&str; 1] = ["std::env::consts::"];

/// The only files with unsafe code.
const UNSAFE: [&str; 3] =
    ["src/core/store/item.rs", "src/disk/map.rs", "tests/support/counting.rs"];

/// A file is one concept. Lower it when the longest file allows.
const FILE_LINES_MAX: usize = 600;

const LINE_CHARACTERS_MAX: usize = 100;

/// What is written while work is not finished. Split, so that this file does not hold them.
const LEFTOVERS: [&str; 6] = [
    concat!("to", "do!("),
    concat!("unimple", "mented!("),
    concat!("FIX", "ME"),
    concat!("X", "XX"),
    concat!("db", "g!("),
    concat!("#[ig", "nore"),
];

/// A file of the tree.
struct Source {
    /// From the root, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line))
    }

    /// The lines of code that are no test: up to the tests, without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("/tests.rs") || self.path.contains("/tests/");
        self.lines()
            .take_while(move |(_, line)| !is_test && !line.starts_with("#[cfg(test)]"))
            .map(|(number, line)| (number, line.split("//").next().unwrap_or_default()))
    }

    /// The module of the root package that this file belongs to.
    fn module(&self) -> Option<&str> {
        let path = self.path.strip_prefix("src/")?;
        let module = path.split('/').next()?.trim_end_matches(".rs");
        (!["lib", "main"].contains(&module)).then_some(module)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> =
        ["src", "tests", "benches", "examples", "protocol/src", "protocol/tests"]
            .iter()
            .map(|folder| root.join(folder))
            .filter(|folder| folder.is_dir())
            .collect();
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 10, "the tree is elsewhere");
    sources
}

#[track_caller]
fn report(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n{}", breaches.join("\n"));
}

#[test]
fn a_layer_imports_only_from_below() {
    let mut breaches = Vec::new();
    for source in sources() {
        let Some(module) = source.module() else { continue };
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            breaches.push(format!("{}: module {module} is in no layer", source.path));
            continue;
        };
        for (number, line) in source.code() {
            for named in line.split("crate::").skip(1) {
                let end = named.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                let named = &named[..end.unwrap_or(named.len())];
                let is_module = LAYERS.iter().any(|(name, _)| *name == named);
                if is_module && named != module && !allowed.contains(&named) {
                    breaches.push(format!("{}:{number}: {module} names {named}", source.path));
                }
            }
        }
    }
    report("a layer imports only from below", &breaches);
}

#[test]
fn the_pure_layers_do_no_io_and_know_no_clock() {
    let mut breaches = Vec::new();
    for source in sources() {
        if !PURE.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for (number, line) in source.code() {
            let line =
                PURE_AFTER_ALL.iter().fold(line.to_owned(), |line, pure| line.replace(pure, ""));
            // `use std::{fs, io}` names them too.
            let grouped = line.split("std::{").nth(1).unwrap_or_default();
            let grouped = grouped.split([',', ' ', '}']).filter(|word| !word.is_empty());
            let grouped: Vec<String> = grouped.map(|word| format!("std::{word}")).collect();
            for impure in IMPURE {
                if line.contains(impure) || grouped.iter().any(|name| name == impure) {
                    breaches.push(format!("{}:{number}: {impure}", source.path));
                }
            }
        }
    }
    report("the pure layers do no I/O and know no clock", &breaches);
}

#[test]
fn files_and_lines_are_short() {
    let mut breaches = Vec::new();
    for source in sources() {
        let lines = source.lines().count();
        if lines > FILE_LINES_MAX {
            breaches.push(format!("{}: {lines} lines, at most {FILE_LINES_MAX}", source.path));
        }
        for (number, line) in source.lines() {
            let width = line.chars().count();
            if width > LINE_CHARACTERS_MAX {
                breaches.push(format!("{}:{number}: {width} characters wide", source.path));
            }
        }
    }
    report("files and lines are short", &breaches);
}

#[test]
fn nothing_is_left_over() {
    let mut breaches = Vec::new();
    for source in sources() {
        for (number, line) in source.lines() {
            for leftover in LEFTOVERS {
                if line.contains(leftover) {
                    breaches.push(format!("{}:{number}: {leftover}", source.path));
                }
            }
        }
    }
    report("nothing is left over", &breaches);
}

/// Where time may pass for its own sake: between two questions to other processes about what they
/// tell nobody, such as that they have a leader.
const WAITS_FOR_TIME: [&str; 4] =
    ["src/bench/cluster.rs", "src/cli/servers.rs", "src/client/cluster.rs", "tests/support/mod.rs"];

/// Benchmarks may: other people's servers do not tell when they are ready.
#[test]
fn nobody_waits_for_time_to_pass() {
    let mut breaches = Vec::new();
    for source in sources() {
        if source.path.starts_with("benches/") || WAITS_FOR_TIME.contains(&source.path.as_str()) {
            continue;
        }
        for (number, line) in source.lines() {
            if line.contains(concat!("sle", "ep(")) {
                breaches.push(format!("{}:{number}", source.path));
            }
        }
    }
    report("nobody waits for time to pass, but for events", &breaches);
}

#[test]
fn unsafe_code_is_where_it_is_known_to_be() {
    let mut breaches = Vec::new();
    for source in sources() {
        let is_needed = source.code().any(|(_, line)| {
            let behind = line.split(concat!("uns", "afe ")).nth(1).unwrap_or_default();
            ["{", "fn", "impl", "trait", "extern"].iter().any(|form| behind.starts_with(form))
        });
        let is_listed = UNSAFE.contains(&source.path.as_str());
        if is_needed && !is_listed {
            breaches.push(format!("{}: unsafe code", source.path));
        }
        if is_listed && !is_needed {
            breaches
                .push(format!("{}: no unsafe code any more, take it off the list", source.path));
        }
    }
    report("unsafe code is where it is known to be", &breaches);
}

/// The README tells people the command; `.ci/run` must run the same one.
#[test]
fn the_readme_and_ci_run_the_same_tests() {
    const COMMAND: &str = "cargo test --workspace --locked";
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["README.md", ".ci/run"] {
        let Ok(text) = fs::read_to_string(root.join(file)) else { panic!("there is no {file}") };
        let has_it = text.lines().any(|line| line.trim() == COMMAND);
        assert!(has_it, "{file} has no line `{COMMAND}`");
    }
}
