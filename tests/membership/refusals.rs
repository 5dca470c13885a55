//! Changes that make no sense, or come at the wrong time: a clear line, and nothing has changed.

use crate::support::cluster::Cluster;
use crate::{CALM, assert_works, change, grow, place, refusal, wait_for_voters};

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
    assert!(line.contains("another change of the members is in flight"), "{line}");
    followers.iter().for_each(|id| cluster.resume(*id));
    assert_eq!(first.reply(), "OK");
    assert_eq!(second.ask("MEMBER add 9=127.0.0.1:3/127.0.0.1:4"), "OK");
    change(&cluster, &["remove", "8"]);
    change(&cluster, &["remove", "9"]);
    grow(&mut cluster);
    assert_works(&cluster);
}
