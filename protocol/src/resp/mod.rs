//! RESP, the protocol of Redis, versions 2 and 3: the commands that `protocol/RESP.md` lists, from
//! bytes to [`Request`](crate::Request) and from [`Response`](crate::Response) to bytes. Pure: no
//! sockets, no clock.
//!
//! How a connection drives it, once it has unconsumed input:
//!
//! 1. [`Decoder::decode`] finds the next command and leaves its arguments in [`Args`].
//! 2. [`dispatch()`] says what it asks for.
//!    - [`Action::Request`]: hand the request to the node; when the response comes, print it with
//!      [`encode()`] in the order of the requests.
//!    - [`Action::Reply`]: the reply is written; it waits for the replies before it.
//!    - [`Action::Barrier`]: leave the command in the input and stop reading commands. When all
//!      earlier ones are answered, decode it again and call [`execute()`] with the node's
//!      [`Facts`].
//! 3. Drop the consumed bytes, and go on.
//!
//! So a connection needs a [`Decoder`] and a [`Session`]; `Args`, the scratch of `dispatch` and
//! the output of a turn can be shared by all connections. Replies have to be counted against the
//! connection's bound on output after each command: `COMMAND DOCS` answers 24 bytes with
//! kilobytes.
//!
//! Reading order: `decode` (with `args` and `inline`), `spec` and `table`, `dispatch`, `shape` and
//! `encode`; then `execute` with `session`, `facts`, `info`, `client` and `config`; `refusal` has
//! all error texts, `describe` prints the table.
//!
//! Caveats: no authentication, one database, no transactions, no expiry, no publish and subscribe.

mod args;
mod client;
mod config;
mod decode;
mod describe;
mod dispatch;
mod encode;
mod execute;
mod facts;
mod glob;
mod info;
mod inline;
mod refusal;
mod session;
mod shape;
mod spec;
mod table;

pub use args::{Args, Arguments};
pub use decode::{Decoded, Decoder, ProtocolError};
pub use dispatch::{Action, Wait, dispatch};
pub use encode::{Version, encode};
pub use execute::{After, execute};
pub use facts::{
    ClientFacts, ClientVisitor, ClusterFacts, Facts, Fsync, LeaderFacts, ReplicaFacts, Role,
    ServerFacts, SnapshotFacts, StatsFacts,
};
pub use session::Session;
pub use shape::Shape;
