//! The settings of a node that is one of several: what they change, and which of them its data
//! directory knows better.

mod support;

use std::time::{Duration, Instant};

use support::client::Text;
use support::cluster::Cluster;
use support::server::{Exit, Server};
use support::until;

/// For tests about one leader: a machine that is busy with other tests must not bring an election.
const CALM: [&str; 2] = ["--election-timeout-ms", "1000"];

#[test]
fn heartbeats_and_elections_take_their_time() {
    let flags = ["--heartbeat-ms", "1000", "--election-timeout-ms", "2000", "--trace-peers"];
    let start = Instant::now();
    let mut cluster = Cluster::start_with(3, 0, &flags);
    let leader = cluster.leader();
    let mut idle = cluster.text(leader);
    assert!(!idle.raw().hears_within(Duration::from_secs(3)), "nothing was asked");
    let log = cluster.terminate(leader).stderr;
    let sent = log.lines().filter(|line| line.contains(" HEARTBEAT term=")).count();
    // Two a second; by default it would be forty. Some more confirm the reads of this test.
    let max = 2 * usize::try_from(start.elapsed().as_secs()).unwrap() + 40;
    assert!((1..=max).contains(&sent), "{sent} heartbeats, and not up to {max}:\n{log}");

    cluster.start_node(leader);
    let leader = cluster.leader();
    let followers = cluster.followers();
    let start = Instant::now();
    cluster.pause(leader);
    until("another leads", || {
        let leads = |&id: &usize| cluster.node(id).status("role") == "leader";
        followers.iter().any(leads).then_some(())
    });
    // They have heard it a second before, or later.
    assert!(start.elapsed() >= Duration::from_secs(1), "after {:?}", start.elapsed());
    cluster.resume(leader);
}

#[test]
fn a_write_waits_for_its_quorum_as_long_as_set() {
    let flags = [&CALM[..], &["--quorum-timeout-ms", "300"]].concat();
    let mut cluster = Cluster::start_with(3, 0, &flags);
    let mut client = cluster.text(cluster.leader());
    cluster.kill(cluster.followers()[0]);
    assert_eq!(client.ask("QUORUM w=all"), "OK");
    let start = Instant::now();
    let reply = client.ask("SET k v");
    assert!(reply.starts_with("ERROR QUORUM_TIMEOUT "), "{reply}");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(4), "{took:?}");
}

#[test]
fn sizes_are_limited() {
    let limits = ["--key-bytes-max", "10", "--value-bytes-max", "2000", "--memory-max", "20000"];
    let cluster = Cluster::start_with(3, 0, &[&CALM[..], &limits].concat());
    let mut client = cluster.text(cluster.leader());
    let value = "v".repeat(2000);
    assert!(client.ask("SET elevenbytes v").starts_with("ERROR TOO_LARGE "));
    assert!(client.ask(&format!("SET k {value}v")).starts_with("ERROR TOO_LARGE "));
    let mut reply = String::from("OK");
    let mut keys = 0;
    while reply == "OK" && keys < 20 {
        reply = client.ask(&format!("SET k{keys} {value}"));
        keys += 1;
    }
    assert!(reply.starts_with("ERROR MEMORY_LIMIT "), "{reply}");
    assert_eq!(client.ask("DELETE k0"), "OK");
    assert_eq!(client.ask("SET k0 v"), "OK");
    // All nodes hold the same, and a follower sees that the refused one is not there.
    let mut follower = cluster.text(cluster.followers()[0]);
    assert_eq!(follower.ask(&format!("GET k{}", keys - 1)), "NOT_FOUND");
    assert_eq!(follower.ask("GET k0"), "VALUE v");
}

/// Fills the client port of a node; the last connection of this test itself may still be going.
fn crowd(cluster: &Cluster, id: usize, count: usize) -> Vec<Text> {
    let come = |_| {
        until("there is room", || {
            let mut client = cluster.text(id);
            (client.ask("PING") == "PONG").then_some(client)
        })
    };
    (0..count).map(come).collect()
}

#[test]
fn clients_leave_the_peers_their_room() {
    let mut cluster = Cluster::start_with(3, 0, &["--connections-max", "4"]);
    let leader = cluster.leader();
    let [full, other] = cluster.followers()[..] else { panic!("two follow") };
    let mut clients = crowd(&cluster, full, 4);
    assert!(cluster.text(full).ask("PING").starts_with("ERROR BUSY "));
    // Both have to find each other anew, and to elect one of them.
    cluster.kill(other);
    cluster.start_node(other);
    cluster.kill(leader);
    let old = format!("LEADER {}", cluster.address(leader));
    until("one of them leads", || {
        let answer = clients[0].ask("WHO_IS_LEADER");
        (answer.starts_with("LEADER ") && answer != old).then_some(())
    });
    assert_eq!(clients[1].ask("GET nothing"), "NOT_FOUND");
}

/// Starts a node on the directory of node 3 with these flags only.
fn start_in_directory_of_3(cluster: &Cluster, flags: &str) -> Result<Server, Exit> {
    let flags: Vec<&str> = flags.split_whitespace().collect();
    Server::try_start(&cluster.data(3), &[&flags[..], &["--listen", cluster.address(3)]].concat())
}

#[test]
fn a_node_knows_its_cluster_from_its_directory() {
    let mut cluster = Cluster::start(3);
    assert_eq!(cluster.text(cluster.leader()).ask("SET k v"), "OK");
    cluster.terminate(3);
    let own = format!("--member 3={}/{}", cluster.address(3), cluster.peer_address(3));
    let other_list = format!("--id 3 {own} --member 4=127.0.0.1:1/127.0.0.1:2");
    for flags in ["--id 3", &other_list] {
        let mut node = start_in_directory_of_3(&cluster, flags).expect("it starts");
        until("it has a leader", || (node.status("leader") != "none").then_some(()));
        assert_eq!(node.status("voters"), "1,2,3");
        assert_eq!(node.text().ask("GET k"), "VALUE v");
        let exit = node.terminate();
        assert_eq!(exit.code, Some(0));
        assert_eq!(exit.stderr.contains("--member is not used"), flags == other_list);
    }
    let elsewhere = "--member 3=127.0.0.1:1/127.0.0.1:2 --member 4=127.0.0.1:3/127.0.0.1:4";
    let named = format!("it belongs to another cluster, with the members 1={}", cluster.address(1));
    for (flags, words) in [
        ("--id 2", "belongs to node 3, not to node 2"),
        (&format!("--id 3 {elsewhere}"), named.as_str()),
    ] {
        let exit = start_in_directory_of_3(&cluster, flags).err().expect("it is another's");
        assert_eq!(exit.code, Some(1), "{exit:?}");
        assert!(exit.last_words().contains(words), "{}", exit.last_words());
        assert!(exit.last_words().contains(cluster.data(3).to_str().unwrap()), "{exit:?}");
    }
    cluster.start_node(3);
    cluster.wait_until_applied(&[1, 2, 3]);
}

#[test]
fn the_directory_of_a_lone_node_is_no_member_s() {
    let mut lone = Server::start(&["--id", "3"]);
    assert_eq!(lone.text().ask("SET k v"), "OK");
    lone.terminate();
    let mut cluster = Cluster::prepare(3, 0, &[]);
    cluster.keep_data_in(3, lone.data().to_owned());
    let exit = cluster.start_in_vain(3);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert!(exit.last_words().contains("it belongs to another cluster"), "{exit:?}");
}
