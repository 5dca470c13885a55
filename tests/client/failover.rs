//! Servers die and stall under load: callers see latency, and no errors.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvorum::client::{CallOptions, Client, Quorum, ReadFrom};

use crate::support::cluster::{Cluster, Place};
use crate::support::{Raises, until};
use crate::{TIMEOUT, connect, number, options};

const THREADS: usize = 8;

/// How many calls each thread has to complete before and after what happens to the cluster.
const CALLS: u64 = 50;

/// Threads that write, delete and read, each its own key, until they are stopped.
struct Load {
    client: Client,
    calls: [AtomicU64; THREADS],
    longest_us: AtomicU64,
    is_over: AtomicBool,
}

impl Load {
    fn new(client: Client) -> Load {
        Load {
            client,
            calls: [const { AtomicU64::new(0) }; THREADS],
            longest_us: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    fn timed<T>(&self, thread: usize, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = call();
        let us = u64::try_from(began.elapsed().as_micros()).unwrap();
        self.longest_us.fetch_max(us, Ordering::Relaxed);
        self.calls[thread].fetch_add(1, Ordering::Relaxed);
        result
    }

    fn run(&self, thread: usize) {
        let key = format!("k{thread}");
        while !self.is_over.load(Ordering::Relaxed) {
            let version = self.timed(thread, || self.client.set(&key, "v").unwrap());
            let found = self.timed(thread, || self.client.get(&key).unwrap());
            assert_eq!(found.unwrap().version, version);
            // Were it applied twice, the second answer would say 0.
            let deleted = self.timed(thread, || self.client.delete(&key).unwrap());
            assert_eq!(deleted.count, 1);
        }
    }

    /// Waits until every thread has completed so many calls more.
    fn wait_for_progress(&self) {
        let before = self.calls.each_ref().map(|calls| calls.load(Ordering::Relaxed));
        until("every thread goes on", || {
            let mut pairs = self.calls.iter().zip(before);
            pairs.all(|(now, was)| now.load(Ordering::Relaxed) >= was + CALLS).then_some(())
        });
    }

    /// What happens while they run.
    fn during(self, name: &str, happens: impl FnOnce(&Load)) {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let load = &self;
                scope.spawn(move || load.run(thread));
            }
            let over = Raises(&self.is_over);
            self.wait_for_progress();
            happens(&self);
            self.wait_for_progress();
            drop(over);
        });
        let longest = Duration::from_micros(self.longest_us.load(Ordering::Relaxed));
        println!("{name}: the longest call took {longest:?}");
        assert!(longest < TIMEOUT / 2, "{name}: one call took {longest:?}");
    }
}

#[test]
fn the_leader_is_killed_under_load_and_no_call_fails() {
    let mut cluster = Cluster::start(3);
    let load = Load::new(connect(&cluster));
    load.during("kill -9 of the leader", |load| {
        let leader = cluster.leader();
        cluster.kill(leader);
        load.wait_for_progress();
        cluster.start_node(leader);
    });
}

#[test]
fn the_leader_falls_silent_under_load_and_no_call_fails() {
    let cluster = Cluster::start(3);
    let load = Load::new(connect(&cluster));
    load.during("a leader that hangs", |load| {
        let leader = cluster.leader();
        cluster.pause(leader);
        load.wait_for_progress();
        cluster.resume(leader);
    });
}

#[test]
fn the_leader_is_asked_to_stop_under_load_and_no_call_fails() {
    let mut cluster = Cluster::start(3);
    let load = Load::new(connect(&cluster));
    load.during("a leader that is stopped", |_| {
        let leader = cluster.leader();
        cluster.terminate(leader);
    });
}

#[test]
fn leadership_moves_under_load_and_no_call_fails() {
    let cluster = Cluster::start(3);
    let client = connect(&cluster);
    let load = Load::new(client.clone());
    load.during("a transfer", |_| {
        let to = cluster.followers()[0];
        let id = kvorum::client::NodeId(u16::try_from(to).unwrap());
        client.transfer(Some(id)).unwrap();
        until("it has moved", || (cluster.leader() == to).then_some(()));
    });
}

#[test]
fn all_nodes_are_restarted_in_turn_and_no_call_fails() {
    let mut cluster = Cluster::start(3);
    let load = Load::new(connect(&cluster));
    load.during("three restarts", |load| {
        for id in 1..=3 {
            cluster.kill(id);
            cluster.start_node(id);
            cluster.wait_until_applied(&[1, 2, 3]);
            load.wait_for_progress();
        }
    });
}

#[test]
fn dead_and_hanging_servers_among_those_given_are_passed_over() {
    let cluster = Cluster::start(3);
    let (leader, hanging) = (cluster.leader(), cluster.followers()[0]);
    cluster.pause(hanging);
    let given = [&Place::free().client, cluster.address(hanging), cluster.address(leader)];
    let client = Client::connect(given, options()).unwrap();
    client.set("n", "7").unwrap();
    for read_from in [ReadFrom::Leader, ReadFrom::Random, ReadFrom::RoundRobin] {
        for _ in 0..10 {
            let call = CallOptions { read_from: Some(read_from), ..CallOptions::default() };
            assert!(client.with(call).get("n").unwrap().is_some());
        }
    }
    assert_eq!(number(&client, "n"), 7);
    cluster.resume(hanging);
}

/// R = 1 reads go on when there is no leader any more.
#[test]
fn local_reads_survive_the_loss_of_the_majority() {
    let mut cluster = Cluster::start_with(3, 1, &[]);
    let client = connect(&cluster);
    let version = client.set("n", "7").unwrap();
    cluster.wait_until_applied(&[1, 2, 3, 4]);
    cluster.kill(cluster.leader());
    cluster.kill(cluster.followers()[0]);
    let call = CallOptions {
        read_from: Some(ReadFrom::Nearest),
        read_quorum: Some(Quorum::Count(1)),
        min_version: version,
        ..CallOptions::default()
    };
    for _ in 0..50 {
        assert_eq!(client.with(call).get("n").unwrap().unwrap().version, version);
    }
}
