//! What an error says is true, and comes in time.

use std::time::{Duration, Instant};

use kvorum::client::{CallOptions, Cause, Client, ErrorKind, Options, Quorum, ReadFrom};

use crate::support::cluster::{Cluster, Place};
use crate::support::server::Server;
use crate::support::until;
use crate::{connect, options};

fn within(timeout: Duration) -> CallOptions {
    CallOptions { timeout: Some(timeout), ..CallOptions::default() }
}

#[test]
fn without_any_server_connecting_fails_at_once_and_a_call_at_its_deadline() {
    let nobody = [Place::free().client, Place::free().client];
    let error = Client::connect(&nobody, options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied);
    assert!(matches!(error.cause(), Cause::NoServer(_)), "{error}");
    assert!(nobody.iter().any(|address| error.server() == Some(address)), "{error}");
    let client = Client::new(&nobody, options()).unwrap();
    let began = Instant::now();
    let timeout = Duration::from_millis(200);
    for error in [
        client.with(within(timeout)).set("k", "v").unwrap_err(),
        client.with(within(timeout)).get("k").unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotApplied);
        assert!(matches!(error.cause(), Cause::NoServer(_)), "{error}");
    }
    assert!(began.elapsed() >= 2 * timeout);
}

#[test]
fn a_quorum_that_is_not_there_leaves_the_outcome_open() {
    let mut cluster = Cluster::start(3);
    let client = connect(&cluster);
    client.set("k", "1").unwrap();
    cluster.kill(cluster.followers()[0]);
    let all = CallOptions { write_quorum: Some(Quorum::All), ..within(Duration::from_millis(500)) };
    let error = client.with(all).set("k", "2").unwrap_err();
    assert_eq!((error.kind(), error.cause()), (ErrorKind::OutcomeUnknown, &Cause::Quorum));
    // Without a majority there is soon no leader, which promises that nothing was applied.
    cluster.kill(cluster.followers()[0]);
    let left = cluster.running().next().unwrap();
    until("nobody leads", || (cluster.node(left).status("leader") == "none").then_some(()));
    let error = client.with(within(Duration::from_millis(300))).set("k", "3").unwrap_err();
    assert_eq!((error.kind(), error.cause()), (ErrorKind::NotApplied, &Cause::NoLeader));
    let local = CallOptions {
        read_quorum: Some(Quorum::Count(1)),
        read_from: Some(ReadFrom::Random),
        ..CallOptions::default()
    };
    assert!(client.with(local).get("k").unwrap().is_some(), "R = 1 needs nobody else");
}

#[test]
fn what_can_not_succeed_is_wrong_usage_at_once() {
    let server = Server::start(&["--value-bytes-max", "2000000"]);
    let client = Client::connect([server.address()], options()).unwrap();
    let wrong = |error: kvorum::client::Error, cause: Cause| {
        assert_eq!((error.kind(), error.cause()), (ErrorKind::WrongUsage, &cause), "{error}");
        assert!(error.message().is_some(), "{error}");
    };
    let long_key = vec![0; 70_000];
    wrong(client.set(&long_key, "v").unwrap_err(), Cause::TooLarge);
    wrong(client.get(&long_key).unwrap_err(), Cause::TooLarge);
    wrong(client.get_many(&[&long_key]).unwrap_err(), Cause::TooLarge);
    wrong(client.delete(&long_key).unwrap_err(), Cause::TooLarge);
    // Over the limit of this server: a little, and so much that it closes the connection.
    wrong(client.set("k", vec![0; 2_000_001]).unwrap_err(), Cause::TooLarge);
    wrong(client.set("k", vec![0; 30_000_000]).unwrap_err(), Cause::TooLarge);
    wrong(client.set("k", vec![0; 70_000_000]).unwrap_err(), Cause::TooLarge);
    let nine = Some(Quorum::Count(9));
    let calls = client.with(CallOptions { write_quorum: nine, ..CallOptions::default() });
    wrong(calls.set("k", "v").unwrap_err(), Cause::BadRequest);
    for none in [Some(Quorum::Count(0)), Some(Quorum::Count(64))] {
        let calls = CallOptions { write_quorum: none, read_quorum: none, ..CallOptions::default() };
        wrong(client.with(calls).set("k", "v").unwrap_err(), Cause::BadRequest);
        wrong(client.with(calls).get("k").unwrap_err(), Cause::BadRequest);
    }
    let all = Some(Quorum::All);
    let calls = client.with(CallOptions { read_quorum: all, ..CallOptions::default() });
    wrong(calls.get("k").unwrap_err(), Cause::BadRequest);
    wrong(client.transfer(Some(kvorum::client::NodeId(9))).unwrap_err(), Cause::BadRequest);
    let nobody: [&str; 0] = [];
    wrong(Client::new(nobody, options()).unwrap_err(), Cause::BadRequest);
    assert_eq!(client.get("k").unwrap(), None, "nothing was applied");
}

#[test]
fn a_full_memory_is_told_from_a_full_disk() {
    let server = Server::start(&["--memory-max", "100000"]);
    let client = Client::connect([server.address()], options()).unwrap();
    let error = client.set("k", vec![0; 200_000]).unwrap_err();
    assert_eq!((error.kind(), error.cause()), (ErrorKind::NotApplied, &Cause::MemoryLimit));
}

/// A server that is full, or any that refuses a connection, has not seen the request.
#[test]
fn a_server_without_room_has_applied_nothing() {
    let server = Server::start(&["--connections-max", "1"]);
    let mut first = server.text();
    assert_eq!(first.ask("PING"), "PONG");
    let client = Client::new([server.address()], options()).unwrap();
    let error = client.with(within(Duration::from_millis(200))).set("k", "v").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotApplied, "{error}");
    assert!(matches!(error.cause(), Cause::NoServer(_)), "{error}");
    assert!(error.to_string().contains("BUSY"), "{error}");
}

/// Without a session a write whose answer is lost is not sent again.
#[test]
fn without_a_session_a_lost_answer_leaves_the_outcome_open() {
    let mut cluster = Cluster::start(3);
    let loose = Options { exactly_once: false, ..options() };
    let client = Client::connect(cluster.servers().split(','), loose).unwrap();
    client.set("k", "1").unwrap();
    let leader = cluster.leader();
    let followers = cluster.followers();
    // The leader takes the write, and nobody confirms it.
    followers.iter().for_each(|&id| cluster.pause(id));
    let error = std::thread::scope(|scope| {
        let writer = scope.spawn(|| client.set("k", "2").unwrap_err());
        let applied = |last: u64| last > cluster.node(leader).status_number("commit");
        cluster.node(leader).wait_for_status("last", applied);
        cluster.node(leader).pause();
        writer.join().unwrap()
    });
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    assert!(matches!(error.cause(), Cause::Lost(_) | Cause::LeaderChanged), "{error}");
    cluster.resume(leader);
    followers.iter().for_each(|&id| cluster.resume(id));
    cluster.kill(leader);
}

/// A server answers a read only behind the unfinished write of the same connection: such a
/// connection is not used again.
#[test]
fn an_unfinished_write_does_not_hold_up_local_reads() {
    let cluster = Cluster::start(3);
    let client = Client::connect([cluster.address(cluster.leader())], options()).unwrap();
    client.set("k", "1").unwrap();
    let followers = cluster.followers();
    followers.iter().for_each(|&id| cluster.pause(id));
    let error = client.with(within(Duration::from_millis(150))).set("k", "2").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}");
    let local = CallOptions {
        read_quorum: Some(Quorum::Count(1)),
        read_from: Some(ReadFrom::Leader),
        ..within(Duration::from_secs(10))
    };
    assert_eq!(client.with(local).get("k").unwrap().unwrap().value, b"1");
    followers.iter().for_each(|&id| cluster.resume(id));
}
