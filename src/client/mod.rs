//! How a program talks to kvorum, over blocking sockets of the standard library.

mod calls;
mod check;
#[expect(clippy::module_inception, reason = "it is the handle itself")]
mod client;
mod cluster;
mod connection;
mod error;
mod failure;
mod options;
pub mod pipeline;
pub mod pool;
mod reply;
pub mod route;
mod session;

pub use calls::{Calls, Deleted, Versioned};
pub use client::Client;
pub use connection::{Connection, ConnectionError, Reason, RequestId};
pub use error::{Cause, Error, ErrorKind};
pub use failure::Failure;
pub use kvorum_protocol::{LogIndex, Member, MemberList, MembersLine, NodeId, Quorum, Role};
pub use options::{CallOptions, Options};
pub use pipeline::{Outcome, Pipeline, PipelineOptions, Ticket};
pub use reply::Reply;
pub use route::ReadFrom;
