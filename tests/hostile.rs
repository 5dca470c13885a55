//! Clients that mean harm, and clients that are broken: none of them crashes the server, makes its
//! memory grow without bound, burns its CPU or disturbs the others. RELIABILITY: section H.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::{
    CONNECTION_ID, PREFACE, RequestHead, decode_response, encode_request,
};
use kvorum_protocol::{Command, ErrorCode, KeyList, Limits, LogIndex, Op, Read, Request, Response};
use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use support::client::Raw;
use support::resources::{cpu_time, open_files, resident_bytes, resident_bytes_max};
use support::server::Server;
use support::{PATIENCE, deadline};

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

// Bytes that are no requests

#[test]
fn garbage_crashes_nothing_and_disturbs_nobody() {
    let server = Server::start(&[]);
    let mut good = server.text();
    assert_eq!(good.ask("SET k v"), "OK");
    let before = resident_bytes(server.pid());
    let mut rng = StdRng::seed_from_u64(2);
    let starts: [&[u8]; 8] =
        [b"", &PREFACE, b"*", b"*3\r\n$3\r\nSET\r\n$1\r\nx\r\n$", b"SET x ", b"\xff", b"\0", b"\n"];
    for round in 0..400 {
        let mut bytes = starts[round % starts.len()].to_vec();
        let mut garbage = vec![0; rng.random_range(0..8192)];
        rng.fill_bytes(&mut garbage);
        if round % 3 == 0 {
            garbage
                .iter_mut()
                .for_each(|byte| *byte = b"\r\n*$ 0159GETSx3"[usize::from(*byte) % 15]);
        }
        bytes.extend(garbage);
        let mut bad = server.raw();
        bad.send_if_possible(&bytes);
        bad.finish();
        bad.rest();
        assert_eq!(good.ask("PING"), "PONG");
    }
    assert!(resident_bytes(server.pid()) < before + SLACK_BYTES);
    wait_for_clients(&server, 1);
}

#[test]
fn http_is_closed_at_once_in_text_and_in_resp() {
    let server = Server::start(&[]);
    for start in ["", "PING\r\n", "*1\r\n$4\r\nPING\r\n"] {
        for line in ["POST / HTTP/1.1\r\n", "Host: kvorum\r\n", "pOsT /\n", "hOST:\n"] {
            let mut browser = server.raw();
            browser.send_if_possible(format!("{start}{line}SET k v\r\n").as_bytes());
            let reply = String::from_utf8(browser.rest()).expect("words");
            assert!(["", "PONG\n", "+PONG\r\n"].contains(&reply.as_str()), "{reply}");
        }
    }
    assert_eq!(server.text().ask("GET k"), "NOT_FOUND");
    assert_serves(&server);
}

#[test]
fn tls_is_told_that_it_is_not_spoken() {
    let server = Server::start(&[]);
    // A ClientHello (RFC 8446, section 5.1): a handshake record of 512 bytes, without a line end,
    // from a client that waits for the answer.
    let mut hello = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    hello.resize(5 + 512, 7);
    let mut client = server.raw();
    client.send(&hello);
    let reply = client.line().expect("an answer");
    assert!(reply.starts_with("ERROR BAD_REQUEST ") && reply.contains("TLS"), "{reply}");
    assert_eq!(client.rest(), b"");
    assert_serves(&server);
}

#[test]
fn a_preface_is_answered_when_it_is_known_what_it_is() {
    let server = Server::start(&[]);
    let mut unfinished = server.raw();
    unfinished.send(&PREFACE[..5]);
    unfinished.finish();
    assert_eq!(unfinished.rest(), b"");

    let mut later = PREFACE;
    later[6] = 9;
    for wrong in [later, *b"\x89KVORM\x01\r"] {
        let mut client = server.raw();
        client.send(&wrong);
        assert_eq!(client.rest(), PREFACE, "{}", wrong.escape_ascii());
    }
    assert_serves(&server);
}

#[test]
fn a_damaged_frame_ends_the_connection_behind_the_replies_before_it() {
    let server = Server::start(&[]);
    let good = [PREFACE.to_vec(), set(1, "k", b"v"), get(2, "k")].concat();
    let damaged = {
        let mut frame = set(3, "k", b"w");
        let last = frame.len() - 5;
        frame[last] ^= 1;
        frame
    };
    let reserved = {
        let mut frame = get(4, "k");
        frame[4..8].copy_from_slice(&CONNECTION_ID.to_le_bytes());
        let end = frame.len() - 4;
        let crc = crc32fast::hash(&frame[..end]);
        frame[end..].copy_from_slice(&crc.to_le_bytes());
        frame
    };
    let cases = [
        (damaged, ErrorCode::BadRequest),
        (reserved, ErrorCode::BadRequest),
        (u32::MAX.to_le_bytes().to_vec(), ErrorCode::TooLarge),
        (3_u32.to_le_bytes().to_vec(), ErrorCode::BadRequest),
    ];
    for (bad, code) in cases {
        let mut client = server.raw();
        client.send_if_possible(&[good.clone(), bad, get(5, "k")].concat());
        let (mut answered, farewell) = farewell(&mut client);
        answered.sort_unstable();
        assert_eq!((answered, farewell), (vec![1, 2], Some(code)));
    }
    assert_eq!(server.text().ask("GET k"), "VALUE v");
}

// Lengths that lie

#[test]
fn lengths_over_the_limit_are_refused_before_anything_comes() {
    let server = Server::start(&[]);
    for (claim, refusal) in [
        ("*131074\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*99999999999999999999\r\n", "-ERR Protocol error: invalid multibulk length\r\n"),
        ("*2\r\n$3\r\nGET\r\n$8388609\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*2\r\n$3\r\nGET\r\n$-5\r\n", "-ERR Protocol error: invalid bulk length\r\n"),
        ("*2\r\n$3\r\nGET\r\n:1\r\n", "-ERR Protocol error: expected '$', got ':'\r\n"),
    ] {
        let mut client = server.raw();
        client.send(claim.as_bytes());
        assert_eq!(String::from_utf8(client.rest()).expect("words"), refusal, "{claim}");
    }
    assert_serves(&server);
}

/// Memory follows what has arrived, not what is claimed.
#[test]
fn claims_within_the_limits_take_no_memory() {
    let server = Server::start(&[]);
    let large = u32::try_from(8 * MIB).expect("it fits").to_le_bytes();
    let before = resident_bytes(server.pid());
    let mut liars = Vec::new();
    for _ in 0..100 {
        for claim in [
            [&PREFACE[..], &large].concat(),
            b"*131073\r\n$4\r\nMSET\r\n".to_vec(),
            b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8388608\r\nstart".to_vec(),
            b"SET k start".to_vec(),
        ] {
            let mut liar = server.raw();
            liar.send(&claim);
            liars.push(liar);
        }
    }
    assert_serves(&server);
    let grown = resident_bytes(server.pid()).saturating_sub(before);
    assert!(grown < SLACK_BYTES, "{} KiB a liar", grown / liars.len() / 1024);
}

// Clients that are slow

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
    let head =
        RequestHead { id: 1, min_version: never, timeout_ms: 2000, ..RequestHead::default() };
    encode_request(&mut request, &head, &Request::Read(Read::GetMany(keys)));
    const REQUESTS: usize = 100;
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

// Clients that are many

#[test]
fn a_storm_beyond_the_limit_is_told_so_and_passes() {
    allow_many_files();
    const SERVED: usize = 50;
    const STORM: usize = 4000;
    let server = Server::start(&["--connections-max", &SERVED.to_string()]);
    let mut old = server.text();
    assert_eq!(old.ask("SET k v"), "OK");
    let (files, memory) = (open_files(server.pid()), resident_bytes(server.pid()));
    let mut crowd: Vec<Raw> = Vec::new();
    for n in 0..STORM {
        crowd.push(server.raw());
        if n % 100 == 0 {
            assert_eq!(old.ask("GET k"), "VALUE v");
        }
    }
    // Those behind the first have said nothing, so nothing takes the reply away from them.
    for refused in crowd.split_off(SERVED - 1) {
        let mut refused = refused;
        let line = refused.line().expect("a reason");
        assert!(line.starts_with("ERROR BUSY "), "{line}");
        assert_eq!(refused.rest(), b"");
    }
    assert_eq!(old.ask("GET k"), "VALUE v");
    assert!(resident_bytes(server.pid()) < memory + SLACK_BYTES);
    for client in &mut crowd {
        client.send(b"PING\n");
        assert_eq!(client.line().as_deref(), Some("PONG"));
    }
    drop(crowd);
    wait_for_clients(&server, 1);
    // The observer of `wait_for_clients` may not be gone yet.
    let deadline = deadline();
    while open_files(server.pid()) > files {
        assert!(Instant::now() < deadline, "descriptors leak");
    }
}

#[test]
fn a_server_out_of_descriptors_neither_spins_nor_stops() {
    let server = Server::start(&[]);
    let pid = Pid::from_raw(i32::try_from(server.pid()).expect("it fits"));
    let mut old = server.text();
    assert_eq!(old.ask("SET k v"), "OK");
    let few = u64::try_from(open_files(server.pid()) + 8).expect("it fits");
    let limit = Rlimit { current: Some(few), maximum: getrlimit(Resource::Nofile).maximum };
    prlimit(pid, Resource::Nofile, limit).expect("the process is ours");
    let mut crowd: Vec<Raw> = (0..200).map(|_| server.raw()).collect();
    // The last one has been refused, or it waits to be accepted; either costs nothing.
    assert_eq!(old.ask("GET k"), "VALUE v");
    assert_idle(&server, old.raw());
    assert_eq!(old.ask("SET k w"), "OK");
    let mut served = 0;
    for client in &mut crowd {
        client.send_if_possible(b"GET k\n");
        match client.line() {
            Some(line) if line == "VALUE w" => served += 1,
            Some(line) => assert!(line.starts_with("ERROR BUSY "), "{line}"),
            None => {}
        }
    }
    // The limit is on descriptor numbers, of which some were free.
    assert!((1..=16).contains(&served), "{served} are served");
    drop(crowd);
    wait_for_clients(&server, 1);
    assert_serves(&server);
}

/// CPU time of the server while `quiet`, which is owed nothing, hears nothing for a second.
fn assert_idle(server: &Server, quiet: &mut Raw) {
    let before = cpu_time(server.pid());
    assert!(!quiet.hears_within(Duration::from_secs(1)));
    let used = cpu_time(server.pid()) - before;
    assert!(used <= Duration::from_millis(30), "{used:?} of a second");
}

#[test]
fn nobody_who_does_nothing_costs_anything() {
    allow_many_files();
    let server = Server::start(&[]);
    let mut quiet = server.raw();
    let mut crowd: Vec<Raw> = (0..1000).map(|_| server.raw()).collect();
    let unfinished: [&[u8]; 6] = [
        b"SET k unfinished",
        &PREFACE,
        &PREFACE[..3],
        b"*2\r\n$3\r\nGET\r\n",
        b"\x89KVORM\x01\n\x20\0\0\0",
        b"PING\nPI",
    ];
    for start in unfinished.into_iter().cycle().take(120) {
        let mut client = server.raw();
        client.send(start);
        crowd.push(client);
    }
    // Some have asked for more than they read, and some have gone half-way.
    assert_eq!(server.text().ask(&format!("SET big {}", "x".repeat(MIB))), "OK");
    for _ in 0..5 {
        let mut client = server.raw();
        client.send(&b"GET big\n".repeat(20));
        client.finish();
        crowd.push(client);
    }
    for client in crowd.iter_mut().take(1000) {
        client.send(b"PING\n");
        assert_eq!(client.line().as_deref(), Some("PONG"));
    }
    // The log marks its end a second after the last write, and prepares its next segment.
    let deadline = deadline();
    loop {
        let before = cpu_time(server.pid());
        assert!(!quiet.hears_within(Duration::from_millis(500)));
        if cpu_time(server.pid()) - before <= Duration::from_millis(10) {
            break;
        }
        assert!(Instant::now() < deadline, "it never gets quiet");
    }
    assert_idle(&server, &mut quiet);
}

// Clients that want everything

#[test]
fn a_flood_of_one_client_leaves_room_for_another() {
    const COMMANDS: usize = 1_000_000;
    let server = Server::start(&[]);
    let mut other = server.text();
    assert_eq!(other.ask("SET k v"), "OK");
    let before = resident_bytes_max(server.pid());
    let stream = TcpStream::connect(server.address()).expect("the server accepts connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let (mut sending, mut receiving) = (&stream, &stream);
    let mut asked = 0;
    thread::scope(|scope| {
        scope.spawn(move || {
            let some: Vec<u8> = b"GET k\nSET flood 1\n".repeat(500);
            for _ in 0..COMMANDS / 1000 {
                sending.write_all(&some).expect("the server reads");
            }
        });
        let flood = scope.spawn(move || {
            let mut left = COMMANDS / 2 * "VALUE v\nOK\n".len();
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                let count = receiving.read(&mut buffer).expect("the server answers");
                assert!(count > 0, "the server gives up");
                left -= count;
            }
        });
        while !flood.is_finished() {
            assert_eq!(other.ask("SET k v"), "OK");
            assert_eq!(other.ask("GET k"), "VALUE v");
            asked += 1;
        }
    });
    // It is served in each of the turns that the flood takes, of which there are many.
    assert!(asked >= 20, "served {asked} times during the flood");
    assert!(resident_bytes_max(server.pid()) < before + 2 * SLACK_BYTES + 64 * MIB);
}

#[test]
fn resets_in_the_middle_of_replies_leave_nothing_behind() {
    let server = Server::start(&[]);
    let mut good = server.text();
    assert_eq!(good.ask(&format!("SET big {}", "x".repeat(MIB))), "OK");
    assert_eq!(good.ask("SET own v"), "OK");
    let requests: [Vec<u8>; 4] = [
        b"GET big\n".repeat(20),
        [PREFACE.to_vec(), set(1, "k", b"v"), get(2, "big").repeat(20)].concat(),
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".to_vec(),
        b"SET k v\nGET k\nQUIT\n".to_vec(),
    ];
    let files = open_files(server.pid());
    let before = resident_bytes(server.pid());
    for round in 0..400 {
        let mut stream = TcpStream::connect(server.address()).expect("it accepts connections");
        let reset = Some(Duration::ZERO);
        socket2::SockRef::from(&stream).set_linger(reset).expect("an option can be set");
        stream.write_all(&requests[round % requests.len()]).expect("the server reads");
        if round % 3 > 0 {
            stream.read_exact(&mut [0; 2]).expect("the server answers");
        }
        drop(stream);
        assert_eq!(good.ask("GET own"), "VALUE v");
    }
    wait_for_clients(&server, 1);
    let deadline = deadline();
    while open_files(server.pid()) > files {
        assert!(Instant::now() < deadline, "descriptors leak");
    }
    assert!(resident_bytes(server.pid()) < before + 2 * SLACK_BYTES);
}
