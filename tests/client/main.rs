//! The client library against real processes: what it promises to a program, also when servers
//! die, stall, lie or are not there.
//!
//! `KVORUM_COUNTERS_SECONDS=600 cargo test --test client counters` adds for ten minutes.

mod calls;
mod counters;
mod errors;
mod failover;
mod hostile;
#[path = "../support/mod.rs"]
mod support;

use std::time::Duration;

use kvorum::client::{Client, Options};
use support::cluster::Cluster;

/// Far above what any call takes here.
const TIMEOUT: Duration = Duration::from_secs(30);

fn options() -> Options {
    Options { timeout: TIMEOUT, ..Options::default() }
}

/// A client that was told of all nodes.
fn connect(cluster: &Cluster) -> Client {
    connect_with(cluster, options())
}

fn connect_with(cluster: &Cluster, options: Options) -> Client {
    Client::connect(cluster.servers().split(','), options).expect("a server lives")
}

/// What a key of the store holds as a number; 0 when it is absent.
fn number(client: &Client, key: &str) -> u64 {
    let found = client.get(key).expect("a server answers");
    found.map_or(0, |found| {
        let text = String::from_utf8(found.value).expect("digits");
        text.parse().expect("a number")
    })
}
