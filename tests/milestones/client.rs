//! Step 6: the client that finds its way by itself.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kvorum::client::{CallOptions, Client, Options, Quorum, ReadFrom};

use crate::support::cluster::{Cluster, Place};
use crate::support::server::Server;
use crate::support::{Raises, until};

/// Far above what any call takes here.
fn options() -> Options {
    Options { timeout: Duration::from_secs(30), ..Options::default() }
}

fn connect(cluster: &Cluster) -> Client {
    Client::connect(cluster.servers().split(','), options()).expect("a server lives")
}

/// A number that a server's INFO shows.
fn info(server: &Server, name: &str) -> u64 {
    let mut raw = server.raw();
    raw.send(b"*1\r\n$4\r\nINFO\r\n");
    let length = raw.line().expect("a reply");
    let length = length.trim_start_matches('$').trim_end().parse::<usize>().expect("a length");
    let text = String::from_utf8(raw.bytes(length)).expect("words");
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name} in {text}")).trim_end().parse().expect("a number")
}

/// How many connections a server has accepted during this, besides those that ask for the number.
fn accepted(server: &Server, act: impl FnOnce()) -> u64 {
    let before = info(server, "total_connections_received");
    act();
    info(server, "total_connections_received") - before - 1
}

#[test]
fn m6_a_connection_is_reused() {
    let server = Server::start(&[]);
    let opened = accepted(&server, || {
        let client = Client::connect([server.address()], options()).unwrap();
        for n in 0..100 {
            let version = client.set("k", n.to_string()).unwrap();
            assert_eq!(client.get("k").unwrap().unwrap().version, version);
        }
    });
    assert_eq!(opened, 1);
}

/// What the first request pays for and the second does not is the connection.
#[test]
fn m6_the_second_request_needs_no_new_connection() {
    let server = Server::start(&[]);
    let client = Client::new([server.address()], options()).unwrap();
    assert_eq!(accepted(&server, || assert_eq!(client.get("k").unwrap(), None)), 1);
    assert_eq!(accepted(&server, || assert_eq!(client.get("k").unwrap(), None)), 0);
}

#[test]
fn m6_more_takers_than_the_maximum_are_served_and_the_surplus_is_not_kept() {
    const THREADS: usize = 20;
    const CALLS: usize = 100;
    let server = Server::start(&[]);
    let served = AtomicUsize::new(0);
    let mut client = None;
    let opened = accepted(&server, || {
        let few = Options { connections_max: 2, ..options() };
        let client = client.insert(Client::connect([server.address()], few).unwrap());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (client, served) = (&*client, &served);
                scope.spawn(move || {
                    for n in 0..CALLS {
                        let key = format!("{thread}/{n}");
                        client.set(&key, &key).unwrap();
                        assert_eq!(client.get(&key).unwrap().unwrap().value, key.as_bytes());
                        served.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
    });
    assert_eq!(served.into_inner(), THREADS * CALLS);
    assert!((1..=2).contains(&opened), "{opened} connections");
    // The one that asks is counted, too.
    assert!(info(&server, "connected_clients") <= 2 + 1);
}

#[test]
fn m6_writes_find_the_leader_by_themselves() {
    let cluster = Cluster::start_with(3, 1, &[]);
    for id in 1..=4 {
        let client = Client::connect([cluster.address(id)], options()).unwrap();
        let key = format!("k{id}");
        client.set(&key, "v").unwrap();
        assert_eq!(client.delete(&key).unwrap().count, 1);
    }
    // Also one that learns of nobody else before it needs the leader.
    for id in 1..=4 {
        let client = Client::new([cluster.address(id)], options()).unwrap();
        client.set("k", id.to_string()).unwrap();
        assert_eq!(client.get("k").unwrap().unwrap().value, id.to_string().as_bytes());
    }
}

/// How many requests of this work each node has answered, without those that ask for the number.
fn answered(cluster: &Cluster, act: impl FnOnce()) -> [u64; 3] {
    let count = |id| info(cluster.node(id), "total_commands_processed");
    let before = [1, 2, 3].map(count);
    act();
    let after = [1, 2, 3].map(count);
    std::array::from_fn(|at| after[at] - before[at] - 1)
}

#[test]
fn m6_reads_spread_as_the_policy_says() {
    const READS: usize = 300;
    let cluster = Cluster::start(3);
    let leader = cluster.leader() - 1;
    let client = connect(&cluster);
    client.set("k", "v").unwrap();
    cluster.wait_until_applied(&[1, 2, 3]);
    let read = |read_from, times| {
        let local = Some(Quorum::Count(1));
        let call =
            CallOptions { read_from: Some(read_from), read_quorum: local, ..Default::default() };
        for _ in 0..times {
            assert_eq!(client.with(call).get("k").unwrap().unwrap().value, b"v");
        }
    };
    // Each node has been read from, so that round trips are known.
    read(ReadFrom::RoundRobin, 9);
    let counts = answered(&cluster, || read(ReadFrom::Leader, READS));
    assert!(counts[leader] >= READS as u64, "{counts:?}");
    let others: u64 = counts.iter().sum::<u64>() - counts[leader];
    assert!(others < 10, "{counts:?}");
    // A third each; the client's own questions are a few more.
    let counts = answered(&cluster, || read(ReadFrom::RoundRobin, READS));
    assert!(counts.iter().all(|count| (90..=120).contains(count)), "{counts:?}");
    let counts = answered(&cluster, || read(ReadFrom::Random, READS));
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    // One thread never has a request in flight when it makes the next: all are loaded alike.
    let counts = answered(&cluster, || read(ReadFrom::LeastLoaded, READS));
    assert!(counts.iter().all(|count| (90..=120).contains(count)), "{counts:?}");
    let nearest = answered(&cluster, || read(ReadFrom::Nearest, READS));
    assert!(nearest.iter().sum::<u64>() >= READS as u64, "{nearest:?}");
}

/// A node that hangs keeps its requests; the others get the new ones.
#[test]
fn m6_the_least_loaded_and_the_nearest_are_not_those_that_hang() {
    let cluster = Cluster::start(3);
    let client = connect(&cluster);
    client.set("k", "v").unwrap();
    cluster.wait_until_applied(&[1, 2, 3]);
    let hanging = cluster.followers()[0];
    let local = |read_from| CallOptions {
        read_from: Some(read_from),
        read_quorum: Some(Quorum::Count(1)),
        ..CallOptions::default()
    };
    for _ in 0..9 {
        client.with(local(ReadFrom::RoundRobin)).get("k").unwrap();
    }
    cluster.pause(hanging);
    for read_from in [ReadFrom::LeastLoaded, ReadFrom::Nearest] {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert!(client.with(local(read_from)).get("k").unwrap().is_some());
                    }
                });
            }
        });
    }
    cluster.resume(hanging);
}

#[test]
fn m6_a_program_reads_its_own_writes_on_replicas() {
    let cluster = Cluster::start_with(1, 2, &[]);
    let client = connect(&cluster);
    let mut reads = CallOptions {
        read_from: Some(ReadFrom::RoundRobin),
        read_quorum: Some(Quorum::Count(1)),
        ..CallOptions::default()
    };
    for n in 0..100 {
        reads.min_version = client.set("k", n.to_string()).unwrap();
        let found = client.with(reads).get("k").unwrap().unwrap();
        assert_eq!((found.version, found.value), (reads.min_version, n.to_string().into_bytes()));
    }
}

#[test]
fn m6_after_the_leaders_crash_the_next_write_finds_the_new_one() {
    let mut cluster = Cluster::start(3);
    let client = connect(&cluster);
    for round in 0..3 {
        client.set("k", round.to_string()).unwrap();
        let leader = cluster.leader();
        cluster.kill(leader);
        let key = format!("after {round}");
        client.set(&key, "v").unwrap();
        assert_eq!(client.get("k").unwrap().unwrap().value, round.to_string().as_bytes());
        assert_eq!(client.delete(&key).unwrap().count, 1, "once");
        cluster.start_node(leader);
    }
}

#[test]
fn m6_a_crash_of_the_leader_under_load_is_latency_and_no_error() {
    const THREADS: usize = 8;
    const CALLS: usize = 100;
    let mut cluster = Cluster::start(3);
    let client = Client::connect(cluster.servers().split(','), Options::default()).unwrap();
    let (calls, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let go_on = || {
        let before = calls.load(Ordering::Relaxed);
        until("calls go on", || {
            (calls.load(Ordering::Relaxed) >= before + THREADS * CALLS).then_some(())
        });
    };
    let longest = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (client, calls, is_over) = (&client, &calls, &is_over);
                scope.spawn(move || {
                    let mut longest = Duration::ZERO;
                    while !is_over.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        client.set(format!("k{thread}"), "v").expect("latency, and no error");
                        longest = longest.max(began.elapsed());
                        calls.fetch_add(1, Ordering::Relaxed);
                    }
                    longest
                })
            })
            .collect();
        let over = Raises(&is_over);
        go_on();
        cluster.kill(cluster.leader());
        go_on();
        drop(over);
        threads.into_iter().map(|thread| thread.join().unwrap()).max().unwrap()
    });
    println!("the longest call took {longest:?}");
    assert!(longest < Options::default().timeout / 2, "one call took {longest:?}");
}

#[test]
fn m6_a_dead_first_server_is_passed_over() {
    let cluster = Cluster::start(3);
    let servers = format!("{},{}", Place::free().client, cluster.servers());
    let client = Client::connect(servers.split(','), options()).unwrap();
    client.set("k", "v").unwrap();
    assert_eq!(client.get("k").unwrap().unwrap().value, b"v");
}

#[test]
fn m6_who_is_leader_and_not_leader_work_from_netcat() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let address = cluster.address(leader);
    for id in 1..=3 {
        let mut text = cluster.text(id);
        assert_eq!(text.ask("WHO_IS_LEADER"), format!("LEADER {address}"));
        let expected =
            if id == leader { "OK".to_owned() } else { format!("NOT_LEADER leader={address}") };
        assert_eq!(text.ask("SET k v"), expected);
    }
}
