//! The whole generator against a small server in threads of the test.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use clap::Parser;
use kvorum_protocol::binary::{self, PREFACE};
use kvorum_protocol::{ErrorCode, Limits, LogIndex, Op, Request, Response};

use super::workload::Kind;
use super::*;

/// How the server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// At once and in order.
    Plain,
    /// Binary: the last request of a read first.
    Reversed,
    /// A few bytes at a time.
    Dribbling,
    /// Writes are refused.
    ReadOnly,
    /// Every value is that of another key.
    Muddled,
    /// No replica holds anything.
    Alone,
    /// The connection is closed at the first request.
    Closing,
    /// With something that is no reply of any protocol.
    Garbage,
}

type Store = Arc<Mutex<HashMap<Vec<u8>, Vec<u8>>>>;

struct Server {
    protocol: Protocol,
    address: SocketAddr,
    store: Store,
}

impl Server {
    /// A server whose threads end with their connections.
    fn start(protocol: Protocol, manner: Manner) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let store = Store::default();
        let shared = Arc::clone(&store);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let store = Arc::clone(&shared);
                thread::spawn(move || serve(stream.unwrap(), protocol, manner, &store));
            }
        });
        Server { protocol, address, store }
    }

    /// Runs `kvorum bench` with these flags against the server.
    fn measure(&self, flags: &str) -> Result<Measurement, BenchError> {
        measure(&self.args(flags))
    }

    fn args(&self, flags: &str) -> Args {
        #[derive(clap::Parser)]
        #[command(args_override_self = true)]
        struct Command {
            #[command(flatten)]
            args: Args,
        }
        let server = format!("--servers={}", self.address);
        let protocol = format!("--protocol={}", self.protocol.name());
        let fixed = ["bench", "--quiet", "--warmup-seconds=0", &server, &protocol];
        Command::parse_from(fixed.into_iter().chain(flags.split_ascii_whitespace())).args
    }
}

/// A request in no protocol.
#[derive(Debug)]
enum Asked {
    Get(Vec<u8>),
    Set(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    Wait,
}

fn serve(mut stream: TcpStream, protocol: Protocol, manner: Manner, store: &Store) {
    stream.set_nodelay(true).unwrap();
    if protocol == Protocol::Binary {
        let mut preface = PREFACE;
        stream.read_exact(&mut preface).unwrap();
        assert_eq!(preface, PREFACE);
        stream.write_all(&PREFACE).unwrap();
    }
    let mut input = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        input.extend_from_slice(&buffer[..read]);
        let mut replies = Vec::new();
        let mut at = 0;
        while let Some((asked, id, length)) = decode(protocol, &input[at..]) {
            at += length;
            if manner == Manner::Closing {
                return;
            }
            replies.push(reply(protocol, manner, id, asked, &mut store.lock().unwrap()));
        }
        input.drain(..at);
        if manner == Manner::Reversed {
            replies.reverse();
        }
        let bytes = replies.concat();
        let chunk = if manner == Manner::Dribbling { 7 } else { bytes.len().max(1) };
        if bytes.chunks(chunk).any(|chunk| stream.write_all(chunk).is_err()) {
            return;
        }
    }
}

/// A whole request, its binary id, and its length.
fn decode(protocol: Protocol, input: &[u8]) -> Option<(Asked, u32, usize)> {
    match protocol {
        Protocol::Binary => {
            let (frame, length) = binary::decode_request(input, &Limits::default()).unwrap()?;
            let asked = match frame.request.unwrap() {
                Request::Read(kvorum_protocol::Read::Get(key)) => Asked::Get(key.to_vec()),
                Request::Write(command) => match command.op {
                    Op::Set { key, value } => Asked::Set(key.to_vec(), value.to_vec()),
                    Op::Delete { key } => Asked::Delete(key.to_vec()),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            };
            Some((asked, frame.head.id, length))
        }
        Protocol::Text => {
            let end = input.iter().position(|&byte| byte == b'\n')?;
            let words: Vec<_> = input[..end].splitn(3, |&byte| byte == b' ').collect();
            Some((asked(&words), 0, end + 1))
        }
        Protocol::Resp => {
            let (count, mut at) = resp_number(input, 0)?;
            let mut words = Vec::new();
            for _ in 0..count {
                let (length, start) = resp_number(input, at)?;
                at = start + length + 2;
                words.push(input.get(..at)?.get(start..start + length)?);
            }
            Some((asked(&words), 0, at))
        }
    }
}

/// The number of a line like `$16`, and where the next line begins.
fn resp_number(input: &[u8], at: usize) -> Option<(usize, usize)> {
    let end = at + input.get(at..)?.iter().position(|&byte| byte == b'\n')?;
    let digits = std::str::from_utf8(&input[at + 1..end - 1]).unwrap();
    Some((digits.parse().unwrap(), end + 1))
}

fn asked(words: &[&[u8]]) -> Asked {
    match words {
        [b"GET", key] => Asked::Get(key.to_vec()),
        [b"SET", key, value] => Asked::Set(key.to_vec(), value.to_vec()),
        [b"WAIT", _, _] => Asked::Wait,
        [b"DEL" | b"DELETE", key] => Asked::Delete(key.to_vec()),
        other => panic!("{other:?}"),
    }
}

fn reply(
    protocol: Protocol,
    manner: Manner,
    id: u32,
    asked: Asked,
    store: &mut HashMap<Vec<u8>, Vec<u8>>,
) -> Vec<u8> {
    let version = LogIndex(1);
    let value;
    let response = match asked {
        Asked::Wait => {
            let copies = if manner == Manner::Alone { 0 } else { 2 };
            return format!(":{copies}\r\n").into_bytes();
        }
        _ if manner == Manner::Garbage => return b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        Asked::Set(..) | Asked::Delete(_) if manner == Manner::ReadOnly => {
            Response::Error { code: ErrorCode::Busy, message: "try later" }
        }
        Asked::Set(key, value) => {
            store.insert(key, value);
            Response::Written { version }
        }
        Asked::Delete(key) => {
            let count = store.remove(&key).map_or(0, |_| 1);
            Response::Deleted { version, count }
        }
        Asked::Get(key) => match store.get(&key) {
            Some(found) => {
                value = found.clone();
                let value = if manner == Manner::Muddled { &value[1..] } else { &value };
                Response::Value { version, value }
            }
            None => Response::NotFound,
        },
    };
    let mut bytes = Vec::new();
    match protocol {
        Protocol::Binary => binary::encode_response(&mut bytes, id, &response),
        Protocol::Text => match response {
            Response::Value { value, .. } => bytes = [b"VALUE ", value, b"\n"].concat(),
            Response::Error { .. } => bytes.extend_from_slice(b"ERROR BUSY try later\n"),
            Response::NotFound | Response::Deleted { count: 0, .. } => {
                bytes.extend_from_slice(b"NOT_FOUND\n");
            }
            _ => bytes.extend_from_slice(b"OK\n"),
        },
        Protocol::Resp => match response {
            Response::Value { value, .. } => {
                let head = format!("${}\r\n", value.len());
                bytes = [head.as_bytes(), value, b"\r\n"].concat();
            }
            Response::Error { .. } => bytes.extend_from_slice(b"-BUSY try later\r\n"),
            Response::NotFound => bytes.extend_from_slice(b"$-1\r\n"),
            Response::Deleted { count, .. } => bytes = format!(":{count}\r\n").into_bytes(),
            _ => bytes.extend_from_slice(b"+OK\r\n"),
        },
    }
    bytes
}

const PROTOCOLS: [Protocol; 3] = [Protocol::Binary, Protocol::Text, Protocol::Resp];

/// Requests answered and failed, over all kinds.
fn totals(measurement: &Measurement) -> (u64, u64) {
    let records = Kind::ALL.map(|kind| measurement.recorder.kind(kind));
    (records.iter().map(|record| record.count()).sum(), records.iter().map(|r| r.errors).sum())
}

#[test]
fn all_protocols_fill_the_key_space_and_answer_every_request() {
    for protocol in PROTOCOLS {
        for window in ["--pipeline=1", "--pipeline=16", "--pipeline=5 --refill"] {
            let server = Server::start(protocol, Manner::Plain);
            let measured = server
                .measure(&format!(
                    "--preload --key-space=500 --connections=3 --get=8 --set=2 --check \
                     --requests=2003 {window}"
                ))
                .unwrap();
            assert_eq!(totals(&measured), (2003, 0), "{protocol:?} {window}");
            assert_eq!(measured.recorder.kind(Kind::Get).absent, 0, "{protocol:?} {window}");
            assert_eq!(server.store.lock().unwrap().len(), 500);
        }
    }
}

#[test]
fn deletes_and_absent_keys_are_counted() {
    for protocol in PROTOCOLS {
        let server = Server::start(protocol, Manner::Plain);
        let flags = "--key-space=10 --connections=1 --get=1 --delete=1 --requests=100";
        let measured = server.measure(flags).unwrap();
        let [get, _, delete] = Kind::ALL.map(|kind| measured.recorder.kind(kind));
        assert_eq!((get.absent, get.errors), (get.count(), 0), "{protocol:?}");
        assert_eq!((delete.absent, delete.errors), (delete.count(), 0), "{protocol:?}");
        assert_eq!(totals(&measured), (100, 0));
    }
}

#[test]
fn writes_are_done_when_enough_replicas_hold_them() {
    let flags = "--connections=2 --pipeline=3 --get=1 --set=3 --requests=200";
    for manner in [Manner::Plain, Manner::Dribbling] {
        let server = Server::start(Protocol::Resp, manner);
        for wait in [1, 2] {
            let measured = server.measure(&format!("{flags} --preload --wait={wait}")).unwrap();
            assert_eq!(totals(&measured), (200, 0), "{manner:?} {wait}");
        }
    }
    for (manner, wait, copies) in [(Manner::Plain, 3, 2), (Manner::Alone, 1, 0)] {
        let server = Server::start(Protocol::Resp, manner);
        let measured = server.measure(&format!("{flags} --wait={wait}")).unwrap();
        let [get, set, _] = Kind::ALL.map(|kind| measured.recorder.kind(kind));
        assert_eq!((get.errors, set.count(), get.count() + set.errors), (0, 0, 200));
        let first = measured.recorder.first_error().unwrap();
        assert!(first.contains(&format!("counts {copies} replicas")), "{first}");
    }
}

#[test]
fn replies_may_come_in_pieces_and_be_larger_than_any_buffer() {
    for protocol in PROTOCOLS {
        let server = Server::start(protocol, Manner::Dribbling);
        let flags = "--preload --key-space=50 --connections=2 --pipeline=8 --check --requests=300";
        assert_eq!(totals(&server.measure(flags).unwrap()), (300, 0), "{protocol:?}");
        let server = Server::start(protocol, Manner::Plain);
        let flags = "--preload --key-space=3 --connections=2 --pipeline=3 --check --requests=12 \
                     --value-bytes=700000";
        assert_eq!(totals(&server.measure(flags).unwrap()), (12, 0), "{protocol:?}");
    }
}

#[test]
fn binary_replies_may_overtake_each_other() {
    for window in ["", "--refill"] {
        let server = Server::start(Protocol::Binary, Manner::Reversed);
        let flags = "--preload --key-space=100 --connections=2 --pipeline=7 --check --requests=999";
        let measured = server.measure(&format!("{flags} {window}")).unwrap();
        assert_eq!(totals(&measured), (999, 0));
    }
}

#[test]
fn an_open_loop_sends_each_request_of_its_schedule_once() {
    for flags in [
        "--rate=20000 --requests=400",
        "--rate=1000000 --requests=5000",
        "--rate=1000000 --requests=5000 --pipeline=4",
        "--rate=2000 --requests=100 --spin",
        "--rate=4000 --seconds=0.1",
    ] {
        let server = Server::start(Protocol::Resp, Manner::Plain);
        let measured = server.measure(&format!("--connections=3 {flags}")).unwrap();
        let expected = if flags.contains("seconds") { 400 } else { 0 };
        let args = server.args(flags);
        assert_eq!(totals(&measured), (args.requests.unwrap_or(expected), 0), "{flags}");
    }
}

#[test]
fn a_closed_loop_ends_with_its_time() {
    let server = Server::start(Protocol::Binary, Manner::Plain);
    let measured = server.measure("--seconds=0.05 --warmup-seconds=0.02 --pipeline=4").unwrap();
    // How much was done in so short a time is up to the machine.
    assert_eq!(totals(&measured).1, 0);
    assert!(measured.elapsed >= Duration::from_millis(50));
}

#[test]
fn failures_are_counted_and_the_first_is_shown() {
    for protocol in PROTOCOLS {
        let server = Server::start(protocol, Manner::ReadOnly);
        let flags = "--connections=2 --pipeline=3 --get=1 --set=1 --requests=200";
        let measured = server.measure(flags).unwrap();
        let [get, set, _] = Kind::ALL.map(|kind| measured.recorder.kind(kind));
        assert_eq!((get.errors, set.count()), (0, 0));
        assert_eq!(get.count() + set.errors, 200);
        let first = measured.recorder.first_error().unwrap();
        assert!(first.contains("BUSY") && first.contains("try later"), "{first}");
        match server.measure("--key-space=70 --preload").unwrap_err() {
            BenchError::Preload { errors, first } => {
                assert_eq!(errors, 70);
                assert!(first.contains("try later"), "{first}");
            }
            other => panic!("{other}"),
        }
    }
}

#[test]
fn values_that_were_never_stored_are_noticed() {
    for protocol in PROTOCOLS {
        let server = Server::start(protocol, Manner::Muddled);
        let flags = "--preload --key-space=20 --get=1 --check --requests=50";
        let measured = server.measure(flags).unwrap();
        assert_eq!(totals(&measured), (0, 50));
        let first = measured.recorder.first_error().unwrap();
        assert!(first.contains("never stored"), "{first}");
        let unchecked = server.measure("--key-space=20 --get=1 --requests=50").unwrap();
        assert_eq!(totals(&unchecked), (50, 0));
    }
}

#[test]
fn a_server_that_leaves_or_speaks_something_else_ends_the_run() {
    for protocol in PROTOCOLS {
        let server = Server::start(protocol, Manner::Closing);
        let error = server.measure("--requests=10").unwrap_err();
        assert!(matches!(error, BenchError::Connection { .. }), "{error}");
        let server = Server::start(protocol, Manner::Garbage);
        let error = server.measure("--requests=10").unwrap_err();
        assert!(matches!(error, BenchError::Reply { .. }), "{error}");
    }
    let nobody = Server::start(Protocol::Resp, Manner::Plain);
    let mut args = nobody.args("");
    args.servers = vec!["127.0.0.1:1".into()];
    assert!(matches!(measure(&args).unwrap_err(), BenchError::Connect { .. }));
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_sent() {
    let server = Server::start(Protocol::Binary, Manner::Plain);
    assert!(server.measure("--wait=1").unwrap_err().is_usage());
    let server = Server::start(Protocol::Resp, Manner::Plain);
    for flags in
        ["--key-bytes=2 --key-space=101", "--get=0", "--value-bytes=60000000 --pipeline=2 --set=1"]
    {
        assert!(server.measure(flags).unwrap_err().is_usage(), "{flags}");
    }
}

#[test]
fn a_report_says_what_was_measured() {
    let server = Server::start(Protocol::Binary, Manner::Plain);
    let args = server.args("--get=3 --set=1 --key-space=100 --requests=1000 --distribution=zipf");
    let measured = measure(&args).unwrap();
    let report = Report::new(&args, &measured);
    let json = report.to_json();
    assert_eq!(json["requests"], 1000);
    assert_eq!(json["errors"], 0);
    assert_eq!(json["distribution"], "zipf");
    let operations = json["operations"].as_object().unwrap();
    assert_eq!(operations.keys().collect::<Vec<_>>(), ["get", "set"]);
    let latency = &operations["get"]["latency_us"];
    for name in ["mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"] {
        assert!(latency[name].as_f64().unwrap() > 0.0, "{name}");
    }
    // The server is this process: both sides of the CPU time can be read.
    assert!(json["server_cpu"]["us_per_request"].is_f64());
    assert!(json["generator_cpu"]["busiest_thread"].is_f64());
    let text = report.to_string();
    assert!(text.contains("1,000 requests") && text.contains("p99.99"), "{text}");
    let nothing = measure(&server.args("--seconds=0")).unwrap();
    let report = Report::new(&args, &nothing);
    assert_eq!(report.to_json()["server_cpu"], serde_json::Value::Null);
    assert!(report.to_string().contains("0 requests"));
}
