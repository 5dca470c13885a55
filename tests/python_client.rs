//! A client that was written from the specification alone, `kvorum_client.py`, against a cluster
//! that loses its leader.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

use support::cluster::Cluster;

#[test]
fn a_python_client_written_from_the_specification_survives_a_leader() {
    let mut cluster = Cluster::start(3);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kvorum_client.py");
    let mut python = Command::new("python3")
        .args([script, &cluster.servers()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("python3: {error}; install Python 3"));
    let mut lines = BufReader::new(python.stdout.take().expect("it is piped"));
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    if line == "half\n" {
        let leader = cluster.leader();
        cluster.kill(leader);
        // It waits for this with half of its work before it.
        python.stdin.take().expect("it is piped").write_all(b"killed\n").unwrap();
    }
    let mut said = String::new();
    python.stderr.take().expect("it is piped").read_to_string(&mut said).unwrap();
    let status = python.wait().unwrap();
    assert!(status.success(), "{said}");
    assert_eq!(line, "half\n");
}
