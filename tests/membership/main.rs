//! Members come and go while the cluster works. RELIABILITY.md, part M.

mod growth;
mod load;
mod outvoted;
mod refusals;
mod removal;
#[path = "../support/mod.rs"]
mod support;

use std::process::Output;

use support::child::Ends as _;
use support::cluster::Cluster;
use support::server::kvorum;

/// Tests of one leader: a machine that is busy with other tests must not bring an election.
const CALM: [&str; 2] = ["--election-timeout-ms", "1000"];

/// `kvorum member` with these words, from its start to its end.
fn member(cluster: &Cluster, words: &[&str]) -> Output {
    let mut command = kvorum();
    command.arg("member").args(words).args(["--servers", &servers(cluster)]);
    command.output_in_time().expect("it can be started")
}

/// The same, which must work; what it says.
#[track_caller]
fn change(cluster: &Cluster, words: &[&str]) -> String {
    let output = member(cluster, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("words")
}

/// The same, which makes no sense; why.
#[track_caller]
fn refusal(cluster: &Cluster, words: &[&str]) -> String {
    failure(&member(cluster, words), 2)
}

/// The line of a command that has failed with this exit code.
#[track_caller]
fn failure(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

/// Where the nodes that run serve clients.
fn servers(cluster: &Cluster) -> String {
    let servers: Vec<&str> = cluster.running().map(|id| cluster.address(id)).collect();
    servers.join(",")
}

/// A node as `kvorum member add` takes it.
fn place(cluster: &Cluster, id: usize) -> String {
    format!("{id}={}/{}", cluster.address(id), cluster.peer_address(id))
}

/// A new node joins and becomes a voter.
fn grow(cluster: &mut Cluster) -> usize {
    let id = cluster.add_node();
    change(cluster, &["add", "--learner", &place(cluster, id)]);
    cluster.start_node(id);
    change(cluster, &["add", &place(cluster, id)]);
    id
}

/// The voters as a node counts them.
fn voters(cluster: &Cluster, id: usize) -> String {
    cluster.node(id).status("voters")
}

/// Waits until all nodes that run count these voters.
#[track_caller]
fn wait_for_voters(cluster: &Cluster, expected: &str) {
    support::until("everybody counts the same", || {
        cluster.running().all(|id| voters(cluster, id) == expected).then_some(())
    });
}

/// A write and a read, everywhere.
fn assert_works(cluster: &Cluster) {
    assert_eq!(cluster.text(cluster.leader()).ask("SET still works"), "OK");
    for id in cluster.running() {
        assert_eq!(cluster.text(id).ask("GET still"), "VALUE works", "node {id}");
    }
}
