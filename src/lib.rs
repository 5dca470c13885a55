//! kvorum: a replicated key-value server. Durable before acknowledged, linearizable by default.

pub mod core;
pub mod disk;
pub mod wal;
