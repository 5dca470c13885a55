//! Snapshots and the log behind them, with real processes: disk and memory stay bounded, whatever
//! is killed when, and a node that was away for long comes back by itself.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::child::{Watchdog, end_of};
use support::cluster::Cluster;
use support::server::{Server, kvorum};

const MIB: u64 = 1 << 20;

/// What the files of a data directory take.
fn disk_bytes(data: &Path) -> u64 {
    let entries = fs::read_dir(data).unwrap();
    // A file may go while the directory is read.
    entries.filter_map(|entry| entry.unwrap().metadata().ok()).map(|file| file.len()).sum()
}

fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has one");
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Writes from several connections, in the background.
struct Load {
    bench: Child,
    watchdog: Option<Watchdog>,
}

impl Load {
    fn start(servers: &str, arguments: &[&str]) -> Load {
        let mut command: Command = kvorum();
        command.args(["bench", "--servers", servers, "--set", "1", "--get", "0"]);
        command.args(["--warmup-seconds", "0"]).args(arguments);
        let bench = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let watchdog = Some(Watchdog::over(&bench));
        Load { bench, watchdog }
    }

    fn is_running(&mut self) -> bool {
        self.bench.try_wait().unwrap().is_none()
    }

    fn wait(mut self) {
        assert!(end_of(&mut self.bench).success(), "the load has failed");
        self.watchdog = None;
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.bench.kill();
        let _ = self.bench.wait();
    }
}

#[test]
fn an_endless_overwrite_takes_bounded_disk_and_memory() {
    let server = Server::start(&["--snapshot-log-bytes-min", "16mb"]);
    // 2,000 keys of a KiB, each overwritten some 300 times: 600 MiB of log.
    let arguments = ["-c", "8", "-p", "16", "--key-space", "2000", "--value-bytes", "1024"];
    let requests = ["--requests", "600000"];
    let mut load = Load::start(server.address(), &[&arguments[..], &requests].concat());
    let (mut disk_max, mut memory_max) = (0, 0);
    server.wait_for_status("keys", |keys| keys == 2000);
    let memory_before = resident_bytes(server.pid());
    while load.is_running() {
        // Asking paces the loop.
        server.status("snapshot");
        disk_max = disk_max.max(disk_bytes(server.data()));
        memory_max = memory_max.max(resident_bytes(server.pid()));
    }
    load.wait();
    assert!(server.status_number("snapshot") > 100_000, "snapshots are taken all the time");
    // Segments of 64 MiB: the one that is written, the next one, and what 16 MiB of growth between
    // two snapshots and the older one of two need.
    assert!(disk_max < 2 * 2 * MIB + 420 * MIB, "{} MiB of disk", disk_max / MIB);
    let grown = memory_max.saturating_sub(memory_before);
    assert!(grown < 96 * MIB, "{} MiB more memory", grown / MIB);
}

#[test]
fn a_follower_that_was_away_for_two_million_writes_gets_a_snapshot_under_load() {
    let mut cluster = Cluster::start_with(3, 0, &["--snapshot-log-bytes-min", "8mb"]);
    let leader = cluster.leader();
    let away = *cluster.followers().first().unwrap();
    let staying: Vec<usize> = (1..=3).filter(|id| *id != away).collect();
    assert_eq!(cluster.text(leader).ask("SET first 1"), "OK");
    cluster.wait_until_applied(&[1, 2, 3]);
    cluster.kill(away);
    let gone_at = cluster.node(leader).status_number("last");
    let servers = staying.iter().map(|id| cluster.address(*id)).collect::<Vec<_>>().join(",");
    let arguments = ["--follow", "-c", "20", "-p", "32", "--key-space", "50000"];
    let sizes = ["--value-bytes", "16", "--requests", "1000000000"];
    let mut load = Load::start(&servers, &[&arguments[..], &sizes].concat());
    // The log goes on without it, but only after a while is nothing kept for it any more.
    cluster.node(leader).wait_for_status("last", |last| last > gone_at + 2_000_000);
    cluster.node(leader).wait_for_status("log_from", |from| from > gone_at + 200_000);
    cluster.start_node(away);
    let node = cluster.node(away);
    node.wait_for_status("log_from", |from| from > gone_at + 1);
    node.wait_for_status("snapshot", |snapshot| snapshot > gone_at);
    assert!(load.is_running(), "it is endless");
    drop(load);
    cluster.wait_until_applied(&[1, 2, 3]);
    let keys = cluster.node(leader).status_number("keys");
    assert_eq!(cluster.node(away).status_number("keys"), keys);
    assert_eq!(cluster.text(away).ask("GET first"), "VALUE 1");
}

/// What it has installed it finds again, and so does who installs from it in turn.
#[test]
fn an_installed_snapshot_survives_restarts_and_is_handed_on() {
    let arguments = ["--snapshot-log-bytes-min", "1mb"];
    let mut cluster = Cluster::start_with(3, 0, &arguments);
    let leader = cluster.leader();
    let [one, other] = cluster.followers()[..] else { panic!("three nodes") };
    cluster.kill(one);
    let gone_at = cluster.node(leader).status_number("last");
    let load = ["--follow", "-c", "4", "-p", "32", "--key-space", "500", "--requests", "200000"];
    let servers = format!("{},{}", cluster.address(leader), cluster.address(other));
    Load::start(&servers, &load).wait();
    for id in [leader, other] {
        cluster.node(id).wait_for_status("log_from", |from| from > gone_at + 1000);
    }
    cluster.start_node(one);
    cluster.wait_until_applied(&[1, 2, 3]);
    for _ in 0..2 {
        cluster.kill(one);
        cluster.start_node(one);
        cluster.wait_until_applied(&[1, 2, 3]);
    }
    // The third node loses all of its log; the one that has installed leads then.
    // Who leads may have changed by itself, on a machine that is slow at the moment.
    loop {
        match cluster.leader() {
            leads if leads == one => break,
            leads => _ = cluster.text(leads).ask(&format!("TRANSFER {one}")),
        }
    }
    assert_eq!(cluster.text(one).ask("SET after install"), "OK");
    cluster.wait_until_applied(&[1, 2, 3]);
    assert_eq!(cluster.text(other).ask("GET after"), "VALUE install");
}

#[test]
fn who_is_told_of_a_snapshot_finds_it_in_the_status() {
    let server = Server::start(&[]);
    let mut client = server.text();
    for n in 0..20 {
        client.send(&format!("SET k {n}\nSNAPSHOT\nSTATUS"));
        assert_eq!(client.reply(), "OK");
        let taken = client.reply();
        let index = taken.strip_prefix("SNAPSHOT index=").expect("it is taken");
        let status = client.reply();
        assert!(status.contains(&format!(" snapshot={index} ")), "{taken}: {status}");
    }
}

#[test]
fn the_newest_snapshot_is_damaged_and_the_one_before_and_the_log_are_used() {
    let mut server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET a 1"), "OK");
    assert!(client.ask("SNAPSHOT").starts_with("SNAPSHOT"), "it is taken");
    assert_eq!(client.ask("SET b 2"), "OK");
    assert!(client.ask("SNAPSHOT").starts_with("SNAPSHOT"), "it is taken");
    assert_eq!(client.ask("SET c 3"), "OK");
    server.kill();
    let mut snapshots: Vec<_> = fs::read_dir(server.data())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "kv"))
        .collect();
    snapshots.sort();
    let [_, newest] = &snapshots[..] else { panic!("two snapshots: {snapshots:?}") };
    let mut bytes = fs::read(newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(newest, bytes).unwrap();
    server.start_again();
    let mut client = server.text();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert_eq!(client.ask(&format!("GET {key}")), format!("VALUE {value}"));
    }
}
