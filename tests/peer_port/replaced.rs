//! A member that is back before anybody has noticed that it was gone: of two connections on the
//! same lane the newer one counts. RELIABILITY.md, C14.

use kvorum_protocol::peer::handshake::Failure;
use kvorum_protocol::peer::{Introduction, Lane, Reason};

use crate::assert_works;
use crate::caller::{call, introduction};
use crate::support::client::Raw;
use crate::support::cluster::Cluster;

/// Node 3 as it would call node 1.
fn hello(cluster: &Cluster, boot: u64, lane: Lane, epoch: u64) -> Introduction {
    Introduction { boot, lane, epoch, ..introduction(cluster, 3, 1) }
}

#[track_caller]
fn is_let_in(cluster: &Cluster, own: Introduction) -> Raw {
    call(cluster, own).unwrap_or_else(|failure| panic!("{failure:?}"))
}

#[track_caller]
fn is_too_old(cluster: &Cluster, own: Introduction) {
    match call(cluster, own) {
        Err(Failure::Refused { refusal, .. }) => assert_eq!(refusal.reason, Reason::Replaced),
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn a_newer_connection_takes_the_place_of_the_one_before() {
    let mut cluster = Cluster::start(3);
    cluster.kill(3);
    let mut first = is_let_in(&cluster, hello(&cluster, 70, Lane::Control, 5));
    let mut bulk = is_let_in(&cluster, hello(&cluster, 70, Lane::Bulk, 6));
    let mut second = is_let_in(&cluster, hello(&cluster, 70, Lane::Control, 7));
    assert_eq!(first.rest(), b"", "it was replaced");
    // One that was held up on its way, and one that was repeated.
    is_too_old(&cluster, hello(&cluster, 70, Lane::Control, 6));
    is_too_old(&cluster, hello(&cluster, 70, Lane::Control, 7));
    for standing in [&mut second, &mut bulk] {
        assert!(!standing.has_reply(), "it was closed for one of the other lane, or an older one");
    }
    // Another process of the member: nothing of the one before counts, on either lane.
    let mut third = is_let_in(&cluster, hello(&cluster, 71, Lane::Control, 1));
    assert_eq!(second.rest(), b"", "its process is gone");
    assert_eq!(bulk.rest(), b"", "its process is gone");
    // And so with the real one.
    cluster.start_node(3);
    cluster.wait_until_applied(&[3]);
    assert_eq!(third.rest(), b"", "its process is gone");
    assert_works(&cluster);
}
