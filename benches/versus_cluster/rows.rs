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
    /// Requests in flight. Of several, the one that is best in a first run each is measured.
    pub in_flight: &'static [u32],
}

const fn etcd(kind: &'static str, in_flight: &'static [u32]) -> Peer {
    Peer::Etcd(EtcdWork { kind, in_flight })
}

const BEST_PUT: Peer = etcd("put", &[1, 64, 256, 1000]);
const BEST_GET: Peer = etcd("get", &[64, 256, 1000]);

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
        &[(Peer::Redis, 2.0), (etcd("put", &[64]), 5.0)],
        None,
    ),
    row(
        "set-256x1",
        "quorum SET, 256 connections, no pipeline",
        Load::closed("set", 256, 1),
        &[(Peer::Redis, 2.0), (etcd("put", &[64]), 5.0)],
        None,
    ),
    row(
        "set-1x1",
        "quorum SET, one connection, no pipeline",
        Load::closed("set", 1, 1),
        &[(etcd("put", &[1]), 2.5)],
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
