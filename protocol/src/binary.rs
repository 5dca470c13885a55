//! The binary protocol: length-prefixed, checksummed frames with a request id. The normative text
//! for writers of clients is `protocol/SPEC.md`; this module is its reference implementation.
//!
//! ```text
//! preface   89 'K' 'V' 'O' 'R' 'M' version 0A            both sides send it once, first
//!
//! request    0         4            8       9          10           12                 end-4
//!           +---------+------------+-------+----------+------------+------------------+-----+
//!           | length  | request_id | level | reserved | timeout_ms | operation        | crc |
//!           +---------+------------+-------+----------+------------+------------------+-----+
//! operation  0        1       2            4
//!           +--------+-------+------------+------------------------------------+-----+------+
//!           | opcode | flags | key_length | session, sequence  or  min_version | key | rest |
//!           +--------+-------+------------+------------------------------------+-----+------+
//!
//! response   0         4            8        9      10         12        20        end-4
//!           +---------+------------+--------+------+----------+---------+---------+-----+
//!           | length  | request_id | status | kind | reserved | version | body    | crc |
//!           +---------+------------+--------+------+----------+---------+---------+-----+
//! ```
//!
//! Little-endian. `length` counts what follows it, the checksum included. `crc` is the CRC-32
//! (IEEE 802.3) of every byte of the frame before it, `length` included, so that no single
//! flipped bit passes for another frame. The operation of a write is byte for byte a
//! [`crate::command`].
//!
//! What is wrong with a frame comes in two kinds. A [`FrameError`] means that it is not known
//! where the next frame begins, or that nothing in this one can be believed: the connection ends.
//! A sound frame that asks for something impossible is decoded with its id and a [`DecodeError`]
//! in place of the request: it is answered, and the connection goes on.

mod request;
mod response;

use std::fmt;

use crate::error::{DecodeError, ErrorCode};

pub use request::{RequestFrame, RequestHead, decode_request, encode_request, opcode};
pub use response::{ResponseFrame, decode_response, encode_response, kind, status};

/// The version of the frames that this crate reads and writes.
pub const VERSION: u8 = 1;

/// What both sides send before anything else. The first byte is neither an ASCII letter nor `*`,
/// which tells this protocol from text and RESP; the last one shows a transport that rewrites line
/// ends.
pub const PREFACE: [u8; 8] = [0x89, b'K', b'V', b'O', b'R', b'M', VERSION, 0x0A];

/// The request id that no request may use: a response that carries it concerns the connection as
/// a whole, and is the last one before the server closes it.
pub const CONNECTION_ID: u32 = u32::MAX;

const LENGTH_BYTES: usize = 4;
const CRC_BYTES: usize = 4;
const VERSION_AT: usize = 6;

/// Why the first bytes of a connection are not a preface that this crate can go on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefaceError {
    /// Something else is speaking: close the connection.
    NotKvorum,
    /// A kvorum of another version. A server answers with its own [`PREFACE`], so that the client
    /// learns what is spoken here, and closes.
    Version(u8),
}

impl fmt::Display for PrefaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrefaceError::NotKvorum => f.write_str("this is not the kvorum binary protocol"),
            PrefaceError::Version(theirs) => write!(
                f,
                "the other side speaks version {theirs} of the binary protocol, this one {VERSION}"
            ),
        }
    }
}

impl std::error::Error for PrefaceError {}

/// Checks the preface at the start of a connection and returns how many bytes it has; `None`
/// when `input` is only a beginning of one.
///
/// # Errors
/// At the first byte that is not a preface's, without waiting for the rest.
pub fn decode_preface(input: &[u8]) -> Result<Option<usize>, PrefaceError> {
    let wrong = input.iter().zip(PREFACE).position(|(theirs, ours)| *theirs != ours);
    match wrong {
        // The version is judged last: other bytes behind it may mean another protocol.
        Some(VERSION_AT) => match input.get(VERSION_AT + 1) {
            None => Ok(None),
            Some(0x0A) => Err(PrefaceError::Version(input[VERSION_AT])),
            Some(_) => Err(PrefaceError::NotKvorum),
        },
        Some(_) => Err(PrefaceError::NotKvorum),
        None => Ok((input.len() >= PREFACE.len()).then_some(PREFACE.len())),
    }
}

/// Why a stream of frames cannot be read on: the connection must be closed. A server may say so
/// in a last response with [`CONNECTION_ID`] and [`FrameError::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The length is below that of the smallest frame.
    TooShort(u32),
    /// The length is over the limit.
    TooLong {
        /// What the frame says of itself, in bytes.
        length: u32,
        /// The most that is accepted, in bytes.
        limit: usize,
    },
    /// The frame was damaged on the way; not even its id can be believed.
    Checksum,
    /// A request carries [`CONNECTION_ID`].
    ReservedId,
    /// A response that is whole, but not one that this version knows. Only a client meets it.
    Response(DecodeError),
}

impl FrameError {
    /// The code with which a server takes leave.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            FrameError::TooLong { .. } => ErrorCode::TooLarge,
            FrameError::TooShort(_)
            | FrameError::Checksum
            | FrameError::ReservedId
            | FrameError::Response(_) => ErrorCode::BadRequest,
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooShort(length) => {
                write!(f, "a frame length of {length} is too small for any frame")
            }
            FrameError::TooLong { length, limit } => {
                write!(f, "a frame length of {length} is over the limit of {limit}")
            }
            FrameError::Checksum => f.write_str("the checksum of a frame does not match"),
            FrameError::ReservedId => {
                write!(f, "request id {CONNECTION_ID} is reserved for the connection")
            }
            FrameError::Response(error) => write!(f, "a response cannot be understood: {error}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes the frame at the start of `input` without its checksum; `None` when there is more to
/// come. The bounds are for the length field, which is judged before anything waits for it.
#[inline]
fn take_frame(
    input: &[u8],
    length_min: usize,
    length_max: usize,
) -> Result<Option<&[u8]>, FrameError> {
    let Some(field) = input.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let field = u32::from_le_bytes(*field);
    let length = field as usize;
    if length < length_min {
        return Err(FrameError::TooShort(field));
    }
    if length > length_max {
        return Err(FrameError::TooLong { length: field, limit: length_max });
    }
    let Some((covered, crc)) =
        input.get(..LENGTH_BYTES + length).and_then(<[u8]>::split_last_chunk::<CRC_BYTES>)
    else {
        return Ok(None);
    };
    if crc32fast::hash(covered) != u32::from_le_bytes(*crc) {
        return Err(FrameError::Checksum);
    }
    Ok(Some(covered))
}

/// How many bytes the frame at the start of `input` has in all, or the least that is needed to
/// know. The length is as the peer claims it: it has not been compared with any limit.
#[must_use]
pub fn frame_bytes(input: &[u8]) -> usize {
    match input.first_chunk::<LENGTH_BYTES>() {
        Some(field) => LENGTH_BYTES + u32::from_le_bytes(*field) as usize,
        None => LENGTH_BYTES,
    }
}

/// Appends the checksum of the frame that begins at `start`.
#[inline]
fn put_crc(out: &mut Vec<u8>, start: usize) {
    let crc = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preface_is_judged_at_its_first_wrong_byte() {
        assert_eq!(decode_preface(&PREFACE), Ok(Some(8)));
        assert_eq!(decode_preface(b"\x89KVORM\x01\x0Amore"), Ok(Some(8)));
        for length in 0..PREFACE.len() {
            assert_eq!(decode_preface(&PREFACE[..length]), Ok(None));
        }
        assert_eq!(decode_preface(b"\x89KX"), Err(PrefaceError::NotKvorum));
        assert_eq!(decode_preface(b"\x89KVORM\x02"), Ok(None));
        assert_eq!(decode_preface(b"\x89KVORM\x02\x0A"), Err(PrefaceError::Version(2)));
        assert_eq!(decode_preface(b"\x89KVORM\x02\x0D"), Err(PrefaceError::NotKvorum));
        assert_eq!(decode_preface(b"\x89KVORM\x01\x0D"), Err(PrefaceError::NotKvorum));
    }
}
