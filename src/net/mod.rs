//! The server: sockets, the turn, and the thread that writes the log.
//!
//! Read `reactor` first: the server is its `turn`. A `connection` owns a socket and its
//! buffers and hands requests to its protocol (`binary`, `text`, `resp`), which asks the
//! core through a `session`; the `log_thread` makes the records of a turn durable, and the
//! `log_reader` reads old ones back for members that lag. `snapshots` decides when the state is
//! written as a whole, which the `snapshot_thread` does; `snapshot_reads` hands it to clients.

mod binary;
mod clock;
mod connection;
mod data;
mod facts;
mod join;
mod listener;
mod log_queue;
mod log_reader;
mod log_thread;
mod members;
mod outbox;
mod outvoted;
mod peer;
mod reactor;
mod repair;
mod resp;
mod serve;
mod server;
mod session;
mod signals;
mod slots;
mod snapshot_reads;
mod snapshot_thread;
mod snapshots;
mod status;
mod text;

pub use join::AskMembers;
pub use log_reader::{Fetched, LogReader};
pub use repair::{Repaired, repair};
pub use serve::{ServeError, serve};
