//! The peer port of real processes: who is let in, who is not and hears why, and that nobody who
//! calls there harms the cluster. `protocol/src/peer/PEER.md` is the text.

#[path = "../support/mod.rs"]
mod support;

mod amnesia;
mod caller;
mod directories;
mod replaced;
mod secrets;
mod strangers;

use support::cluster::Cluster;
use support::server::Exit;

/// The cluster takes a write and gives it back.
fn assert_works(cluster: &Cluster) {
    let mut client = cluster.text(cluster.leader());
    assert_eq!(client.ask("SET still works"), "OK");
    assert_eq!(client.ask("GET still"), "VALUE works");
}

/// The lines of a node's log that contain `words`.
fn lines<'a>(exit: &'a Exit, words: &str) -> Vec<&'a str> {
    exit.stderr.lines().filter(|line| line.contains(words)).collect()
}

#[track_caller]
fn assert_said_once(exit: &Exit, words: &str) {
    assert_eq!(lines(exit, words).len(), 1, "{words:?} is not said once:\n{}", exit.stderr);
}
