//! What the nodes of a cluster say to each other. The normative text is `PEER.md`, beside this
//! file; this module is its reference implementation.
//!
//! - [`Message`] is the vocabulary, in the words of the Raft paper where it has them;
//! - [`wire`] turns messages into frames and back, [`frame`] tells where a frame ends;
//! - [`handshake`] is what happens on a connection before the first message.

pub mod frame;
pub mod handshake;
mod introduction;
mod message;
mod refusal;
mod secret;
mod trace;
pub mod wire;

pub use introduction::Introduction;
pub use message::{Append, Lane, Message, SnapshotChunk};
pub use refusal::{Reason, Refusal};
pub use secret::{SECRET_BYTES_MIN, Secret};
pub use trace::Trace;

/// The version of what peers say that this crate reads and writes.
pub const VERSION: u16 = 3;
