//! What each call does, and what it returns.

use std::time::Duration;

use kvorum::client::{CallOptions, Client, LogIndex, NodeId, Options, Quorum, ReadFrom, Role};

use crate::support::cluster::Cluster;
use crate::support::server::Server;
use crate::support::until;
use crate::{connect, options};

#[test]
fn keys_and_values_are_bytes_and_every_result_has_its_version() {
    let server = Server::start(&[]);
    let client = Client::connect([server.address()], options()).unwrap();
    assert_eq!(client.get("k").unwrap(), None);
    let key = [0_u8, 255, b'\n'];
    let value = vec![0_u8; 300_000];
    let first = client.set(key, &value).unwrap();
    let found = client.get(key).unwrap().unwrap();
    assert_eq!((found.version, found.value), (first, value));
    let second = client.set(key, "").unwrap();
    assert!(second > first);
    assert_eq!(client.get(key).unwrap().unwrap().value, b"");
    let deleted = client.delete(key).unwrap();
    assert_eq!(deleted.count, 1);
    assert!(deleted.version > second);
    assert_eq!(client.delete(key).unwrap().count, 0);
    assert_eq!(client.get(key).unwrap(), None);
}

#[test]
fn several_keys_are_read_written_and_deleted_at_one_point_of_the_log() {
    let server = Server::start(&[]);
    let client = Client::connect([server.address()], options()).unwrap();
    let version = client.set_many(&[("a", "1"), ("b", "2"), ("c", "3")]).unwrap();
    let found = client.get_many(&["c", "x", "a"]).unwrap();
    let found: Vec<_> =
        found.into_iter().map(|found| found.map(|found| (found.version, found.value))).collect();
    assert_eq!(found, [Some((version, b"3".to_vec())), None, Some((version, b"1".to_vec()))]);
    assert_eq!(client.delete_many(&["a", "b", "x"]).unwrap().count, 2);
    assert_eq!(client.get_many(&["a", "b"]).unwrap(), [None, None]);
    assert_eq!(client.get_many::<&str>(&[]).unwrap(), []);
}

#[test]
fn a_call_may_have_its_own_w_r_and_timeout() {
    let mut cluster = Cluster::start(3);
    let client = connect(&cluster);
    cluster.kill(cluster.followers()[0]);
    let two = CallOptions { write_quorum: Some(Quorum::Count(2)), ..CallOptions::default() };
    let version = client.with(two).set("k", "v").unwrap();
    let reads = [
        CallOptions { read_quorum: Some(Quorum::Count(2)), ..CallOptions::default() },
        CallOptions { read_quorum: Some(Quorum::Count(1)), min_version: version, ..two },
        CallOptions { timeout: Some(Duration::from_secs(7)), ..CallOptions::default() },
    ];
    for read in reads {
        assert_eq!(client.with(read).get("k").unwrap().unwrap().version, version);
    }
}

#[test]
fn the_cluster_can_be_looked_at_and_led() {
    let cluster = Cluster::start_with(3, 1, &[]);
    let client = connect(&cluster);
    let leader = cluster.leader();
    assert_eq!(client.leader().unwrap().as_deref(), Some(cluster.address(leader)));
    let line = client.members().unwrap();
    assert_eq!(line.leader, Some(id(leader)));
    let listed = line.members.members().iter().map(|member| (member.id, member.role));
    let voters = (1..=3).map(|n| (NodeId(n), Role::Voter));
    assert!(listed.eq(voters.chain([(NodeId(4), Role::Learner)])));
    let status = client.status(cluster.address(4)).unwrap();
    assert!(status.starts_with("id=4 role=learner "), "{status}");
    let to = cluster.followers()[0];
    client.transfer(Some(id(to))).unwrap();
    until("it has moved", || {
        (client.leader().unwrap().as_deref() == Some(cluster.address(to))).then_some(())
    });
    client.set("k", "v").unwrap();
}

fn id(node: usize) -> NodeId {
    NodeId(u16::try_from(node).unwrap())
}

#[test]
fn one_server_is_enough_to_learn_the_members() {
    let mut cluster = Cluster::start(3);
    let given = cluster.leader();
    let client = Client::connect([cluster.address(given)], options()).unwrap();
    client.set("k", "v").unwrap();
    cluster.kill(given);
    client.set("k", "w").unwrap();
    assert_eq!(client.get("k").unwrap().unwrap().value, b"w");
}

#[test]
fn many_threads_share_one_client() {
    const THREADS: usize = 24;
    const WRITES: u64 = 40;
    let cluster = Cluster::start(3);
    let client = connect(&cluster);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let client = client.clone();
            scope.spawn(move || {
                let mut last = LogIndex(0);
                for n in 0..WRITES {
                    let key = format!("k{thread}");
                    let version = client.set(&key, n.to_string()).unwrap();
                    assert!(version > last);
                    last = version;
                    assert_eq!(client.get(&key).unwrap().unwrap().version, version);
                }
            });
        }
    });
    // More threads than a session has numbers at once are served by turns, and by one session.
    let leader = cluster.node(cluster.leader());
    assert_eq!(leader.status_number("sessions"), 1);
}

#[test]
fn a_client_need_not_wait_for_its_cluster() {
    let mut cluster = Cluster::prepare(1, 0, &[]);
    let given = [cluster.address(1).to_owned()];
    let client = Client::new(given, Options { read_from: ReadFrom::Random, ..options() }).unwrap();
    let client = &client;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| client.get("k").unwrap());
        cluster.start_node(1);
        assert_eq!(reader.join().unwrap(), None);
    });
    client.set("k", "v").unwrap();
}
