//! What a client asks, the same for every protocol.

use crate::command::{Command, KeyList};
use crate::types::{LogIndex, NodeId, Quorum};

/// A request, decoded. Borrows from the buffer that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Changes the state, through the log.
    Write(Command<'a>),
    /// Reads the state.
    Read(Read<'a>),
    /// Asks for the leader's client address.
    WhoIsLeader,
    /// Sets W and R of this connection; `None` leaves one as it is.
    Quorum {
        /// W: how many voters hold a write durably before it is acknowledged.
        write: Option<Quorum>,
        /// R: how many voters a read consults.
        read: Option<Quorum>,
    },
    /// Asks a leader to hand its office over.
    Transfer {
        /// To this voter; `None`: to the one whose log is furthest.
        to: Option<NodeId>,
    },
    /// Asks a leader to change the members.
    ChangeMembers {
        /// The change in words: [`Change::parse`](crate::Change::parse) reads them.
        change: &'a str,
        /// Only if the list in force is the one of this index; `None`: whichever it is.
        base: Option<LogIndex>,
    },
    /// Asks for nothing but an answer.
    Ping,
    /// Asks for the node's state in one line.
    Status,
    /// Asks who is in the cluster, in one line.
    Members,
    /// Asks the node for a snapshot of at least its present state, on its own disk.
    Snapshot,
    /// Asks for a part of a snapshot that is on the node's disk.
    SnapshotRead(SnapshotRead),
}

/// Which part of which snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotRead {
    /// The last entry that the snapshot covers; 0 for the newest one.
    pub index: LogIndex,
    /// Where in the file the part begins.
    pub offset: u64,
    /// How many bytes the answer may bring; at least 1. The node may bring fewer.
    pub bytes_max: u32,
}

/// A question about the state at one point of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read<'a> {
    /// The value of a key.
    Get(&'a [u8]),
    /// The values of several keys at one point of the log.
    GetMany(KeyList<'a>),
    /// How many of these keys exist; one that comes twice counts twice.
    Exists(KeyList<'a>),
    /// The length of a value in bytes; 0 when the key is absent.
    Length(&'a [u8]),
}
