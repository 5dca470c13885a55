//! What the nodes of a cluster say to each other.
//!
//! [`Message`] is the vocabulary, in the words of the Raft paper where it has them.

mod message;

pub use message::{Append, Lane, Message};
