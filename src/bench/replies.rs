//! Replies, read in place from the bytes of a connection.

use std::fmt;

use kvorum_protocol::binary::{self, CONNECTION_ID, FrameError};
use kvorum_protocol::{ErrorCode, Response};
use memchr::memchr;

/// One reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reply<'a> {
    /// The id of its request; `None` where replies come in the order of the requests.
    pub(crate) id: Option<u32>,
    /// What it says.
    pub(crate) outcome: Outcome<'a>,
}

/// What a reply says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome<'a> {
    /// A write was done.
    Done,
    /// The value that was asked for.
    Value(&'a [u8]),
    /// There is no such key.
    Absent,
    /// RESP: how many keys were removed, or how many replicas hold what was written.
    Count(usize),
    /// The request failed.
    Failed(Failure<'a>),
}

/// Why the server did not do what it was asked, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure<'a> {
    /// An error line of the text protocol or RESP.
    Line(&'a [u8]),
    /// An error of the binary protocol.
    Code(ErrorCode, &'a str),
    /// The server is not the leader, which is there.
    NotLeader(&'a str),
    /// Fewer replicas hold a write than were waited for.
    TooFewReplicas(usize),
    /// The reply belongs to no request that the generator makes.
    Unexpected,
}

impl Failure<'_> {
    /// Whether a write may have been applied all the same. Of lines, whose codes differ from server
    /// to server, this is not known.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Failure::Code(ErrorCode::QuorumTimeout | ErrorCode::LeaderChanged, _))
    }

    /// Whether the next request to this server would be refused for the same reason: there is no
    /// leader, or it is elsewhere.
    pub(crate) fn is_of_the_server(&self) -> bool {
        let codes =
            matches!(self, Failure::Code(ErrorCode::NoLeader | ErrorCode::LeaderChanged, _));
        codes || matches!(self, Failure::NotLeader(_))
    }
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Line(line) => String::from_utf8_lossy(line).fmt(f),
            Failure::Code(code, message) => write!(f, "{} {message}", code.word()),
            Failure::NotLeader(leader) => write!(f, "NOT_LEADER leader={leader}"),
            Failure::TooFewReplicas(count) => write!(f, "WAIT counts {count} replicas"),
            Failure::Unexpected => f.write_str("a reply of a kind that was not asked for"),
        }
    }
}

/// Why the bytes of a connection cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A frame of the binary protocol is damaged.
    Frame(FrameError),
    /// The server ends the connection with this error.
    Farewell(String),
    /// No reply of this protocol starts like this.
    NotAReply(String),
    /// A reply came for which there is no request.
    Unasked,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplyError::Frame(error) => error.fmt(f),
            ReplyError::Farewell(message) => write!(f, "the server took leave: {message}"),
            ReplyError::NotAReply(start) => write!(
                f,
                "this is no reply of the protocol: '{start}'; is it another kind of server?"
            ),
            ReplyError::Unasked => f.write_str("a reply came for which there was no request"),
        }
    }
}

impl std::error::Error for ReplyError {}

/// How replies are read.
pub(crate) trait ReplyDecoder {
    /// Reads the reply at the start of `input` and says how many bytes it takes; `None` when there
    /// is more to come.
    fn decode(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, ReplyError>;
}

/// Frames with ids and checksums.
#[derive(Debug)]
pub(crate) struct BinaryReplies;

/// One line each, in the order of the requests.
#[derive(Debug)]
pub(crate) struct TextReplies;

/// The RESP2 replies of GET, SET, DEL and WAIT, in the order of the requests.
#[derive(Debug)]
pub(crate) struct RespReplies;

impl ReplyDecoder for BinaryReplies {
    #[inline]
    fn decode(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, ReplyError> {
        let Some((frame, length)) = binary::decode_response(input).map_err(ReplyError::Frame)?
        else {
            return Ok(None);
        };
        let outcome = match frame.response {
            Response::Value { value, .. } => Outcome::Value(value),
            Response::Written { .. } => Outcome::Done,
            Response::NotFound | Response::Deleted { count: 0, .. } => Outcome::Absent,
            Response::Deleted { .. } => Outcome::Done,
            Response::NotLeader { leader } => Outcome::Failed(Failure::NotLeader(leader)),
            Response::Error { code, message } => Outcome::Failed(Failure::Code(code, message)),
            Response::Ok
            | Response::Values(_)
            | Response::Number(_)
            | Response::Copies(_)
            | Response::Leader(_)
            | Response::Status(_)
            | Response::Members(_)
            | Response::SnapshotPart { .. } => Outcome::Failed(Failure::Unexpected),
        };
        if frame.id == CONNECTION_ID {
            return Err(ReplyError::Farewell(match outcome {
                Outcome::Failed(failure) => failure.to_string(),
                _ => Failure::Unexpected.to_string(),
            }));
        }
        Ok(Some((Reply { id: Some(frame.id), outcome }, length)))
    }
}

impl ReplyDecoder for TextReplies {
    #[inline]
    fn decode(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, ReplyError> {
        let Some(end) = memchr(b'\n', input) else {
            return Ok(None);
        };
        let line = &input[..end];
        let outcome = if let Some(value) = line.strip_prefix(b"VALUE ") {
            Outcome::Value(value)
        } else {
            match line {
                b"OK" => Outcome::Done,
                b"NOT_FOUND" => Outcome::Absent,
                _ if line.starts_with(b"ERROR ")
                    || line.starts_with(b"NOT_LEADER ")
                    || line.starts_with(b"VALUE_ESCAPED ") =>
                {
                    Outcome::Failed(Failure::Line(line))
                }
                _ => return Err(not_a_reply(line)),
            }
        };
        Ok(Some((Reply { id: None, outcome }, end + 1)))
    }
}

impl ReplyDecoder for RespReplies {
    #[inline]
    fn decode(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, ReplyError> {
        // The line ends are near: a search by hand is quicker than a call for so few bytes.
        let Some(end) = input.iter().take(24).position(|&byte| byte == b'\n') else {
            return long_resp_line(input);
        };
        let Some((&kind, line)) = input[..end].strip_suffix(b"\r").and_then(<[u8]>::split_first)
        else {
            return Err(not_a_reply(&input[..end]));
        };
        let mut length = end + 1;
        let outcome = match (kind, line) {
            (b'$', b"-1") => Outcome::Absent,
            (b'$', _) => {
                let value_bytes = decimal(line).ok_or_else(|| not_a_reply(&input[..end]))?;
                let Some((value, rest)) = input[length..].split_at_checked(value_bytes) else {
                    return Ok(None);
                };
                match rest {
                    [b'\r', b'\n', ..] => length += value_bytes + 2,
                    [] | [b'\r'] => return Ok(None),
                    _ => return Err(not_a_reply(rest)),
                }
                Outcome::Value(value)
            }
            (b'+', _) => Outcome::Done,
            (b':', _) => Outcome::Count(decimal(line).ok_or_else(|| not_a_reply(&input[..end]))?),
            (b'-', _) => Outcome::Failed(Failure::Line(line)),
            _ => return Err(not_a_reply(&input[..end])),
        };
        Ok(Some((Reply { id: None, outcome }, length)))
    }
}

/// A line beyond the length of all that can be hoped for: an error, or something else altogether.
#[cold]
fn long_resp_line(input: &[u8]) -> Result<Option<(Reply<'_>, usize)>, ReplyError> {
    match input {
        [] => Ok(None),
        [b'-', line @ ..] => Ok(memchr(b'\n', line).map(|end| {
            let words = line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]);
            (Reply { id: None, outcome: Outcome::Failed(Failure::Line(words)) }, end + 2)
        })),
        [b'$' | b'+' | b':', ..] if input.len() < 24 => Ok(None),
        _ => Err(not_a_reply(input)),
    }
}

#[inline]
fn decimal(digits: &[u8]) -> Option<usize> {
    // Nine digits are far more than any value has, and cannot overflow.
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + usize::from(digit - b'0'))
    })
}

#[cold]
fn not_a_reply(bytes: &[u8]) -> ReplyError {
    let start = &bytes[..bytes.len().min(60)];
    ReplyError::NotAReply(start.escape_ascii().to_string())
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::LogIndex;

    use super::*;

    fn ordered(outcome: Outcome<'_>) -> Reply<'_> {
        Reply { id: None, outcome }
    }

    /// Every way of cutting the bytes short means "more to come", and what follows is left alone.
    fn check<D: ReplyDecoder>(bytes: &[u8], expected: Reply<'_>) {
        for length in 0..bytes.len() {
            assert_eq!(D::decode(&bytes[..length]), Ok(None), "{length} of {}", bytes.len());
        }
        let followed = [bytes, bytes].concat();
        assert_eq!(D::decode(&followed), Ok(Some((expected, bytes.len()))));
    }

    #[test]
    fn text_replies() {
        check::<TextReplies>(b"OK\n", ordered(Outcome::Done));
        check::<TextReplies>(b"NOT_FOUND\n", ordered(Outcome::Absent));
        check::<TextReplies>(b"VALUE a b \n", ordered(Outcome::Value(b"a b ")));
        check::<TextReplies>(
            b"ERROR BUSY later\n",
            ordered(Outcome::Failed(Failure::Line(b"ERROR BUSY later"))),
        );
        assert!(matches!(TextReplies::decode(b"+OK\r\n"), Err(ReplyError::NotAReply(_))));
    }

    #[test]
    fn resp_replies() {
        check::<RespReplies>(b"+OK\r\n", ordered(Outcome::Done));
        check::<RespReplies>(b"$-1\r\n", ordered(Outcome::Absent));
        check::<RespReplies>(b"$0\r\n\r\n", ordered(Outcome::Value(b"")));
        check::<RespReplies>(b"$5\r\na\r\nbc\r\n", ordered(Outcome::Value(b"a\r\nbc")));
        check::<RespReplies>(b":0\r\n", ordered(Outcome::Count(0)));
        check::<RespReplies>(b":1\r\n", ordered(Outcome::Count(1)));
        check::<RespReplies>(b"-ERR no\r\n", ordered(Outcome::Failed(Failure::Line(b"ERR no"))));
        check::<RespReplies>(
            b"-MISCONF some words that make the line long\r\n",
            ordered(Outcome::Failed(Failure::Line(b"MISCONF some words that make the line long"))),
        );
        for garbage in [
            &b"OK\n"[..],
            b"!\r\n",
            b"$x\r\n",
            b":x\r\n",
            b"$12345678901\r\n",
            b"$1\r\nabcd",
            b"HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(matches!(RespReplies::decode(garbage), Err(ReplyError::NotAReply(_))));
        }
    }

    fn frame(id: u32, response: Response<'_>) -> Vec<u8> {
        let mut bytes = Vec::new();
        binary::encode_response(&mut bytes, id, &response);
        bytes
    }

    #[test]
    fn binary_replies() {
        let version = LogIndex(9);
        for (response, outcome) in [
            (Response::Value { version, value: b"v" }, Outcome::Value(b"v")),
            (Response::Written { version }, Outcome::Done),
            (Response::NotFound, Outcome::Absent),
            (Response::Deleted { version, count: 1 }, Outcome::Done),
            (Response::Deleted { version, count: 0 }, Outcome::Absent),
            (
                Response::Error { code: ErrorCode::Busy, message: "later" },
                Outcome::Failed(Failure::Code(ErrorCode::Busy, "later")),
            ),
        ] {
            check::<BinaryReplies>(&frame(7, response), Reply { id: Some(7), outcome });
        }
        let mut damaged = frame(7, Response::NotFound);
        damaged[9] ^= 1;
        assert_eq!(BinaryReplies::decode(&damaged), Err(ReplyError::Frame(FrameError::Checksum)));
        let leave = frame(
            CONNECTION_ID,
            Response::Error { code: ErrorCode::BadRequest, message: "no frame" },
        );
        assert_eq!(
            BinaryReplies::decode(&leave),
            Err(ReplyError::Farewell("BAD_REQUEST no frame".into()))
        );
    }
}
