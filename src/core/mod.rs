//! The pure core: what a node is, without sockets, files, clocks, threads or chance. The server
//! and the simulator drive the same [`Node`].
//!
//! # The path of a SET
//! 1. [`Node::write`] admits the command: an index in the open batch ([`log`]) and a place among
//!    the [`pending`] writes.
//! 2. [`Node::seal`] closes the batch, once a turn, into a record for the disk.
//! 3. [`Node::durable`] says that the record survives a power cut.
//! 4. [`Node::poll`] decides ([`raft`] says who may), executes the entries ([`apply`]) on the
//!    [`store`], and answers.
//!
//! # The path of a GET
//! [`Node::read`] answers from the store at once, or, behind an unfinished write of the same
//! connection, when exactly that write is applied.
//!
//! # The turn
//! The shell tells what has become durable and calls `tick` and `poll`, then `write` and `read` for
//! everything that came in, then `seal`, and does what the [`Output`] says each time. The core
//! never says what must still wait.

pub mod apply;
mod asks;
mod following;
mod foretell;
pub mod log;
mod lookup;
pub mod node;
pub mod output;
mod pending;
mod progress;
pub mod quorum;
pub mod raft;
pub mod recovery;
mod rounds;
#[cfg(feature = "seeded-bugs")]
pub mod seeded;
pub mod store;
pub mod terms;
pub mod time;
pub mod waits;
mod writes;

pub use node::{
    Asker, MemberProgress, Node, NodeConfig, NodeStatus, Options, ReadOutcome, TransferError,
    Violation, WriteOutcome,
};
pub use output::{Answer, Fetch, Output, Record, Refusal, Reply, ReplyTo};
pub use recovery::{Recovery, ReplayError};
pub use time::{Instant, Now};
pub use waits::Wait;
