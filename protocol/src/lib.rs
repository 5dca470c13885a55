//! The vocabulary of kvorum: what travels between a client, a node and its peers, and what stands
//! in the log, as pure functions over bytes. No I/O, no clock, no global state.
//!
//! Reading order: [`types`] and [`limits`]; [`command`], [`membership`] and [`batch`], the log;
//! [`request`] and [`response`], what a client asks and is told; then the three protocols, each two
//! pure functions to and from the same request and response: [`binary`], [`text`], `resp`.

pub mod batch;
pub mod binary;
pub mod command;
pub mod error;
pub mod limits;
pub mod members_line;
pub mod membership;
pub mod peer;
pub mod request;
pub mod resp;
pub mod response;
pub mod text;
pub mod types;

pub use batch::{Batch, BatchBuilder, BatchHeader};
pub use command::{Command, KeyList, Op, PairList, SessionSequence};
pub use error::{DecodeError, ErrorCode};
pub use limits::Limits;
pub use members_line::MembersLine;
pub use membership::{Change, ChangeError, Member, MemberList, MembershipError, Role};
pub use request::{Read, Request, SnapshotRead};
pub use response::{Copies, Response, ValueList, ValueListBuilder};
pub use types::{ClusterId, LogIndex, LogTimeMs, Lsn, NodeId, Quorum, Term};
