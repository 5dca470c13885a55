//! `kill -9` in the middle of what takes a while: a snapshot that is written, the log that is given
//! up behind it, a snapshot that is on its way to another node, a change of the members. Clients
//! write all the time, none of their requests may fail, and in the end every node holds exactly
//! what they have written.
//!
//! The moments are seen from outside, by the files that come and grow, and drawn from there on.
//! `KVORUM_KILL_ROUNDS` says how often each test kills; the default is short.

mod books;
mod changes;
mod installs;
mod snapshots;
#[path = "../support/mod.rs"]
mod support;

use std::path::Path;

use rand::RngExt as _;
use rand::rngs::SmallRng;

use support::child::Ends as _;
use support::client::Text;
use support::cluster::Cluster;
use support::server::kvorum;

/// Snapshots are taken often, and a node that is away is soon given up: after a time that is
/// counted in election timeouts.
const ARGUMENTS: [&str; 4] = ["--snapshot-log-bytes-min", "1mb", "--election-timeout-ms", "200"];

/// Keys that make snapshots large enough to be cut off.
const BALLAST_KEYS: usize = 2_000;
const BALLAST_VALUE_BYTES: usize = 8_000;

fn rounds() -> u64 {
    let rounds = std::env::var("KVORUM_KILL_ROUNDS");
    rounds.map_or(3, |rounds| rounds.parse().expect("a number"))
}

/// Writes the ballast, for the first time or again: so the log goes on.
fn write_ballast(mut leader: Text) {
    let value = "x".repeat(BALLAST_VALUE_BYTES);
    for keys in (0..BALLAST_KEYS).collect::<Vec<_>>().chunks(100) {
        let lines: Vec<String> =
            keys.iter().map(|key| format!("SET ballast{key} {value}\n")).collect();
        leader.raw().send(lines.concat().as_bytes());
        for _ in keys {
            assert_eq!(leader.reply(), "OK");
        }
    }
}

/// Length of a file; 0 when there is none.
fn file_bytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |file| file.len())
}

/// Some length of a snapshot before its end.
fn part_of_a_snapshot(chance: &mut SmallRng) -> u64 {
    let bytes = (BALLAST_KEYS * BALLAST_VALUE_BYTES) as u64;
    chance.random_range(1..bytes * 3 / 4)
}

/// A command about members, which must work whoever is killed meanwhile.
fn change(servers: &str, words: &[&str]) {
    let mut command = kvorum();
    command.arg("member").args(words).args(["--servers", servers, "--timeout-ms", "30000"]);
    let output = command.output_in_time().expect("it can be started");
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// Where the nodes that run serve clients.
fn servers(cluster: &Cluster) -> String {
    let servers: Vec<&str> = cluster.running().map(|id| cluster.address(id)).collect();
    servers.join(",")
}
