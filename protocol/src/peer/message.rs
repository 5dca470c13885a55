//! The messages of Raft, those of reads, and those that compare states.

use bytes::Bytes;

use crate::batch::Batch;
use crate::types::{LogIndex, Term};

/// One message from a node to another. Both are known from the connection that carries it.
///
/// The network may lose, repeat, delay and reorder messages; nothing here relies on anything else.
/// A receiver that knows a higher term than `term` answers, if at all, with its own term, and a
/// receiver that knows a lower one adopts it (Raft paper, section 5.1), except for
/// [`PreVoteRequest`](Message::PreVoteRequest) and granted [`PreVoteReply`](Message::PreVoteReply)
/// messages, whose term nobody has entered yet, and for `VoteRequest`s that come while a leader is
/// alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Would you vote for me? (Raft thesis, section 9.6.) Changes nothing at the receiver.
    PreVoteRequest {
        /// The term that the sender would enter.
        term: Term,
        /// Index of the sender's last entry.
        last: LogIndex,
        /// Term of that entry.
        last_term: Term,
    },
    /// The answer.
    PreVoteReply {
        /// The term asked about when granted, else the receiver's own.
        term: Term,
        /// Whether it would.
        granted: bool,
    },
    /// Vote for me (Raft paper, section 5.2).
    VoteRequest {
        /// The candidate's term.
        term: Term,
        /// Index of the candidate's last entry.
        last: LogIndex,
        /// Term of that entry.
        last_term: Term,
        /// The leader itself has asked the candidate to stand: vote though that leader is alive.
        is_transfer: bool,
    },
    /// The answer; it leaves when the vote is durable.
    VoteReply {
        /// The voter's term.
        term: Term,
        /// Whether the vote is given.
        granted: bool,
    },
    /// Entries (Raft paper, section 5.3), or with none the question whether `prev` is there.
    Append(Append),
    /// The entry at `prev` of an Append is not in the receiver's log.
    AppendReject {
        /// The receiver's term.
        term: Term,
        /// `prev` of the Append.
        prev: LogIndex,
        /// The last entry of the receiver that may be in the leader's log: the highest index up to
        /// `prev` whose term is at most the term asked for.
        hint: LogIndex,
        /// The term of that entry.
        hint_term: Term,
        /// The receiver's log was damaged and cut: what it has acknowledged may be gone, and does
        /// not count any more.
        is_repaired: bool,
    },
    /// The leader is alive.
    Heartbeat {
        /// The leader's term.
        term: Term,
        /// The leader's commit index.
        commit: LogIndex,
        /// Numbers the questions whether this is still the leader (Raft paper, section 8; thesis
        /// 6.4). Grows within a term; an answer with it confirms all reads that came before.
        round: u64,
    },
    /// How far a follower is. Answers Heartbeats and Appends, one for all that came in a turn, and
    /// comes by itself when a sync has made more durable.
    Ack {
        /// The follower's term.
        term: Term,
        /// The highest round seen in this term.
        round: u64,
        /// Up to here the follower's log is known to be the leader's.
        matched: LogIndex,
        /// Up to here that is durable: `durable <= matched`. What counts for commit and W.
        durable: LogIndex,
    },
    /// Stand for election now (thesis, section 3.10).
    TimeoutNow {
        /// The leader's term.
        term: Term,
    },
    /// Which index must a linearizable read wait for? From a follower or learner to the leader.
    ReadIndexRequest {
        /// The asker's term.
        term: Term,
        /// Chosen by the asker, never used twice in its life.
        id: u64,
    },
    /// The answer, after the leader has made sure that it still is one.
    ReadIndexReply {
        /// The leader's term.
        term: Term,
        /// From the request.
        id: u64,
        /// What was committed when the request came.
        index: LogIndex,
    },
    /// What is the last entry that you hold durably? For reads with an R of their own.
    DurableRequest {
        /// The asker's term.
        term: Term,
        /// Chosen by the asker, never used twice in its life.
        id: u64,
    },
    /// The answer.
    DurableReply {
        /// The voter's term.
        term: Term,
        /// From the request.
        id: u64,
        /// Index of its last durable entry.
        last: LogIndex,
        /// Term of that entry.
        last_term: Term,
    },
    /// What is the hash of your state when you have applied the entries up to `index`? From the
    /// leader to all other members, now and then.
    StateHashRequest {
        /// The leader's term.
        term: Term,
        /// A multiple of the number of entries between two hashes.
        index: LogIndex,
    },
    /// The answer, unless the member does not know it any more.
    StateHashReply {
        /// The member's term.
        term: Term,
        /// From the request.
        index: LogIndex,
        /// The hash.
        hash: u64,
    },
    /// Members have applied the same entries and have different states. From the leader.
    StateDiffers {
        /// The leader's term.
        term: Term,
        /// When the entries up to here are applied.
        index: LogIndex,
        /// What the majority of the voters has: who has another must stop. Or else, as no hash has
        /// a majority, what the leader has.
        hash: u64,
        /// Which of the two.
        is_majority: bool,
    },
    /// A part of a snapshot, for a member that lacks entries which the leader's log has given up.
    SnapshotChunk(SnapshotChunk),
    /// How much of a snapshot a member has; the leader goes on there.
    SnapshotAck {
        /// The member's term.
        term: Term,
        /// The last entry that the snapshot covers.
        index: LogIndex,
        /// Which file, as [`SnapshotChunk::file`] says.
        file: u64,
        /// So many bytes of it, from its start, are on the member's disk.
        offset: u64,
    },
}

/// A part of a snapshot file. Its bytes are the file's, whose own checksums guard them: the
/// receiver uses none of them before it has checked them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// The leader's term.
    pub term: Term,
    /// The last entry that the snapshot covers.
    pub index: LogIndex,
    /// Its term.
    pub index_term: Term,
    /// Length of the whole file.
    pub total_bytes: u64,
    /// What tells the file from others of the same index and length, which other nodes may have.
    /// The same file on two nodes has the same number, so that one can go on where the other was.
    pub file: u64,
    /// Where in the file `bytes` stand.
    pub offset: u64,
    /// The part; never empty.
    pub bytes: Bytes,
}

/// Entries of the leader's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// The leader's term.
    pub term: Term,
    /// The entry right before the first of `batches`.
    pub prev: LogIndex,
    /// Its term.
    pub prev_term: Term,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// Consecutive batches, the first one starting behind `prev`; may be none.
    pub batches: Vec<Batch>,
}

/// Heartbeats never queue behind bulk data: each lane is a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Small messages that elections, reads and acknowledgements wait for.
    Control,
    /// Entries and snapshots.
    Bulk,
}

impl Message {
    /// The term that the message names.
    #[must_use]
    pub fn term(&self) -> Term {
        match *self {
            Message::PreVoteRequest { term, .. }
            | Message::PreVoteReply { term, .. }
            | Message::VoteRequest { term, .. }
            | Message::VoteReply { term, .. }
            | Message::Append(Append { term, .. })
            | Message::AppendReject { term, .. }
            | Message::Heartbeat { term, .. }
            | Message::Ack { term, .. }
            | Message::TimeoutNow { term }
            | Message::ReadIndexRequest { term, .. }
            | Message::ReadIndexReply { term, .. }
            | Message::DurableRequest { term, .. }
            | Message::DurableReply { term, .. }
            | Message::SnapshotChunk(SnapshotChunk { term, .. })
            | Message::SnapshotAck { term, .. }
            | Message::StateHashRequest { term, .. }
            | Message::StateHashReply { term, .. }
            | Message::StateDiffers { term, .. } => term,
        }
    }

    /// Which connection carries it.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Message::Append(_) | Message::SnapshotChunk(_) => Lane::Bulk,
            _ => Lane::Control,
        }
    }
}
