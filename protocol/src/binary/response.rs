//! Response frames.

use crate::binary::{CRC_BYTES, FrameError, LENGTH_BYTES, put_crc, take_frame};
use crate::error::{DecodeError, ErrorCode};
use crate::limits::REPLY_BYTES_MAX;
use crate::response::{Response, ValueList};
use crate::types::LogIndex;

/// How a request ended. From 0x10 on it is the number of an [`ErrorCode`].
pub mod status {
    /// As asked; `kind` says how the body is read.
    pub const OK: u8 = 0;
    /// The key of a GET is absent.
    pub const NOT_FOUND: u8 = 1;
    /// The write was not applied; the body is the leader's client address.
    pub const NOT_LEADER: u8 = 2;
}

/// What the body of an OK response is.
pub mod kind {
    /// Empty (PING, QUORUM, TRANSFER).
    pub const NONE: u8 = 0;
    /// Empty; `version` is the index of the write.
    pub const WRITTEN: u8 = 1;
    /// `u32`: how many keys there were; `version` is the index of the delete.
    pub const DELETED: u8 = 2;
    /// The value; `version` is that of the key.
    pub const VALUE: u8 = 3;
    /// A [`ValueList`](crate::response::ValueList).
    pub const VALUES: u8 = 4;
    /// `u64`.
    pub const NUMBER: u8 = 5;
    /// The leader's client address in UTF-8; empty when none is known.
    pub const LEADER: u8 = 6;
    /// The node's state in UTF-8.
    pub const STATUS: u8 = 7;
    /// A [`MembersLine`](crate::MembersLine) in UTF-8.
    pub const MEMBERS: u8 = 8;
    /// `u64` length of the whole file, then the part; `version` is the index of the snapshot.
    pub const SNAPSHOT_PART: u8 = 9;
}

const HEADER_BYTES: usize = 20;

/// What of a frame the length field counts besides the body.
const LENGTH_OVERHEAD: usize = HEADER_BYTES - LENGTH_BYTES + CRC_BYTES;

/// A response frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseFrame<'a> {
    /// The id of the request that it answers, or [`CONNECTION_ID`](crate::binary::CONNECTION_ID).
    pub id: u32,
    /// The answer.
    pub response: Response<'a>,
}

/// Appends one response frame.
///
/// # Panics
/// When the body is longer than a `u32` can say: replies are bounded by [`REPLY_BYTES_MAX`]. For
/// [`Response::Copies`]: no frame asks for them.
#[inline]
pub fn encode_response(out: &mut Vec<u8>, request_id: u32, response: &Response<'_>) {
    let count;
    let number;
    let mut behind: &[u8] = &[];
    let none = LogIndex(0);
    let (status, kind, version, body): (u8, u8, LogIndex, &[u8]) = match *response {
        Response::Value { version, value } => (status::OK, kind::VALUE, version, value),
        Response::Written { version } => (status::OK, kind::WRITTEN, version, &[]),
        Response::NotFound => (status::NOT_FOUND, kind::NONE, none, &[]),
        Response::Deleted { version, count: deleted } => {
            count = deleted.to_le_bytes();
            (status::OK, kind::DELETED, version, &count)
        }
        Response::Values(values) => (status::OK, kind::VALUES, none, values.as_bytes()),
        Response::Number(n) => {
            number = n.to_le_bytes();
            (status::OK, kind::NUMBER, none, &number)
        }
        Response::Ok => (status::OK, kind::NONE, none, &[]),
        Response::Copies(_) => unreachable!("no request of the binary protocol asks for copies"),
        Response::Leader(leader) => {
            (status::OK, kind::LEADER, none, leader.unwrap_or_default().as_bytes())
        }
        Response::Status(line) => (status::OK, kind::STATUS, none, line.as_bytes()),
        Response::Members(line) => (status::OK, kind::MEMBERS, none, line.as_bytes()),
        Response::SnapshotPart { index, total_bytes, bytes } => {
            number = total_bytes.to_le_bytes();
            behind = bytes;
            (status::OK, kind::SNAPSHOT_PART, index, &number)
        }
        Response::NotLeader { leader } => (status::NOT_LEADER, kind::NONE, none, leader.as_bytes()),
        Response::Error { code, message } => (code as u8, kind::NONE, none, message.as_bytes()),
    };
    let length = LENGTH_OVERHEAD + body.len() + behind.len();
    let length_field = u32::try_from(length).expect("replies are bounded by REPLY_BYTES_MAX");
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&length_field.to_le_bytes());
    header[4..8].copy_from_slice(&request_id.to_le_bytes());
    header[8] = status;
    header[9] = kind;
    header[12..20].copy_from_slice(&version.0.to_le_bytes());
    let start = out.len();
    out.reserve(LENGTH_BYTES + length);
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
    out.extend_from_slice(behind);
    put_crc(out, start);
}

/// Reads the response frame at the start of `input` and says how many bytes it takes; `None` when
/// there is more to come. Fields that the status and kind give no meaning to are ignored.
///
/// # Errors
/// A response that is damaged, longer than [`REPLY_BYTES_MAX`] allows, or not of this version. The
/// outcome of every request in flight is then open.
#[inline]
pub fn decode_response(input: &[u8]) -> Result<Option<(ResponseFrame<'_>, usize)>, FrameError> {
    let length_max = REPLY_BYTES_MAX + LENGTH_OVERHEAD;
    let Some(frame) = take_frame(input, LENGTH_OVERHEAD, length_max)? else {
        return Ok(None);
    };
    let (header, body) =
        frame.split_first_chunk::<HEADER_BYTES>().expect("take_frame was given the least length");
    let [_, _, _, _, i0, i1, i2, i3, status, kind, _, _, version @ ..] = *header;
    let id = u32::from_le_bytes([i0, i1, i2, i3]);
    let version = LogIndex(u64::from_le_bytes(version));
    let response = decode_body(status, kind, version, body).map_err(FrameError::Response)?;
    Ok(Some((ResponseFrame { id, response }, frame.len() + CRC_BYTES)))
}

#[inline]
fn decode_body(
    status: u8,
    kind: u8,
    version: LogIndex,
    body: &[u8],
) -> Result<Response<'_>, DecodeError> {
    match status {
        status::OK => decode_ok(kind, version, body),
        status::NOT_FOUND => empty(body).map(|()| Response::NotFound),
        status::NOT_LEADER => Ok(Response::NotLeader { leader: utf8(body)? }),
        _ => {
            let code = ErrorCode::from_number(status).ok_or(DecodeError::Invalid("status"))?;
            Ok(Response::Error { code, message: utf8(body)? })
        }
    }
}

#[inline]
fn decode_ok(kind: u8, version: LogIndex, body: &[u8]) -> Result<Response<'_>, DecodeError> {
    Ok(match kind {
        kind::VALUE => Response::Value { version, value: body },
        kind::WRITTEN => {
            empty(body)?;
            Response::Written { version }
        }
        kind::DELETED => Response::Deleted { version, count: u32::from_le_bytes(exactly(body)?) },
        kind::VALUES => Response::Values(ValueList::decode(body)?),
        kind::NUMBER => Response::Number(u64::from_le_bytes(exactly(body)?)),
        kind::NONE => {
            empty(body)?;
            Response::Ok
        }
        kind::LEADER if body.is_empty() => Response::Leader(None),
        kind::LEADER => Response::Leader(Some(utf8(body)?)),
        kind::STATUS => Response::Status(utf8(body)?),
        kind::MEMBERS => Response::Members(utf8(body)?),
        kind::SNAPSHOT_PART => {
            let (total, bytes) = body.split_first_chunk().ok_or(DecodeError::Truncated)?;
            let total_bytes = u64::from_le_bytes(*total);
            Response::SnapshotPart { index: version, total_bytes, bytes }
        }
        _ => return Err(DecodeError::Invalid("kind")),
    })
}

fn empty(body: &[u8]) -> Result<(), DecodeError> {
    if body.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes) }
}

fn exactly<const N: usize>(body: &[u8]) -> Result<[u8; N], DecodeError> {
    let (number, rest) = body.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
    empty(rest).map(|()| *number)
}

fn utf8(body: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(body).map_err(|_| DecodeError::Invalid("UTF-8"))
}
