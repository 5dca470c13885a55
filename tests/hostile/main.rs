//! Clients that mean harm, and clients that are broken: none of them crashes the server, makes its
//! memory grow without bound, burns its CPU or disturbs the others.

mod bytes;
mod crowds;
mod slow;
#[path = "../support/mod.rs"]
mod support;

use std::thread;
use std::time::Instant;

use kvorum_protocol::binary::{
    CONNECTION_ID, PREFACE, RequestHead, decode_response, encode_request,
};
use kvorum_protocol::{Command, ErrorCode, Op, Read, Request, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::client::Raw;
use support::deadline;
use support::server::Server;

const MIB: usize = 1 << 20;

/// What a process may grow by for reasons of its own: buffers that are kept, the allocator.
const SLACK_BYTES: usize = 24 * MIB;

/// A frame of the binary protocol.
fn frame(id: u32, request: &Request<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_request(&mut bytes, &RequestHead { id, ..RequestHead::default() }, request);
    bytes
}

fn get(id: u32, key: &str) -> Vec<u8> {
    frame(id, &Request::Read(Read::Get(key.as_bytes())))
}

fn set(id: u32, key: &str, value: &[u8]) -> Vec<u8> {
    frame(id, &Request::Write(Command::new(Op::Set { key: key.as_bytes(), value })))
}

/// What a binary client was told until the connection was closed, and with what farewell.
fn farewell(connection: &mut Raw) -> (Vec<u32>, Option<ErrorCode>) {
    let bytes = connection.rest();
    let mut rest = bytes.strip_prefix(&PREFACE[..]).expect("the server says what it speaks");
    let mut answered = Vec::new();
    while let Some((frame, length)) = decode_response(rest).expect("sound responses") {
        rest = &rest[length..];
        match frame.response {
            Response::Error { code, .. } if frame.id == CONNECTION_ID => {
                assert!(rest.is_empty(), "something comes behind the farewell");
                return (answered, Some(code));
            }
            _ => answered.push(frame.id),
        }
    }
    assert!(rest.is_empty(), "half a response");
    (answered, None)
}

fn assert_serves(server: &Server) {
    assert_eq!(server.text().ask("PING"), "PONG");
}

/// Waits until the server has given up all connections but so many, and the one that asks.
fn wait_for_clients(server: &Server, wished: usize) {
    let mut observer = server.raw();
    let deadline = deadline();
    loop {
        observer.send_if_possible(b"*2\r\n$4\r\nINFO\r\n$7\r\nclients\r\n");
        let Some(length) = observer.line().filter(|line| line.starts_with('$')) else {
            // There is no place for it yet.
            assert!(Instant::now() < deadline, "the crowd does not go away");
            observer = server.raw();
            continue;
        };
        let length = length.trim_start_matches('$').trim_end().parse::<usize>().expect("a length");
        let info = String::from_utf8(observer.bytes(length + 2)).expect("words");
        let found = info.lines().find_map(|line| line.strip_prefix("connected_clients:"));
        let found = found.expect("INFO tells").parse::<usize>().expect("a number");
        if found == wished + 1 {
            return;
        }
        assert!(Instant::now() < deadline, "{found} clients and not {wished} + 1");
        thread::yield_now();
    }
}

/// This process needs as many descriptors as the crowds it sends.
fn allow_many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("up to the maximum");
}
