//! What is compared, and what is to be reached.

use crate::support::generators::Load;

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// For choosing it on the command line.
    pub name: &'static str,
    /// What is compared.
    pub title: &'static str,
    /// How it is measured.
    pub work: Work,
}

/// Ways of measuring.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// Requests to the leader.
    Throughput {
        /// kvorum's load, and that of Redis.
        load: Load,
        /// At least so many times the throughput of each of these.
        against: &'static [(Peer, f64)],
        /// The median latency of kvorum is to be below this.
        p50_us: Option<f64>,
    },
    /// r=1 reads from three nodes, against the same from one.
    Spread {
        /// Over all nodes.
        load: Load,
        /// At most so many times the CPU time per request: what counts as the same.
        at_most: f64,
    },
    /// From `kill -9` of the leader to the next acknowledged write.
    Failover {
        /// So many times faster than etcd, in the median.
        at_least: f64,
        /// The median of kvorum is to be below this.
        p50_ms: f64,
    },
}

/// Somebody to compare with.
#[derive(Clone, Copy, Debug)]
pub enum Peer {
    /// A primary and two replicas, each with `appendfsync always`; one `WAIT 1` for each window.
    Redis,
    /// Three nodes.
    Etcd(EtcdWork),
}

/// Requests to the leader of etcd, which knows no pipelines.
#[derive(Clone, Copy, Debug)]
pub struct EtcdWork {
    /// `put` or `get`.
    pub kind: &'static str,
    /// Of several, the one that is best in a first run each is measured.
    pub shapes: &'static [Shape],
}

/// How requests come.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Requests in flight, over all connections.
    pub in_flight: u32,
    /// HTTP/2 connections.
    pub connections: u32,
}

const fn shape(in_flight: u32, connections: u32) -> Shape {
    Shape { in_flight, connections }
}

const fn etcd(kind: &'static str, shapes: &'static [Shape]) -> Peer {
    Peer::Etcd(EtcdWork { kind, shapes })
}

const BEST_PUT: Peer =
    etcd("put", &[shape(1, 1), shape(64, 8), shape(256, 8), shape(1000, 8), shape(1000, 50)]);
const BEST_GET: Peer = etcd("get", &[shape(64, 8), shape(256, 8), shape(256, 50), shape(1000, 50)]);
const PUT_64: Peer = etcd("put", &[shape(64, 4), shape(64, 8), shape(64, 64)]);
const PUT_ONE: Peer = etcd("put", &[shape(1, 1)]);

const fn row(
    name: &'static str,
    title: &'static str,
    load: Load,
    against: &'static [(Peer, f64)],
    p50_us: Option<f64>,
) -> Row {
    Row { name, title, work: Work::Throughput { load, against, p50_us } }
}

/// In the order in which they are measured.
pub const ROWS: [Row; 8] = [
    row(
        "set-50x16",
        "quorum SET, 50 connections, pipeline 16",
        Load::closed("set", 50, 16),
        &[(Peer::Redis, 3.2), (BEST_PUT, 25.0)],
        None,
    ),
    row(
        "set-50x64",
        "quorum SET, 50 connections, pipeline 64",
        Load::closed("set", 50, 64),
        &[(Peer::Redis, 5.5), (BEST_PUT, 50.0)],
        None,
    ),
    row(
        "set-50x1",
        "quorum SET, 50 connections, no pipeline",
        Load::closed("set", 50, 1),
        &[(Peer::Redis, 2.0), (PUT_64, 5.0)],
        None,
    ),
    row(
        "set-256x1",
        "quorum SET, 256 connections, no pipeline",
        Load::closed("set", 256, 1),
        &[(Peer::Redis, 2.0), (PUT_64, 5.0)],
        None,
    ),
    row(
        "set-1x1",
        "quorum SET, one connection, no pipeline",
        Load::closed("set", 1, 1),
        &[(PUT_ONE, 2.5)],
        Some(350.0),
    ),
    row(
        "get-50x16",
        "linearizable GET at the leader, 50 connections, pipeline 16",
        Load::closed("get", 50, 16),
        &[(BEST_GET, 30.0)],
        None,
    ),
    Row {
        name: "get-spread",
        title: "r=1 GET, 50 connections, pipeline 16, three nodes against one",
        work: Work::Spread { load: Load::closed("get", 50, 16), at_most: 1.1 },
    },
    Row {
        name: "failover",
        title: "kill -9 of the leader to the next acknowledged write",
        work: Work::Failover { at_least: 10.0, p50_ms: 100.0 },
    },
];
