//! A member whose log is damaged, with real processes: it is told to give up what is bad, the
//! cluster fills it again, and nothing that was acknowledged is lost meanwhile.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use support::cluster::Cluster;
use support::server::{Server, kvorum};
use support::until;

const BLOCK_BYTES: usize = 4096;

fn segments(data: &Path) -> Vec<PathBuf> {
    let names = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "log");
    let mut found: Vec<PathBuf> = names.filter(is_segment).collect();
    found.sort();
    found
}

/// Flips a bit of a block, which is not the last one that holds a record.
fn damage(path: &Path, block: usize) {
    let mut bytes = fs::read(path).unwrap();
    let used = bytes.chunks(BLOCK_BYTES).rposition(|block| block.starts_with(b"KVR1"));
    let used = used.expect("there are records");
    assert!(block < used, "{block} of {used}");
    bytes[block * BLOCK_BYTES + 20] ^= 4;
    fs::write(path, bytes).unwrap();
}

/// Runs `kvorum repair`: its exit code, and what it says.
fn repair(data: &Path) -> (Option<i32>, String) {
    let output = kvorum().arg("repair").arg("--data").arg(data).output().unwrap();
    let words = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(words).unwrap())
}

fn write_keys(cluster: &Cluster, id: usize, from: usize, to: usize) {
    let mut text = cluster.text(id);
    for key in from..to {
        assert_eq!(text.ask(&format!("SET k{key} {key}")), "OK");
    }
}

fn assert_has_keys(cluster: &Cluster, id: usize, count: usize) {
    let mut text = cluster.text(id);
    for key in 0..count {
        assert_eq!(text.ask(&format!("GET k{key}")), format!("VALUE {key}"));
    }
}

#[test]
fn a_damaged_follower_gives_up_what_is_bad_and_is_filled_again() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let hurt = cluster.followers()[0];
    write_keys(&cluster, leader, 0, 100);
    cluster.wait_until_applied(&[1, 2, 3]);
    for (round, by_flag) in [(1, false), (2, true)] {
        cluster.kill(hurt);
        write_keys(&cluster, leader, 100 * round, 100 * round + 100);
        let data = cluster.data(hurt);
        damage(&segments(&data)[0], 30);
        let refused = cluster.start_in_vain(hurt);
        assert_eq!(refused.code, Some(1));
        assert!(refused.last_words().contains("is corrupt at offset 122880"), "{refused:?}");
        assert!(refused.last_words().contains("kvorum repair"), "{refused:?}");
        if by_flag {
            cluster.start_node_with(hurt, &["--repair-from-peers"]);
        } else {
            let (code, words) = repair(&data);
            assert_eq!(code, Some(0), "{words}");
            assert!(words.contains("is corrupt at offset 122880"), "{words}");
            assert!(words.contains(": repaired: the log ends with index"), "{words}");
            assert!(words.contains("start it as before"), "{words}");
            let (code, words) = repair(&data);
            assert_eq!(
                (code, words),
                (Some(0), format!("{}: nothing to repair\n", data.display()))
            );
            cluster.start_node(hurt);
        }
        cluster.wait_until_applied(&[1, 2, 3]);
        assert_has_keys(&cluster, hurt, 100 * round + 100);
    }
    // It is a member like every other: the third may go now.
    let other = (1..=3).find(|id| ![leader, hurt].contains(id)).unwrap();
    cluster.kill(other);
    write_keys(&cluster, cluster.leader_of(&[leader, hurt]), 300, 310);
}

/// One of two holders of an acknowledged write loses it, and the other is away: those who are left
/// are a majority, and must not form one without it.
#[test]
fn what_a_damaged_node_has_acknowledged_is_not_lost() {
    let mut cluster = Cluster::start_with(3, 0, &["--quorum-timeout-ms", "1000"]);
    let leader = cluster.leader();
    let [hurt, behind] = cluster.followers()[..] else { panic!("three nodes") };
    write_keys(&cluster, leader, 0, 50);
    cluster.wait_until_applied(&[1, 2, 3]);
    cluster.kill(behind);
    write_keys(&cluster, leader, 50, 60);
    cluster.wait_until_applied(&[leader, hurt]);
    cluster.kill(hurt);
    cluster.kill(leader);
    // It keeps less than the one has that was away, which could win an election among the two.
    let data = cluster.data(hurt);
    damage(&segments(&data)[0], 30);
    let (code, words) = repair(&data);
    assert_eq!(code, Some(0), "{words}");
    cluster.start_node(hurt);
    cluster.start_node(behind);
    // Long enough for many elections.
    let patience = Instant::now() + Duration::from_secs(4);
    while Instant::now() < patience {
        for id in [hurt, behind] {
            assert_ne!(cluster.node(id).status("role"), "leader", "node {id} lacks what was said");
        }
        let answer = cluster.text(behind).ask("SET k0 forked");
        assert!(answer.starts_with("ERROR "), "{answer}");
    }
    cluster.start_node(leader);
    cluster.wait_until_applied(&[1, 2, 3]);
    for id in 1..=3 {
        assert_has_keys(&cluster, id, 60);
    }
}

#[test]
fn a_snapshot_that_the_log_begins_behind_is_damaged_and_a_peer_has_another() {
    let mut cluster = Cluster::start_with(3, 0, &["--snapshot-log-bytes-min", "1mb"]);
    let leader = cluster.leader();
    let hurt = cluster.followers()[0];
    let servers = cluster.servers();
    let load = ["--follow", "-c", "4", "-p", "32", "--key-space", "500", "--requests", "200000"];
    let mut bench = kvorum();
    bench.args(["bench", "--servers", &servers, "--set", "1", "--get", "0"]).args(load);
    assert!(bench.output().unwrap().status.success());
    cluster.node(hurt).wait_for_status("log_from", |from| from > 1000);
    write_keys(&cluster, leader, 0, 20);
    cluster.wait_until_applied(&[1, 2, 3]);
    cluster.kill(hurt);
    let data = cluster.data(hurt);
    let names = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let is_snapshot = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "kv");
    for path in names.filter(is_snapshot) {
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let refused = cluster.start_in_vain(hurt);
    assert!(refused.last_words().contains("is corrupt at offset"), "{refused:?}");
    cluster.start_node_with(hurt, &["--repair-from-peers"]);
    cluster.wait_until_applied(&[1, 2, 3]);
    assert_has_keys(&cluster, hurt, 20);
    cluster.kill(hurt);
    cluster.start_node(hurt);
    cluster.wait_until_applied(&[1, 2, 3]);
}

#[test]
fn what_can_not_be_repaired_is_left_as_it_is() {
    let image = |data: &Path| -> Vec<(PathBuf, Vec<u8>)> {
        let mut names: Vec<_> =
            fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
    };
    // Alone: nobody has what is lost.
    let mut server = Server::start(&[]);
    let (code, words) = repair(server.data());
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("is in use by another process"), "{words}");
    for key in 0..20 {
        assert_eq!(server.text().ask(&format!("SET k{key} v")), "OK");
    }
    server.kill();
    damage(&segments(server.data())[0], 10);
    let before = image(server.data());
    let (code, words) = repair(server.data());
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("names no other voter"), "{words}");
    let refused = Server::try_start(server.data(), &["--repair-from-peers"]).err().unwrap();
    assert!(refused.last_words().contains("names no other voter"), "{refused:?}");
    assert_eq!(image(server.data()), before);
    // The end itself is damaged: what the node has promised last can not be told.
    let mut cluster = Cluster::start(3);
    let hurt = cluster.followers()[0];
    write_keys(&cluster, cluster.leader(), 0, 20);
    cluster.wait_until_applied(&[1, 2, 3]);
    until("a mark is set", || {
        let bytes = fs::read(&segments(&cluster.data(hurt))[0]).unwrap();
        let last = bytes.chunks(BLOCK_BYTES).rfind(|block| block.starts_with(b"KVR1"))?;
        (last[20] == 6).then_some(())
    });
    cluster.kill(hurt);
    let data = cluster.data(hurt);
    let path = &segments(&data)[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[16] ^= 1;
    fs::write(path, bytes).unwrap();
    let before = image(&data);
    let (code, words) = repair(&data);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("nothing behind that tells how the node has voted"), "{words}");
    assert!(words.contains("kvorum member remove"), "{words}");
    assert_eq!(image(&data), before);
    // Nothing is made where no node ever was.
    let nowhere = data.join("nowhere");
    let (code, words) = repair(&nowhere);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("nowhere: it is not the data directory of a node"), "{words}");
    assert!(!nowhere.exists());
}
