//! The frame: where one thing that a peer says ends and the next begins.
//!
//! ```text
//!  0     4        8      9       10   12
//! +-----+--------+------+-------+----+------
//! | crc | length | kind | flags | 0  | body
//! +-----+--------+------+-------+----+------
//! ```
//!
//! Little-endian; `length` counts the whole frame. `crc` is the CRC-32 (IEEE 802.3) of everything
//! behind it, except in an Append: there it ends before the batches, each of which has its own.
//! So the bytes of entries are summed up once, and the length of a large frame can be believed
//! before any room is made for it.

use crate::error::DecodeError;
use crate::limits::{HANDSHAKE_FRAME_BYTES_MAX, PEER_FRAME_BYTES_MAX, SNAPSHOT_CHUNK_BYTES_MAX};

/// Bytes before the body.
pub const FRAME_HEAD_BYTES: usize = 12;

/// Bytes of an Append before its batches.
pub const APPEND_HEAD_BYTES: usize = FRAME_HEAD_BYTES + 4 * 8;

/// Bytes of a part of a snapshot before the part itself.
pub const SNAPSHOT_HEAD_BYTES: usize = FRAME_HEAD_BYTES + 6 * 8;

/// The most bytes of a message that carries neither entries nor a snapshot.
pub const SMALL_FRAME_BYTES_MAX: usize = FRAME_HEAD_BYTES + 4 * 8;

/// The numbers in the field `kind`.
#[allow(missing_docs, reason = "named like the frames and messages that they stand for")]
pub mod kind {
    pub const HELLO: u8 = 0x01;
    pub const WELCOME: u8 = 0x02;
    pub const PROOF: u8 = 0x03;
    pub const READY: u8 = 0x04;
    pub const REFUSED: u8 = 0x05;

    pub const PRE_VOTE_REQUEST: u8 = 0x10;
    pub const PRE_VOTE_REPLY: u8 = 0x11;
    pub const VOTE_REQUEST: u8 = 0x12;
    pub const VOTE_REPLY: u8 = 0x13;
    pub const APPEND: u8 = 0x14;
    pub const APPEND_REJECT: u8 = 0x15;
    pub const HEARTBEAT: u8 = 0x16;
    pub const ACK: u8 = 0x17;
    pub const TIMEOUT_NOW: u8 = 0x18;
    pub const READ_INDEX_REQUEST: u8 = 0x19;
    pub const READ_INDEX_REPLY: u8 = 0x1a;
    pub const DURABLE_REQUEST: u8 = 0x1b;
    pub const DURABLE_REPLY: u8 = 0x1c;
    pub const SNAPSHOT_ACK: u8 = 0x1d;
    pub const SNAPSHOT_CHUNK: u8 = 0x1e;
    pub const STATE_HASH_REQUEST: u8 = 0x1f;
    pub const STATE_HASH_REPLY: u8 = 0x21;
    pub const STATE_DIFFERS: u8 = 0x22;

    pub const DURABLE: u8 = 0x20;
}

/// How far two peers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// They do not know each other: frames of the handshake, all of them small.
    Handshake,
    /// They do: messages.
    Open,
}

/// How many bytes the frame at the start of `input` has; `None` while too few are there to know.
/// The answer is within the limits of its kind, and that of a large frame is checked.
///
/// # Errors
/// A kind that has no place in this phase, a length that the kind can not have, and in a large
/// frame a wrong checksum: the stream can not be read on.
#[inline]
pub fn frame_bytes(input: &[u8], phase: Phase) -> Result<Option<usize>, DecodeError> {
    let Some(head) = input.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
    let length = length_of(head);
    let kind = head[8];
    let limit = match (phase, kind) {
        (Phase::Handshake, kind::HELLO..=kind::REFUSED) => HANDSHAKE_FRAME_BYTES_MAX,
        (Phase::Open, kind::APPEND) => PEER_FRAME_BYTES_MAX,
        (Phase::Open, kind::SNAPSHOT_CHUNK) => SNAPSHOT_HEAD_BYTES + SNAPSHOT_CHUNK_BYTES_MAX,
        (Phase::Open, kind::PRE_VOTE_REQUEST..=kind::STATE_DIFFERS) => SMALL_FRAME_BYTES_MAX,
        _ => return Err(DecodeError::UnknownOpcode(kind)),
    };
    if length > limit {
        return Err(DecodeError::TooLarge { what: "frame", limit });
    }
    if length < FRAME_HEAD_BYTES {
        return Err(DecodeError::Invalid("frame length"));
    }
    if kind == kind::APPEND && length > SMALL_FRAME_BYTES_MAX {
        let Some(covered) = input.get(..APPEND_HEAD_BYTES) else { return Ok(None) };
        check_crc(covered)?;
    }
    Ok(Some(length))
}

/// Checks a whole frame: its length and its checksum. Answers kind, flags and body.
#[inline]
pub(super) fn open(frame: &[u8]) -> Result<(u8, u8, &[u8]), DecodeError> {
    let (head, body) =
        frame.split_first_chunk::<FRAME_HEAD_BYTES>().ok_or(DecodeError::Truncated)?;
    if length_of(head) != frame.len() {
        return Err(DecodeError::Invalid("frame length"));
    }
    let kind = head[8];
    let covered = match kind {
        kind::APPEND => frame.get(..APPEND_HEAD_BYTES).ok_or(DecodeError::Truncated)?,
        _ => frame,
    };
    check_crc(covered)?;
    if head[10..12] != [0, 0] {
        return Err(DecodeError::Invalid("frame padding"));
    }
    Ok((kind, head[9], body))
}

/// Begins a frame at the end of `out`; its length and checksum come with [`finish`].
pub(super) fn begin(out: &mut Vec<u8>, kind: u8, flags: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, kind, flags, 0, 0]);
    start
}

/// Ends the frame that began at `start`. `behind` bytes that are not covered will follow it.
pub(super) fn finish(out: &mut [u8], start: usize, behind: usize) {
    let length =
        u32::try_from(out.len() - start + behind).expect("bounded by PEER_FRAME_BYTES_MAX");
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_le_bytes());
}

#[inline]
fn length_of(head: &[u8; FRAME_HEAD_BYTES]) -> usize {
    u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize
}

#[inline]
fn check_crc(covered: &[u8]) -> Result<(), DecodeError> {
    let (crc, rest) = covered.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
    if crc32fast::hash(rest) == u32::from_le_bytes(*crc) {
        Ok(())
    } else {
        Err(DecodeError::Checksum)
    }
}
