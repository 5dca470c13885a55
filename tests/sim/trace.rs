//! What has happened, a line for each event, for people and for comparing runs.
//!
//! A world without a trace writes nothing and costs nothing; since every run of a seed is the same,
//! a failure is run once more to be traced.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use kvorum_protocol::NodeId;
use kvorum_protocol::peer::{Append, Message, SnapshotChunk};

use crate::queue::{MICROSECOND, Time};

/// The last lines, and a hash of all.
#[derive(Default)]
pub struct Trace {
    /// `None` when nobody wants to know.
    written: Option<Written>,
}

struct Written {
    lines_max: usize,
    lines: VecDeque<String>,
    hasher: DefaultHasher,
}

impl Trace {
    /// Keeps so many of the last lines.
    pub fn of_lines(lines_max: usize) -> Trace {
        let written = Written { lines_max, lines: VecDeque::new(), hasher: DefaultHasher::new() };
        Trace { written: Some(written) }
    }

    /// Notes what happened to whom.
    pub fn line(&mut self, at: Time, who: impl fmt::Display, what: impl FnOnce() -> String) {
        let Some(written) = &mut self.written else { return };
        let (ms, us) = (at / 1_000_000, at / MICROSECOND % 1000);
        // Some values are long.
        let line = format!("{ms:>7}.{us:03} {who:<5} {:.300}", what());
        line.hash(&mut written.hasher);
        if written.lines.len() == written.lines_max {
            written.lines.pop_front();
        }
        written.lines.push_back(line);
    }

    /// The last lines.
    pub fn text(&self) -> String {
        let lines = self.written.iter().flat_map(|written| &written.lines);
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// Two runs with the same hash went through the same events.
    pub fn hash(&self) -> u64 {
        self.written.as_ref().map_or(0, |written| written.hasher.finish())
    }
}

/// A node in a trace.
pub struct Node(pub NodeId);

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("n{}", self.0))
    }
}

/// A client in a trace.
pub struct Client(pub u32);

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("c{}", self.0))
    }
}

/// A message in Raft's words.
pub fn words(message: &Message) -> String {
    match message {
        Message::PreVoteRequest { term, last, last_term } => {
            format!("PRE_VOTE_REQUEST term={term} last={last}@{last_term}")
        }
        Message::PreVoteReply { term, granted } => {
            format!("PRE_VOTE_REPLY term={term} granted={granted}")
        }
        Message::VoteRequest { term, last, last_term, is_transfer } => {
            format!("VOTE_REQUEST term={term} last={last}@{last_term} transfer={is_transfer}")
        }
        Message::VoteReply { term, granted } => format!("VOTE_REPLY term={term} granted={granted}"),
        Message::Append(Append { term, prev, prev_term, commit, batches }) => {
            let batches: Vec<String> = batches
                .iter()
                .map(|batch| {
                    let header = batch.header();
                    format!("{}..{}@{}", header.first_index, header.last_index(), header.term)
                })
                .collect();
            let batches = batches.join(" ");
            format!("APPEND term={term} prev={prev}@{prev_term} commit={commit} [{batches}]")
        }
        Message::AppendReject { term, prev, hint, hint_term, is_repaired } => {
            let repaired = if *is_repaired { " repaired" } else { "" };
            format!("APPEND_REJECT term={term} prev={prev} hint={hint}@{hint_term}{repaired}")
        }
        Message::Heartbeat { term, commit, round } => {
            format!("HEARTBEAT term={term} commit={commit} round={round}")
        }
        Message::Ack { term, round, matched, durable } => {
            format!("ACK term={term} round={round} matched={matched} durable={durable}")
        }
        Message::TimeoutNow { term } => format!("TIMEOUT_NOW term={term}"),
        Message::ReadIndexRequest { term, id } => format!("READ_INDEX_REQUEST term={term} id={id}"),
        Message::ReadIndexReply { term, id, index } => {
            format!("READ_INDEX_REPLY term={term} id={id} index={index}")
        }
        Message::DurableRequest { term, id } => format!("DURABLE_REQUEST term={term} id={id}"),
        Message::DurableReply { term, id, last, last_term } => {
            format!("DURABLE_REPLY term={term} id={id} last={last}@{last_term}")
        }
        Message::SnapshotChunk(chunk) => {
            let SnapshotChunk { term, index, index_term, total_bytes, file, offset, bytes } = chunk;
            let end = offset + bytes.len() as u64;
            format!(
                "SNAPSHOT_CHUNK term={term} index={index}@{index_term} file={file:08x} \
                 {offset}..{end}/{total_bytes}"
            )
        }
        Message::SnapshotAck { term, index, file, offset } => {
            format!("SNAPSHOT_ACK term={term} index={index} file={file:08x} offset={offset}")
        }
        Message::StateHashRequest { term, index } => {
            format!("STATE_HASH_REQUEST term={term} index={index}")
        }
        Message::StateHashReply { term, index, hash } => {
            format!("STATE_HASH_REPLY term={term} index={index} hash={hash:016x}")
        }
        Message::StateDiffers { term, index, hash, is_majority } => {
            format!("STATE_DIFFERS term={term} index={index} hash={hash:016x} {is_majority}")
        }
    }
}
