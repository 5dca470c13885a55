//! Clients that are many, clients that want everything, and clients that vanish.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::PREFACE;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::client::Raw;
use crate::support::resources::{cpu_time, open_files, resident_bytes, resident_bytes_max};
use crate::support::server::Server;
use crate::support::{PATIENCE, deadline};
use crate::{MIB, SLACK_BYTES, allow_many_files, assert_serves, get, set, wait_for_clients};

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
    // Until the next segment of the log is made, that needs descriptors now and then.
    while !server.data().join("segment-0000000000000002.log").exists() {
        assert_eq!(old.ask("GET k"), "VALUE v");
    }
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
