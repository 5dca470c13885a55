//! Pools against servers that do what no kvorum does, or seldom.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use kvorum_protocol::binary::{
    CONNECTION_ID, PREFACE, RequestHead, decode_request, encode_response, frame_bytes,
};
use kvorum_protocol::{Command, ErrorCode, Limits, LogIndex, Op, Read, Request, Response};

use super::*;
use crate::client::reply::Reply;

/// Far above what anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server that runs a script on each connection.
struct Server {
    pool: Pool,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    fn start(connections_max: usize, script: impl Fn(Peer) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let script = Arc::new(script);
        // Ends with the process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                let script = Arc::clone(&script);
                thread::spawn(move || script(Peer { stream: stream.unwrap(), input: Vec::new() }));
            }
        });
        let pool = Pool::new(&address, connections_max, Duration::from_secs(60));
        Server { pool, accepted }
    }

    fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    fn call(&self, request: &Request<'_>, deadline: Instant) -> Result<Answer, Miss> {
        let now = Instant::now();
        let taken = self.pool.take(now, deadline);
        let taken = taken.map_err(|failure| Miss::Lost { failure, may_have_arrived: false })?;
        taken.call(&call(request, deadline), now)
    }

    fn ask(&self, request: &Request<'_>) -> Reply {
        self.call(request, Instant::now() + PATIENCE).expect("an answer").reply
    }
}

fn call<'a>(request: &'a Request<'a>, deadline: Instant) -> Call<'a> {
    Call { head: RequestHead::default(), request, along: None, deadline }
}

/// What a request asks for, as far as the scripts want to know.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Get(Vec<u8>),
    Ping,
    Other,
}

/// One connection, seen from the server.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    fn greet(&mut self) {
        let mut preface = [0; PREFACE.len()];
        self.stream.read_exact(&mut preface).unwrap();
        self.stream.write_all(&PREFACE).unwrap();
    }

    /// The next request; `None` when the client has closed the connection.
    fn next(&mut self) -> Option<(u32, Asked)> {
        loop {
            if let Some((frame, length)) = decode_request(&self.input, &Limits::MAX).unwrap() {
                let asked = match frame.request.unwrap() {
                    Request::Read(Read::Get(key)) => Asked::Get(key.to_vec()),
                    Request::Ping => Asked::Ping,
                    _ => Asked::Other,
                };
                let id = frame.head.id;
                self.input.drain(..length);
                return Some((id, asked));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.input.extend_from_slice(&chunk[..count]),
            }
        }
    }

    fn say(&mut self, id: u32, response: &Response<'_>) {
        let mut bytes = Vec::new();
        encode_response(&mut bytes, id, response);
        // The client may have gone.
        let _ = self.stream.write_all(&bytes);
    }

    /// Answers a GET with its key, and anything else with nothing.
    fn echo(&mut self, id: u32, asked: &Asked) {
        match asked {
            Asked::Get(key) => self.say(id, &Response::Value { version: LogIndex(1), value: key }),
            Asked::Ping | Asked::Other => self.say(id, &Response::Ok),
        }
    }
}

fn echo(mut peer: Peer) {
    peer.greet();
    while let Some((id, asked)) = peer.next() {
        peer.echo(id, &asked);
    }
}

fn get(key: &[u8]) -> Request<'_> {
    Request::Read(Read::Get(key))
}

fn value(key: &[u8]) -> Reply {
    Reply::Value { version: LogIndex(1), value: key.to_vec() }
}

#[test]
fn one_thread_uses_one_connection() {
    let server = Server::start(10, echo);
    for n in 0..100_u32 {
        assert_eq!(server.ask(&get(&n.to_le_bytes())), value(&n.to_le_bytes()));
    }
    assert_eq!((server.accepted(), server.pool.connections()), (1, 1));
}

#[test]
fn more_threads_than_connections_are_all_served() {
    let server = Server::start(2, echo);
    thread::scope(|scope| {
        for thread in 0..20_u32 {
            let server = &server;
            scope.spawn(move || {
                for n in 0..200_u32 {
                    let key = [thread.to_le_bytes(), n.to_le_bytes()].concat();
                    assert_eq!(server.ask(&get(&key)), value(&key));
                }
            });
        }
    });
    assert!(server.accepted() <= 2, "{}", server.accepted());
}

#[test]
fn answers_may_come_in_any_order_and_in_one_piece() {
    const TOGETHER: usize = 8;
    let server = Server::start(1, |mut peer| {
        peer.greet();
        let mut asked: Vec<_> = (0..TOGETHER).map(|_| peer.next().unwrap()).collect();
        asked.reverse();
        let mut bytes = Vec::new();
        for (id, asked) in asked {
            let Asked::Get(key) = asked else { panic!("{asked:?}") };
            let response = Response::Value { version: LogIndex(1), value: &key };
            encode_response(&mut bytes, id, &response);
        }
        peer.stream.write_all(&bytes).unwrap();
        let _ = peer.next();
    });
    thread::scope(|scope| {
        for n in 0..TOGETHER {
            let server = &server;
            scope.spawn(move || {
                assert_eq!(server.ask(&get(&n.to_le_bytes())), value(&n.to_le_bytes()));
            });
        }
    });
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_connection_that_the_server_closed_in_the_meantime_is_not_used_again() {
    let (closed, is_closed) = std::sync::mpsc::channel();
    let server = Server::start(10, move |mut peer| {
        peer.greet();
        let (id, asked) = peer.next().unwrap();
        peer.echo(id, &asked);
        drop(peer);
        closed.send(()).unwrap();
    });
    for round in 1..=3 {
        let deadline = Instant::now() + PATIENCE;
        // As if some time had passed since the last call.
        let taken = server.pool.take(Instant::now() + LOOK_AFTER, deadline).expect("a connection");
        let answer = taken.call(&call(&get(b"k"), deadline), Instant::now());
        assert_eq!(answer.expect("an answer").reply, value(b"k"));
        drop(taken);
        is_closed.recv().unwrap();
        assert_eq!(server.accepted(), round);
    }
}

/// Also when an answer was to come that nobody waits for any more.
#[test]
fn a_connection_that_the_server_closed_instead_of_an_answer_is_not_used_again() {
    let (close, is_to_close) = std::sync::mpsc::channel();
    let (closed, is_closed) = std::sync::mpsc::channel();
    let is_to_close = Mutex::new(is_to_close);
    let server = Server::start(10, move |mut peer| {
        peer.greet();
        let _ = peer.next();
        is_to_close.lock().unwrap().recv().unwrap();
        drop(peer);
        closed.send(()).unwrap();
    });
    let now = Instant::now();
    let missed = server.call(&get(b"late"), now + Duration::from_millis(20)).unwrap_err();
    assert_eq!(missed, Miss::Late);
    close.send(()).unwrap();
    is_closed.recv().unwrap();
    let taken = server.pool.take(Instant::now() + LOOK_AFTER, now + PATIENCE);
    drop(taken.expect("another connection"));
    assert_eq!((server.accepted(), server.pool.connections()), (2, 1));
}

#[test]
fn a_server_without_room_for_another_connection_is_asked_over_those_it_has() {
    let is_first = AtomicBool::new(true);
    let server = Server::start(10, move |mut peer| match is_first.swap(false, Ordering::Relaxed) {
        true => echo(peer),
        false => peer.stream.write_all(b"ERROR BUSY no room\n").unwrap(),
    });
    let now = Instant::now();
    let deadline = now + PATIENCE;
    let first = server.pool.take(now, deadline).expect("a connection");
    for _ in 0..3 {
        let shared = server.pool.take(now, deadline).expect("the same");
        assert_eq!(shared.call(&call(&get(b"k"), deadline), now).unwrap().reply, value(b"k"));
    }
    assert_eq!((server.accepted(), server.pool.connections()), (2, 1), "one was refused");
    let later = now + PATIENCE / 2;
    assert!(server.pool.take(later, deadline).is_ok());
    assert_eq!(server.accepted(), 3, "it is tried again after a while");
    drop(first);
}

#[test]
fn a_server_that_can_not_be_reached_costs_its_timeout_once() {
    const THREADS: u32 = 16;
    // It accepts, and says nothing until the client has left.
    let server = Server::start(1, |mut peer| while peer.stream.read(&mut [0; 64]).unwrap() > 0 {});
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let now = Instant::now();
                assert_eq!(server.pool.take(now, now + PATIENCE).unwrap_err(), Failure::Silent);
            });
        }
    });
    assert!(began.elapsed() < THREADS * OPEN_AGAIN_AFTER / 2, "{:?}", began.elapsed());
}

#[test]
fn a_connection_that_nobody_used_for_long_is_closed() {
    let server = Server::start(10, echo);
    assert_eq!(server.ask(&get(b"k")), value(b"k"));
    let later = Instant::now() + server.pool.idle_timeout;
    let taken = server.pool.take(later, later + PATIENCE).expect("a connection");
    assert_eq!((server.accepted(), server.pool.connections()), (2, 1));
    drop(taken);
}

#[test]
fn a_connection_that_was_retired_is_not_given_out_and_may_still_be_used() {
    let server = Server::start(10, echo);
    let now = Instant::now();
    let deadline = now + PATIENCE;
    let taken = server.pool.take(now, deadline).unwrap();
    taken.retire();
    assert_eq!(server.ask(&get(b"other")), value(b"other"));
    assert_eq!(taken.call(&call(&get(b"k"), deadline), now).unwrap().reply, value(b"k"));
    assert_eq!((server.accepted(), server.pool.connections()), (2, 1));
}

#[test]
fn a_server_that_gives_no_sign_of_life_is_left_by_all_at_once() {
    let server = Server::start(1, |mut peer| {
        peer.greet();
        while peer.next().is_some() {}
    });
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let missed = server.call(&get(b"k"), began + PATIENCE).unwrap_err();
                let silent = Miss::Lost { failure: Failure::Silent, may_have_arrived: true };
                assert_eq!(missed, silent);
            });
        }
    });
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
    assert_eq!(server.pool.connections(), 0);
}

#[test]
fn a_slow_answer_is_waited_for_while_the_server_lives() {
    let server = Server::start(1, |mut peer| {
        peer.greet();
        let (id, asked) = peer.next().unwrap();
        for _ in 0..3 {
            let (ping, sign) = peer.next().unwrap();
            assert_eq!(sign, Asked::Ping);
            peer.say(ping, &Response::Ok);
        }
        peer.echo(id, &asked);
        let _ = peer.next();
    });
    assert_eq!(server.ask(&get(b"k")), value(b"k"));
}

#[test]
fn an_answer_that_comes_too_late_does_not_disturb_the_next() {
    let server = Server::start(1, |mut peer| {
        peer.greet();
        let (late, asked) = peer.next().unwrap();
        let (id, next) = peer.next().unwrap();
        peer.echo(late, &asked);
        peer.echo(id, &next);
        let _ = peer.next();
    });
    let deadline = Instant::now() + Duration::from_millis(20);
    assert_eq!(server.call(&get(b"late"), deadline).unwrap_err(), Miss::Late);
    assert!(Instant::now() >= deadline);
    assert_eq!(server.ask(&get(b"next")), value(b"next"));
    assert_eq!(server.accepted(), 1);
}

/// What a server says instead of an answer, and what that is called.
#[track_caller]
fn hostile(says: impl Fn(Peer) + Send + Sync + 'static, expected: &Failure) {
    let server = Server::start(1, says);
    let missed = server.call(&get(b"k"), Instant::now() + PATIENCE).unwrap_err();
    let Miss::Lost { failure, .. } = missed else { panic!("{missed:?}") };
    assert_eq!(&failure, expected);
    assert_eq!(server.pool.connections(), 0, "it is given out again");
}

#[test]
fn a_server_that_talks_nonsense_is_left() {
    use kvorum_protocol::binary::{FrameError, PrefaceError};

    hostile(drop, &Failure::Closed);
    let no_preface = Failure::Preface(PrefaceError::NotKvorum);
    hostile(|mut peer| peer.stream.write_all(b"HTTP/1.1 400 no\r\n").unwrap(), &no_preface);
    let busy = Failure::Refused { code: Some(ErrorCode::Busy), message: "go away".to_owned() };
    hostile(|mut peer| peer.stream.write_all(b"ERROR BUSY go away\n").unwrap(), &busy);
    hostile(
        |mut peer| {
            peer.greet();
            let _ = peer.next();
            peer.stream.write_all(&[0x7F; 64]).unwrap();
            let _ = peer.next();
        },
        &Failure::Frame(FrameError::TooLong { length: 0x7F7F_7F7F, limit: (128 << 20) + 20 }),
    );
    hostile(
        |mut peer| {
            peer.greet();
            let (id, _) = peer.next().unwrap();
            let mut bytes = Vec::new();
            encode_response(&mut bytes, id, &Response::NotFound);
            peer.stream.write_all(&bytes[..bytes.len() / 2]).unwrap();
        },
        &Failure::Closed,
    );
    hostile(
        |mut peer| {
            peer.greet();
            let (id, _) = peer.next().unwrap();
            peer.say(id + 1, &Response::NotFound);
            let _ = peer.next();
        },
        &Failure::Unasked,
    );
    let farewell =
        Failure::Refused { code: Some(ErrorCode::BadRequest), message: "enough".to_owned() };
    hostile(
        |mut peer| {
            peer.greet();
            let _ = peer.next();
            let response = Response::Error { code: ErrorCode::BadRequest, message: "enough" };
            peer.say(CONNECTION_ID, &response);
        },
        &farewell,
    );
}

#[test]
fn a_request_that_the_server_calls_too_long_is_told_from_the_others() {
    let server = Server::start(1, |mut peer| {
        peer.greet();
        let mut head = [0; 4];
        let mut seen = 0;
        // The short one, in which nothing is wrong, and then the other.
        while peer.stream.peek(&mut head).unwrap() < head.len() {}
        while frame_bytes(&head) < 1 << 20 {
            seen += 1;
            let mut frame = vec![0; frame_bytes(&head)];
            peer.stream.read_exact(&mut frame).unwrap();
            while peer.stream.peek(&mut head).unwrap() < head.len() {}
        }
        assert_eq!(seen, 1);
        let response = Response::Error { code: ErrorCode::TooLarge, message: "no" };
        peer.say(CONNECTION_ID, &response);
        let mut rest = Vec::new();
        let _ = peer.stream.read_to_end(&mut rest);
    });
    let now = Instant::now();
    let deadline = now + PATIENCE;
    let value = vec![0; 16 << 20];
    let long = Request::Write(Command::new(Op::Set { key: b"k", value: &value }));
    let short = get(b"k");
    let taken = server.pool.take(now, deadline).unwrap();
    let asked = Call { along: Some(&short), ..call(&long, deadline) };
    let answer = taken.call(&asked, now).expect("it is known which one");
    assert!(matches!(answer.reply, Reply::Error { code: ErrorCode::TooLarge, .. }));
    assert_eq!(server.pool.connections(), 0);
}

/// A server may want to be read from before it reads on.
#[test]
fn what_comes_is_received_while_something_large_is_sent() {
    const BYTES: usize = 16 << 20;
    let server = Server::start(1, |mut peer| {
        peer.greet();
        let (id, asked) = peer.next().unwrap();
        assert_eq!(asked, Asked::Other);
        peer.say(id, &Response::Value { version: LogIndex(2), value: &vec![1; BYTES] });
        let (id, _) = peer.next().unwrap();
        peer.say(id, &Response::Written { version: LogIndex(3) });
        let _ = peer.next();
    });
    let now = Instant::now();
    let deadline = now + PATIENCE;
    let value = vec![0; BYTES];
    let large = Request::Write(Command::new(Op::Set { key: b"k", value: &value }));
    let taken = server.pool.take(now, deadline).unwrap();
    let asked = Call { along: Some(&Request::Members), ..call(&large, deadline) };
    let answer = taken.call(&asked, now).unwrap();
    assert_eq!(answer.reply, Reply::Written { version: LogIndex(3) });
    assert!(matches!(answer.news, Some(Reply::Value { value, .. }) if value.len() == BYTES));
}

#[test]
fn nobody_there_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let pool = Pool::new(&address, 3, PATIENCE);
    let now = Instant::now();
    let failure = pool.take(now, now + PATIENCE).unwrap_err();
    assert_eq!(failure, Failure::Io(std::io::ErrorKind::ConnectionRefused));
    let pool = Pool::new("no port", 3, PATIENCE);
    assert_eq!(pool.take(now, now + PATIENCE).unwrap_err(), Failure::Unresolved);
}
