//! What a client of real processes sees of its session.

mod support;

use kvorum::client::{Cause, Client, Connection, ErrorKind, Options, Reply};
use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{Command, ErrorCode, LogIndex, Op, Quorum, Request, SessionSequence};
use support::cluster::Cluster;
use support::deadline;
use support::server::Server;

fn call(cluster: &Cluster, command: Command<'_>) -> Reply {
    let address = cluster.address(cluster.leader());
    let mut connection = Connection::open(address, deadline()).expect("the node accepts them");
    // In a session it is a majority all the same.
    let head = RequestHead { level: Some(Quorum::Count(1)), ..RequestHead::default() };
    connection.call(head, &Request::Write(command), deadline()).expect("an answer")
}

fn open(cluster: &Cluster) -> u64 {
    let Reply::Written { version } = call(cluster, Command::new(Op::OpenSession { window: 4 }))
    else {
        panic!("a session is opened");
    };
    version.0
}

/// A write of a session, each time on a connection of its own.
fn send(cluster: &Cluster, session: u64, sequence: u64, op: Op<'static>) -> Reply {
    call(cluster, Command { session: Some(SessionSequence { session, sequence }), op })
}

const SET: Op<'static> = Op::Set { key: b"k", value: b"v" };
const DELETE: Op<'static> = Op::Delete { key: b"k" };

#[test]
fn a_write_is_applied_once_through_changes_of_leader_and_restarts() {
    let mut cluster = Cluster::start(3);
    let session = open(&cluster);
    let set = send(&cluster, session, 1, SET);
    assert!(matches!(set, Reply::Written { version } if version > LogIndex(session)), "{set:?}");
    let delete = send(&cluster, session, 2, DELETE);
    assert!(matches!(delete, Reply::Deleted { count: 1, .. }), "{delete:?}");
    let check = |cluster: &Cluster| {
        let leader = cluster.leader();
        assert_eq!(cluster.text(leader).ask("SET k other"), "OK");
        assert_eq!(send(cluster, session, 2, DELETE), delete);
        assert_eq!(send(cluster, session, 1, SET), set);
        assert_eq!(cluster.text(leader).ask("GET k"), "VALUE other");
        assert_eq!(cluster.node(leader).status("sessions"), "1");
    };
    check(&cluster);
    let leader = cluster.leader();
    cluster.kill(leader);
    check(&cluster);
    cluster.start_node(leader);
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.start_node(id);
    }
    check(&cluster);
}

#[test]
fn what_is_over_is_an_error_and_nothing_is_applied() {
    let cluster = Cluster::start(1);
    let session = open(&cluster);
    let refused = |reply: Reply, expected: ErrorCode| {
        assert!(matches!(reply, Reply::Error { code, .. } if code == expected), "{reply:?}");
    };
    refused(send(&cluster, session + 1, 1, SET), ErrorCode::SessionExpired);
    let fifth = send(&cluster, session, 5, DELETE);
    assert!(matches!(fifth, Reply::Deleted { count: 0, .. }), "{fifth:?}");
    refused(send(&cluster, session, 1, SET), ErrorCode::BadRequest);
    assert_eq!(cluster.text(1).ask("GET k"), "NOT_FOUND");
}

/// What frees room has to get through when there is none, also by a client that has just come.
#[test]
fn a_new_client_can_delete_when_the_memory_is_full() {
    let server = Server::start(&["--memory-max", "1000000"]);
    let loose = Options { exactly_once: false, ..Options::default() };
    let filler = Client::connect([server.address()], loose).expect("the node accepts it");
    let error = (0..20).find_map(|n| filler.set(format!("k{n}"), vec![0; 100_000]).err());
    assert_eq!(error.expect("it is full").cause(), &Cause::MemoryLimit);
    let client = Client::connect([server.address()], Options::default()).expect("and this one");
    let error = client.set("k0", vec![1; 100_000]).expect_err("it is full");
    assert_eq!((error.kind(), error.cause()), (ErrorKind::NotApplied, &Cause::MemoryLimit));
    assert_eq!(client.delete("k0").expect("it frees room").count, 1);
}
