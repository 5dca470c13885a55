//! Step 3: asynchronous replication. One voter, the primary, and learners that copy it.

use crate::support::client::Text;
use crate::support::cluster::Cluster;
use crate::support::server::Server;

/// The primary is the only voter.
const PRIMARY: usize = 1;

/// A machine that is busy with other tests must not keep a replica from its primary for so long
/// that it gives that up, nor let a write wait in vain.
const CALM: [&str; 4] = ["--election-timeout-ms", "30000", "--quorum-timeout-ms", "600000"];

/// A connection whose reads are answered by the node itself.
fn local(cluster: &Cluster, id: usize) -> Text {
    let mut client = cluster.text(id);
    assert_eq!(client.ask("QUORUM r=1"), "OK");
    client
}

fn write(cluster: &Cluster, keys: std::ops::Range<usize>) {
    let mut client = cluster.text(PRIMARY);
    for n in keys.clone() {
        client.send(&format!("SET k{n} v{n}"));
    }
    for _ in keys {
        assert_eq!(client.reply(), "OK");
    }
}

#[test]
fn m3_a_replica_that_comes_while_running_first_gets_the_current_state() {
    let mut cluster = Cluster::prepare(1, 1, &CALM);
    cluster.start_node(PRIMARY);
    assert_eq!(cluster.leader(), PRIMARY);
    write(&cluster, 0..500);
    assert_eq!(cluster.text(PRIMARY).ask("DELETE k7"), "OK");
    cluster.start_node(2);
    assert_eq!(cluster.node(2).status("role"), "learner");
    cluster.wait_until_applied(&[2]);
    let mut replica = local(&cluster, 2);
    assert_eq!(replica.ask("GET k499"), "VALUE v499");
    assert_eq!(replica.ask("GET k7"), "NOT_FOUND");
    assert_eq!(cluster.node(2).status_number("keys"), 499);
}

#[test]
fn m3_writes_reach_the_replica() {
    let cluster = Cluster::start_with(1, 1, &CALM);
    let mut primary = cluster.text(PRIMARY);
    let mut replica = local(&cluster, 2);
    for (line, expected) in [
        ("SET k one", "VALUE one"),
        ("SET k two words", "VALUE two words"),
        ("DELETE k", "NOT_FOUND"),
    ] {
        assert_eq!(primary.ask(line), "OK");
        cluster.wait_until_applied(&[2]);
        assert_eq!(replica.ask("GET k"), expected);
    }
}

#[test]
fn m3_several_replicas_get_the_same_data() {
    let cluster = Cluster::start_with(1, 3, &CALM);
    write(&cluster, 0..300);
    cluster.wait_until_applied(&[2, 3, 4]);
    for id in 2..=4 {
        assert_eq!(cluster.node(id).status_number("keys"), 300);
        let mut replica = local(&cluster, id);
        for n in [0, 150, 299] {
            assert_eq!(replica.ask(&format!("GET k{n}")), format!("VALUE v{n}"));
        }
    }
}

#[test]
fn m3_a_dead_or_missing_replica_never_blocks_or_fails_a_write() {
    let mut cluster = Cluster::prepare(1, 3, &CALM);
    // Node 4 never comes.
    (1..=3).for_each(|id| cluster.start_node(id));
    assert_eq!(cluster.leader(), PRIMARY);
    write(&cluster, 0..100);
    cluster.kill(2);
    cluster.pause(3);
    write(&cluster, 100..400);
    // The time that a write may wait for its quorum is far longer than the test's patience.
    assert_eq!(cluster.text(PRIMARY).ask("SET last v"), "OK");
    // Both catch up when they are there again.
    cluster.resume(3);
    cluster.start_node(2);
    cluster.wait_until_applied(&[2, 3]);
    assert_eq!(local(&cluster, 2).ask("GET k399"), "VALUE v399");
    assert_eq!(local(&cluster, 3).ask("GET last"), "VALUE v");
}

#[test]
fn m3_replicas_answer_reads_and_refuse_writes_with_a_redirect() {
    let mut cluster = Cluster::start_with(1, 2, &CALM);
    write(&cluster, 0..10);
    let redirect = format!("NOT_LEADER leader={}", cluster.address(PRIMARY));
    for id in [2, 3] {
        let mut replica = cluster.text(id);
        // As the default is: from any node, and never stale.
        assert_eq!(replica.ask("GET k9"), "VALUE v9");
        assert_eq!(replica.ask("SET k9 other"), redirect);
        assert_eq!(replica.ask("DELETE k9"), redirect);
        let leader = format!("LEADER {}", cluster.address(PRIMARY));
        assert_eq!(replica.ask("WHO_IS_LEADER"), leader);
    }
    assert_eq!(cluster.text(PRIMARY).ask("GET k9"), "VALUE v9");
    // Possibly stale: whatever a replica lacks, it answers with what it has, if that is asked for.
    cluster.wait_until_applied(&[2, 3]);
    cluster.kill(PRIMARY);
    assert_eq!(local(&cluster, 2).ask("GET k9"), "VALUE v9");
    cluster.start_node(PRIMARY);
    assert_eq!(cluster.leader(), PRIMARY);
    assert_eq!(cluster.text(3).ask("GET k9"), "VALUE v9");
}

#[test]
fn m3_replicas_survive_restarts_on_either_side() {
    let mut cluster = Cluster::start_with(1, 1, &CALM);
    write(&cluster, 0..50);
    cluster.kill(2);
    write(&cluster, 50..100);
    cluster.kill(PRIMARY);
    cluster.start_node(PRIMARY);
    cluster.start_node(2);
    cluster.leader();
    write(&cluster, 100..150);
    cluster.wait_until_applied(&[2]);
    let count = |server: &Server| server.status_number("keys");
    assert_eq!((count(cluster.node(PRIMARY)), count(cluster.node(2))), (150, 150));
}
