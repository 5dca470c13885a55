//! Changes that make no sense, or come at the wrong time: a clear line, and nothing has changed.

use std::thread;

use crate::support::child::Ends as _;
use crate::support::cluster::Cluster;
use crate::support::server::kvorum;
use crate::{CALM, assert_works, change, failure, grow, place, refusal, wait_for_voters};

#[test]
fn nonsense_is_refused_in_one_line_and_changes_nothing() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    let index = cluster.node(1).status("members");
    let [one, two] = [1, 2].map(|id| place(&cluster, id));
    let client = cluster.address(3).to_owned();
    for (words, expected) in [
        (&["remove", "9"][..], "there is no member 9"),
        (&["promote", "9"], "there is no member 9"),
        (&["promote", "2"], "member 2 is a voter already"),
        (&["add", "--learner", "3=127.0.0.1:1/127.0.0.1:2"], "member 3 exists already"),
        (&["add", &format!("4={client}/127.0.0.1:2")], "is an address of member 3"),
        (&["add", &one.replacen("1=", "7=", 1)], "is an address of member 1"),
        (&["add", &two.replacen("2=", "8=", 1)], "is an address of member 2"),
    ] {
        let line = refusal(&cluster, words);
        assert!(line.contains(expected), "{words:?}: {line}");
    }
    // A voter where it is already is what was asked for, unless it is to stay a learner.
    assert_eq!(change(&cluster, &["add", &two]), "node 2 is a voter already\n");
    assert!(refusal(&cluster, &["add", "--learner", &two]).contains("member 2 exists already"));
    assert_eq!(cluster.node(1).status("members"), index);
    let line = refusal(&cluster, &["promote", "9"]);
    assert!(line.contains("nothing changed"), "{line}");

    let [gone, here] = cluster.followers()[..] else { panic!("two follow") };
    cluster.kill(gone);
    let mut client = cluster.text(cluster.leader());
    assert_eq!(client.ask(&format!("MEMBER remove {gone}")), "OK");
    // An id is never used again.
    let line = refusal(&cluster, &["add", &place(&cluster, gone)]);
    assert!(line.contains("an id is never used again"), "{line}");
    assert_eq!(client.ask(&format!("MEMBER remove {here}")), "OK");
    let exit = cluster.wait_for_end(here);
    assert_eq!(exit.code, Some(1));
    let leader = cluster.leader();
    let line = refusal(&cluster, &["remove", &leader.to_string()]);
    assert!(line.contains("is the only voter"), "{line}");
    assert_works(&cluster);
}

#[test]
fn who_is_not_there_is_not_promoted() {
    let mut cluster = Cluster::start_with(1, 0, &CALM);
    let id = cluster.add_node();
    change(&cluster, &["add", "--learner", &place(&cluster, id)]);
    let output = crate::member(&cluster, &["promote", "2", "--timeout-ms", "300"]);
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(line.contains("member 2 has not been heard of"), "{line}");
    let words = ["add", &place(&cluster, id), "--wait-ms", "200", "--timeout-ms", "300"];
    let output = crate::member(&cluster, &words);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // It was added, and the cluster works without it.
    assert_works(&cluster);
    cluster.start_node(id);
    change(&cluster, &["add", &place(&cluster, id)]);
    wait_for_voters(&cluster, "1,2");
}

/// What is a matter of the moment is no fault of whoever asks.
#[test]
fn voters_that_could_not_go_on_are_waited_for() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    let [gone, here] = cluster.followers()[..] else { panic!("two follow") };
    cluster.kill(gone);
    let words = ["remove", &here.to_string(), "--timeout-ms", "1500"];
    let line = failure(&crate::member(&cluster, &words), 1);
    assert!(line.contains("BUSY the voters that would be left have no majority"), "{line}");
    cluster.start_node(gone);
    change(&cluster, &["remove", &here.to_string(), "--timeout-ms", "30000"]);
    let left: Vec<String> =
        cluster.running().filter(|id| *id != here).map(|id| id.to_string()).collect();
    crate::support::until("two voters are left", || {
        (cluster.node(gone).status("voters") == left.join(",")).then_some(())
    });
}

/// Two operators with the same in mind, at once: it is done once, and both are told so.
#[test]
fn a_node_is_added_by_two_at_once() {
    let mut cluster = Cluster::start_with(1, 0, &CALM);
    let id = cluster.add_node();
    let (place, servers) = (place(&cluster, id), cluster.address(1).to_owned());
    let add = || {
        let mut command = kvorum();
        command.args(["member", "add", &place, "--servers", &servers]);
        thread::spawn(move || command.output_in_time())
    };
    let operators = [add(), add()];
    crate::support::until("it is a learner", || {
        (cluster.node(1).status("learners") == "2").then_some(())
    });
    cluster.start_node(id);
    for operator in operators {
        let output = operator.join().unwrap().unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("node 2 is a voter "));
    }
    wait_for_voters(&cluster, "1,2");
}

/// Two who change the members at once: one change after the other, or a refusal that says why.
#[test]
fn a_change_in_flight_keeps_others_out() {
    let mut cluster = Cluster::start_with(3, 0, &CALM);
    let leader = cluster.leader();
    let followers = cluster.followers();
    // Nothing can be committed.
    followers.iter().for_each(|id| cluster.pause(*id));
    let (mut first, mut second) = (cluster.text(leader), cluster.text(leader));
    first.send("MEMBER add 8=127.0.0.1:1/127.0.0.1:2\n");
    crate::support::until("it is in flight", || {
        (cluster.node(leader).status("learners") == "8").then_some(())
    });
    let line = second.ask("MEMBER add 9=127.0.0.1:3/127.0.0.1:4");
    let in_flight = "BUSY another change of the members is in flight";
    assert!(line.starts_with(&format!("ERROR {in_flight}")), "{line}");
    // Whoever can wait has it made afterwards; whoever can not is told why.
    let at_leader = ["--servers", cluster.address(leader)];
    let command = |words: &[&str]| {
        let mut command = kvorum();
        command.arg("member").args(words).args(at_leader);
        command
    };
    let add = ["add", "--learner", "9=127.0.0.1:3/127.0.0.1:4"];
    let hasty = command(&[&add[..], &["--timeout-ms", "300"]].concat()).output_in_time().unwrap();
    assert!(failure(&hasty, 1).contains(in_flight), "{hasty:?}");
    let mut patient = command(&[&add[..], &["--timeout-ms", "60000"]].concat());
    let patient = thread::spawn(move || patient.output_in_time());
    followers.iter().for_each(|id| cluster.resume(*id));
    assert_eq!(first.reply(), "OK");
    let patient = patient.join().unwrap().unwrap();
    assert!(patient.status.success(), "{patient:?}");
    change(&cluster, &["remove", "8"]);
    change(&cluster, &["remove", "9"]);
    grow(&mut cluster);
    assert_works(&cluster);
}
