//! How often a call of the client library allocates, from the program to the socket and back, by
//! the thread that makes it. Counted, not timed, so it may be asserted: nothing for a SET or a
//! DELETE, the value that is returned for a GET, and nothing more when threads share a connection.
//! A pipeline lends its values, and allocates nothing.

#[path = "support/counting.rs"]
mod counting;
#[path = "support/mod.rs"]
mod support;

use std::time::Duration;

use kvorum::client::{CallOptions, Client, Options, Outcome, PipelineOptions, ReadFrom};
use support::server::Server;

const CALLS: u64 = 1000;

/// Calls until every buffer has its size.
const WARM_UP_CALLS: u64 = 100;

/// The question for the members, should it come in the middle: the answer and what is parsed.
const MEMBERS_MAX: u64 = 40;

fn connect(server: &Server, connections_max: usize) -> Client {
    let timeout = Duration::from_secs(60);
    let options = Options { timeout, connections_max, ..Options::default() };
    Client::connect([server.address()], options).unwrap()
}

/// How many allocations so many calls take.
fn allocations(mut call: impl FnMut()) -> u64 {
    (0..WARM_UP_CALLS).for_each(|_| call());
    let before = counting::allocations();
    (0..CALLS).for_each(|_| call());
    counting::allocations() - before
}

#[test]
fn a_call_allocates_what_it_returns() {
    let server = Server::start(&[]);
    let client = connect(&server, 10);
    client.set("k", [7; 100]).unwrap();
    let sets = allocations(|| assert!(client.set("k", [7; 100]).is_ok()));
    assert!(sets <= MEMBERS_MAX, "{sets} in {CALLS} SETs");
    let deletes = allocations(|| assert_eq!(client.delete("absent").unwrap().count, 0));
    assert!(deletes <= MEMBERS_MAX, "{deletes} in {CALLS} DELETEs");
    let misses = allocations(|| assert_eq!(client.get("absent").unwrap(), None));
    assert!(misses <= MEMBERS_MAX, "{misses} in {CALLS} GETs of nothing");
    for read_from in [ReadFrom::Leader, ReadFrom::Random, ReadFrom::RoundRobin, ReadFrom::Nearest] {
        let call = CallOptions { read_from: Some(read_from), ..CallOptions::default() };
        let gets = allocations(|| {
            assert_eq!(client.with(call).get("k").unwrap().unwrap().value.len(), 100);
        });
        assert!((CALLS..=CALLS + MEMBERS_MAX).contains(&gets), "{gets} in {CALLS} GETs");
    }
    // The two values, and the list in the reply and in the result.
    let many = allocations(|| assert_eq!(client.get_many(&["k", "k"]).unwrap().len(), 2));
    assert!(many <= 4 * CALLS + MEMBERS_MAX, "{many} in {CALLS} GETs of two keys");
}

/// One of those who wait receives for the others: their values, and nothing else.
#[test]
fn threads_that_share_a_connection_allocate_what_they_return() {
    const THREADS: u64 = 4;
    let server = Server::start(&[]);
    let client = connect(&server, 1);
    client.set("k", [7; 100]).unwrap();
    let counts: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| allocations(|| drop(client.get("k").unwrap().unwrap()))))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let sum: u64 = counts.iter().sum();
    // Those of a thread's warm-up may be counted by another. A buffer may be needed twice at once,
    // seldom.
    let most = THREADS * (CALLS + WARM_UP_CALLS + MEMBERS_MAX) + THREADS * CALLS / 20;
    assert!(sum <= most, "{counts:?}");
}

#[test]
fn a_pipeline_allocates_nothing() {
    const DEPTH: u64 = 64;
    let server = Server::start(&[]);
    let client = connect(&server, 1);
    for read_from in [ReadFrom::Leader, ReadFrom::RoundRobin] {
        let call = CallOptions { read_from: Some(read_from), ..CallOptions::default() };
        let in_flight_max = usize::try_from(DEPTH).unwrap();
        let mut pipeline = client.pipeline(PipelineOptions { in_flight_max, call }).unwrap();
        let counted = allocations(|| {
            for number in 0..DEPTH {
                let key = number.to_le_bytes();
                match number % 3 {
                    0 => pipeline.set(&key, &[7; 100]),
                    1 => pipeline.get(&(number - 1).to_le_bytes()),
                    _ => pipeline.delete(&key),
                }
                .unwrap();
            }
            while let Some((_, result)) = pipeline.next() {
                let outcome = result.unwrap();
                assert!(!matches!(outcome, Outcome::Value { value, .. } if value != [7; 100]));
            }
        });
        assert!(counted <= MEMBERS_MAX, "{counted} in {} requests", CALLS * DEPTH);
    }
}
