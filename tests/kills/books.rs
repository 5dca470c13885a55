//! Clients that keep books of what they have written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvorum::client::{CallOptions, Client, Options};
use kvorum_protocol::Quorum;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::servers;
use crate::support::cluster::Cluster;
use crate::support::{PATIENCE, Raises};

const WRITERS: u64 = 4;

/// Keys of one writer.
const KEYS: u64 = 50;

/// What was written.
pub type Books = BTreeMap<String, String>;

/// Does something to a cluster while clients write, then compares every node with what they have
/// written.
pub fn under_load(cluster: &mut Cluster, act: impl FnOnce(&mut Cluster)) {
    let servers: Vec<String> = servers(cluster).split(',').map(str::to_owned).collect();
    let is_over = AtomicBool::new(false);
    let books = thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (servers, is_over) = (&servers, &is_over);
                scope.spawn(move || write(writer, servers, is_over))
            })
            .collect();
        let raises = Raises(&is_over);
        act(cluster);
        drop(raises);
        let written = writers.into_iter().flat_map(|writer| writer.join().expect("no call fails"));
        written.collect::<Books>()
    });
    assert!(!books.is_empty(), "nothing was written");
    check(cluster, &books);
}

/// Sets and deletes until it is over; each write is done before the next.
fn write(writer: u64, servers: &[String], is_over: &AtomicBool) -> Books {
    let options = Options { timeout: PATIENCE, ..Options::default() };
    let client = Client::connect(servers, options).expect("a server answers");
    let mut chance = SmallRng::seed_from_u64(writer);
    let mut books = Books::new();
    let mut count = 0_u64;
    while !is_over.load(Ordering::Relaxed) {
        let key = format!("w{writer}k{}", chance.random_range(0..KEYS));
        if chance.random_bool(0.2) {
            let was_there = books.remove(&key).is_some();
            let deleted = client.delete(&key).expect("a write").count;
            assert_eq!(deleted, u32::from(was_there), "{key}");
        } else {
            count += 1;
            client.set(&key, count.to_string()).expect("a write");
            books.insert(key, count.to_string());
        }
    }
    books
}

/// Every node holds this, and nothing else of these keys.
fn check(cluster: &Cluster, books: &Books) {
    let ids: Vec<usize> = cluster.running().collect();
    cluster.wait_until_applied(&ids);
    let local = CallOptions { read_quorum: Some(Quorum::Count(1)), ..CallOptions::default() };
    for id in ids {
        let options =
            Options { read_from: kvorum::client::ReadFrom::Nearest, ..Options::default() };
        let client = Client::connect([cluster.address(id)], options).expect("it answers");
        let client = client.with(local);
        for key in (0..WRITERS).flat_map(|writer| (0..KEYS).map(move |key| (writer, key))) {
            let key = format!("w{}k{}", key.0, key.1);
            let found = client.get(&key).expect("a read").map(|found| found.value);
            let expected = books.get(&key).map(|value| value.as_bytes().to_vec());
            assert_eq!(found, expected, "{key} at node {id}");
        }
    }
}
