//! Messages as lines for people, in Raft's words.

use std::fmt;

use super::message::{Append, Message, SnapshotChunk};
use crate::batch::Batch;
use crate::types::NodeId;

/// A message with its sender. Displays as one line of `NAME name=value ...`; see
/// [`Message::trace`].
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    message: &'a Message,
    from: NodeId,
}

impl Message {
    /// The message as a line, such as `HEARTBEAT term=5 leader=1 commit=12 round=3`. A message
    /// itself does not know who sends it.
    #[must_use]
    pub fn trace(&self, from: NodeId) -> Trace<'_> {
        Trace { message: self, from }
    }
}

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = self.from;
        match *self.message {
            Message::PreVoteRequest { term, last, last_term } => write!(
                f,
                "PRE_VOTE_REQUEST term={term} candidate={from} last={last} last_term={last_term}"
            ),
            Message::PreVoteReply { term, granted } => {
                write!(f, "PRE_VOTE_REPLY term={term} from={from} granted={granted}")
            }
            Message::VoteRequest { term, last, last_term, is_transfer } => write!(
                f,
                "VOTE_REQUEST term={term} candidate={from} last={last} last_term={last_term}{}",
                if is_transfer { " transfer=true" } else { "" }
            ),
            Message::VoteReply { term, granted } => {
                write!(f, "VOTE_REPLY term={term} from={from} granted={granted}")
            }
            Message::Append(ref append) => fmt_append(append, from, f),
            Message::AppendReject { term, prev, hint, hint_term, is_repaired } => write!(
                f,
                "APPEND_REJECT term={term} from={from} prev={prev} hint={hint}/{hint_term}{}",
                if is_repaired { " repaired=true" } else { "" }
            ),
            Message::Heartbeat { term, commit, round } => {
                write!(f, "HEARTBEAT term={term} leader={from} commit={commit} round={round}")
            }
            Message::Ack { term, round, matched, durable } => write!(
                f,
                "ACK term={term} from={from} round={round} matched={matched} durable={durable}"
            ),
            Message::TimeoutNow { term } => write!(f, "TIMEOUT_NOW term={term} leader={from}"),
            Message::ReadIndexRequest { term, id } => {
                write!(f, "READ_INDEX_REQUEST term={term} from={from} id={id}")
            }
            Message::ReadIndexReply { term, id, index } => {
                write!(f, "READ_INDEX_REPLY term={term} leader={from} id={id} index={index}")
            }
            Message::DurableRequest { term, id } => {
                write!(f, "DURABLE_REQUEST term={term} from={from} id={id}")
            }
            Message::DurableReply { term, id, last, last_term } => {
                write!(f, "DURABLE_REPLY term={term} from={from} id={id} last={last}/{last_term}")
            }
            Message::SnapshotChunk(ref chunk) => {
                let SnapshotChunk { term, index, index_term, total_bytes, file, offset, bytes } =
                    chunk;
                let bytes = bytes.len();
                write!(
                    f,
                    "SNAPSHOT_CHUNK term={term} leader={from} index={index}/{index_term} \
                     file={file:08x} offset={offset} bytes={bytes} of={total_bytes}"
                )
            }
            Message::SnapshotAck { term, index, file, offset } => write!(
                f,
                "SNAPSHOT_ACK term={term} from={from} index={index} file={file:08x} \
                 offset={offset}"
            ),
            Message::StateHashRequest { term, index } => {
                write!(f, "STATE_HASH_REQUEST term={term} leader={from} index={index}")
            }
            Message::StateHashReply { term, index, hash } => {
                write!(f, "STATE_HASH_REPLY term={term} from={from} index={index} hash={hash:016x}")
            }
            Message::StateDiffers { term, index, hash, is_majority } => write!(
                f,
                "STATE_DIFFERS term={term} leader={from} index={index} hash={hash:016x} \
                 majority={is_majority}"
            ),
        }
    }
}

/// `entries` names the first and the last one; without any it is missing.
fn fmt_append(append: &Append, from: NodeId, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Append { term, prev, prev_term, commit, batches } = append;
    write!(f, "APPEND term={term} leader={from} prev={prev}/{prev_term} commit={commit}")?;
    if let (Some(first), Some(last)) = (batches.first(), batches.last()) {
        write!(f, " entries={}..{}", first.header().first_index, last.header().last_index())?;
    }
    let bytes: usize = batches.iter().map(|batch: &Batch| batch.bytes().len()).sum();
    write!(f, " batches={} bytes={bytes}", batches.len())
}
