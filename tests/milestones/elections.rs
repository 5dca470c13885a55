//! Step 5: leader election.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use crate::support::child::Ends as _;
use crate::support::client::Raw;
use crate::support::cluster::Cluster;
use crate::support::server::kvorum;
use crate::support::{PATIENCE, until};

/// Quick elections, for tests that need several of them.
const QUICK: [&str; 4] = ["--heartbeat-ms", "20", "--election-timeout-ms", "100"];

fn terms(cluster: &Cluster) -> Vec<u64> {
    cluster.running().map(|id| cluster.node(id).status_number("term")).collect()
}

/// Waits until one of the others leads.
fn next_leader(cluster: &Cluster, old: usize) -> usize {
    cluster.leader_of(&others(cluster, old))
}

fn others(cluster: &Cluster, than: usize) -> Vec<usize> {
    cluster.running().filter(|&id| id != than).collect()
}

/// Writes at the leader of these nodes, whoever that is by then: a starved machine may elect
/// another at any time. Answers who it was.
fn set_among(cluster: &Cluster, ids: &[usize], value: &str) -> usize {
    until("a leader takes the write", || {
        let leader = cluster.leader_of(ids);
        let reply = cluster.text(leader).ask(&format!("SET k {value}"));
        (reply == "OK").then_some(leader)
    })
}

fn set(cluster: &Cluster, value: &str) -> usize {
    set_among(cluster, &cluster.running().collect::<Vec<_>>(), value)
}

/// What a node answers as soon as it knows a leader: never an older value.
fn assert_holds(cluster: &Cluster, id: usize, value: &str) {
    let reply = until("the node knows a leader", || {
        Some(cluster.text(id).ask("GET k")).filter(|reply| !reply.starts_with("ERROR "))
    });
    assert_eq!(reply, format!("VALUE {value}"));
}

/// Who leads needs to say so often enough that nobody stands for election.
#[test]
fn m5_the_leader_sends_heartbeats() {
    let mut cluster = Cluster::prepare(3, 0, &[]);
    (1..=3).for_each(|id| cluster.start_node_with(id, &["--trace-peers"]));
    // Several election timeouts. A machine that is starved may need more than one try; without
    // heartbeats there would be no end of elections.
    let leader = until("nobody stands for election for two seconds", || {
        let (leader, before) = (cluster.leader(), terms(&cluster));
        let mut waiting = cluster.text(leader);
        assert!(!waiting.raw().hears_within(Duration::from_secs(2)), "nothing was asked");
        (terms(&cluster) == before).then_some(leader)
    });
    let follower = others(&cluster, leader)[0];
    let log = cluster.terminate(follower).stderr;
    let heartbeats = log.lines().filter(|line| line.contains("HEARTBEAT ")).count();
    assert!(heartbeats >= 10, "{heartbeats} heartbeats in two seconds:\n{log}");
}

#[test]
fn m5_a_follower_that_hears_none_stands_for_election() {
    let cluster = Cluster::start(3);
    let old = cluster.leader();
    let term = cluster.node(old).status_number("term");
    cluster.pause(old);
    let new = set_among(&cluster, &others(&cluster, old), "v");
    assert!(cluster.node(new).status_number("term") > term);
    cluster.resume(old);
}

/// What the logs of all nodes say, for every term: who voted for whom, and who led.
#[test]
fn m5_one_vote_a_term_and_the_higher_term_wins() {
    let mut cluster = Cluster::start_with(3, 0, &QUICK);
    let mut highest = 0;
    for round in 0..5 {
        let leader = set(&cluster, &round.to_string());
        let term = until("the higher term wins", || {
            let known = terms(&cluster);
            known.iter().all(|term| *term == known[0]).then_some(known[0])
        });
        assert!(term > highest, "term {term} comes after term {highest}");
        highest = term;
        cluster.kill(leader);
        next_leader(&cluster, leader);
        cluster.start_node(leader);
    }
    cluster.leader();
    let mut votes: HashMap<u64, HashMap<usize, usize>> = HashMap::new();
    for id in 1..=3 {
        cluster.kill(id);
        let mut own: HashMap<u64, usize> = HashMap::new();
        for (term, voted_for) in votes_of(&cluster, id) {
            let before = own.insert(term, voted_for);
            assert!(before.is_none_or(|before| before == voted_for), "node {id} votes twice");
            *votes.entry(term).or_default().entry(voted_for).or_default() +=
                usize::from(before.is_none());
        }
    }
    for (term, candidates) in &votes {
        let winners = candidates.values().filter(|&&votes| votes >= 2).count();
        assert!(winners <= 1, "two leaders of term {term}");
    }
    assert!(votes.len() >= 5, "{votes:?}");
}

/// The votes in the log of a node that has ended: term and candidate.
fn votes_of(cluster: &Cluster, id: usize) -> Vec<(u64, usize)> {
    let output = kvorum().args(["wal", "dump"]).arg(cluster.data(id)).output_in_time().unwrap();
    assert!(output.status.success(), "{output:?}");
    let dump = String::from_utf8(output.stdout).unwrap();
    let votes = dump.lines().filter(|line| line.contains("TERM term=")).filter_map(|line| {
        let value = |name: &str| {
            let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            word.and_then(|word| word.parse::<u64>().ok())
        };
        Some((value("term=")?, usize::try_from(value("vote=")?).ok()?))
    });
    votes.collect()
}

#[test]
fn m5_a_majority_elects() {
    for (voters, majority) in [(3, 2), (5, 3), (7, 4)] {
        let mut cluster = Cluster::prepare(voters, 0, &QUICK);
        (1..majority).for_each(|id| cluster.start_node(id));
        // Long enough for many elections, if there could be any.
        let mut client = cluster.text(1);
        assert!(!client.raw().hears_within(Duration::from_millis(1000)));
        for id in 1..majority {
            assert_ne!(cluster.node(id).status("role"), "leader", "{majority} of {voters} elect");
        }
        assert_eq!(client.ask("WHO_IS_LEADER"), "NO_LEADER");
        cluster.start_node(majority);
        set(&cluster, "v");
    }
}

/// Four nodes that start at once, and four of which the leader dies, time and again.
#[test]
fn m5_split_votes_retry_until_one_wins() {
    let mut cluster = Cluster::start_with(4, 0, &QUICK);
    for round in 0..6 {
        let leader = set(&cluster, &round.to_string());
        cluster.kill(leader);
        let new = next_leader(&cluster, leader);
        assert_holds(&cluster, new, &round.to_string());
        cluster.start_node(leader);
    }
    (1..=4).for_each(|id| cluster.kill(id));
    (1..=4).for_each(|id| cluster.start_node(id));
    assert_holds(&cluster, cluster.leader(), "5");
}

#[test]
fn m5_an_old_leader_that_comes_back_steps_down() {
    let cluster = Cluster::start_with(3, 0, &["--quorum-timeout-ms", "1000"]);
    let old = set(&cluster, "first");
    let mut late = cluster.text(old);
    assert_eq!(late.ask("PING"), "PONG");
    cluster.pause(old);
    late.send("SET k late");
    set_among(&cluster, &others(&cluster, old), "second");
    cluster.resume(old);
    until("the old leader follows", || {
        (cluster.node(old).status("role") == "follower").then_some(())
    });
    // What it was asked as a leader without followers was not acknowledged.
    let reply = late.reply();
    assert_ne!(reply, "OK");
    assert_holds(&cluster, old, "second");
}

#[test]
fn m5_a_minority_never_elects_and_never_accepts_a_quorum_write() {
    let mut cluster = Cluster::start_with(5, 0, &["--quorum-timeout-ms", "500"]);
    let leader = set(&cluster, "kept");
    let followers = others(&cluster, leader);
    cluster.wait_until_applied(&followers);
    // The leader and one follower are left.
    followers[..3].iter().for_each(|&id| cluster.kill(id));
    let minority: Vec<usize> = cluster.running().collect();
    until("nobody leads", || {
        let led = minority.iter().any(|&id| cluster.node(id).status("leader") != "none");
        (!led).then_some(())
    });
    let terms_before = terms(&cluster);
    for _ in 0..3 {
        for &id in &minority {
            let mut client = cluster.text(id);
            let reply = client.ask("SET k lost");
            assert!(reply.starts_with("ERROR NO_LEADER "), "{reply}");
            assert_eq!(client.ask("QUORUM r=1"), "OK");
            assert_eq!(client.ask("GET k"), "VALUE kept");
            assert_ne!(cluster.node(id).status("role"), "leader");
        }
    }
    // They only ask whether they would be elected, which changes nothing.
    assert_eq!(terms(&cluster), terms_before);
    followers[..3].iter().for_each(|&id| cluster.start_node(id));
    assert_holds(&cluster, cluster.leader(), "kept");
}

#[test]
fn m5_roles_terms_and_votes_can_be_watched() {
    let mut cluster = Cluster::prepare(3, 1, &[]);
    (1..=4).for_each(|id| cluster.start_node_with(id, &["--trace-peers"]));
    let (leader, term) = until("all say the same of themselves", || {
        let leader = cluster.leader();
        let term = cluster.node(leader).status("term");
        let is_shown = |id| {
            let expected = match id {
                4 => "learner",
                _ if id == leader => "leader",
                _ => "follower",
            };
            let names = ["role", "term", "leader", "voters", "learners"];
            let shown = names.map(|name| cluster.node(id).status(name));
            shown == [expected, &term, &leader.to_string(), "1,2,3", "4"]
        };
        (1..=4).all(is_shown).then_some((leader, term))
    });
    assert_eq!(cluster.node(leader).status("peers").split(',').count(), 3);
    // One table of all of them.
    let output =
        kvorum().args(["status", "--servers", &cluster.servers()]).output_in_time().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{table}");
    for word in [" leader ", " follower ", " learner "] {
        assert!(table.contains(word), "{table}");
    }
    // The votes, as they were asked for and given, and as they stand in the log.
    let log = cluster.terminate(leader).stderr;
    for word in ["VOTE_REQUEST term=", "VOTE_REPLY term=", "candidate="] {
        assert!(log.contains(word), "no {word} in:\n{log}");
    }
    let voted = votes_of(&cluster, leader);
    assert!(voted.contains(&(term.parse().unwrap(), leader)), "{voted:?}");
}

/// Writes keys of its own as fast as they are answered, until the connection is closed. Answers
/// which were acknowledged, and which refused. Says once when it is in full swing.
fn write_until_closed(address: &str, writer: usize, swing: &Sender<()>) -> [Vec<String>; 2] {
    let mut connection = Raw::connect(address);
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    for round in 0.. {
        let keys: Vec<String> = (0..8).map(|n| format!("k{writer}-{round}-{n}")).collect();
        let lines: String = keys.iter().map(|key| format!("SET {key} v\n")).collect();
        if !connection.send_if_possible(lines.as_bytes()) {
            break;
        }
        for key in keys {
            let Some(reply) = connection.line() else { return [acknowledged, refused] };
            let is_refused =
                ["NOT_LEADER ", "ERROR NO_LEADER "].map(|word| reply.starts_with(word));
            if reply == "OK" {
                acknowledged.push(key);
            } else if is_refused.contains(&true) {
                refused.push(key);
            } else {
                assert!(reply.starts_with("ERROR LEADER_CHANGED "), "{reply}");
            }
        }
        if round == 20 {
            swing.send(()).expect("somebody waits");
        }
    }
    [acknowledged, refused]
}

/// SIGTERM in the middle of writes: another node is asked to lead, nothing acknowledged is lost,
/// and nothing refused is there.
#[test]
fn m5_a_leader_that_is_stopped_hands_over() {
    let mut cluster = Cluster::prepare(3, 0, &[]);
    (1..=3).for_each(|id| cluster.start_node_with(id, &["--trace-peers"]));
    let old = cluster.leader();
    let address = cluster.address(old).to_owned();
    let (swing, swings) = channel();
    let (exit, answers) = thread::scope(|scope| {
        let write = |writer| {
            let (address, swing) = (&address, swing.clone());
            scope.spawn(move || write_until_closed(address, writer, &swing))
        };
        let writers: Vec<_> = (0..4).map(write).collect();
        writers.iter().for_each(|_| swings.recv_timeout(PATIENCE).expect("they write"));
        let exit = cluster.terminate(old);
        let join = |writer: thread::ScopedJoinHandle<'_, _>| writer.join().expect("a good end");
        (exit, writers.into_iter().map(join).collect::<Vec<_>>())
    });
    assert_eq!(exit.code, Some(0));
    assert!(exit.stderr.contains("TIMEOUT_NOW term="), "nobody was asked:\n{}", exit.stderr);
    let mut client = cluster.text(cluster.leader());
    for [acknowledged, refused] in answers {
        for (keys, expected) in [(acknowledged, "VALUE v"), (refused, "NOT_FOUND")] {
            for key in keys {
                assert_eq!(client.ask(&format!("GET {key}")), expected, "{key}");
            }
        }
    }
}
