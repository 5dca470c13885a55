//! What is compared, and what is to be reached.

use crate::servers::Durability;
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
    /// What Redis does about the disk. kvorum syncs before every reply in all rows.
    pub redis: Durability,
    /// Whether server and generator have a core each. Never for work with a disk, whose own work
    /// would have to share one of them.
    pub is_pinned: bool,
    /// At least so many times the throughput of Redis; or, for [`Work::GetBesideSet`], at most so
    /// many times kvorum's own latency without the writes.
    pub target: f64,
}

/// Ways of measuring.
#[derive(Clone, Copy, Debug)]
pub enum Work {
    /// `kvorum bench`: binary with kvorum, RESP with Redis.
    Throughput(Load),
    /// `redis-benchmark -t get` with both, and this pipeline.
    RedisBenchmark(u32),
    /// The latency of GETs at a fixed rate, alone and while 50 other connections store values.
    GetBesideSet,
}

/// GETs at a rate that leaves the server idle most of the time.
pub const FOREGROUND: Load = Load { rate: Some(5_000), ..Load::closed("get", 10, 8) };

/// As many durable SETs as 50 connections bring about.
pub const BACKGROUND: Load = Load { is_endless: true, ..Load::closed("set", 50, 1) };

const fn load(kind: &'static str, connections: u32, pipeline: u32) -> Work {
    Work::Throughput(Load::closed(kind, connections, pipeline))
}

const fn get(name: &'static str, title: &'static str, work: Work, target: f64) -> Row {
    Row { name, title, work, redis: Durability::None, is_pinned: true, target }
}

const fn set(name: &'static str, title: &'static str, work: Work, target: f64) -> Row {
    Row { name, title, work, redis: Durability::Always, is_pinned: false, target }
}

/// The table of the README, in its order: keys of 16 B over 1 M, values of 100 B, 50 connections
/// unless said.
pub const ROWS: [Row; 12] = [
    get("get-p1", "GET, pipeline 1", load("get", 50, 1), 1.15),
    get("get-p16", "GET, pipeline 16", load("get", 50, 16), 2.7),
    get("get-p64", "GET, pipeline 64", load("get", 50, 64), 5.0),
    get("resp-get-p16", "GET by redis-benchmark, 16", Work::RedisBenchmark(16), 1.3),
    get("resp-get-p64", "GET by redis-benchmark, 64", Work::RedisBenchmark(64), 1.5),
    set("set-p1", "durable SET, pipeline 1", load("set", 50, 1), 1.3),
    set("set-p16", "durable SET, pipeline 16", load("set", 50, 16), 2.8),
    set("set-p64", "durable SET, pipeline 64", load("set", 50, 64), 5.0),
    set("set-one", "durable SET, one connection", load("set", 1, 1), 1.0),
    Row {
        redis: Durability::None,
        ..set("set-p16-volatile", "the same, 16, Redis volatile", load("set", 50, 16), 1.0)
    },
    Row {
        redis: Durability::None,
        ..set("set-p64-volatile", "the same, 64, Redis volatile", load("set", 50, 64), 1.0)
    },
    set("get-beside-set", "GET p99 beside durable SETs", Work::GetBesideSet, 2.0),
];
