//! How a program talks to kvorum, over blocking sockets of the standard library.

mod connection;
mod error;
mod failure;
mod options;
mod reply;
pub mod route;

pub use connection::{Connection, ConnectionError, Reason, RequestId};
pub use error::{Cause, Error, ErrorKind};
pub use failure::Failure;
pub use kvorum_protocol::{LogIndex, NodeId, Quorum};
pub use options::{CallOptions, Options};
pub use reply::Reply;
pub use route::ReadFrom;
