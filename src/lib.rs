//! kvorum: a replicated key-value server.

pub mod bench;
