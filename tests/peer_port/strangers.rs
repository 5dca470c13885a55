//! Callers that are no members, members with the wrong idea of the cluster, and bytes that are no
//! messages.

use kvorum_protocol::peer::handshake::Failure;
use kvorum_protocol::peer::{Introduction, Message, Reason, wire};
use kvorum_protocol::{ClusterId, LogIndex, NodeId, Term};

use crate::caller::{call, finish, greet, introduction};
use crate::support::client::Raw;
use crate::support::cluster::Cluster;
use crate::{assert_said_once, assert_works};

#[test]
fn each_difference_is_refused_with_its_reason_and_one_line() {
    let mut cluster = Cluster::start(3);
    let good = || introduction(&cluster, 2, 1);
    let cases = [
        (Introduction { cluster: ClusterId(7), ..good() }, Reason::Cluster, "belongs to cluster"),
        (Introduction { members: 7, ..good() }, Reason::Members, "different member lists"),
        (Introduction { from: NodeId(9), ..good() }, Reason::NotMember, "node 9 is not in the"),
        (Introduction { from: NodeId(1), ..good() }, Reason::NotMember, "node 1 is not in the"),
        (
            Introduction { incarnation: 7, ..good() },
            Reason::Amnesia,
            "the data directory of node 2 is empty or older",
        ),
    ];
    for (lie, reason, _) in &cases {
        match call(&cluster, lie.clone()) {
            Err(Failure::Refused { refusal, .. }) => assert_eq!(refusal.reason, *reason),
            other => panic!("{reason:?}: {:?}", other.err()),
        }
    }
    // Node 1 answers where node 3 is called.
    let lost = Introduction { to: NodeId(3), ..good() };
    let mut socket = Raw::connect(cluster.peer_address(1));
    match crate::caller::introduce(&mut socket, lost) {
        Err(Failure::Refused { refusal, .. }) => assert_eq!(refusal.reason, Reason::WrongNode),
        other => panic!("{other:?}"),
    }
    assert_works(&cluster);
    let exit = cluster.terminate(1);
    assert_eq!(exit.code, Some(0));
    for (_, _, words) in &cases {
        assert_said_once(&exit, words);
    }
    assert_said_once(&exit, "node 1 answers where node 3 was called");
}

#[test]
fn bytes_of_other_protocols_close_their_connection_and_nothing_else() {
    let mut cluster = Cluster::start(3);
    let mut large = vec![0; 64];
    large[4..8].copy_from_slice(&(1_u32 << 20).to_le_bytes());
    large[8] = 1;
    let mut message = Vec::new();
    let heartbeat = Message::Heartbeat { term: Term(1 << 40), commit: LogIndex(1), round: 0 };
    wire::encode(&heartbeat, &mut message);
    for garbage in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &large, &message] {
        let mut socket = Raw::connect(cluster.peer_address(1));
        socket.send(garbage);
        assert_eq!(socket.rest(), b"");
    }
    assert_works(&cluster);
    let exit = cluster.terminate(1);
    // The 'T' of "HTTP" stands where a frame has its kind.
    assert_said_once(&exit, "not the peer protocol: opcode 0x54 is not known");
    assert_said_once(&exit, "not the peer protocol: frame is over the limit");
    assert_said_once(&exit, "not the peer protocol: opcode 0x16 is not known");
}

#[test]
fn a_caller_that_says_nothing_is_not_waited_for() {
    let mut cluster = Cluster::start(3);
    let mut silent = Raw::connect(cluster.peer_address(1));
    assert_eq!(silent.rest(), b"");
    assert_works(&cluster);
    assert_said_once(&cluster.terminate(1), "the handshake took too long");
}

#[test]
fn a_crowd_of_callers_keeps_no_member_out() {
    let mut cluster = Cluster::start(3);
    cluster.kill(3);
    let crowd: Vec<Raw> =
        (0..200).map(|at| Raw::connect(cluster.peer_address(1 + at % 2))).collect();
    cluster.start_node(3);
    cluster.kill(if cluster.leader() == 1 { 1 } else { 2 });
    assert_works(&cluster);
    drop(crowd);
}

/// Whoever has introduced itself is let in before those that say nothing, however many come.
#[test]
fn a_crowd_that_says_nothing_does_not_push_out_a_caller_in_its_handshake() {
    let mut cluster = Cluster::start(3);
    cluster.kill(3);
    let mut caller = Raw::connect(cluster.peer_address(1));
    let (mut dialer, proof) = greet(&mut caller, introduction(&cluster, 3, 1)).unwrap();
    let mut crowd: Vec<Raw> = (0..40).map(|_| Raw::connect(cluster.peer_address(1))).collect();
    // By then more have come than are waited for.
    assert_eq!(crowd[0].rest(), b"");
    assert_eq!(finish(&mut caller, &mut dialer, &proof), Ok(()));
}

#[test]
fn a_member_that_says_what_no_node_says_loses_its_connection() {
    let mut cluster = Cluster::start(3);
    cluster.kill(3);
    let mut bad_crc = Vec::new();
    let term = Term(cluster.node(1).status_number("term"));
    let heartbeat = Message::Heartbeat { term, commit: LogIndex(1), round: 0 };
    wire::encode(&heartbeat, &mut bad_crc);
    bad_crc[20] ^= 1;
    let mut large = bad_crc.clone();
    large[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut jump = Vec::new();
    let beyond = Message::Heartbeat { term: Term(1 << 40), commit: LogIndex(1), round: 0 };
    wire::encode(&beyond, &mut jump);
    for bad in [&bad_crc, &large, &jump] {
        let own = introduction(&cluster, 3, 1);
        let mut socket = call(&cluster, own).unwrap_or_else(|failure| panic!("{failure:?}"));
        socket.send(bad);
        assert_eq!(socket.rest(), b"");
    }
    assert_works(&cluster);
    cluster.start_node(3);
    cluster.wait_until_applied(&[1, 2, 3]);
    let exit = cluster.terminate(1);
    assert_said_once(&exit, "member 3: not the peer protocol: the checksum does not match");
    assert_said_once(&exit, "member 3: not the peer protocol: frame is over the limit");
    assert_said_once(&exit, "member 3: against the rules: its term is far beyond");
}
