//! `kvorum bench` on a cluster whose leader is killed meanwhile.

mod support;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;
use support::cluster::Cluster;
use support::server::kvorum;
use support::tool;

/// How many of `kind` there were in each interval.
fn counts(timeline: &Value, kind: &str) -> Vec<u64> {
    let points = timeline["points"].as_array().expect("points");
    points.iter().map(|point| point[kind].as_u64().expect("a count")).collect()
}

#[test]
fn a_failover_is_a_gap_in_the_timeline_and_not_the_end() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let directory = tempfile::tempdir().unwrap();
    let picture = directory.path().join("failover.svg");
    let picture = picture.to_str().unwrap();
    let load = "--follow --spread-reads --read-quorum 1 --connections 6 --get 1 --set 1 \
                --key-space 1000 --seconds 6 --warmup-seconds 0 --timeline 20 --json";
    let mut child = kvorum()
        .args(["bench", "--servers", &cluster.servers(), "--svg", picture])
        .args(load.split_ascii_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A line of progress each second.
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    for _ in 0..2 {
        progress.next().expect("it runs for longer").unwrap();
    }
    cluster.kill(leader);
    let rest: Vec<String> = progress.map(Result::unwrap).collect();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{rest:?}");

    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let timeline = &report["timeline"];
    let writes = counts(timeline, "writes");
    let first = writes.iter().position(|count| *count > 0).expect("writes before");
    let gap = first + writes[first..].iter().position(|count| *count == 0).expect("a gap");
    let recovered = writes[gap..].iter().any(|count| *count > 0);
    assert!(recovered, "writes never came back: {writes:?}");
    // The six connections lost what they had in flight, and the cluster has another leader.
    assert!(report["errors"].as_u64() > Some(0), "{report}");
    assert!(report["open"].as_u64() <= report["errors"].as_u64(), "{report}");
    let marks = timeline["marks"].as_array().expect("marks");
    let words = marks.last().expect("a new leader")["words"].as_str().unwrap();
    assert!(words.contains(" leads in term ") && !words.contains(cluster.address(leader)));

    // Reads of local state went on at the other two.
    let reads = counts(timeline, "reads");
    let beside = reads[gap..gap + 2].iter().sum::<u64>();
    assert!(beside > 0, "nobody read in the gap: {reads:?}, {writes:?}");
    let well_formed = "import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])";
    tool("python3", &["-c", well_formed, picture]);
}

#[test]
fn a_person_sees_the_timeline_in_lines() {
    let cluster = Cluster::start(1);
    let load = "--follow --connections 2 --key-space 100 --seconds 0.3 --warmup-seconds 0 \
                --timeline 100 --quiet --preload";
    let output = kvorum()
        .args(["bench", "--servers", &cluster.servers()])
        .args(load.split_ascii_whitespace())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (_, lines) = text.split_once("  time s ").expect("a timeline");
    let times: Vec<&str> = lines.lines().skip(1).map(|line| line.trim_start()).collect();
    assert!(times.len() >= 3, "{text}");
    for (line, time) in times.iter().zip(["0.000 ", "0.100 ", "0.200 "]) {
        assert!(line.starts_with(time), "{text}");
    }
}
