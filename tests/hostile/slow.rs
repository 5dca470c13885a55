//! Clients that are slow, and clients that ask for more than they read.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use kvorum_protocol::binary::{PREFACE, RequestHead, encode_request};
use kvorum_protocol::{KeyList, Limits, LogIndex, Read, Request};

use crate::support::client::Raw;
use crate::support::resources::resident_bytes_max;
use crate::support::server::Server;
use crate::support::{PATIENCE, deadline};
use crate::{MIB, SLACK_BYTES, farewell, get, set};

#[test]
fn whoever_does_not_read_is_not_served_and_nobody_else_notices() {
    let server = Server::start(&[]);
    let mut good = server.text();
    assert_eq!(good.ask(&format!("SET big {}", "x".repeat(MIB))), "OK");
    let before = resident_bytes_max(server.pid());
    const CLIENTS: usize = 8;
    const REPLIES: usize = 100;
    let resp = b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".repeat(REPLIES);
    let binary = [PREFACE.to_vec(), get(1, "big").repeat(REPLIES)].concat();
    let text = b"GET big\n".repeat(REPLIES);
    let mut slow = Vec::new();
    for requests in [&resp, &binary, &text].into_iter().cycle().take(CLIENTS) {
        let mut client = server.raw();
        client.send(requests);
        slow.push(client);
    }
    for n in 0..200 {
        assert_eq!(good.ask(&format!("SET k{n} v")), "OK");
        assert_eq!(good.ask(&format!("GET k{n}")), "VALUE v");
    }
    // What stops them is the soft limit on a connection's replies, not the hard one.
    let grown = resident_bytes_max(server.pid()) - before;
    assert!(grown < CLIENTS * 4 * MIB + SLACK_BYTES, "grown by {} MiB", grown / MIB);
    for client in &mut slow {
        client.bytes(REPLIES * MIB);
    }
}

/// Reads behind a write wait for it, and are answered all at once.
#[test]
fn reads_that_wait_for_a_write_are_bounded_too() {
    const REPLIES: usize = 500;
    let server = Server::start(&[]);
    let mut good = server.text();
    assert_eq!(good.ask(&format!("SET big {}", "x".repeat(MIB))), "OK");
    let before = resident_bytes_max(server.pid());
    let mut greedy = server.raw();
    let mut own = server.raw();
    let mut binary = server.raw();
    greedy.send(&[b"SET k v\n".to_vec(), b"GET big\n".repeat(REPLIES)].concat());
    binary.send(&[PREFACE.to_vec(), set(1, "k", b"v"), get(2, "big").repeat(REPLIES)].concat());
    // One that nobody can know the length of beforehand.
    let value = vec![b'y'; MIB];
    own.send(&[b"SET own ", &value[..], b"\n", &b"GET own\n".repeat(REPLIES)].concat());
    for n in 0..100 {
        assert_eq!(good.ask(&format!("SET k{n} v")), "OK");
    }
    let grown = resident_bytes_max(server.pid()) - before;
    assert!(grown < 3 * 8 * MIB + SLACK_BYTES, "grown by {} MiB", grown / MIB);
    // Who reads them gets them.
    for client in [&mut greedy, &mut own] {
        assert_eq!(client.line().as_deref(), Some("OK"));
        for _ in 0..REPLIES {
            assert_eq!(client.line_bytes().expect("all replies come").len(), MIB + 6);
        }
    }
    binary.finish();
    assert_eq!(farewell(&mut binary).0.len(), 1 + REPLIES);
}

/// Reads can be made to wait for something that does not come.
#[test]
fn requests_that_wait_are_bounded() {
    let server = Server::start(&[]);
    let mut good = server.text();
    let before = resident_bytes_max(server.pid());
    let key = vec![b'k'; 1000];
    let mut list = Vec::new();
    let keys = vec![&key[..]; 8000];
    let keys = KeyList::encode(keys.into_iter(), &Limits::default(), &mut list).expect("it fits");
    let mut request = Vec::new();
    let never = LogIndex(u64::MAX);
    let head = RequestHead { id: 1, min_version: never, timeout_ms: 500, ..RequestHead::default() };
    encode_request(&mut request, &head, &Request::Read(Read::GetMany(keys)));
    const REQUESTS: usize = 40;
    let address = server.address().to_owned();
    let greedy = thread::spawn(move || {
        let mut greedy = Raw::connect(&address);
        greedy.send(&PREFACE);
        for _ in 0..REQUESTS {
            greedy.send(&request);
        }
        greedy.finish();
        farewell(&mut greedy).0.len()
    });
    while !greedy.is_finished() {
        assert_eq!(good.ask("SET k v"), "OK");
        assert_eq!(good.ask("GET k"), "VALUE v");
    }
    assert_eq!(greedy.join().expect("it was answered"), REQUESTS);
    let grown = resident_bytes_max(server.pid()) - before;
    assert!(grown < 128 * MIB, "grown by {} MiB", grown / MIB);
}

/// Whoever reads at its own pace never lets the replies run out.
#[test]
fn a_steady_slow_reader_does_not_make_the_server_grow() {
    const REPLIES: usize = 300;
    const VALUE_BYTES: usize = 1_000_000;
    let server = Server::start(&[]);
    let mut good = server.text();
    assert_eq!(good.ask(&format!("SET k {}", "x".repeat(VALUE_BYTES))), "OK");
    let before = resident_bytes_max(server.pid());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
        .expect("a socket can be made");
    // A small window, so that the server always has something left to send.
    socket.set_recv_buffer_size(4096).expect("an option can be set");
    let address: std::net::SocketAddr = server.address().parse().expect("an address");
    socket.connect(&address.into()).expect("the server accepts connections");
    let mut slow = TcpStream::from(socket);
    slow.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    slow.write_all(&b"GET k\n".repeat(REPLIES)).expect("the server reads");
    let mut left = REPLIES * (VALUE_BYTES + 7);
    let mut buffer = vec![0; 1 << 14];
    while left > 0 {
        let count = slow.read(&mut buffer).expect("the server answers");
        assert!(count > 0, "the server gives up");
        left -= count;
    }
    let grown = resident_bytes_max(server.pid()) - before;
    assert!(grown < SLACK_BYTES, "grown by {} MiB", grown / MIB);
}

#[test]
fn requests_may_come_byte_by_byte_in_every_protocol() {
    let server = Server::start(&[]);
    let mut pace = server.text();
    let text = (b"SET t a b\r\nGET t\nDELETE t\n".to_vec(), &b"OK\nVALUE a b\nOK\n"[..]);
    let resp = (
        b"*3\r\n$3\r\nSET\r\n$1\r\nr\r\n$5\r\n\r\n$1*\r\n*2\r\n$3\r\nGET\r\n$1\r\nr\r\n".to_vec(),
        &b"+OK\r\n$5\r\n\r\n$1*\r\n"[..],
    );
    for (requests, replies) in [text, resp] {
        let mut slow = server.raw();
        for byte in requests {
            slow.send(&[byte]);
            // The server has seen the byte by itself before the next one comes.
            assert_eq!(pace.ask("PING"), "PONG");
        }
        assert_eq!(slow.bytes(replies.len()), replies);
    }
    let mut slow = server.raw();
    for byte in [PREFACE.to_vec(), set(1, "b", b"v"), get(2, "b")].concat() {
        slow.send(&[byte]);
        assert_eq!(pace.ask("PING"), "PONG");
    }
    slow.finish();
    assert_eq!(farewell(&mut slow), (vec![1, 2], None));
}

#[test]
fn whoever_has_said_all_still_gets_all_replies() {
    const REQUESTS: u32 = 2000;
    let server = Server::start(&[]);
    let mut text = server.raw();
    let mut resp = server.raw();
    let mut binary = server.raw();
    binary.send(&PREFACE);
    for n in 0..REQUESTS {
        text.send(format!("SET t{n} {n}\nGET t{n}\n").as_bytes());
        resp.send(format!("*2\r\n$4\r\nECHO\r\n$4\r\n{:4}\r\n", n).as_bytes());
        binary.send(&[set(2 * n, "b", b"v"), get(2 * n + 1, "b")].concat());
    }
    for client in [&mut text, &mut resp, &mut binary] {
        client.finish();
    }
    for n in 0..REQUESTS {
        assert_eq!(text.line().as_deref(), Some("OK"));
        assert_eq!(text.line(), Some(format!("VALUE {n}")));
        assert_eq!(resp.bytes(10), format!("$4\r\n{n:4}\r\n").as_bytes());
    }
    assert_eq!((text.line(), resp.line()), (None, None));
    let (mut answered, farewell) = farewell(&mut binary);
    answered.sort_unstable();
    assert_eq!((answered, farewell), ((0..2 * REQUESTS).collect(), None));
}

/// The patience with a client that does not close its end is not for one that is owed replies.
#[test]
fn whoever_reads_slowly_gets_all_replies_after_half_a_request_too() {
    let server = Server::start(&[]);
    let mut good = server.text();
    // Of these lengths, some fill the kernel's buffers and leave little of the reply behind.
    let lengths: Vec<usize> = (1..=16).map(|halves| halves * MIB / 2).collect();
    let mut slow = Vec::new();
    for length in &lengths {
        assert_eq!(good.ask(&format!("SET v{length} {}", "x".repeat(*length))), "OK");
        let mut client = server.raw();
        client.send(format!("GET v{length}\nGET v").as_bytes());
        client.finish();
        slow.push(client);
    }
    // The server waits two seconds for this one to close its end, too, and then resets it.
    let mut staying = server.raw();
    staying.send(b"QUIT\n");
    assert_eq!(staying.line(), None);
    let deadline = deadline();
    while staying.send_if_possible(b"more") {
        assert!(Instant::now() < deadline, "the server waits for ever");
        thread::yield_now();
    }
    for (client, length) in slow.iter_mut().zip(lengths) {
        assert_eq!(client.rest().len(), length + 7);
    }
}
