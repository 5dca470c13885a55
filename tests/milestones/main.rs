//! The six steps of the project as checks, each under the name of its step. Step 6 follows with the
//! client that finds its way by itself.

mod elections;
mod log;
mod quorums;
mod replicas;
mod store;
#[path = "../support/mod.rs"]
mod support;
