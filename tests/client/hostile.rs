//! Servers that are broken or mean harm: a call ends in time, with an error that is true, and a
//! good server among the others is found.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvorum::client::{CallOptions, Client, Error, ErrorKind, LogIndex};
use kvorum_protocol::binary::{CONNECTION_ID, PREFACE, decode_request, encode_response};
use kvorum_protocol::{ErrorCode, Limits, Request, Response};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::options;
use crate::support::server::Server;

/// How long a call with a hostile server alone may take.
const TIMEOUT: Duration = Duration::from_millis(150);

/// How much later than that a busy machine may let it end.
const SLACK: Duration = Duration::from_secs(10);

/// What a server does with each request; false: it closes the connection.
type Answer = dyn Fn(&mut TcpStream, u32, bool) -> bool + Send + Sync;

/// A server that speaks the protocol, and answers like this.
fn speaking(answer: impl Fn(&mut TcpStream, u32, bool) -> bool + Send + Sync + 'static) -> String {
    let answer: Arc<Answer> = Arc::new(answer);
    serving(move |mut stream| {
        let mut preface = [0; PREFACE.len()];
        if stream.read_exact(&mut preface).is_err() || stream.write_all(&PREFACE).is_err() {
            return;
        }
        let mut input = Vec::new();
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            input.extend_from_slice(&chunk[..count]);
            while let Ok(Some((frame, length))) = decode_request(&input, &Limits::default()) {
                let is_write = matches!(frame.request, Ok(Request::Write(_)));
                let id = frame.head.id;
                input.drain(..length);
                if !answer(&mut stream, id, is_write) {
                    return;
                }
            }
        }
    })
}

/// A server that does this with each connection.
fn serving(script: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let script = Arc::new(script);
    // Ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let script = Arc::clone(&script);
            std::thread::spawn(move || script(stream));
        }
    });
    address
}

fn say(stream: &mut TcpStream, id: u32, response: &Response<'_>) -> bool {
    let mut bytes = Vec::new();
    encode_response(&mut bytes, id, response);
    stream.write_all(&bytes).is_ok()
}

fn refuse(stream: &mut TcpStream, id: u32, code: ErrorCode) -> bool {
    say(stream, id, &Response::Error { code, message: "because" })
}

fn call_in_vain(server: &str) -> [Error; 2] {
    let client = Client::new([server], options()).unwrap();
    let calls = client.with(CallOptions { timeout: Some(TIMEOUT), ..CallOptions::default() });
    let began = Instant::now();
    let errors = [calls.get("k").unwrap_err(), calls.set("k", "v").unwrap_err()];
    assert!(began.elapsed() < 2 * TIMEOUT + SLACK, "{errors:?}");
    errors
}

/// A server that is never of use: alone it is a clean error, among others it is passed over.
#[track_caller]
fn useless(what: &str, server: &str) {
    for error in call_in_vain(server) {
        // The session can not be opened: no write was ever sent.
        assert_eq!(error.kind(), ErrorKind::NotApplied, "{what}: {error}");
    }
    let good = Server::start(&[]);
    let servers = [server, good.address()];
    for client in [Client::new(servers, options()), Client::connect(servers, options())] {
        let client = client.unwrap_or_else(|error| panic!("{what}: {error}"));
        let version = client.set("k", "v").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(client.get("k").unwrap().unwrap().version, version, "{what}");
    }
}

#[test]
fn useless_servers_are_passed_over() {
    useless("it closes at once", &serving(drop));
    useless("it says nothing", &serving(|mut stream| drop(stream.read_to_end(&mut Vec::new()))));
    useless("it does not answer", &speaking(|_, _, _| true));
    useless("it closes at a request", &speaking(|_, _, _| false));
    useless(
        "it speaks of the web",
        &serving(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }),
    );
    useless(
        "it answers others",
        &speaking(|stream, id, _| say(stream, id.wrapping_add(77), &Response::NotFound)),
    );
    useless(
        "it says half of it",
        &speaking(|stream, id, _| {
            let mut bytes = Vec::new();
            encode_response(&mut bytes, id, &Response::NotFound);
            let _ = stream.write_all(&bytes[..bytes.len() / 2]);
            false
        }),
    );
    useless(
        "it takes its leave",
        &speaking(|stream, _, _| refuse(stream, CONNECTION_ID, ErrorCode::BadRequest)),
    );
    useless(
        "it knows no leader",
        &speaking(|stream, id, _| refuse(stream, id, ErrorCode::NoLeader)),
    );
    useless("it is busy", &speaking(|stream, id, _| refuse(stream, id, ErrorCode::Busy)));
}

/// They name a leader that is none.
#[test]
fn leaders_that_are_none_are_not_run_after() {
    let nowhere = "127.0.0.1:1";
    useless(
        "its leader is not there",
        &speaking(move |stream, id, _| say(stream, id, &Response::NotLeader { leader: nowhere })),
    );
    useless(
        "its leader has no address",
        &speaking(|stream, id, _| say(stream, id, &Response::NotLeader { leader: "nonsense" })),
    );
    let counter = std::sync::atomic::AtomicU64::new(0);
    useless(
        "another leader each time",
        &speaking(move |stream, id, _| {
            let n = counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            say(stream, id, &Response::NotLeader { leader: &format!("127.0.0.{}:1", n % 250) })
        }),
    );
}

/// Each session is forgotten before it is used.
#[test]
fn sessions_that_are_forgotten_at_once_are_an_error_in_time() {
    let server = speaking(|stream, id, is_write| {
        static OPENED: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
        // Opens and writes alternate.
        if is_write && !OPENED.fetch_xor(true, std::sync::atomic::Ordering::Relaxed) {
            return say(stream, id, &Response::Written { version: LogIndex(7) });
        }
        refuse(stream, id, ErrorCode::SessionExpired)
    });
    let [_, error] = call_in_vain(&server);
    assert_eq!(error.kind(), ErrorKind::NotApplied, "{error}");
}

/// Answers to other questions are no answers.
#[test]
fn a_wrong_answer_is_an_error_and_leaves_a_write_open() {
    let server = speaking(|stream, id, is_write| match is_write {
        true => say(stream, id, &Response::Written { version: LogIndex(7) }),
        false => say(stream, id, &Response::Number(3)),
    });
    let client = Client::new([&server], options()).unwrap();
    assert_eq!(client.get("k").unwrap_err().kind(), ErrorKind::NotApplied);
    assert_eq!(client.get_many(&["k"]).unwrap_err().kind(), ErrorKind::NotApplied);
    assert_eq!(client.set("k", "v").unwrap(), LogIndex(7));
    assert_eq!(client.delete("k").unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert!(client.status(&server).is_err() && client.members().is_err());
}

/// Random bytes, behind a good preface or not, whole answers among them.
#[test]
fn noise_is_an_error_in_time() {
    for seed in 0..30 {
        let mut chance = SmallRng::seed_from_u64(seed);
        let has_preface = chance.random_ratio(3, 4);
        let noise: Vec<u8> = (0..chance.random_range(1..4096))
            .map(|at| {
                // Short lengths now and then, so that some of it looks like frames.
                if at % 4 != 0 && chance.random_ratio(1, 3) { 0 } else { chance.random() }
            })
            .collect();
        let server = serving(move |mut stream| {
            let mut preface = [0; PREFACE.len()];
            let _ = stream.read_exact(&mut preface);
            if has_preface {
                let _ = stream.write_all(&PREFACE);
            }
            let _ = stream.write_all(&noise);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        for error in call_in_vain(&server) {
            assert_eq!(error.kind(), ErrorKind::NotApplied, "seed {seed}: {error}");
        }
    }
}
