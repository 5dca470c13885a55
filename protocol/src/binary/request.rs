//! Request frames.

use crate::binary::{CONNECTION_ID, CRC_BYTES, FrameError, LENGTH_BYTES, put_crc, take_frame};
use crate::command::{Command, KeyList, check_key};
use crate::error::DecodeError;
use crate::limits::{Limits, VOTERS_MAX};
use crate::membership::Change;
use crate::request::{Read, Request, SnapshotRead};
use crate::types::{LogIndex, NodeId, Quorum};

/// What a request asks for. The writes are those of [`crate::command::opcode`].
pub mod opcode {
    pub use crate::command::opcode::{DELETE, DELETE_MANY, OPEN_SESSION, SET, SET_MANY};

    /// The value of a key.
    pub const GET: u8 = 0x01;
    /// The values of several keys.
    pub const GET_MANY: u8 = 0x04;
    /// How many of several keys exist.
    pub const EXISTS: u8 = 0x07;
    /// The length of a value.
    pub const LENGTH: u8 = 0x08;
    /// Nothing but an answer.
    pub const PING: u8 = 0x10;
    /// The node's state.
    pub const STATUS: u8 = 0x11;
    /// The leader's client address.
    pub const WHO_IS_LEADER: u8 = 0x12;
    /// Sets W and R of the connection.
    pub const QUORUM: u8 = 0x13;
    /// Hands leadership over.
    pub const TRANSFER: u8 = 0x14;
    /// Who is in the cluster.
    pub const MEMBERS: u8 = 0x15;
    /// Takes a snapshot.
    pub const SNAPSHOT: u8 = 0x16;
    /// A part of a snapshot.
    pub const SNAPSHOT_READ: u8 = 0x17;
    /// Changes the members. (0x16 and 0x17 are taken.)
    pub const CHANGE_MEMBERS: u8 = 0x18;
}

/// Set in the flags of a read when a `min_version` stands before the key.
const FLAG_MIN_VERSION: u8 = 2;

/// From the length field to the operation.
const HEAD_BYTES: usize = 12;
const OPERATION_HEADER_BYTES: usize = 4;
const MIN_VERSION_BYTES: usize = 8;
const SNAPSHOT_READ_BYTES: usize = 20;

/// What of a frame the length field counts besides the operation.
const LENGTH_OVERHEAD: usize = HEAD_BYTES - LENGTH_BYTES + CRC_BYTES;

const LEVEL_DEFAULT: u8 = 0;
const LEVEL_ALL: u8 = 254;
const LEVEL_MAJORITY: u8 = 255;

/// What stands in every request frame beside the request itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestHead {
    /// Chosen by the client, unique among its requests in flight, not [`CONNECTION_ID`]. The
    /// response carries it back.
    pub id: u32,
    /// W for a write, R for a read (never [`Quorum::All`] there); `None` for what the connection
    /// or else the server has set. Without meaning for other requests.
    pub level: Option<Quorum>,
    /// How long the request may wait for its quorum, in milliseconds; 0 for the server's own
    /// timeout.
    pub timeout_ms: u16,
    /// A read is to be answered from a state that has applied at least this index; 0 when any
    /// will do. Only reads carry it.
    pub min_version: LogIndex,
}

/// A request frame whose boundaries and checksum are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestFrame<'a> {
    /// Whom to answer, and the terms.
    pub head: RequestHead,
    /// What to do, or why that is refused ([`DecodeError::code`] is the answer's code). A
    /// refused request was not applied, and the connection goes on behind it.
    pub request: Result<Request<'a>, DecodeError>,
}

/// Reads the request frame at the start of `input` and says how many bytes it takes; `None` when
/// there is more to come.
///
/// # Errors
/// What makes the rest of the stream unreadable; see [`FrameError`].
#[inline]
pub fn decode_request<'a>(
    input: &'a [u8],
    limits: &Limits,
) -> Result<Option<(RequestFrame<'a>, usize)>, FrameError> {
    let length_max = limits.request_bytes_max() + LENGTH_OVERHEAD;
    let Some(frame) = take_frame(input, LENGTH_OVERHEAD + OPERATION_HEADER_BYTES, length_max)?
    else {
        return Ok(None);
    };
    let (&[_, _, _, _, i0, i1, i2, i3, level, reserved, t0, t1], operation) =
        frame.split_first_chunk::<HEAD_BYTES>().expect("take_frame was given the least length");
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    if id == CONNECTION_ID {
        return Err(FrameError::ReservedId);
    }
    let mut head = RequestHead {
        id,
        level: None,
        timeout_ms: u16::from_le_bytes([t0, t1]),
        min_version: LogIndex(0),
    };
    let request = if reserved == 0 {
        decode_operation(operation, level, limits, &mut head)
    } else {
        Err(DecodeError::Invalid("reserved byte"))
    };
    Ok(Some((RequestFrame { head, request }, frame.len() + CRC_BYTES)))
}

#[inline]
fn decode_operation<'a>(
    operation: &'a [u8],
    level: u8,
    limits: &Limits,
    head: &mut RequestHead,
) -> Result<Request<'a>, DecodeError> {
    head.level = decode_level(level)?;
    match operation[0] {
        opcode::SET
        | opcode::DELETE
        | opcode::SET_MANY
        | opcode::DELETE_MANY
        | opcode::OPEN_SESSION => {
            let command = Command::decode(operation)?;
            command.check(limits)?;
            Ok(Request::Write(command))
        }
        opcode::GET | opcode::GET_MANY | opcode::EXISTS | opcode::LENGTH => {
            check_read_level(head.level)?;
            let (min_version, read) = decode_read(operation, limits)?;
            head.min_version = min_version;
            Ok(Request::Read(read))
        }
        _ => decode_other(operation),
    }
}

#[inline]
fn decode_read<'a>(
    operation: &'a [u8],
    limits: &Limits,
) -> Result<(LogIndex, Read<'a>), DecodeError> {
    let (&[opcode, flags, low, high], rest) =
        operation.split_first_chunk::<OPERATION_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
    let (min_version, rest) = match flags {
        0 => (LogIndex(0), rest),
        FLAG_MIN_VERSION => {
            let (version, rest) =
                rest.split_first_chunk::<MIN_VERSION_BYTES>().ok_or(DecodeError::Truncated)?;
            (LogIndex(u64::from_le_bytes(*version)), rest)
        }
        _ => return Err(DecodeError::Invalid("flags")),
    };
    let key_length = usize::from(u16::from_le_bytes([low, high]));
    let (key, rest) = rest.split_at_checked(key_length).ok_or(DecodeError::Truncated)?;
    let read = match opcode {
        opcode::GET | opcode::LENGTH => {
            if !rest.is_empty() {
                return Err(DecodeError::TrailingBytes);
            }
            check_key(key, limits)?;
            if opcode == opcode::GET { Read::Get(key) } else { Read::Length(key) }
        }
        _ if key_length != 0 => return Err(DecodeError::Invalid("key_length")),
        _ => {
            let keys = KeyList::decode(rest)?;
            keys.iter().try_for_each(|key| check_key(key, limits))?;
            if opcode == opcode::GET_MANY { Read::GetMany(keys) } else { Read::Exists(keys) }
        }
    };
    Ok((min_version, read))
}

/// Everything that is neither a write nor a read. These are rare.
#[cold]
fn decode_other(operation: &[u8]) -> Result<Request<'_>, DecodeError> {
    let (&[opcode, flags, low, high], rest) =
        operation.split_first_chunk::<OPERATION_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
    let request = match (opcode, rest) {
        (opcode::PING, []) => Request::Ping,
        (opcode::STATUS, []) => Request::Status,
        (opcode::WHO_IS_LEADER, []) => Request::WhoIsLeader,
        (opcode::MEMBERS, []) => Request::Members,
        (opcode::SNAPSHOT, []) => Request::Snapshot,
        (opcode::PING | opcode::STATUS | opcode::WHO_IS_LEADER, _)
        | (opcode::MEMBERS | opcode::SNAPSHOT, _) => return Err(DecodeError::TrailingBytes),
        (opcode::SNAPSHOT_READ, rest) => Request::SnapshotRead(decode_snapshot_read(rest)?),
        (opcode::QUORUM, &[write, read]) => {
            let (write, read) = (decode_level(write)?, decode_level(read)?);
            check_read_level(read)?;
            Request::Quorum { write, read }
        }
        (opcode::TRANSFER, &[low, high]) => {
            let to = NodeId(u16::from_le_bytes([low, high]));
            Request::Transfer { to: (to != NodeId(0)).then_some(to) }
        }
        (opcode::CHANGE_MEMBERS, rest) => decode_change(rest)?,
        (opcode::QUORUM | opcode::TRANSFER, [] | [_]) => return Err(DecodeError::Truncated),
        (opcode::QUORUM | opcode::TRANSFER, _) => return Err(DecodeError::TrailingBytes),
        _ => return Err(DecodeError::UnknownOpcode(opcode)),
    };
    if flags != 0 {
        return Err(DecodeError::Invalid("flags"));
    }
    if (low, high) != (0, 0) {
        return Err(DecodeError::Invalid("key_length"));
    }
    Ok(request)
}

fn decode_snapshot_read(arguments: &[u8]) -> Result<SnapshotRead, DecodeError> {
    let (index, rest) = arguments.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
    let (offset, rest) = rest.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
    let (bytes_max, rest) = rest.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes);
    }
    let (index, offset) = (u64::from_le_bytes(*index), u64::from_le_bytes(*offset));
    match u32::from_le_bytes(*bytes_max) {
        0 => Err(DecodeError::Invalid("bytes_max")),
        bytes_max => Ok(SnapshotRead { index: LogIndex(index), offset, bytes_max }),
    }
}

fn decode_change(arguments: &[u8]) -> Result<Request<'_>, DecodeError> {
    let (base, words) = arguments.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
    let base = LogIndex(u64::from_le_bytes(*base));
    let invalid = DecodeError::Invalid("change of the members");
    let change = std::str::from_utf8(words).map_err(|_| invalid)?;
    if Change::parse(change).is_err() {
        return Err(invalid);
    }
    Ok(Request::ChangeMembers { change, base: (base.0 > 0).then_some(base) })
}

#[inline]
fn decode_level(level: u8) -> Result<Option<Quorum>, DecodeError> {
    match level {
        LEVEL_DEFAULT => Ok(None),
        1..=VOTERS_MAX => Ok(Some(Quorum::Count(level))),
        LEVEL_ALL => Ok(Some(Quorum::All)),
        LEVEL_MAJORITY => Ok(Some(Quorum::Majority)),
        _ => Err(DecodeError::Invalid("quorum level")),
    }
}

/// A read that insists on every voter would fail whenever one is down and show nothing that a
/// majority does not: there is no such R in any of the protocols.
#[inline]
fn check_read_level(level: Option<Quorum>) -> Result<(), DecodeError> {
    if level == Some(Quorum::All) {
        return Err(DecodeError::Invalid("read quorum 'all'"));
    }
    Ok(())
}

fn encode_level(level: Option<Quorum>) -> u8 {
    match level {
        None => LEVEL_DEFAULT,
        Some(Quorum::All) => LEVEL_ALL,
        Some(Quorum::Majority) => LEVEL_MAJORITY,
        Some(Quorum::Count(n)) => {
            assert!((1..=VOTERS_MAX).contains(&n), "a quorum is 1 to {VOTERS_MAX} voters");
            n
        }
    }
}

/// Appends one request frame.
///
/// # Panics
/// When a key is longer than [`crate::limits::KEY_BYTES_MAX`], the request longer than a `u32` can
/// say, the id is [`CONNECTION_ID`], or a [`Quorum::Count`] is not 1 to [`VOTERS_MAX`].
#[inline]
pub fn encode_request(out: &mut Vec<u8>, head: &RequestHead, request: &Request<'_>) {
    assert_ne!(head.id, CONNECTION_ID, "this request id is reserved");
    let length = LENGTH_OVERHEAD + operation_len(request, head.min_version);
    let length_field = u32::try_from(length).expect("requests are bounded by COMMAND_BYTES_MAX");
    let start = out.len();
    out.reserve(LENGTH_BYTES + length);
    out.extend_from_slice(&length_field.to_le_bytes());
    out.extend_from_slice(&head.id.to_le_bytes());
    out.extend_from_slice(&[encode_level(head.level), 0]);
    out.extend_from_slice(&head.timeout_ms.to_le_bytes());
    match request {
        Request::Write(command) => command.encode(out),
        Request::Read(read) => encode_read(out, head.min_version, read),
        Request::WhoIsLeader => out.extend_from_slice(&[opcode::WHO_IS_LEADER, 0, 0, 0]),
        Request::Ping => out.extend_from_slice(&[opcode::PING, 0, 0, 0]),
        Request::Status => out.extend_from_slice(&[opcode::STATUS, 0, 0, 0]),
        Request::Members => out.extend_from_slice(&[opcode::MEMBERS, 0, 0, 0]),
        Request::Snapshot => out.extend_from_slice(&[opcode::SNAPSHOT, 0, 0, 0]),
        Request::SnapshotRead(read) => {
            out.extend_from_slice(&[opcode::SNAPSHOT_READ, 0, 0, 0]);
            out.extend_from_slice(&read.index.0.to_le_bytes());
            out.extend_from_slice(&read.offset.to_le_bytes());
            out.extend_from_slice(&read.bytes_max.to_le_bytes());
        }
        Request::Quorum { write, read } => {
            let (write, read) = (encode_level(*write), encode_level(*read));
            out.extend_from_slice(&[opcode::QUORUM, 0, 0, 0, write, read]);
        }
        Request::ChangeMembers { change, base } => {
            out.extend_from_slice(&[opcode::CHANGE_MEMBERS, 0, 0, 0]);
            out.extend_from_slice(&base.unwrap_or_default().0.to_le_bytes());
            out.extend_from_slice(change.as_bytes());
        }
        Request::Transfer { to } => {
            let [low, high] = to.unwrap_or(NodeId(0)).0.to_le_bytes();
            out.extend_from_slice(&[opcode::TRANSFER, 0, 0, 0, low, high]);
        }
    }
    put_crc(out, start);
    debug_assert_eq!(out.len() - start, LENGTH_BYTES + length);
}

fn operation_len(request: &Request<'_>, min_version: LogIndex) -> usize {
    match request {
        Request::Write(command) => command.encoded_len(),
        Request::Read(read) => {
            let arguments = match read {
                Read::Get(key) | Read::Length(key) => key.len(),
                Read::GetMany(keys) | Read::Exists(keys) => keys.as_bytes().len(),
            };
            let min_version = if min_version.0 == 0 { 0 } else { MIN_VERSION_BYTES };
            OPERATION_HEADER_BYTES + min_version + arguments
        }
        Request::Quorum { .. } | Request::Transfer { .. } => OPERATION_HEADER_BYTES + 2,
        Request::ChangeMembers { change, .. } => OPERATION_HEADER_BYTES + 8 + change.len(),
        Request::SnapshotRead(_) => OPERATION_HEADER_BYTES + SNAPSHOT_READ_BYTES,
        Request::WhoIsLeader
        | Request::Ping
        | Request::Status
        | Request::Members
        | Request::Snapshot => OPERATION_HEADER_BYTES,
    }
}

fn encode_read(out: &mut Vec<u8>, min_version: LogIndex, read: &Read<'_>) {
    let (opcode, key, rest): (u8, &[u8], &[u8]) = match read {
        Read::Get(key) => (opcode::GET, key, &[]),
        Read::Length(key) => (opcode::LENGTH, key, &[]),
        Read::GetMany(keys) => (opcode::GET_MANY, &[], keys.as_bytes()),
        Read::Exists(keys) => (opcode::EXISTS, &[], keys.as_bytes()),
    };
    let key_length = u16::try_from(key.len()).expect("keys are bounded by KEY_BYTES_MAX");
    let [low, high] = key_length.to_le_bytes();
    if min_version.0 == 0 {
        out.extend_from_slice(&[opcode, 0, low, high]);
    } else {
        out.extend_from_slice(&[opcode, FLAG_MIN_VERSION, low, high]);
        out.extend_from_slice(&min_version.0.to_le_bytes());
    }
    out.extend_from_slice(key);
    out.extend_from_slice(rest);
}
