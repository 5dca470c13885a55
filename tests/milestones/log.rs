//! Step 2: a write-ahead log.

use crate::support::server::Server;
use crate::support::strace::{self, DISK_SYNCS, DISK_WRITES, Strace};

#[test]
fn m2_appended_writes_are_replayed_in_order() {
    let mut server = Server::start(&[]);
    let mut client = server.text();
    for n in 0..1000 {
        client.send(&format!("SET k{} {n}", n % 10));
    }
    for _ in 0..1000 {
        assert_eq!(client.reply(), "OK");
    }
    let last = server.status_number("last");
    server.kill();
    server.start_again();
    assert!(server.status_number("last") >= last);
    let mut client = server.text();
    for k in 0..10 {
        assert_eq!(client.ask(&format!("GET k{k}")), format!("VALUE {}", 990 + k));
    }
}

/// While the disk holds a sync back, the write is neither acknowledged nor visible; reads go on.
#[test]
fn m2_logged_before_memory_changes_and_synced_before_ok() {
    // How long the disk holds it back is for the tracer to say, which may be slow.
    let server = Server::start(&["--quorum-timeout-ms", "60000"]);
    let mut writer = server.text();
    let mut reader = server.text();
    assert_eq!(writer.ask("SET k old"), "OK");
    let stuck = Strace::inject(server.pid(), DISK_SYNCS, "delay_enter=600000000");
    writer.send("SET k new");
    for _ in 0..100 {
        assert_eq!(reader.ask("GET k"), "VALUE old");
    }
    assert!(!writer.raw().has_reply(), "acknowledged before it was synced");
    stuck.detach();
    assert_eq!(writer.reply(), "OK");
    assert_eq!(reader.ask("GET k"), "VALUE new");
}

#[test]
fn m2_state_survives_a_restart() {
    let mut server = Server::start(&[]);
    assert_eq!(server.text().ask("SET k v"), "OK");
    assert_eq!(server.terminate().code, Some(0));
    server.start_again();
    assert_eq!(server.text().ask("GET k"), "VALUE v");
}

#[test]
fn m2_deletes_survive() {
    let mut server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET gone v"), "OK");
    assert_eq!(client.ask("SET stays v"), "OK");
    assert_eq!(client.ask("DELETE gone"), "OK");
    server.kill();
    server.start_again();
    let mut client = server.text();
    assert_eq!(client.ask("GET gone"), "NOT_FOUND");
    assert_eq!(client.ask("GET stays"), "VALUE v");
}

#[test]
fn m2_the_log_grows_with_writes_and_reads_never_touch_it() {
    let server = Server::start(&[]);
    let mut client = server.text();
    let before = server.status_number("last");
    for n in 0..20 {
        assert_eq!(client.ask(&format!("SET k{n} v")), "OK");
    }
    let after = server.status_number("last");
    assert_eq!(after, before + 20);
    let file = tempfile::NamedTempFile::new().unwrap();
    let calls = format!("{},{}", DISK_WRITES, DISK_SYNCS);
    let recorder = Strace::record(server.pid(), &calls, file.path());
    for n in 0..500 {
        assert_eq!(client.ask(&format!("GET k{}", n % 20)), "VALUE v");
    }
    recorder.detach();
    assert_eq!(strace::count(file.path()), 0, "{}", std::fs::read_to_string(file).unwrap());
    assert_eq!(server.status_number("last"), after);
}

#[test]
fn m2_a_crash_keeps_what_was_acknowledged() {
    let mut server = Server::start(&[]);
    for round in 0..5 {
        let mut client = server.text();
        for n in 0..200 {
            client.send(&format!("SET r{round}k{n} {n}"));
        }
        // Some are acknowledged, others are on their way.
        let acknowledged = 50 * round;
        for _ in 0..acknowledged {
            assert_eq!(client.reply(), "OK");
        }
        server.kill();
        server.start_again();
        let mut client = server.text();
        for n in 0..acknowledged {
            assert_eq!(client.ask(&format!("GET r{round}k{n}")), format!("VALUE {n}"));
        }
    }
}

#[test]
fn m2_batched_sync_beats_one_sync_a_write() {
    let server = Server::start(&[]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let recorder = Strace::record(server.pid(), DISK_SYNCS, file.path());
    let mut client = server.text();
    let lines: String = (0..1000).map(|n| format!("SET k{n} v\n")).collect();
    client.raw().send(lines.as_bytes());
    for _ in 0..1000 {
        assert_eq!(client.reply(), "OK");
    }
    recorder.detach();
    let syncs = strace::count(file.path());
    assert!((1..100).contains(&syncs), "{syncs} syncs for 1000 pipelined writes");
}
