//! An answer that outlives the buffer that it was read from.

use kvorum_protocol::{ErrorCode, LogIndex, Response};

use super::route::Heard;

/// What [`Response`] says, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request needed no more words.
    Ok,
    /// A write was applied.
    Written {
        /// The index of the entry.
        version: LogIndex,
    },
    /// A delete was applied.
    Deleted {
        /// The index of the entry.
        version: LogIndex,
        /// How many of the keys existed.
        count: u32,
    },
    /// The value of a key.
    Value {
        /// The index of the entry that last changed the key.
        version: LogIndex,
        /// The value.
        value: Vec<u8>,
    },
    /// The key is absent.
    NotFound,
    /// The values of several keys in their order, each with its version; `None` when absent.
    Values(Vec<Option<(LogIndex, Vec<u8>)>>),
    /// How many keys exist, how long a value is, or which is the last entry that a snapshot covers.
    Number(u64),
    /// The leader's client address, or that none is known.
    Leader(Option<String>),
    /// The node's state in one line of `name=value` pairs.
    Status(String),
    /// Who is in the cluster: a [`kvorum_protocol::MembersLine`].
    Members(String),
    /// A part of a snapshot file.
    SnapshotPart {
        /// The last entry that the snapshot covers.
        index: LogIndex,
        /// Length of the whole file.
        total_bytes: u64,
        /// The part.
        bytes: Vec<u8>,
    },
    /// The write was not applied: this node is not the leader.
    NotLeader {
        /// The leader's client address.
        leader: String,
    },
    /// The request failed; the code says what is known of its outcome.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For a person.
        message: String,
    },
}

impl From<Response<'_>> for Reply {
    fn from(response: Response<'_>) -> Reply {
        match response {
            Response::Ok => Reply::Ok,
            Response::Written { version } => Reply::Written { version },
            Response::Deleted { version, count } => Reply::Deleted { version, count },
            Response::Value { version, value } => Reply::Value { version, value: value.to_vec() },
            Response::NotFound => Reply::NotFound,
            Response::Values(values) => Reply::Values(
                values
                    .iter()
                    .map(|found| found.map(|(version, value)| (version, value.to_vec())))
                    .collect(),
            ),
            Response::Number(number) => Reply::Number(number),
            Response::Copies(_) => unreachable!("no frame holds copies"),
            Response::Leader(leader) => Reply::Leader(leader.map(str::to_owned)),
            Response::Status(line) => Reply::Status(line.to_owned()),
            Response::Members(line) => Reply::Members(line.to_owned()),
            Response::SnapshotPart { index, total_bytes, bytes } => {
                Reply::SnapshotPart { index, total_bytes, bytes: bytes.to_vec() }
            }
            Response::NotLeader { leader } => Reply::NotLeader { leader: leader.to_owned() },
            Response::Error { code, message } => Reply::Error { code, message: message.to_owned() },
        }
    }
}

/// What a course wants to know of it.
impl<'a> From<&'a Reply> for Heard<'a> {
    fn from(reply: &'a Reply) -> Heard<'a> {
        match reply {
            Reply::NotLeader { leader } => Heard::NotLeader(leader),
            Reply::Error { code, .. } => Heard::Refused(*code),
            _ => Heard::Answer,
        }
    }
}
