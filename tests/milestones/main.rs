//! The six steps of the project as checks, each under the name of its step.

mod client;
mod elections;
mod log;
mod quorums;
mod replicas;
mod store;
#[path = "../support/mod.rs"]
mod support;
