//! The client library: how a program talks to a kvorum cluster. Synchronous, for any number of
//! threads, without threads of its own.
//!
//! ```no_run
//! use std::time::Duration;
//! use kvorum::client::{CallOptions, Client, ErrorKind, Options, Quorum, ReadFrom};
//!
//! # fn main() -> Result<(), kvorum::client::Error> {
//! // Some servers of the cluster; the client learns the others, and who leads.
//! let client = Client::connect(["10.0.0.1:6379", "10.0.0.2:6379"], Options::default())?;
//!
//! let version = client.set("user:17", "Ada")?;
//! if let Some(user) = client.get("user:17")? {
//!     println!("{} since {}", String::from_utf8_lossy(&user.value), user.version);
//! }
//! client.set_many(&[("a", "1"), ("b", "2")])?;
//! assert_eq!(client.delete_many(&["a", "b", "c"])?.count, 2);
//!
//! // A read that any replica may answer from what it has, but not from before our own write.
//! let nearby = CallOptions {
//!     read_from: Some(ReadFrom::Nearest),
//!     read_quorum: Some(Quorum::Count(1)),
//!     min_version: version,
//!     timeout: Some(Duration::from_millis(300)),
//!     ..CallOptions::default()
//! };
//! let user = client.with(nearby).get("user:17")?;
//!
//! // What a program can do about an error depends on its kind alone.
//! if let Err(error) = client.set("user:17", "Grace") {
//!     match error.kind() {
//!         ErrorKind::NotApplied => println!("later, perhaps: {error}"),
//!         ErrorKind::OutcomeUnknown => println!("read it to know: {error}"),
//!         ErrorKind::WrongUsage => println!("never like this: {error}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What is promised
//!
//! - **A call ends in time.** [`Options::timeout`] is for the whole call, with all its retries.
//!   Only name resolution, which is the system's, knows no deadline.
//! - **A failure of a server is latency, not an error**, as long as the cluster recovers before the
//!   call's timeout. Reads go to another server; writes go to the leader, whoever that is by then.
//! - **A write happens once.** Writes are numbered in a session that the cluster remembers
//!   ([`Options::exactly_once`]): when an answer was lost the write is sent again under the same
//!   number, and the cluster answers what it did the first time, also after a change of leaders or
//!   a restart. A session that the cluster has forgotten (after an hour without a write; or
//!   earlier, when there are so many sessions that the one longest without use has to go) is
//!   replaced without a word; if a write's outcome was open at that time, its call fails with
//!   [`Cause::SessionExpired`] and is not executed a second time. CAVEAT: a write in a session
//!   waits for a majority, even if its W is less.
//! - **An error says what is true.** [`ErrorKind::NotApplied`] is a promise; when it can not be
//!   made, it is [`ErrorKind::OutcomeUnknown`].
//! - **Reads are as fresh as R says**, from whatever server they come: linearizable by default; see
//!   the README on W and R. With R = 1 they may be stale, but not older than
//!   [`CallOptions::min_version`].
//! - **Connections are few.** Threads share them ([`pool`]), at most
//!   [`Options::connections_max`] to each server.
//!
//! # Inside, from below
//!
//! [`route`] decides, and is pure; [`pool`] holds the connections to one server; `cluster` leads a
//! call from the one through the other; `session` numbers the writes; [`Calls`] is what a program
//! sees.

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
pub use kvorum_protocol::{
    Change, LogIndex, Member, MemberList, MembersLine, NodeId, Quorum, Role,
};
pub use options::{CallOptions, Options};
pub use pipeline::{Outcome, Pipeline, PipelineOptions, Ticket};
pub use reply::Reply;
pub use route::ReadFrom;
