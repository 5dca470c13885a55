//! The other members of the cluster: sockets, handshakes, and messages on their way.
//!
//! Read [`peers`] first: it is what the reactor's turn calls. Each other member has a [`route`]:
//! the two connections that this node dials, on which it sends, and the two that it has accepted,
//! on which it receives. A [`link`] is one connection of either sort, with its `inbox` and
//! `outbox`. What is said on it stands in `protocol/src/peer/PEER.md`.

mod inbox;
mod known;
mod known_file;
mod link;
mod meeting;
mod outbox;
mod peers;
mod resolve;
mod roster;
mod route;
mod said;
mod secret_file;
mod socket;

pub use known_file::{KnownError, load as load_known};
pub use peers::{Peers, PeersConfig, descriptors, is_peer};
pub use secret_file::{SecretError, read_secret};
