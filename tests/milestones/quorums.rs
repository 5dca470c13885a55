//! Step 4: quorum writes.

use std::time::{Duration, Instant};

use crate::support::child::Ends as _;
use crate::support::client::Text;
use crate::support::cluster::Cluster;
use crate::support::disk::SmallDisk;
use crate::support::server::{Server, kvorum};
use crate::support::strace::{DISK_SYNCS, Strace};
use crate::support::until;

/// Far less than the time that a write may wait for its quorum, and far more than one takes.
const WELL_UNDER_THE_TIMEOUT: Duration = Duration::from_secs(1);

/// As the default is for `--quorum-timeout-ms`.
const TIMEOUT: Duration = Duration::from_secs(5);

/// For tests about one leader: a machine that is busy with other tests must not bring an election.
const CALM: [&str; 2] = ["--election-timeout-ms", "1000"];

/// Asks, and says how long the answer took.
fn timed(client: &mut Text, line: &str) -> (String, Duration) {
    let start = Instant::now();
    let reply = client.ask(line);
    (reply, start.elapsed())
}

#[track_caller]
fn is_open(reply: &str) {
    assert!(reply.starts_with("ERROR QUORUM_TIMEOUT ") && reply.contains("may still"), "{reply}");
}

#[test]
fn m4_n_w_and_r_are_configurable() {
    let cluster = Cluster::start_with(
        3,
        0,
        &["--write-quorum", "all", "--read-quorum", "2", "--election-timeout-ms", "1000"],
    );
    for id in 1..=3 {
        let node = cluster.node(id);
        let shown = ["voters", "w", "r", "relaxed"].map(|name| node.status(name));
        assert_eq!(shown, ["1,2,3", "all", "2", ""]);
    }
    let mut client = cluster.text(cluster.leader());
    assert_eq!(client.ask("SET k v"), "OK");
    // And for one connection.
    assert_eq!(client.ask("QUORUM w=1 r=1"), "OK");
    assert_eq!(client.ask("SET k w"), "OK");
    assert_eq!(client.ask("QUORUM w=majority r=majority"), "OK");
    assert_eq!(client.ask("GET k"), "VALUE w");
    assert!(client.ask("QUORUM w=4").starts_with("ERROR BAD_REQUEST "));
    let arguments = ["--member", "1=127.0.0.1:1/127.0.0.1:2", "--write-quorum", "2"];
    let output = kvorum().arg("serve").args(arguments).output_in_time().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn m4_three_nodes_with_w_2_succeed() {
    let cluster = Cluster::start_with(3, 0, &["--write-quorum", "2"]);
    let mut client = cluster.text(cluster.leader());
    assert_eq!(client.ask("SET k v"), "OK");
    assert_eq!(client.ask("GET k"), "VALUE v");
    assert_eq!(client.ask("DELETE k"), "OK");
}

#[test]
fn m4_three_nodes_with_w_3_and_two_up_fail_after_the_timeout() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    let leader = cluster.leader();
    cluster.kill(cluster.followers()[0]);
    let mut client = cluster.text(leader);
    assert_eq!(client.ask("QUORUM w=3"), "OK");
    let (reply, took) = timed(&mut client, "SET k v");
    is_open(&reply);
    assert!(took >= TIMEOUT && took < TIMEOUT + Duration::from_secs(3), "after {took:?}");
    // The connection goes on, and so does everybody who asks for less.
    assert_eq!(client.ask("QUORUM w=2"), "OK");
    assert_eq!(client.ask("SET other v"), "OK");
}

#[test]
fn m4_with_one_slow_or_dead_replica_w_2_does_not_wait_for_it() {
    let mut cluster = Cluster::start_with(3, 0, &["--write-quorum", "2"]);
    let leader = cluster.leader();
    let followers = cluster.followers();
    let mut client = cluster.text(leader);
    let mut is_quick = |what: &str| {
        for n in 0..20 {
            let (reply, took) = timed(&mut client, &format!("SET k {n}"));
            assert_eq!(reply, "OK", "{what}");
            assert!(took < WELL_UNDER_THE_TIMEOUT, "{what}: {took:?}");
        }
    };
    cluster.pause(followers[0]);
    is_quick("one is paused");
    cluster.resume(followers[0]);
    let slow = Strace::inject(cluster.node(followers[0]).pid(), DISK_SYNCS, "delay_enter=2000000");
    is_quick("the disk of one is slow");
    slow.detach();
    cluster.kill(followers[1]);
    is_quick("one is dead");
}

#[test]
fn m4_five_nodes_with_w_3_go_on_with_two_dead() {
    let mut cluster = Cluster::start_with(5, 0, &["--write-quorum", "3", "--read-quorum", "3"]);
    let leader = cluster.leader();
    for id in cluster.followers().into_iter().take(2) {
        cluster.kill(id);
    }
    let mut client = cluster.text(leader);
    let (reply, took) = timed(&mut client, "SET k v");
    assert_eq!(reply, "OK");
    assert!(took < WELL_UNDER_THE_TIMEOUT, "{took:?}");
    for id in cluster.running() {
        assert_eq!(cluster.text(id).ask("GET k"), "VALUE v");
    }
}

#[test]
fn m4_with_w_plus_r_over_n_reads_see_every_acknowledged_write() {
    let cluster = Cluster::start_with(3, 0, &CALM);
    let leader = cluster.leader();
    let followers = cluster.followers();
    for (w, r) in [("2", "2"), ("1", "3"), ("all", "2"), ("majority", "majority")] {
        let mut writer = cluster.text(leader);
        assert_eq!(writer.ask(&format!("QUORUM w={w}")), "OK");
        let mut readers: Vec<Text> = followers.iter().map(|&id| cluster.text(id)).collect();
        for reader in &mut readers {
            assert_eq!(reader.ask(&format!("QUORUM r={r}")), "OK");
        }
        for n in 0..50 {
            assert_eq!(writer.ask(&format!("SET k {w}-{n}")), "OK");
            for reader in &mut readers {
                assert_eq!(reader.ask("GET k"), format!("VALUE {w}-{n}"), "W = {w}, R = {r}");
            }
        }
    }
}

/// The disk of one replica is full: two hold a write, the third does not count.
#[test]
fn m4_a_replica_with_a_full_disk_counts_as_no_acknowledgement() {
    let disk = SmallDisk::new(256);
    let mut cluster = Cluster::prepare(3, 0, &["--quorum-timeout-ms", "1000"]);
    cluster.keep_data_in(3, disk.path().join("data"));
    // A follower is wanted on that disk: the others are a majority without it.
    (1..=2).for_each(|id| cluster.start_node(id));
    cluster.leader();
    cluster.start_node(3);
    let leader = cluster.leader();
    let ballast = disk.fill();
    let mut client = cluster.text(leader);
    let value = "v".repeat(1 << 20);
    let mut written = 0;
    until("the third disk takes no more", || {
        assert_eq!(client.ask(&format!("SET k{} {value}", written % 10)), "OK");
        written += 1;
        let (last, durable) =
            (cluster.node(leader).status_number("last"), cluster.node(3).status_number("durable"));
        (last > durable + 20).then_some(())
    });
    assert_eq!(client.ask("QUORUM w=3"), "OK");
    is_open(&client.ask("SET k all"));
    assert_eq!(client.ask("QUORUM w=2"), "OK");
    assert_eq!(client.ask("SET k two"), "OK");
    // With room again it catches up.
    drop(ballast);
    assert_eq!(client.ask("QUORUM w=3"), "OK");
    until("all three hold a write again", || (client.ask("SET k three") == "OK").then_some(()));
    drop(cluster);
}

/// A replica whose log is damaged does not even start.
#[test]
fn m4_a_replica_with_bad_data_counts_as_no_acknowledgement() {
    let mut cluster = Cluster::start_with(3, 0, &["--quorum-timeout-ms", "500"]);
    let leader = cluster.leader();
    let bad = cluster.followers()[0];
    let mut client = cluster.text(leader);
    assert_eq!(client.ask("SET k a value to be found"), "OK");
    assert_eq!(client.ask("SET k something behind it"), "OK");
    cluster.wait_until_applied(&[bad]);
    cluster.kill(bad);
    let segment = cluster.data(bad).join("segment-0000000000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.windows(16).position(|window| window == b"a value to be fo").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let exit = cluster.try_start_node(bad).expect_err("its log is damaged");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    assert_eq!(client.ask("QUORUM w=all"), "OK");
    is_open(&client.ask("SET k all"));
    assert_eq!(client.ask("QUORUM w=2"), "OK");
    assert_eq!(client.ask("SET k two"), "OK");
}

/// "Not applied" is never applied; "may still be applied" is one or the other, and the same
/// everywhere.
#[test]
fn m4_what_an_error_says_about_the_outcome_is_true() {
    let mut cluster = Cluster::start_with(3, 0, &["--quorum-timeout-ms", "500"]);
    let leader = cluster.leader();
    let followers = cluster.followers();
    assert_eq!(cluster.text(leader).ask("SET k before"), "OK");
    // Not applied: another node leads.
    let refusal = cluster.text(followers[0]).ask("SET k refused");
    assert_eq!(refusal, format!("NOT_LEADER leader={}", cluster.address(leader)));
    assert_eq!(cluster.text(leader).ask("GET k"), "VALUE before");
    // Open: W was not reached, though a majority was.
    cluster.kill(followers[1]);
    let mut client = cluster.text(leader);
    assert_eq!(client.ask("QUORUM w=3"), "OK");
    is_open(&client.ask("SET k open"));
    assert_eq!(client.ask("GET k"), "VALUE open");
    // Open: the leader is alone now, and loses its office over it.
    cluster.kill(followers[0]);
    let reply = cluster.text(leader).ask("SET k alone");
    let codes = ["ERROR QUORUM_TIMEOUT ", "ERROR LEADER_CHANGED ", "ERROR NO_LEADER "];
    assert!(codes.iter().any(|code| reply.starts_with(code)), "{reply}");
    // Not applied: nobody leads.
    let server: &Server = cluster.node(leader);
    until("the node knows that it leads nobody", || {
        (server.status("leader") == "none").then_some(())
    });
    let refusal = server.text().ask("SET k nobody leads");
    assert!(
        refusal.starts_with("ERROR NO_LEADER ") && refusal.contains("not applied"),
        "{refusal}"
    );
    followers.iter().for_each(|&id| cluster.start_node(id));
    let leader = cluster.leader();
    let found = cluster.text(leader).ask("GET k");
    assert!(["VALUE open", "VALUE alone"].contains(&found.as_str()), "{found}");
    for id in 1..=3 {
        assert_eq!(cluster.text(id).ask("GET k"), found);
    }
}
