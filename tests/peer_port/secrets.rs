//! The cluster secret.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::cluster::Cluster;
use crate::{assert_works, lines};

fn secret_file(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, format!("{name}, long enough to be a secret\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Two of three nodes have the secret; the third is started with `flags`.
fn third_node(flags: &[&str], expected: &str) {
    let temporary = tempfile::tempdir().unwrap();
    let secret = secret_file(temporary.path(), "right");
    let with = ["--cluster-secret-file", secret.to_str().unwrap()];
    let mut cluster = Cluster::prepare(3, 0, &[]);
    cluster.start_node_with(1, &with);
    cluster.start_node_with(2, &with);
    cluster.leader_of(&[1, 2]);
    let wrong = secret_file(temporary.path(), "wrong");
    let flags: Vec<&str> = flags
        .iter()
        .map(|flag| if *flag == "WRONG" { wrong.to_str().unwrap() } else { flag })
        .collect();
    cluster.start_node_with(3, &flags);
    // It knows of no leader, though there is one and both call each other all the time.
    let leader = cluster.leader_of(&[1, 2]);
    let mut client = cluster.text(leader);
    for _ in 0..50 {
        assert_eq!(client.ask("SET k v"), "OK");
        assert_eq!(cluster.node(3).status("leader"), "none");
    }
    let third = cluster.terminate(3);
    assert!(!lines(&third, expected).is_empty(), "{}", third.stderr);
    let first = cluster.terminate(1);
    assert!(!lines(&first, expected).is_empty(), "{}", first.stderr);
    assert!(lines(&first, expected).len() <= 3, "{}", first.stderr);
}

#[test]
fn a_node_with_another_secret_stays_outside() {
    third_node(&["--cluster-secret-file", "WRONG"], "have different cluster secrets");
}

#[test]
fn a_node_without_the_secret_stays_outside() {
    third_node(&[], "has a cluster secret and node 3 has none");
}

#[test]
fn nodes_with_the_same_secret_form_a_cluster() {
    let temporary = tempfile::tempdir().unwrap();
    let secret = secret_file(temporary.path(), "right");
    let flags = ["--cluster-secret-file", secret.to_str().unwrap()];
    let mut cluster = Cluster::start_with(3, 0, &flags);
    assert_works(&cluster);
    let exit = cluster.terminate(1);
    assert_eq!(exit.code, Some(0));
    assert_eq!(lines(&exit, "is connected").len(), 2, "{}", exit.stderr);
    assert_eq!(lines(&exit, "secret").len(), 0, "{}", exit.stderr);
}
