//! The examples, each against a cluster: they end by themselves and say what they do.

mod support;

use std::path::PathBuf;
use std::process::Command;

use support::cluster::Cluster;

/// Cargo builds the examples with the tests, beside them.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(|deps| deps.parent()).expect("tests are in deps");
    let example = profile.join("examples").join(name);
    assert!(example.is_file(), "{example:?} is missing: cargo build --examples --profile test");
    example
}

fn run(name: &str) {
    let cluster = Cluster::start(3);
    let output =
        Command::new(example(name)).env("KVORUM_SERVERS", cluster.servers()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    assert!(said.lines().count() >= 3, "{said}");
    assert_eq!(complaint, "");
}

#[test]
fn session_cache_runs() {
    run("session_cache");
}

#[test]
fn configuration_runs() {
    run("configuration");
}

#[test]
fn service_registry_runs() {
    run("service_registry");
}

#[test]
fn feature_flags_runs() {
    run("feature_flags");
}
