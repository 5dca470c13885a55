//! Backups from outside: taken from running nodes, restored, exported and imported, with what can
//! be wrong about each.

mod support;

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::channel;
use std::thread;

use support::child::Ends as _;
use support::cluster::{Cluster, Place};
use support::disk::SmallDisk;
use support::server::{Server, kvorum};

fn run(arguments: &[&str]) -> Output {
    kvorum().args(arguments).output_in_time().expect("the binary can be run")
}

#[track_caller]
fn works(arguments: &[&str]) -> String {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[track_caller]
fn refuses(arguments: &[&str], code: i32, expected: &str) {
    let output = run(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("kvorum: ") && last.contains(expected), "{arguments:?}: {stderr}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// A directory with lines of pairs, some of which are no text.
struct Lines {
    directory: tempfile::TempDir,
    sorted: Vec<String>,
}

impl Lines {
    fn new(count: usize) -> Lines {
        let directory = tempfile::tempdir().unwrap();
        let mut lines: Vec<String> =
            (0..count).map(|n| format!(r#"{{"key":"key {n}","value":"{n}\n\"v\" ä"}}"#)).collect();
        lines.push(r#"{"key_base64":"/wAK","value_base64":"/v8="}"#.to_owned());
        lines.push(r#"{"key":"empty","value":""}"#.to_owned());
        fs::write(directory.path().join("pairs.json"), lines.join("\n")).unwrap();
        lines.sort();
        Lines { directory, sorted: lines }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Exactly these pairs are there.
    #[track_caller]
    fn are_at(&self, server: &str) {
        let exported = works(&["export", "--servers", server, "-"]);
        let mut found: Vec<&str> = exported.lines().collect();
        found.sort_unstable();
        assert!(found == self.sorted, "{} pairs, {} expected", found.len(), self.sorted.len());
    }
}

#[test]
fn what_is_imported_backed_up_and_restored_is_the_same() {
    let lines = Lines::new(3000);
    let mut server = Server::start(&[]);
    let address = server.address().to_owned();
    let (pairs, backup) = (lines.path("pairs.json"), lines.path("backup"));
    let imported = works(&["import", "--servers", &address, text(&pairs)]);
    assert_eq!(imported, format!("imported {} pairs\n", lines.sorted.len()));
    lines.are_at(&address);
    let said = works(&["backup", "--servers", &address, text(&backup)]);
    assert!(said.contains(&format!(" keys={} ", lines.sorted.len())), "{said}");
    assert_eq!(works(&["snapshot", "verify", text(&backup)]), said);
    let said = works(&["snapshot", "--servers", &address]);
    assert!(said.starts_with(&format!("{address} index=")), "{said}");

    let exported = lines.path("exported.json");
    works(&["export", "--from", text(&backup), text(&exported)]);
    refuses(&["export", "--from", text(&backup), text(&exported)], 1, "is there already");
    assert_eq!(fs::read_to_string(&exported).unwrap().lines().count(), lines.sorted.len());
    server.terminate();

    let data = lines.path("data");
    let said = works(&["restore", text(&backup), "--data", text(&data)]);
    assert!(said.contains("kvorum serve --id 1 --data "), "{said}");
    let mut restored = Server::start_in(&data, &[]);
    lines.are_at(restored.address());
    assert_eq!(restored.text().ask("SET more v"), "OK");
    restored.kill();
    restored.start_again();
    assert_eq!(restored.text().ask("GET more"), "VALUE v");
    assert_eq!(restored.status_number("keys"), lines.sorted.len() as u64 + 1);
}

/// Of a cluster that is restored no node of the old one can be.
#[test]
fn a_cluster_is_restored_as_another_cluster() {
    let lines = Lines::new(200);
    let mut old = Cluster::start(3);
    let servers = old.servers();
    works(&["import", "--servers", &servers, text(&lines.path("pairs.json"))]);
    let backup = lines.path("backup");
    let follower = old.followers()[0];
    works(&["backup", "--servers", old.address(follower), text(&backup)]);
    let places: Vec<Place> = (1..=3)
        .map(|id| Place {
            client: old.address(id).to_owned(),
            peer: old.peer_address(id).to_owned(),
            arguments: Vec::new(),
            under: Vec::new(),
        })
        .collect();
    let listed: Vec<String> = (1..)
        .zip(&places)
        .flat_map(|(id, place)| {
            ["--member".to_owned(), format!("{id}={}/{}", place.client, place.peer)]
        })
        .collect();
    let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
    (1..=3).for_each(|id| old.kill(id));

    // The same ids at the same places: only the identity tells them apart.
    let mut new = Cluster::prepare_at(places, 3, &[]);
    for id in [1, 2] {
        let (number, data) = (id.to_string(), lines.path(&format!("data{id}")));
        let own = ["restore", text(&backup), "--data", text(&data), "--id", &number];
        works(&[&own[..], &listed].concat());
        new.keep_data_in(id, data);
        new.start_node(id);
    }
    let leader = new.leader();
    lines.are_at(new.address(leader));
    assert_eq!(new.text(leader).ask("SET later v"), "OK");
    new.keep_data_in(3, old.data(3));
    new.start_node(3);
    assert!(new.text(3).ask("SET k v").starts_with("ERROR NO_LEADER"), "an old node was let in");
}

#[test]
fn a_wrong_file_is_not_restored() {
    let lines = Lines::new(100);
    let server = Server::start(&[]);
    let address = server.address();
    works(&["import", "--servers", address, text(&lines.path("pairs.json"))]);
    let backup = lines.path("backup");
    works(&["backup", "--servers", address, text(&backup)]);
    let (wrong, data) = (lines.path("wrong"), lines.path("data"));
    let bytes = fs::read(&backup).unwrap();
    let restore = ["restore", text(&wrong), "--data", text(&data)];
    refuses(&restore, 1, "check the path");
    for (contents, expected) in [
        (b"no snapshot at all".to_vec(), "is no snapshot of kvorum"),
        (bytes[..bytes.len() - 4096].to_vec(), "is corrupt at offset"),
        (bytes[..100].to_vec(), "is no snapshot of kvorum"),
        (flipped(&bytes, bytes.len() / 2), "is corrupt at offset"),
        (flipped(&bytes, 40), "is corrupt at offset 0"),
        (of_version(&bytes, 2), "has format version 2"),
        ([&bytes[..], b"more"].concat(), "is corrupt at offset"),
    ] {
        fs::write(&wrong, contents).unwrap();
        refuses(&restore, 1, expected);
        assert!(!data.exists(), "something of it was left: {expected}");
        refuses(&["snapshot", "verify", text(&wrong)], 1, expected);
        refuses(&["export", "--from", text(&wrong), "-"], 1, expected);
    }

    let restore = ["restore", text(&backup), "--data", text(&data)];
    let other = [&restore[..], &["--member", "2=a:1/a:2"]].concat();
    refuses(&other, 2, "no member or learner has this node's id 1");
    refuses(&[&restore[..], &["--member", "nonsense"]].concat(), 2, "--member");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("mine"), "").unwrap();
    refuses(&restore, 1, "is not empty");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1);
    fs::remove_file(data.join("mine")).unwrap();
    works(&restore);
    refuses(&restore, 1, "is not empty");
}

fn flipped(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// With another version in its first chunk, and good checksums.
fn of_version(bytes: &[u8], version: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let body_bytes = u32::from_le_bytes(*bytes[16..].first_chunk().unwrap()) as usize;
    bytes[32] = version;
    let body_crc = crc32fast::hash(&bytes[32..32 + body_bytes]);
    bytes[12..16].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32fast::hash(&bytes[8..32]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes
}

#[test]
fn a_backup_is_whole_or_not_there() {
    let lines = Lines::new(10);
    let server = Server::start(&[]);
    let address = server.address();
    let backup = lines.path("backup");
    fs::write(&backup, "mine").unwrap();
    refuses(&["backup", "--servers", address, text(&backup)], 1, "is there already");
    assert_eq!(fs::read(&backup).unwrap(), b"mine");
    let backup = lines.path("no/such/directory");
    refuses(&["backup", "--servers", address, text(&backup)], 1, "check the path");
    let backup = lines.path("other");
    let nobody = Place::free().client;
    refuses(&["backup", "--servers", &nobody, text(&backup)], 1, "no server gives its data");
    assert!(!backup.exists());
    // The first server that answers is enough.
    works(&["backup", "--servers", &format!("{nobody},{address}"), text(&backup)]);
}

/// A server that the backups reach through a proxy, which calls `before_read` whenever one is about
/// to read its snapshot.
fn behind_proxy(server: &Server, mut before_read: impl FnMut() + Send + 'static) -> String {
    const SNAPSHOT_READ: u8 = 0x17;
    const OPCODE_AT: usize = 12;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, server) = (listener.local_addr().unwrap(), server.address().to_owned());
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut to_server = TcpStream::connect(&server).unwrap();
            let (mut from_server, mut to_client) =
                (to_server.try_clone().unwrap(), client.try_clone().unwrap());
            let back = thread::spawn(move || io::copy(&mut from_server, &mut to_client));
            let (mut bytes, mut is_first) = (vec![0; 1 << 16], true);
            // A client that waits for each answer sends each request in a piece of its own.
            while let Ok(count @ 1..) = client.read(&mut bytes) {
                if is_first && count > OPCODE_AT && bytes[OPCODE_AT] == SNAPSHOT_READ {
                    before_read();
                    is_first = false;
                }
                to_server.write_all(&bytes[..count]).unwrap();
            }
            let _ = to_server.shutdown(Shutdown::Both);
            let _ = back.join();
        }
    });
    address.to_string()
}

#[test]
fn a_backup_whose_snapshot_is_replaced_begins_again() {
    let lines = Lines::new(10);
    let server = Server::start(&[]);
    let mut client = server.text();
    assert_eq!(client.ask("SET k v"), "OK");
    // Only the two newest are kept, and what goes has gone before the next one is written.
    let mut replace = move || {
        for n in 0..3 {
            assert_eq!(client.ask(&format!("SET k {n}")), "OK");
            assert!(client.ask("SNAPSHOT").starts_with("SNAPSHOT index="));
        }
    };
    let begins_again = "a newer snapshot has taken the place of this one, beginning again";
    let times = Arc::new(AtomicUsize::new(1));
    let left = Arc::clone(&times);
    let address = behind_proxy(&server, move || {
        if left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            replace();
        }
    });
    let backup = lines.path("backup");
    let output = run(&["backup", "--servers", &address, text(&backup)]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr).matches(begins_again).count(), 1);
    works(&["snapshot", "verify", text(&backup)]);

    times.store(usize::MAX, Relaxed);
    // The one that was read is kept open for the next reader.
    assert_eq!(server.text().ask("SET k newer"), "OK");
    let other = lines.path("other");
    let output = run(&["backup", "--servers", &address, text(&other)]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(stderr.matches(begins_again).count(), 4, "{stderr}");
    assert!(stderr.lines().last().unwrap().contains("newer snapshots have taken the place of 5"));
    assert!(!other.exists() && !lines.path("other.partial").exists());
}

/// A backup that was killed stands in nobody's way, one that goes on does.
#[test]
fn what_a_killed_backup_has_left_is_taken_over() {
    let lines = Lines::new(10);
    let server = Server::start(&[]);
    assert_eq!(server.text().ask("SET k v"), "OK");
    let (arrived, arrives) = channel();
    let (go, goes) = channel::<()>();
    let slow = behind_proxy(&server, move || {
        arrived.send(()).unwrap();
        let _ = goes.recv();
    });
    let backup = lines.path("backup");
    let mut first = kvorum()
        .args(["backup", "--servers", &slow, text(&backup), "--timeout-ms", "60000"])
        .spawn()
        .unwrap();
    arrives.recv().unwrap();
    let again = ["backup", "--servers", server.address(), text(&backup)];
    refuses(&again, 1, "backup.partial: another process writes it");
    first.kill().unwrap();
    first.wait().unwrap();
    drop(go);
    assert!(lines.path("backup.partial").exists());
    works(&again);
    assert!(!lines.path("backup.partial").exists());
}

#[test]
fn a_full_disk_leaves_no_half_a_backup() {
    let lines = Lines::new(10);
    let server = Server::start(&[]);
    let mut client = server.text();
    let value = "v".repeat(1 << 20);
    for n in 0..48 {
        assert_eq!(client.ask(&format!("SET k{n} {value}")), "OK");
    }
    let backup = lines.path("backup");
    works(&["backup", "--servers", server.address(), text(&backup)]);
    let disk = SmallDisk::new(40);
    let full = disk.path().join("backup");
    refuses(&["backup", "--servers", server.address(), text(&full)], 1, "free disk space");
    let full = disk.path().join("lines");
    refuses(&["export", "--from", text(&backup), text(&full)], 1, "free disk space");
    let full = disk.path().join("new/data");
    refuses(&["restore", text(&backup), "--data", text(&full)], 1, "free disk space");
    let left = fs::read_dir(disk.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.filter(|name| name != "lost+found").count(), 0);
}

#[test]
fn an_import_names_the_line_that_is_wrong() {
    let lines = Lines::new(10);
    let mut server = Server::start(&["--value-bytes-max", "1000"]);
    let address = server.address().to_owned();
    let file = lines.path("wrong.json");
    let import = ["import", "--servers", &address, text(&file)];
    refuses(&import, 1, "check the path");
    let good = r#"{"key":"a","value":"1"}"#;
    for (line, expected) in [
        ("nonsense", "wrong.json:2: it is no pair"),
        (r#"{"key":"b"}"#, "wrong.json:2: it is no pair"),
        (r#"{"key":"b","key":"c","value":"2"}"#, "it names its key twice at column"),
        (r#"{"key_base64":"?","value":"2"}"#, "key_base64 is no base64"),
    ] {
        fs::write(&file, format!("{good}\n{line}\n{good}\n")).unwrap();
        refuses(&import, 1, expected);
        refuses(&import, 1, "; 1 pairs before it are stored");
    }
    let long = format!(r#"{{"key":"long","value":"{}"}}"#, "v".repeat(2000));
    fs::write(&file, format!("{good}\n\n{long}\n")).unwrap();
    refuses(&import, 1, "TOO_LARGE");
    fs::write(&file, "").unwrap();
    assert_eq!(works(&import), "imported 0 pairs\n");
    refuses(&["import", "--servers", &address, text(lines.directory.path())], 1, "directory");
    // From a pipe, without a line end at the end.
    let mut child = kvorum()
        .args(["import", "--servers", &address, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary can be run");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(br#"{"key":"piped","value":"v"}"#).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"imported 1 pairs\n");
    assert_eq!(server.text().ask("GET piped"), "VALUE v");
    server.terminate();
    fs::write(&file, good).unwrap();
    refuses(&[&import[..], &["--timeout-ms", "200"]].concat(), 1, "0 pairs before it are stored");
}

/// Whoever reads a snapshot holds the server up with nothing, and does not lose it to a newer one.
#[test]
fn a_snapshot_stays_readable_while_newer_ones_come() {
    let lines = Lines::new(10);
    let server = Server::start(&[]);
    let mut client = server.text();
    let value = "v".repeat(1 << 20);
    for n in 0..20 {
        assert_eq!(client.ask(&format!("SET k{n} {value}")), "OK");
    }
    let backup = lines.path("backup");
    let mut child: std::process::Child = Command::new(kvorum().get_program())
        .args(["backup", "--servers", server.address(), text(&backup)])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while child.try_wait().unwrap().is_none() {
        assert_eq!(client.ask(&format!("SET k0 {value}")), "OK");
        assert!(client.ask("SNAPSHOT").starts_with("SNAPSHOT index="));
    }
    assert!(child.wait().unwrap().success());
    works(&["snapshot", "verify", text(&backup)]);
}
