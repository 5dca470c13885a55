//! One node becomes five, and five become one.

use std::thread;

use crate::load::under_load;
use crate::support::cluster::Cluster;
use crate::support::until;
use crate::{CALM, assert_works, change, grow, member, place, voters, wait_for_voters};

#[test]
fn one_becomes_five_and_one_again_under_load() {
    let mut cluster = Cluster::start_with(1, 0, &CALM);
    under_load(&mut cluster, |cluster| {
        for expected in ["1,2", "1,2,3", "1,2,3,4", "1,2,3,4,5"] {
            grow(cluster);
            wait_for_voters(cluster, expected);
        }
        // The leader goes first: it hands over.
        for id in [1, 3, 2, 5] {
            change(cluster, &["remove", &id.to_string()]);
            let exit = cluster.wait_for_end(id);
            assert_eq!(exit.code, Some(1), "{exit:?}");
            let words = exit.last_words();
            assert!(words.contains(&format!("node {id} was removed from its cluster")), "{words}");
        }
        wait_for_voters(cluster, "4");
    });
    assert_works(&cluster);
    // It goes by its own log alone, where none of the flags would be true any more.
    cluster.kill(4);
    cluster.tell_nothing(4);
    cluster.start_node(4);
    assert_eq!(cluster.text(4).ask("GET still"), "VALUE works");
    assert_eq!(voters(&cluster, 4), "4");
}

#[test]
fn a_node_may_wait_for_its_cluster_and_its_cluster_for_it() {
    let mut cluster = Cluster::start_with(1, 0, &CALM);
    let id = cluster.add_node();
    // The command waits for the node, which was not started; the node does not find itself there.
    thread::scope(|scope| {
        let (servers, place) = (crate::servers(&cluster), place(&cluster, id));
        let adds = scope.spawn(move || {
            let mut command = crate::support::server::kvorum();
            command.args(["member", "add", &place, "--servers", &servers]);
            crate::support::child::Ends::output_in_time(&mut command).expect("it can be started")
        });
        until("it is a learner", || (cluster.node(1).status("learners") == "2").then_some(()));
        cluster.start_node(id);
        let output = adds.join().expect("it ends");
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        let command = format!("kvorum serve --id 2 --data DIR --join {}", cluster.address(1));
        assert!(words.contains(&command), "{words}");
        assert!(words.ends_with("node 2 is a voter now\n"), "{words}");
    });
    wait_for_voters(&cluster, "1,2");
    let listed = change(&cluster, &["list"]);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(listed.contains("2   voter"), "{listed}");
    assert_works(&cluster);
}

/// Killed at any moment, the node or the cluster goes on where it was.
#[test]
fn a_member_that_is_killed_while_it_joins_goes_on_without_flags() {
    let mut cluster = Cluster::start_with(1, 0, &CALM);
    let text = "x".repeat(1000);
    let mut client = cluster.text(1);
    for key in 0..200 {
        assert_eq!(client.ask(&format!("SET k{key} {text}")), "OK");
    }
    let id = cluster.add_node();
    change(&cluster, &["add", "--learner", &place(&cluster, id)]);
    cluster.start_node(id);
    cluster.kill(id);
    cluster.tell_nothing(id);
    cluster.start_node(id);
    change(&cluster, &["promote", "2"]);
    cluster.kill(1);
    cluster.kill(id);
    for id in [1, 2] {
        cluster.tell_nothing(id);
        cluster.start_node(id);
    }
    wait_for_voters(&cluster, "1,2");
    assert_works(&cluster);
    assert_eq!(cluster.text(2).ask("GET k199"), format!("VALUE {text}"));
}

#[test]
fn changes_survive_a_leader_that_is_killed_in_their_midst() {
    let mut cluster = Cluster::start(3);
    under_load(&mut cluster, |cluster| {
        let id = cluster.add_node();
        change(cluster, &["add", "--learner", &place(cluster, id)]);
        cluster.start_node(id);
        for _ in 0..4 {
            let leader = cluster.leader_of(&[1, 2, 3]);
            thread::scope(|scope| {
                let (servers, words) = (crate::servers(cluster), ["promote", "demote"]);
                let changes = scope.spawn(move || {
                    for word in words {
                        let mut command = crate::support::server::kvorum();
                        command.args(["member", word, "4", "--servers", &servers]);
                        command.args(["--timeout-ms", "30000"]);
                        let output = crate::support::child::Ends::output_in_time(&mut command);
                        let output = output.expect("it can be started");
                        assert!(output.status.success(), "{output:?}");
                    }
                });
                cluster.kill(leader);
                cluster.start_node(leader);
                changes.join().expect("all changes are made");
            });
        }
    });
    wait_for_voters(&cluster, "1,2,3");
    assert!(member(&cluster, &["promote", "4"]).status.success());
    wait_for_voters(&cluster, "1,2,3,4");
    assert_works(&cluster);
}

/// A node that began alone has no peer address; it may get one later.
#[test]
fn a_lone_node_says_later_where_others_find_it() {
    let mut cluster = Cluster::start_with(1, 0, &CALM);
    cluster.kill(1);
    let data = cluster.data(1);
    std::fs::remove_dir_all(&data).expect("it can be removed");
    cluster.tell_nothing(1);
    let address = cluster.address(1).to_owned();
    cluster.start_node_with(1, &["--listen", &address]);
    assert_eq!(cluster.text(1).ask("SET k v"), "OK");
    let line = crate::refusal(&cluster, &["add", "2=127.0.0.1:1/127.0.0.1:2"]);
    assert!(line.contains("restart it with --listen and --peer-listen"), "{line}");
    cluster.kill(1);
    let peer = cluster.peer_address(1).to_owned();
    cluster.start_node_with(1, &["--listen", &address, "--peer-listen", &peer]);
    let id = grow(&mut cluster);
    assert_eq!(cluster.text(id).ask("GET k"), "VALUE v");
}
