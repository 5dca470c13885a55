//! What the machine may do to a node: crashes under load, a disk that fails, fills up or stalls.
//! These tests need root (or CAP_SYS_PTRACE, and CAP_SYS_ADMIN to mount), strace and e2fsprogs;
//! without them they fail and say so.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use kvorum::client::{Connection, ConnectionError, Reason, Reply};
use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{Command, Op, Read, Request};
use support::client::Text;
use support::deadline;
use support::disk::SmallDisk;
use support::server::Server;
use support::strace::{DISK_SYNCS, DISK_WRITES, Strace};

/// Requests in flight on each connection of a load.
const DEPTH: usize = 32;

/// When nothing has come for so long from a server that was stopped, nothing will.
const LAST_CALL: Duration = Duration::from_millis(50);

/// What one client knows of its own keys, which nobody else writes. Values count up.
#[derive(Default)]
struct Known {
    acknowledged: HashMap<u64, u64>,
    /// The last value sent, acknowledged or not.
    sent: HashMap<u64, u64>,
}

impl Known {
    /// Writes with `DEPTH` requests in flight until the server is gone, or `last_call` has come and
    /// no more answers do.
    fn write(&mut self, address: &str, client: u64, last_call: &AtomicBool) {
        let Ok(mut connection) = Connection::open(address, deadline()) else { return };
        let mut in_flight = HashMap::new();
        let mut n = 0;
        loop {
            while in_flight.len() < DEPTH && !last_call.load(Relaxed) {
                n += 1;
                let key = n % 100;
                let value = self.sent.get(&key).copied().unwrap_or(0) + 1;
                let (name, text) = (format!("c{client}k{key}"), value.to_string());
                let op = Op::Set { key: name.as_bytes(), value: text.as_bytes() };
                let request = Request::Write(Command::new(op));
                self.sent.insert(key, value);
                match connection.send(RequestHead::default(), &request, deadline()) {
                    Ok(id) => in_flight.insert(id, (key, value)),
                    Err(_) => return,
                };
            }
            match connection.receive(Instant::now() + LAST_CALL) {
                Ok((id, Reply::Written { .. })) => {
                    let (key, value) = in_flight.remove(&id).expect("an answer to a request");
                    let acknowledged = self.acknowledged.entry(key).or_default();
                    *acknowledged = value.max(*acknowledged);
                }
                Ok((_, other)) => panic!("a write was answered with {other:?}"),
                Err(ConnectionError::Lost { reason: Reason::Deadline, .. })
                    if !last_call.load(Relaxed) => {}
                Err(_) => return,
            }
        }
    }

    /// Every acknowledged value is there, unless a later one that was sent is.
    fn check(&self, address: &str, client: u64) {
        let mut connection = Connection::open(address, deadline()).unwrap();
        for (key, sent) in &self.sent {
            let acknowledged = self.acknowledged.get(key).copied().unwrap_or(0);
            let name = format!("c{client}k{key}");
            let request = Request::Read(Read::Get(name.as_bytes()));
            let found = match connection.call(RequestHead::default(), &request, deadline()) {
                Ok(Reply::Value { value, .. }) => {
                    String::from_utf8(value).unwrap().parse().unwrap()
                }
                Ok(Reply::NotFound) => 0,
                other => panic!("a read was answered with {other:?}"),
            };
            assert!(
                (acknowledged..=*sent).contains(&found),
                "{name}: {found} was found, {acknowledged} acknowledged, {sent} sent"
            );
        }
    }
}

/// The clients of a load, while they write.
struct Clients<'scope> {
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    last_call: &'scope AtomicBool,
}

impl Clients<'_> {
    /// Kills the server so that each client has read every answer that it gave. The answers would
    /// be lost otherwise, because a socket that is closed with unread requests resets the
    /// connection, and with them the acknowledgements that are the most interesting.
    fn kill(self, server: &mut Server) {
        server.pause();
        self.last_call.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("a client failed");
        }
        server.kill();
    }
}

/// Keeps clients writing while `disturb` runs, which must end the server; then starts it again and
/// checks what they know.
fn load(
    server: &mut Server,
    known: &mut [Known],
    disturb: impl for<'scope> FnOnce(&mut Server, Clients<'scope>),
) {
    let address = server.address().to_owned();
    let last_call = AtomicBool::new(false);
    thread::scope(|scope| {
        let (address, last_call) = (&address, &last_call);
        let threads = (0..)
            .zip(&mut *known)
            .map(|(client, known)| scope.spawn(move || known.write(address, client, last_call)))
            .collect();
        let victim = Victim(server);
        disturb(victim.0, Clients { threads, last_call });
    });
    server.start_again();
    for (client, known) in (0..).zip(&*known) {
        known.check(server.address(), client);
    }
}

/// Clients write for as long as there is a server: a test that fails must take it away from them.
struct Victim<'a>(&'a mut Server);

impl Drop for Victim<'_> {
    fn drop(&mut self) {
        self.0.make_sure_it_is_gone();
    }
}

fn four_clients() -> [Known; 4] {
    Default::default()
}

#[test]
fn kill_under_load_many_times() {
    let mut server = Server::start(&[]);
    let mut known = four_clients();
    for round in 1..=20_u64 {
        let before = server.status_number("last");
        load(&mut server, &mut known, |server, clients| {
            // Another number of writes each time, so that the crash meets another moment.
            server.wait_for_status("last", |last| last > before + round * 97);
            clients.kill(server);
        });
    }
    assert!(known.iter().all(|known| !known.acknowledged.is_empty()), "nothing was tested");
}

/// At nearly every moment a snapshot is being written, or gets its name, or takes the place of an
/// older one and of the log.
#[test]
fn kill_under_load_while_snapshots_are_taken() {
    let mut server = Server::start(&["--snapshot-log-bytes-min", "64kb"]);
    let mut known = four_clients();
    for round in 1..=12_u64 {
        let before = server.status_number("snapshot");
        load(&mut server, &mut known, |server, clients| {
            server.wait_for_status("snapshot", |snapshot| snapshot > before + round * 61);
            clients.kill(server);
        });
    }
    assert!(server.status_number("log_from") > 1, "the log was never given up");
}

#[test]
fn kill_under_load_keeps_acknowledged_writes_without_fsync_too() {
    for fsync in ["never", "5"] {
        let mut server = Server::start(&["--fsync", fsync]);
        let mut known = four_clients();
        // The process dies, the machine does not: what was written is still there.
        for _ in 0..3 {
            let before = server.status_number("last");
            load(&mut server, &mut known, |server, clients| {
                server.wait_for_status("last", |last| last > before + 2000);
                clients.kill(server);
            });
        }
    }
}

#[test]
fn terminate_under_load_exits_0_and_loses_nothing() {
    let mut server = Server::start(&[]);
    let mut known = four_clients();
    let before = server.status_number("last");
    load(&mut server, &mut known, |server, _| {
        server.wait_for_status("last", |last| last > before + 1000);
        assert_eq!(server.terminate().code, Some(0));
    });
}

/// RELIABILITY.md, G6: a failed sync may have lost the pages; a second one would not notice.
fn fail_disk_under_load(calls: &str, error: &str) {
    let mut server = Server::start(&[]);
    let mut known = four_clients();
    for when in [1, 2, 17] {
        let before = server.status_number("last");
        load(&mut server, &mut known, |server, _| {
            server.wait_for_status("last", |last| last > before + 100);
            let what = format!("error={error}:when={when}+");
            let strace = Strace::inject(server.pid(), calls, &what);
            let exit = server.wait();
            drop(strace);
            assert_eq!(exit.code, Some(1), "{exit:?}");
            let words = exit.last_words();
            assert!(words.contains(server.data().to_str().unwrap()), "names no file: {words}");
            assert!(words.contains("check the disk"), "does not say what to do: {words}");
        });
    }
}

#[test]
fn an_error_of_a_sync_stops_the_node() {
    fail_disk_under_load(DISK_SYNCS, "EIO");
}

#[test]
fn an_error_of_a_write_stops_the_node() {
    fail_disk_under_load(DISK_WRITES, "EIO");
}

/// What was acknowledged without a sync may be lost there: that is no orderly end.
#[test]
fn an_error_of_the_last_sync_is_no_clean_end() {
    let mut server = Server::start(&["--fsync", "never"]);
    assert_eq!(server.text().ask("SET k v"), "OK");
    let strace = Strace::inject(server.pid(), DISK_SYNCS, "error=EIO:when=1+");
    let exit = server.terminate();
    drop(strace);
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let words = exit.last_words();
    assert!(words.contains(server.data().to_str().unwrap()), "names no file: {words}");
}

#[test]
fn a_sync_that_stalls_holds_back_writes_only() {
    let mut server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET k old"), "OK");
    let stuck = Strace::inject(server.pid(), DISK_SYNCS, "delay_enter=600000000");
    let mut writers: Vec<Text> = (0..4).map(|_| server.text()).collect();
    for (n, writer) in writers.iter_mut().enumerate() {
        writer.send(&format!("SET w{n} v"));
    }
    for _ in 0..50 {
        assert_eq!(client.ask("GET k"), "VALUE old");
        assert_eq!(server.text().ask("PING"), "PONG");
    }
    assert!(writers.iter_mut().all(|writer| !writer.raw().has_reply()));
    stuck.detach();
    for writer in &mut writers {
        assert_eq!(writer.reply(), "OK");
    }
    assert_eq!(server.terminate().code, Some(0));
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_space() {
    let disk = SmallDisk::new(256);
    let data = disk.path().join("data");
    let mut server = Server::start_in(&data, &[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET first v"), "OK");
    let ballast = disk.fill();
    let value = "v".repeat(1 << 20);
    let mut stored = 0;
    let refusal = loop {
        let reply = client.ask(&format!("SET k{stored} {value}"));
        if reply != "OK" {
            break reply;
        }
        stored += 1;
        assert!(stored < 2000, "more was stored than the disk has room for");
    };
    assert!(refusal.starts_with("ERROR DISK_FULL "), "{refusal}");
    assert_eq!(client.ask("GET first"), "VALUE v");
    assert_eq!(client.ask(&format!("GET k{stored}")), "NOT_FOUND");
    assert_eq!(server.text().ask("PING"), "PONG");
    drop(ballast);
    let deadline = deadline();
    loop {
        let reply = client.ask(&format!("SET again {value}"));
        if reply == "OK" {
            break;
        }
        assert!(reply.starts_with("ERROR DISK_FULL "), "{reply}");
        assert!(Instant::now() < deadline, "space came back, writes did not");
    }
    server.kill();
    server.start_again();
    let mut client = server.text();
    assert_eq!(client.ask("GET first"), "VALUE v");
    assert_eq!(client.ask("GET again"), format!("VALUE {value}"));
    for n in 0..stored {
        assert_eq!(client.ask(&format!("GET k{n}")), format!("VALUE {value}"));
    }
    assert_eq!(client.ask(&format!("GET k{stored}")), "NOT_FOUND");
    server.terminate();
}

#[test]
fn a_disk_without_room_for_a_log_is_refused_at_the_start() {
    let disk = SmallDisk::new(32);
    let ballast = disk.fill();
    let data = disk.path().join("data");
    let exit = Server::try_start(&data, &[]).err().expect("there is no room to serve");
    assert_eq!(exit.code, Some(1), "{exit:?}");
    let words = exit.last_words();
    assert!(words.contains(data.to_str().unwrap()), "{words}");
    assert!(words.contains("free disk space"), "{words}");
    drop(ballast);
}

/// RELIABILITY.md, G9: neither a busy loop nor an exit, and the log can still open its files.
#[test]
fn few_file_descriptors_limit_the_connections_and_not_the_log() {
    let server = Server::start_with_descriptors(128, &[]);
    let mut old = server.text();
    assert_eq!(old.ask("SET k v"), "OK");
    let mut crowd: Vec<_> = (0..200).map(|_| server.raw()).collect();
    let mut served = 0;
    for client in &mut crowd {
        client.send_if_possible(b"PING\n");
        match client.line() {
            Some(line) if line == "PONG" => served += 1,
            Some(line) => assert!(line.starts_with("ERROR BUSY "), "{line}"),
            None => {}
        }
    }
    assert!((1..128).contains(&served), "{served} of 200 were served");
    // Enough for several new segments of the log.
    let value = "v".repeat(1 << 20);
    for n in 0..40 {
        assert_eq!(old.ask(&format!("SET big{n} {value}")), "OK");
    }
    drop(crowd);
    let deadline = deadline();
    loop {
        let mut client = server.raw();
        client.send_if_possible(b"PING\n");
        match client.line() {
            Some(line) if line == "PONG" => break,
            reply => assert!(Instant::now() < deadline, "still refused: {reply:?}"),
        }
    }
}
