//! The pure core: what a node is, without sockets, files, clocks, threads or chance. The server
//! and the simulator drive the same [`Node`].
//!
//! # The path of a SET
//! 1. [`Node::write`] admits the command: an index in the open batch ([`log`]) and a place among
//!    the waiting `writes`.
//! 2. [`Node::seal`] closes the batch, once a turn, into a record for the disk, and sends the same
//!    bytes to the other members (`node/leading.rs`, `progress`).
//! 3. There [`Node::receive`] appends it to the log (`node/following.rs`), and acknowledges it
//!    when it is durable.
//! 4. [`Node::durable`] says that the record survives a power cut here.
//! 5. [`Node::poll`] decides by the durable marks of a majority ([`quorum`]), executes the entries
//!    ([`apply`]) on the [`state`], and answers. The [`store`] holds the keys; a write that was
//!    sent twice is found in the [`sessions`] and answered without being applied again.
//!
//! # The path of a GET
//! [`Node::read`] answers from the store at once if this node is alone, or R = 1. The leader of
//! others takes the answer at once too, and holds it back until a round of heartbeats has shown
//! that it still leads (`rounds`). A node that does not lead asks for the index to wait for
//! (`asks`, `pending`).
//!
//! # Snapshots
//! The state of one index goes to the disk while later entries change it: [`snapshot`] says what
//! was cut, and [`store::Store::walk`] hands out the keys as they were then, a slice at a time.
//!
//! # Elections
//! `node/election.rs` stands, votes and gives up office; [`raft`] holds term, vote and role.
//!
//! # Equal states
//! `node/audit.rs` compares the hash of the state ([`digest`]) with that of the other members
//! ([`audit`]).
//!
//! # Members
//! `node/membership.rs` changes them; `membership` holds the list in force: the last in the log.
//!
//! # The turn
//! The shell tells what has become durable and what other members say, calls `tick` and `poll`,
//! then `write` and `read` for everything that came in, then `poll` again in a cluster and `seal`,
//! and does what the [`Output`] says each time. The core never says what must still wait.

pub mod apply;
mod asks;
pub mod audit;
pub mod digest;
mod following;
mod foretell;
pub mod log;
mod lookup;
mod membership;
pub mod node;
pub mod outcome;
pub mod output;
mod pending;
mod progress;
pub mod quorum;
pub mod raft;
pub mod recovery;
mod room;
mod rounds;
#[cfg(feature = "seeded-bugs")]
pub mod seeded;
pub mod sessions;
pub mod snapshot;
pub mod state;
pub mod store;
pub mod terms;
pub mod time;
pub mod waits;
mod writes;

pub use audit::Disagreement;
pub use node::{
    Asker, ChangeRefusal, MemberProgress, Node, NodeConfig, NodeStatus, Options, ReadOutcome,
    TransferError, Violation, WriteOutcome,
};
pub use output::{
    Answer, Fetch, Output, Record, Refusal, Reply, ReplyTo, SnapshotFetch, SnapshotPart,
};
pub use recovery::{Recovery, ReplayError};
pub use room::NextSegment;
pub use sessions::SessionBounds;
pub use snapshot::SnapshotHead;
pub use time::{Instant, Now};
pub use waits::Wait;
