//! The kvorum server and its tools: durable before acknowledged, linearizable by default.

pub mod bench;
pub mod cli;
pub mod client;
pub mod config;
pub mod core;
pub mod disk;
pub mod net;
pub mod snapshot;
pub mod wal;
