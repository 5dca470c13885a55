//! Messages as frames, and back. A message is never trusted: what Raft relies on and one message
//! alone can show, such as consecutive entries, is checked here.

use bytes::Bytes;

use super::frame::{self, APPEND_HEAD_BYTES, FRAME_HEAD_BYTES, SNAPSHOT_HEAD_BYTES, kind};
use super::message::{Append, Message, SnapshotChunk};
use crate::batch::{BATCH_HEADER_BYTES, Batch};
use crate::error::DecodeError;
use crate::limits::{LOG_INDEX_MAX, PEER_FRAME_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX, TERM_MAX};
use crate::types::{LogIndex, Term};

/// The one flag: granted, asked for by the leader, or what a majority has.
const FLAG: u8 = 1;

/// What a frame says once two peers know each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// For the core.
    Message(Message),
    /// What the sender has on its disk. Whoever hears it can tell later whether the sender has
    /// forgotten it.
    Durable {
        /// The highest term that it remembers.
        term: Term,
        /// In this term its log never ends before this index again: that of a leader's last
        /// durable entry, 0 from anybody else.
        last: LogIndex,
    },
}

/// Appends the frame of `message` to `out`, up to its batches: their bytes must follow, in order.
///
/// # Panics
/// When the batches of an Append are more than [`PEER_FRAME_BYTES_MAX`] has room for.
pub fn encode<'a>(message: &'a Message, out: &mut Vec<u8>) -> &'a [Batch] {
    let put = |out: &mut Vec<u8>, kind, flag: bool, fields: &[u64]| put(out, kind, flag, fields, 0);
    match *message {
        Message::PreVoteRequest { term, last, last_term } => {
            put(out, kind::PRE_VOTE_REQUEST, false, &[term.0, last.0, last_term.0]);
        }
        Message::PreVoteReply { term, granted } => {
            put(out, kind::PRE_VOTE_REPLY, granted, &[term.0]);
        }
        Message::VoteRequest { term, last, last_term, is_transfer } => {
            put(out, kind::VOTE_REQUEST, is_transfer, &[term.0, last.0, last_term.0]);
        }
        Message::VoteReply { term, granted } => put(out, kind::VOTE_REPLY, granted, &[term.0]),
        Message::Append(ref append) => return encode_append(append, out),
        Message::AppendReject { term, prev, hint, hint_term, is_repaired } => {
            put(out, kind::APPEND_REJECT, is_repaired, &[term.0, prev.0, hint.0, hint_term.0]);
        }
        Message::Heartbeat { term, commit, round } => {
            put(out, kind::HEARTBEAT, false, &[term.0, commit.0, round]);
        }
        Message::Ack { term, round, matched, durable } => {
            put(out, kind::ACK, false, &[term.0, round, matched.0, durable.0]);
        }
        Message::TimeoutNow { term } => put(out, kind::TIMEOUT_NOW, false, &[term.0]),
        Message::ReadIndexRequest { term, id } => {
            put(out, kind::READ_INDEX_REQUEST, false, &[term.0, id]);
        }
        Message::ReadIndexReply { term, id, index } => {
            put(out, kind::READ_INDEX_REPLY, false, &[term.0, id, index.0]);
        }
        Message::DurableRequest { term, id } => {
            put(out, kind::DURABLE_REQUEST, false, &[term.0, id]);
        }
        Message::DurableReply { term, id, last, last_term } => {
            put(out, kind::DURABLE_REPLY, false, &[term.0, id, last.0, last_term.0]);
        }
        Message::SnapshotChunk(ref chunk) => encode_chunk(chunk, out),
        Message::SnapshotAck { term, index, file, offset } => {
            put(out, kind::SNAPSHOT_ACK, false, &[term.0, index.0, file, offset]);
        }
        Message::StateHashRequest { term, index } => {
            put(out, kind::STATE_HASH_REQUEST, false, &[term.0, index.0]);
        }
        Message::StateHashReply { term, index, hash } => {
            put(out, kind::STATE_HASH_REPLY, false, &[term.0, index.0, hash]);
        }
        Message::StateDiffers { term, index, hash, is_majority } => {
            put(out, kind::STATE_DIFFERS, is_majority, &[term.0, index.0, hash]);
        }
    }
    &[]
}

/// Appends the frame of [`Frame::Durable`] to `out`.
pub fn encode_durable(term: Term, last: LogIndex, out: &mut Vec<u8>) {
    put(out, kind::DURABLE, false, &[term.0, last.0], 0);
}

fn encode_append<'a>(append: &'a Append, out: &mut Vec<u8>) -> &'a [Batch] {
    let Append { term, prev, prev_term, commit, batches } = append;
    let behind = batches.iter().map(|batch| batch.bytes().len()).sum();
    assert!(APPEND_HEAD_BYTES + behind <= PEER_FRAME_BYTES_MAX, "an Append is over its limit");
    put(out, kind::APPEND, false, &[term.0, prev.0, prev_term.0, commit.0], behind);
    batches
}

fn encode_chunk(chunk: &SnapshotChunk, out: &mut Vec<u8>) {
    let SnapshotChunk { term, index, index_term, total_bytes, file, offset, bytes } = chunk;
    assert!(bytes.len() <= SNAPSHOT_CHUNK_BYTES_MAX, "a part of a snapshot is over its limit");
    let start = frame::begin(out, kind::SNAPSHOT_CHUNK, 0);
    for field in [term.0, index.0, index_term.0, *total_bytes, *file, *offset] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(bytes);
    frame::finish(out, start, 0);
}

fn put(out: &mut Vec<u8>, kind: u8, flag: bool, fields: &[u64], behind: usize) {
    let start = frame::begin(out, kind, if flag { FLAG } else { 0 });
    fields.iter().for_each(|field| out.extend_from_slice(&field.to_le_bytes()));
    frame::finish(out, start, behind);
}

/// Reads one whole frame of the [`Open`](frame::Phase::Open) phase. The batches of an Append share
/// its bytes.
///
/// # Errors
/// Anything that [`encode`] could not have written for a message that a correct node sends.
pub fn decode(bytes: &Bytes) -> Result<Frame, DecodeError> {
    let (kind, flags, body) = frame::open(bytes)?;
    let has_flag = matches!(
        kind,
        kind::PRE_VOTE_REPLY
            | kind::VOTE_REQUEST
            | kind::VOTE_REPLY
            | kind::APPEND_REJECT
            | kind::STATE_DIFFERS
    );
    if flags & !FLAG != 0 || flags == FLAG && !has_flag {
        return Err(DecodeError::Invalid("frame flags"));
    }
    let flag = flags == FLAG;
    let message = match kind {
        kind::PRE_VOTE_REQUEST => {
            let [candidate, last, last_term] = fields(body)?;
            let (last, last_term) = position(last, last_term, candidate)?;
            Message::PreVoteRequest { term: office(candidate)?, last, last_term }
        }
        kind::PRE_VOTE_REPLY => {
            let [own] = fields(body)?;
            Message::PreVoteReply { term: term(own)?, granted: flag }
        }
        kind::VOTE_REQUEST => {
            let [candidate, last, last_term] = fields(body)?;
            let (last, last_term) = position(last, last_term, candidate)?;
            Message::VoteRequest { term: office(candidate)?, last, last_term, is_transfer: flag }
        }
        kind::VOTE_REPLY => {
            let [own] = fields(body)?;
            Message::VoteReply { term: term(own)?, granted: flag }
        }
        kind::APPEND => Message::Append(decode_append(bytes)?),
        kind::APPEND_REJECT => {
            let [own, prev, hint, hint_term] = fields(body)?;
            let (hint, hint_term) = position(hint, hint_term, own)?;
            let prev = index(prev)?;
            if hint > prev {
                return Err(DecodeError::Invalid("hint"));
            }
            let term = term(own)?;
            Message::AppendReject { term, prev, hint, hint_term, is_repaired: flag }
        }
        kind::HEARTBEAT => {
            let [leader, commit, round] = fields(body)?;
            Message::Heartbeat { term: office(leader)?, commit: index(commit)?, round }
        }
        kind::ACK => {
            let [own, round, matched, durable] = fields(body)?;
            let (matched, durable) = (index(matched)?, index(durable)?);
            if durable > matched {
                return Err(DecodeError::Invalid("durable index"));
            }
            Message::Ack { term: term(own)?, round, matched, durable }
        }
        kind::TIMEOUT_NOW => {
            let [leader] = fields(body)?;
            Message::TimeoutNow { term: office(leader)? }
        }
        kind::READ_INDEX_REQUEST => {
            let [own, id] = fields(body)?;
            Message::ReadIndexRequest { term: term(own)?, id }
        }
        kind::READ_INDEX_REPLY => {
            let [leader, id, read] = fields(body)?;
            Message::ReadIndexReply { term: office(leader)?, id, index: index(read)? }
        }
        kind::DURABLE_REQUEST => {
            let [own, id] = fields(body)?;
            Message::DurableRequest { term: term(own)?, id }
        }
        kind::DURABLE_REPLY => {
            let [own, id, last, last_term] = fields(body)?;
            let (last, last_term) = position(last, last_term, own)?;
            Message::DurableReply { term: term(own)?, id, last, last_term }
        }
        kind::SNAPSHOT_CHUNK => Message::SnapshotChunk(decode_chunk(bytes)?),
        kind::SNAPSHOT_ACK => {
            let [own, covered, file, offset] = fields(body)?;
            Message::SnapshotAck { term: term(own)?, index: index(covered)?, file, offset }
        }
        kind::STATE_HASH_REQUEST => {
            let [leader, at] = fields(body)?;
            Message::StateHashRequest { term: office(leader)?, index: index(at)? }
        }
        kind::STATE_HASH_REPLY => {
            let [own, at, hash] = fields(body)?;
            Message::StateHashReply { term: term(own)?, index: index(at)?, hash }
        }
        kind::STATE_DIFFERS => {
            let [leader, at, hash] = fields(body)?;
            let (term, index) = (office(leader)?, index(at)?);
            Message::StateDiffers { term, index, hash, is_majority: flag }
        }
        kind::DURABLE => {
            let [own, last] = fields(body)?;
            return Ok(Frame::Durable { term: term(own)?, last: index(last)? });
        }
        _ => return Err(DecodeError::UnknownOpcode(kind)),
    };
    Ok(Frame::Message(message))
}

fn decode_append(frame: &Bytes) -> Result<Append, DecodeError> {
    let [leader, prev, prev_term, commit] =
        fields(frame.get(FRAME_HEAD_BYTES..APPEND_HEAD_BYTES).ok_or(DecodeError::Truncated)?)?;
    let (prev, prev_term) = position(prev, prev_term, leader)?;
    let mut append = Append {
        term: office(leader)?,
        prev,
        prev_term,
        commit: index(commit)?,
        batches: Vec::new(),
    };
    let mut at = APPEND_HEAD_BYTES;
    while at < frame.len() {
        let end = at + batch_bytes(&frame[at..])?;
        let batch = Batch::decode(frame.slice(at..end))?;
        check_follows(&append, &batch)?;
        append.batches.push(batch);
        at = end;
    }
    Ok(append)
}

fn decode_chunk(frame: &Bytes) -> Result<SnapshotChunk, DecodeError> {
    let head = frame.get(FRAME_HEAD_BYTES..SNAPSHOT_HEAD_BYTES).ok_or(DecodeError::Truncated)?;
    let [leader, covered, covered_term, total_bytes, file, offset] = fields(head)?;
    let bytes = frame.slice(SNAPSHOT_HEAD_BYTES..);
    let end = offset.checked_add(bytes.len() as u64);
    if bytes.is_empty() || end.is_none_or(|end| end > total_bytes) {
        return Err(DecodeError::Invalid("part of a snapshot"));
    }
    let (index, index_term) = position(covered, covered_term, leader)?;
    let term = office(leader)?;
    Ok(SnapshotChunk { term, index, index_term, total_bytes, file, offset, bytes })
}

/// How many bytes the batch at the start of `bytes` says it has; all of them are there.
fn batch_bytes(bytes: &[u8]) -> Result<usize, DecodeError> {
    let head = bytes.first_chunk::<BATCH_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    match length {
        ..BATCH_HEADER_BYTES => Err(DecodeError::Invalid("batch length")),
        _ if length > bytes.len() => Err(DecodeError::Truncated),
        _ => Ok(length),
    }
}

/// A batch goes on where the one before, or `prev`, has ended: in index, in term, in log time, and
/// in the chain of checksums.
fn check_follows(append: &Append, batch: &Batch) -> Result<(), DecodeError> {
    let header = batch.header();
    let (end, end_term) = match append.batches.last().map(Batch::header) {
        None => (append.prev, append.prev_term),
        Some(before) => {
            if header.prev_crc != before.crc {
                return Err(DecodeError::Invalid("batch chain"));
            }
            if header.log_time < before.log_time {
                return Err(DecodeError::Invalid("log time"));
            }
            (before.last_index(), before.term)
        }
    };
    if header.first_index != end.next() || header.last_index().0 > LOG_INDEX_MAX {
        return Err(DecodeError::Invalid("batch index"));
    }
    if header.term < end_term || header.term > append.term {
        return Err(DecodeError::Invalid("batch term"));
    }
    Ok(())
}

#[inline]
fn fields<const N: usize>(body: &[u8]) -> Result<[u64; N], DecodeError> {
    if body.len() != N * 8 {
        return Err(DecodeError::Invalid("frame length"));
    }
    let mut fields = [0; N];
    for (field, bytes) in fields.iter_mut().zip(body.chunks_exact(8)) {
        *field = u64::from_le_bytes(bytes.try_into().expect("chunks of 8"));
    }
    Ok(fields)
}

#[inline]
fn term(number: u64) -> Result<Term, DecodeError> {
    if number <= TERM_MAX { Ok(Term(number)) } else { Err(DecodeError::Invalid("term")) }
}

/// The term of a leader or candidate: nobody is one before the first election.
#[inline]
fn office(number: u64) -> Result<Term, DecodeError> {
    if number > 0 { term(number) } else { Err(DecodeError::Invalid("term")) }
}

#[inline]
fn index(number: u64) -> Result<LogIndex, DecodeError> {
    if number <= LOG_INDEX_MAX {
        Ok(LogIndex(number))
    } else {
        Err(DecodeError::Invalid("log index"))
    }
}

/// An entry of the log and its term, which whoever speaks in the term `speaker` can know of.
#[inline]
fn position(at: u64, at_term: u64, speaker: u64) -> Result<(LogIndex, Term), DecodeError> {
    if at_term > speaker || at == 0 && at_term != 0 {
        return Err(DecodeError::Invalid("entry term"));
    }
    Ok((index(at)?, term(at_term)?))
}

#[cfg(test)]
mod tests;
