//! What the core says, once a turn.

use bytes::Bytes;

use super::log::LogEnd;
use kvorum_protocol::peer::{Message, SnapshotChunk};
use kvorum_protocol::{
    Batch, Copies, ErrorCode, LogIndex, Lsn, MemberList, NodeId, Response, Term, ValueList,
};

/// Everything the shell has to do after a turn. **Whatever stands here may be done at once, in any
/// order**, except that records are written in the order of their `Lsn`. What must wait for the
/// disk is not here yet. Owned by the shell, which clears it and gives it back with its capacity.
#[derive(Debug, Default)]
pub struct Output {
    /// Records for this node's own log, with consecutive positions.
    pub records: Vec<(Lsn, Record)>,
    /// Messages for other nodes, in the order in which they should leave.
    pub messages: Vec<(NodeId, Message)>,
    /// Parts of the log to read back from the disk.
    pub fetches: Vec<Fetch>,
    /// Parts of snapshots to read from the disk.
    pub snapshot_fetches: Vec<SnapshotFetch>,
    /// Parts of a snapshot that the leader has sent, to be kept on the disk.
    pub snapshot_parts: Vec<(NodeId, SnapshotChunk)>,
    /// Answers for clients.
    pub replies: Vec<Reply>,
    /// The bytes that the answers refer to.
    pub values: Vec<u8>,
}

/// One record of a node's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Entries of the replicated log.
    Batch(Batch),
    /// The current term, and the candidate that got this node's vote in it (Raft paper, figure 2).
    TermVote {
        /// The term.
        term: Term,
        /// Who got the vote; `None` when nobody has.
        voted_for: Option<NodeId>,
    },
    /// The replicated log ends here: what came behind is void, and another leader's entries come
    /// in its place. A log is only ever cut between two batches, so the record can name the whole
    /// end, and a reader need not remember where earlier batches ended.
    Truncate {
        /// The last batch that stands.
        end: LogEnd,
    },
    /// A snapshot that is durable takes the place of the whole log up to here. What stands before
    /// this record is void, and the next batch follows `end`.
    Install {
        /// The last batch that the snapshot covers.
        end: LogEnd,
    },
}

/// A part of the log that a member lacks, and that is not in memory any more. The answer is one
/// call of [`Node::fetched`](super::Node::fetched); until then that member gets no second fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Who lacks it.
    pub member: NodeId,
    /// The first batch wanted is the one that holds this entry. It is committed.
    pub from: LogIndex,
    /// No batch that holds this entry, or a later one, is wanted.
    pub end: LogIndex,
    /// At most so many bytes of batches, but at least one batch.
    pub bytes_max: usize,
    /// Which terms the wanted entries have: the first entry of each term, ascending, from the one
    /// that holds `from` on. A log file may also hold batches that were truncated and replaced;
    /// at their index these have another term.
    pub terms: Vec<(LogIndex, Term)>,
}

/// A part of a snapshot that a member needs, because the log has given up what it lacks. The answer
/// is one call of [`Node::snapshot_fetched`](super::Node::snapshot_fetched); until then that member
/// gets no second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFetch {
    /// Who needs it.
    pub member: NodeId,
    /// Which snapshot, by the last entry that it covers: `None` for the newest one.
    pub index: Option<LogIndex>,
    /// Where in the file it begins.
    pub offset: u64,
}

/// The answer to a [`SnapshotFetch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPart {
    /// The last entry that the snapshot covers.
    pub index: LogIndex,
    /// Its term.
    pub index_term: Term,
    /// Length of the whole file.
    pub total_bytes: u64,
    /// What tells the file from others of the same index and length.
    pub file: u64,
    /// Where in the file `bytes` stand.
    pub offset: u64,
    /// The part; never empty.
    pub bytes: Bytes,
}

/// Where an answer goes. Opaque to the core: `connection` may be gone when the answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    /// The shell's name for the connection, never reused for another.
    pub connection: u64,
    /// The shell's name for the request within the connection.
    pub tag: u32,
}

/// An answer for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Where it goes.
    pub to: ReplyTo,
    /// What it says.
    pub answer: Answer,
}

impl Reply {
    /// The same when the bytes it refers to have moved `offset` further.
    pub(super) fn shifted(self, offset: usize) -> Reply {
        let answer = match self.answer {
            Answer::Value { version, start, end } => {
                Answer::Value { version, start: start + offset, end: end + offset }
            }
            Answer::Values { start, end } => {
                Answer::Values { start: start + offset, end: end + offset }
            }
            other => other,
        };
        Reply { to: self.to, answer }
    }
}

/// What an answer says; bytes are positions in [`Output::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A SET was applied.
    Written {
        /// The entry's index.
        version: LogIndex,
    },
    /// A DELETE was applied.
    Deleted {
        /// The entry's index.
        version: LogIndex,
        /// How many of its keys existed.
        count: u32,
    },
    /// A key's value.
    Value {
        /// The key's version.
        version: LogIndex,
        /// Start in `values`.
        start: usize,
        /// End in `values`.
        end: usize,
    },
    /// The key is absent.
    NotFound,
    /// Several values: an encoded list.
    Values {
        /// Start in `values`.
        start: usize,
        /// End in `values`.
        end: usize,
    },
    /// A count or a length.
    Number(u64),
    /// Who holds an entry durably.
    Copies(Copies),
    /// The request failed.
    Refused(Refusal),
}

/// Why the core refused or gave up a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No leader is known; not applied.
    NoLeader,
    /// Another node leads; not applied here.
    NotLeader {
        /// Who leads.
        leader: NodeId,
    },
    /// The leader lost its office before the write had its quorum; it may still be applied.
    LeaderChanged,
    /// The write has waited for its quorum long enough; it may still be applied.
    QuorumTimeout,
    /// A read has waited for its quorum long enough.
    ReadTimeout,
    /// More voters were asked for than there are.
    QuorumTooLarge {
        /// How many voters there are.
        voters: u8,
    },
    /// `--memory-max` is reached; not applied.
    MemoryLimit,
    /// The log has no room; not applied.
    DiskFull,
    /// The node has had too much in flight for too long; not applied.
    Busy,
    /// The session of the write is over, or never was; this sending is not applied.
    SessionExpired,
    /// The window of the session has left the write behind; this sending is not applied.
    SequenceTooOld,
    /// A GET_MANY whose answer is over its limit.
    ReplyTooLarge,
    /// One request is larger than any batch may be; not applied.
    RequestTooLarge,
    /// A snapshot that was asked for could not be written.
    SnapshotFailed,
}

impl Refusal {
    /// The code that every protocol reports.
    #[must_use]
    pub fn code(self) -> ErrorCode {
        match self {
            Refusal::NoLeader | Refusal::NotLeader { .. } => ErrorCode::NoLeader,
            Refusal::LeaderChanged => ErrorCode::LeaderChanged,
            Refusal::QuorumTimeout | Refusal::ReadTimeout => ErrorCode::QuorumTimeout,
            Refusal::QuorumTooLarge { .. } | Refusal::SequenceTooOld => ErrorCode::BadRequest,
            Refusal::SessionExpired => ErrorCode::SessionExpired,
            Refusal::Busy | Refusal::SnapshotFailed => ErrorCode::Busy,
            Refusal::MemoryLimit => ErrorCode::MemoryLimit,
            Refusal::DiskFull => ErrorCode::DiskFull,
            Refusal::ReplyTooLarge | Refusal::RequestTooLarge => ErrorCode::TooLarge,
        }
    }

    /// The same for a person.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Refusal::NoLeader => "no leader is known, not applied; try again soon",
            Refusal::NotLeader { .. } => "another node leads, not applied",
            Refusal::LeaderChanged => {
                "the leader lost its office before the answer; the write may still be applied"
            }
            Refusal::QuorumTimeout => {
                "the write did not reach its quorum in time; it may still be applied"
            }
            Refusal::ReadTimeout => "the read did not reach its quorum in time",
            Refusal::QuorumTooLarge { .. } => "more voters were asked for than the cluster has",
            Refusal::MemoryLimit => {
                "the memory limit (--memory-max) is reached, not applied; DELETE frees room"
            }
            Refusal::DiskFull => {
                "the log's disk is full, not applied; reads go on; free space and try again"
            }
            Refusal::Busy => "too much is on its way to the disk, not applied; try again later",
            Refusal::SessionExpired => {
                "the session is over or never was; this sending of the write is not applied"
            }
            Refusal::SequenceTooOld => {
                "the window of the session is past this sequence; this sending is not applied"
            }
            Refusal::ReplyTooLarge => "the values together are too large for one reply",
            Refusal::RequestTooLarge => "the request is too large for one log entry",
            Refusal::SnapshotFailed => {
                "no snapshot was written, the node's own log says why; try again later"
            }
        }
    }

    /// The answer that says so; `members` knows where the leader is.
    #[must_use]
    pub fn response(self, members: &MemberList) -> Response<'_> {
        if let Refusal::NotLeader { leader } = self
            && let Some(leader) = members.get(leader)
        {
            return Response::NotLeader { leader: &leader.client };
        }
        Response::Error { code: self.code(), message: self.message() }
    }
}

impl Output {
    /// Forgets everything and keeps the room. A one-time giant is given back to the allocator.
    pub fn clear(&mut self) {
        const VALUES_KEPT_BYTES: usize = 1 << 20;
        self.records.clear();
        self.messages.clear();
        self.fetches.clear();
        self.snapshot_fetches.clear();
        self.snapshot_parts.clear();
        self.replies.clear();
        self.values.clear();
        self.values.shrink_to(VALUES_KEPT_BYTES);
    }

    /// The answer as every protocol encodes it; `members` are the node's.
    ///
    /// # Panics
    /// When `answer` belongs to another output.
    #[inline]
    #[must_use]
    pub fn response<'a>(&'a self, answer: &Answer, members: &'a MemberList) -> Response<'a> {
        match *answer {
            Answer::Written { version } => Response::Written { version },
            Answer::Deleted { version, count } => Response::Deleted { version, count },
            Answer::Value { version, start, end } => {
                Response::Value { version, value: &self.values[start..end] }
            }
            Answer::NotFound => Response::NotFound,
            Answer::Values { start, end } => {
                let list = ValueList::decode(&self.values[start..end]);
                Response::Values(list.expect("written by ValueListBuilder"))
            }
            Answer::Number(number) => Response::Number(number),
            Answer::Copies(copies) => Response::Copies(copies),
            Answer::Refused(refusal) => refusal.response(members),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_sent_to_the_leader_gets_its_client_address() {
        let members = MemberList::lone(NodeId(2), "10.0.0.2:6379").unwrap();
        let refusal = Refusal::NotLeader { leader: NodeId(2) };
        let leader = "10.0.0.2:6379";
        assert_eq!(refusal.response(&members), Response::NotLeader { leader });
        let output = Output::default();
        let answer = output.response(&Answer::Refused(refusal), &members);
        assert_eq!(answer, Response::NotLeader { leader });
        // A leader that is no member here can not be found, which is as good as none.
        let stranger = Refusal::NotLeader { leader: NodeId(3) }.response(&members);
        assert!(matches!(stranger, Response::Error { code: ErrorCode::NoLeader, .. }));
    }
}
