//! The pipelined client against real servers, and against some that behave badly.

mod support;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use kvorum::client::{
    CallOptions, Cause, Error, ErrorKind, LogIndex, Options, Outcome, Pipeline, PipelineOptions,
    Quorum, ReadFrom, Ticket,
};
use kvorum_protocol::Response;
use kvorum_protocol::binary::{PREFACE, encode_response};
use support::PATIENCE;
use support::cluster::Cluster;
use support::server::Server;

const WRITES: u32 = 5000;

fn pipeline(servers: &str, options: Options, in_flight_max: usize) -> Pipeline {
    let options_of_it = PipelineOptions { in_flight_max, call: CallOptions::default() };
    Pipeline::connect(servers.split(','), &options, options_of_it).unwrap()
}

fn patient() -> Options {
    Options { timeout: PATIENCE, ..Options::default() }
}

fn key(number: u32) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

/// Stores values under all keys and waits for it.
fn fill(pipeline: &mut Pipeline, keys: u32, value: &[u8]) {
    for number in 0..keys {
        pipeline.set(&key(number), value).unwrap();
    }
    while let Some((_, result)) = pipeline.next() {
        assert!(matches!(result, Ok(Outcome::Set { .. })), "{result:?}");
    }
}

fn version(outcome: Outcome<'_>) -> LogIndex {
    let Outcome::Set { version } = outcome else { panic!("{outcome:?}") };
    version
}

#[test]
fn answers_are_taken_in_any_order() {
    let server = Server::start(&[]);
    let mut pipeline = pipeline(server.address(), patient(), 2000);
    let sets: Vec<Ticket> =
        (0..1000).map(|number| pipeline.set(&key(number), &key(number)).unwrap()).collect();
    let gets: Vec<Ticket> = (0..1001).map(|number| pipeline.get(&key(number)).unwrap()).collect();
    // The newest first.
    for (number, ticket) in (0..1001_u32).zip(&gets).rev() {
        let outcome = pipeline.wait(*ticket).unwrap();
        match outcome {
            Outcome::Value { value, .. } => assert_eq!(value, key(number)),
            Outcome::Absent => assert_eq!(number, 1000),
            other => panic!("{other:?}"),
        }
    }
    let mut taken = HashSet::new();
    for ticket in &sets[..500] {
        assert!(taken.insert(version(pipeline.wait(*ticket).unwrap())));
    }
    let mut left: HashSet<Ticket> = sets[500..].iter().copied().collect();
    while let Some((ticket, result)) = pipeline.next() {
        assert!(left.remove(&ticket), "an answer is taken once");
        assert!(taken.insert(version(result.unwrap())));
    }
    assert_eq!((left.len(), taken.len()), (0, 1000));
    assert_eq!((pipeline.in_flight(), pipeline.ready()), (0, 0));
}

/// A DELETE that was applied twice would say that there was no key; a lost one says nothing.
#[test]
fn writes_in_flight_survive_their_leader_and_happen_once() {
    let mut cluster = Cluster::start(3);
    let mut pipeline = pipeline(&cluster.servers(), patient(), 8192);
    fill(&mut pipeline, WRITES, b"value");
    for number in 0..WRITES {
        pipeline.delete(&key(number)).unwrap();
    }
    let mut versions = HashSet::new();
    let mut answers = 0;
    while let Some((_, result)) = pipeline.next() {
        let Ok(Outcome::Deleted { version, count: 1 }) = result else { panic!("{result:?}") };
        assert!(versions.insert(version), "each is an entry of its own");
        answers += 1;
        if answers == WRITES / 10 {
            assert!(pipeline.in_flight() > 0);
            let leader = cluster.leader();
            cluster.kill(leader);
        }
    }
    assert_eq!(answers, WRITES);
    for number in 0..WRITES {
        pipeline.get(&key(number)).unwrap();
    }
    while let Some((_, result)) = pipeline.next() {
        assert_eq!(result, Ok(Outcome::Absent));
    }
}

/// It says nothing and closes nothing: only its silence tells.
#[test]
fn a_leader_that_hangs_is_left() {
    let cluster = Cluster::start(3);
    let mut pipeline = pipeline(&cluster.servers(), patient(), 8192);
    fill(&mut pipeline, WRITES, b"value");
    let leader = cluster.leader();
    cluster.pause(leader);
    let began = Instant::now();
    for number in 0..WRITES {
        pipeline.delete(&key(number)).unwrap();
    }
    while let Some((_, result)) = pipeline.next() {
        assert!(matches!(result, Ok(Outcome::Deleted { count: 1, .. })), "{result:?}");
    }
    println!("{WRITES} writes with a leader that hangs: {:?}", began.elapsed());
    cluster.resume(leader);
}

#[test]
fn writes_of_one_key_keep_their_order_across_a_change_of_leaders() {
    let mut cluster = Cluster::start(3);
    let mut pipeline = pipeline(&cluster.servers(), patient(), 8192);
    let tickets: Vec<Ticket> =
        (0..WRITES).map(|number| pipeline.set(b"k", &key(number)).unwrap()).collect();
    pipeline.wait(tickets[100]).unwrap();
    let leader = cluster.leader();
    cluster.kill(leader);
    let versions: Vec<LogIndex> = tickets
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != 100)
        .map(|(_, ticket)| version(pipeline.wait(*ticket).unwrap()))
        .collect();
    assert!(versions.is_sorted(), "in the order of queueing");
    let last = pipeline.get(b"k").unwrap();
    let Outcome::Value { value, .. } = pipeline.wait(last).unwrap() else { panic!("no value") };
    assert_eq!(value, key(WRITES - 1));
}

#[test]
fn a_program_that_reads_late_gets_everything() {
    const KEYS: u32 = 2000;
    let server = Server::start(&[]);
    let mut pipeline = pipeline(server.address(), patient(), KEYS as usize);
    let value = vec![b'v'; 30_000];
    fill(&mut pipeline, KEYS, &value);
    // More than the buffers of the sockets hold.
    let tickets: Vec<Ticket> =
        (0..KEYS).map(|number| pipeline.get(&key(number)).unwrap()).collect();
    pipeline.flush();
    server.wait_for_status("applied", |applied| applied >= u64::from(KEYS));
    for ticket in tickets {
        let outcome = pipeline.wait(ticket).unwrap();
        assert!(matches!(outcome, Outcome::Value { value: read, .. } if read == value));
    }
}

#[test]
fn no_more_are_in_flight_than_asked_for() {
    let server = Server::start(&[]);
    let mut pipeline = pipeline(server.address(), patient(), 4);
    for number in 0..500 {
        pipeline.set(&key(number), b"value").unwrap();
        assert!(pipeline.in_flight() <= 4);
    }
    let mut answers = 0;
    while let Some((_, result)) = pipeline.next() {
        result.unwrap();
        answers += 1;
    }
    assert_eq!(answers, 500);
}

#[test]
fn each_request_has_its_deadline_and_the_next_ones_go_on() {
    let server = Server::start(&[]);
    let timeout = Duration::from_millis(300);
    let mut pipeline = pipeline(server.address(), Options { timeout, ..Options::default() }, 64);
    let first = pipeline.set(b"first", b"1").unwrap();
    pipeline.wait(first).unwrap();
    server.pause();
    let began = Instant::now();
    let (write, read) = (pipeline.set(b"k", b"v").unwrap(), pipeline.get(b"first").unwrap());
    let error = pipeline.wait(write).unwrap_err();
    assert_eq!((error.kind(), error.cause()), (ErrorKind::OutcomeUnknown, &Cause::Timeout));
    let error = pipeline.wait(read).unwrap_err();
    assert_eq!((error.kind(), error.cause()), (ErrorKind::NotApplied, &Cause::Timeout));
    assert!(began.elapsed() >= timeout);
    server.resume();
    // What comes late is nobody's answer.
    support::until("the server goes on", || {
        let read = pipeline.get(b"first").unwrap();
        pipeline.wait(read).is_ok().then_some(())
    });
    let absent = pipeline.get(b"absent").unwrap();
    assert_eq!(pipeline.wait(absent), Ok(Outcome::Absent));
}

/// A server that does this with each connection, until the test ends.
fn bad_server(act: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().flatten().for_each(act));
    address
}

/// What a write and a read come to with such a server and no other.
fn errors(address: &str, exactly_once: bool) -> [Error; 2] {
    let options =
        Options { timeout: Duration::from_millis(400), exactly_once, ..Options::default() };
    let mut pipeline = pipeline(address, options, 64);
    let (write, read) = (pipeline.set(b"k", b"v").unwrap(), pipeline.get(b"k").unwrap());
    [pipeline.wait(write).unwrap_err(), pipeline.wait(read).unwrap_err()]
}

#[test]
fn a_server_that_closes_leaves_a_write_open_and_a_read_not() {
    let address = bad_server(|mut stream| {
        stream.write_all(&PREFACE).unwrap();
        // Until the request is there.
        let mut request = [0; PREFACE.len() + 1];
        let _ = stream.read_exact(&mut request);
    });
    let [write, read] = errors(&address, false);
    assert_eq!(write.kind(), ErrorKind::OutcomeUnknown, "{write}");
    assert!(matches!(write.cause(), Cause::Lost(_)), "{write}");
    assert_eq!(read.kind(), ErrorKind::NotApplied, "{read}");
    // Opening a session in vain is no write.
    let [write, _] = errors(&address, true);
    assert_eq!(write.kind(), ErrorKind::NotApplied, "{write}");
}

#[test]
fn servers_that_never_take_requests_leave_nothing_open() {
    let full = bad_server(|mut stream| stream.write_all(b"ERROR BUSY no room\n").unwrap());
    for error in errors(&full, false) {
        assert_eq!(error.kind(), ErrorKind::NotApplied, "{error}");
        assert!(error.to_string().contains("BUSY"), "{error}");
    }
    let nobody = "127.0.0.1:1";
    for error in errors(nobody, true) {
        assert_eq!(error.kind(), ErrorKind::NotApplied, "{error}");
        assert!(matches!(error.cause(), Cause::NoServer(_)), "{error}");
    }
}

#[test]
fn garbage_is_no_answer() {
    let half_a_frame = bad_server(|mut stream| {
        let _ = stream.write_all(&[&PREFACE[..], &[24, 0, 0, 0, 1]].concat());
    });
    let no_frame = bad_server(|mut stream| {
        let _ = stream.write_all(&[&PREFACE[..], &[0xFF; 64]].concat());
    });
    let http = bad_server(|mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    for address in [half_a_frame, no_frame, http] {
        let [_, read] = errors(&address, true);
        assert_eq!(read.kind(), ErrorKind::NotApplied, "{read}");
    }
}

/// It says nothing for seconds, because the request is not there yet.
#[test]
fn a_large_value_comes_through_a_slow_line() {
    const VALUE_BYTES: usize = 32 << 20;
    const PIECE_BYTES: usize = 64 << 10;
    const BYTES_PER_US: u32 = 8;
    let address = bad_server(|mut stream| {
        stream.write_all(&PREFACE).unwrap();
        let mut piece = vec![0; PIECE_BYTES];
        let (mut received, began) = (0, Instant::now());
        while received < VALUE_BYTES {
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return,
                Ok(count) => received += count,
            }
            let due = Duration::from_micros(received as u64) / BYTES_PER_US;
            support::until("the line takes more", || (began.elapsed() >= due).then_some(()));
        }
        let mut answer = Vec::new();
        encode_response(&mut answer, 0, &Response::Written { version: LogIndex(7) });
        stream.write_all(&answer).unwrap();
        while matches!(stream.read(&mut piece), Ok(1..)) {}
    });
    let options = Options { exactly_once: false, ..patient() };
    let mut pipeline = pipeline(&address, options, 64);
    let ticket = pipeline.set(b"k", &vec![b'v'; VALUE_BYTES]).unwrap();
    assert_eq!(pipeline.wait(ticket), Ok(Outcome::Set { version: LogIndex(7) }));
}

#[test]
fn requests_that_no_server_accepts_are_not_queued() {
    let mut pipeline = pipeline("127.0.0.1:1", patient(), 64);
    let error = pipeline.get(&vec![b'k'; 70_000]).unwrap_err();
    assert_eq!((error.kind(), error.cause()), (ErrorKind::WrongUsage, &Cause::TooLarge));
    assert!(pipeline.next().is_none());
}

#[test]
fn replicas_answer_reads_of_ones_own_writes() {
    let cluster = Cluster::start(3);
    let options = Options { read_from: ReadFrom::RoundRobin, ..patient() };
    let call = CallOptions { read_quorum: Some(Quorum::Count(1)), ..CallOptions::default() };
    let options_of_it = PipelineOptions { call, ..PipelineOptions::default() };
    let servers = cluster.servers();
    let mut pipeline = Pipeline::connect(servers.split(','), &options, options_of_it).unwrap();
    for number in 0..100 {
        let write = pipeline.set(b"k", &key(number)).unwrap();
        let version = version(pipeline.wait(write).unwrap());
        let reads = [(); 3].map(|()| pipeline.get_at_least(b"k", version).unwrap());
        for read in reads {
            let value = key(number);
            assert_eq!(pipeline.wait(read), Ok(Outcome::Value { version, value: &value }));
        }
    }
}
