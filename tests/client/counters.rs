//! Writers that each add to a counter of their own, by get and set, while nodes are killed and
//! started again: not one addition is lost, and not one happens twice.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kvorum::client::{CallOptions, Client, Options, ReadFrom};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::cluster::Cluster;
use crate::support::{Raises, until};
use crate::{connect, connect_with, number, options};

const WRITERS: usize = 6;

/// Additions of all writers between two events.
const STRIDE: u64 = 200;

fn duration() -> Duration {
    let seconds = std::env::var("KVORUM_COUNTERS_SECONDS");
    Duration::from_secs(seconds.map_or(8, |seconds| seconds.parse().expect("seconds")))
}

struct Counters {
    added: [AtomicU64; WRITERS],
    is_over: AtomicBool,
}

impl Counters {
    fn total(&self) -> u64 {
        self.added.iter().map(|added| added.load(Ordering::Relaxed)).sum()
    }

    fn wait_for_progress(&self) {
        let before = self.total();
        until("additions go on", || (self.total() >= before + STRIDE).then_some(()));
    }

    fn add(&self, writer: usize, client: &Client) {
        let key = format!("counter{writer}");
        let turn = format!("turn{writer}");
        let from = [ReadFrom::Leader, ReadFrom::Random, ReadFrom::LeastLoaded, ReadFrom::Nearest];
        let mut count = 0_u64;
        while !self.is_over.load(Ordering::Relaxed) {
            let read_from = Some(from[usize::try_from(count).unwrap() % from.len()]);
            let call = CallOptions { read_from, ..CallOptions::default() };
            let found = client.with(call).get(&key).unwrap();
            let found = found.map_or(0, |found| {
                String::from_utf8(found.value).unwrap().parse().expect("a number")
            });
            assert_eq!(found, count, "writer {writer}");
            count += 1;
            client.set(&key, count.to_string()).unwrap();
            // What a second execution would show.
            if count % 2 == 1 {
                client.set(&turn, "").unwrap();
            } else {
                assert_eq!(client.delete(&turn).unwrap().count, 1, "writer {writer}");
            }
            self.added[writer].store(count, Ordering::Relaxed);
        }
    }
}

#[test]
fn counters_lose_nothing_and_count_nothing_twice() {
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut chance = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3);
    let counters =
        Counters { added: [const { AtomicU64::new(0) }; WRITERS], is_over: AtomicBool::new(false) };
    // Some threads share a client, and with it a session and its connections.
    let few = Options { connections_max: 1, ..options() };
    let clients = [connect(&cluster), connect_with(&cluster, few)];
    let end = Instant::now() + duration();
    let mut kills = 0;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (counters, client) = (&counters, &clients[writer % clients.len()]);
            scope.spawn(move || counters.add(writer, client));
        }
        let _over = Raises(&counters.is_over);
        counters.wait_for_progress();
        while Instant::now() < end {
            let first = chance.random_range(1..=3);
            cluster.kill(first);
            // Sometimes the majority goes, and writers wait for it.
            let second = chance.random_range(1..=3);
            let has_second = second != first && chance.random_ratio(1, 2);
            if has_second {
                cluster.kill(second);
                cluster.start_node(second);
            }
            counters.wait_for_progress();
            cluster.start_node(first);
            kills += 1 + u32::from(has_second);
            if chance.random_ratio(1, 2) {
                counters.wait_for_progress();
            }
        }
    });
    let client = connect(&cluster);
    for (writer, added) in counters.added.iter().enumerate() {
        let added = added.load(Ordering::Relaxed);
        assert_eq!(number(&client, &format!("counter{writer}")), added, "writer {writer}");
    }
    println!("{} additions, {kills} kills", counters.total());
}
