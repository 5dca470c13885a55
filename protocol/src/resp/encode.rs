//! Replies: the types of RESP2 and RESP3, and how a [`Response`] is printed.

use super::shape::Shape;
use crate::error::ErrorCode;
use crate::response::Response;

/// The version of the protocol that a connection has chosen with `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// Every connection starts here.
    #[default]
    Resp2,
    /// Adds maps, sets, verbatim strings and one null.
    Resp3,
}

impl Version {
    /// The number in `HELLO` and in `CLIENT INFO`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Version::Resp2 => 2,
            Version::Resp3 => 3,
        }
    }
}

/// Appends the reply to a data command.
#[inline]
pub fn encode(out: &mut Vec<u8>, version: Version, shape: Shape, response: &Response<'_>) {
    let mut reply = Reply { out, version };
    match *response {
        Response::Value { value, .. } => reply.bulk(value),
        Response::Written { .. } | Response::Ok => reply.simple("OK"),
        Response::NotFound => match shape {
            Shape::Deleted | Shape::Number => reply.unsigned(0),
            Shape::Type => reply.simple("none"),
            _ => reply.null(),
        },
        Response::Number(0) if shape == Shape::Type => reply.simple("none"),
        Response::Number(_) if shape == Shape::Type => reply.simple("string"),
        Response::Number(number) => reply.unsigned(number),
        Response::Deleted { count, .. } => reply.unsigned(u64::from(count)),
        Response::Values(values) => {
            reply.array(values.len());
            for found in values.iter() {
                match found {
                    Some((_, value)) => reply.bulk(value),
                    None => reply.null(),
                }
            }
        }
        Response::Copies(copies) => {
            if shape == Shape::Waitaof {
                reply.array(2);
                reply.unsigned(u64::from(copies.here));
            }
            reply.unsigned(copies.elsewhere as u64);
        }
        Response::Leader(Some(address)) => reply.bulk(address.as_bytes()),
        Response::Leader(None) => reply.null(),
        Response::Status(line) | Response::Members(line) => reply.bulk(line.as_bytes()),
        Response::SnapshotPart { .. } => unreachable!("no command asks for a part of a snapshot"),
        Response::NotLeader { .. } if shape.is_wait() => {
            reply.error(b"ERR WAIT cannot be used with replica instances.");
        }
        Response::NotLeader { .. } => {
            reply.error(b"READONLY You can't write against a read only replica.");
        }
        Response::Error { code, message } => reply.failure(shape, code, message),
    }
}

/// Writes replies of one version at the end of a buffer.
#[derive(Debug)]
pub(super) struct Reply<'o> {
    pub(super) out: &'o mut Vec<u8>,
    pub(super) version: Version,
}

/// The most digits of a `u64`.
const DIGITS_MAX: usize = 20;

impl Reply<'_> {
    /// `+text`: text without line ends.
    pub(super) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// `-CODE words`; line ends among the words become spaces.
    #[cold]
    pub(super) fn error(&mut self, text: &[u8]) {
        let start = self.out.len();
        self.line(b'-', text);
        let end = self.out.len() - 2;
        for byte in &mut self.out[start..end] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
    }

    /// `:number`.
    #[inline]
    pub(super) fn unsigned(&mut self, number: u64) {
        self.head(b':', number);
    }

    /// `:number`.
    pub(super) fn signed(&mut self, number: i64) {
        match u64::try_from(number) {
            Ok(number) => self.unsigned(number),
            Err(_) => self.line(b':', number.to_string().as_bytes()),
        }
    }

    /// `$length` and the bytes.
    #[inline]
    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.out.reserve(bytes.len() + DIGITS_MAX + 5);
        self.head(b'$', bytes.len() as u64);
        self.out.extend_from_slice(bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    /// The one null of RESP3; the null bulk string of RESP2.
    #[inline]
    pub(super) fn null(&mut self) {
        self.out.extend_from_slice(match self.version {
            Version::Resp2 => b"$-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// The head of an array, before its `count` elements.
    pub(super) fn array(&mut self, count: usize) {
        self.head(b'*', count as u64);
    }

    /// The head of a map, before its `count` keys and values in turn; a flat array in RESP2.
    pub(super) fn map(&mut self, count: usize) {
        match self.version {
            Version::Resp2 => self.array(2 * count),
            Version::Resp3 => self.head(b'%', count as u64),
        }
    }

    /// The head of a set, before its `count` elements; an array in RESP2.
    pub(super) fn set(&mut self, count: usize) {
        match self.version {
            Version::Resp2 => self.array(count),
            Version::Resp3 => self.head(b'~', count as u64),
        }
    }

    /// Text for a person, with line ends: a verbatim string, a bulk string in RESP2.
    pub(super) fn verbatim(&mut self, text: &str) {
        if self.version == Version::Resp2 {
            return self.bulk(text.as_bytes());
        }
        self.head(b'=', text.len() as u64 + 4);
        self.out.extend_from_slice(b"txt:");
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// A failed request. The first word tells programs what is known: after `READONLY`,
    /// `TRYAGAIN`, `OOM`, `MISCONF` and `ERR` the write is not applied and never will be, after
    /// `INDOUBT` it may be. `TRYAGAIN` is what clients of Redis Cluster retry by themselves.
    #[cold]
    fn failure(&mut self, shape: Shape, code: ErrorCode, message: &str) {
        let word = match code {
            ErrorCode::UnknownCommand
            | ErrorCode::BadRequest
            | ErrorCode::TooLarge
            | ErrorCode::SessionExpired => "ERR",
            ErrorCode::NoLeader | ErrorCode::Busy => "TRYAGAIN",
            ErrorCode::LeaderChanged if shape.is_wait() => {
                return self.error(
                    b"UNBLOCKED force unblock from blocking operation, instance state changed \
                      (master -> replica?)",
                );
            }
            ErrorCode::QuorumTimeout | ErrorCode::LeaderChanged if shape.is_write() => "INDOUBT",
            // Nothing of a read can be in doubt.
            ErrorCode::QuorumTimeout | ErrorCode::LeaderChanged => "TRYAGAIN",
            ErrorCode::MemoryLimit => {
                let text = b"OOM command not allowed when used memory > 'maxmemory'.";
                return self.error(text);
            }
            ErrorCode::DiskFull => "MISCONF",
        };
        self.error(format!("{word} {message}").as_bytes());
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// The kind, a number in decimal, and a line end.
    #[inline]
    fn head(&mut self, kind: u8, mut number: u64) {
        let mut head = [0; DIGITS_MAX + 3];
        let mut at = head.len() - 2;
        head[at..].copy_from_slice(b"\r\n");
        loop {
            at -= 1;
            head[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        at -= 1;
        head[at] = kind;
        self.out.extend_from_slice(&head[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_printed_in_decimal() {
        let mut out = Vec::new();
        let mut reply = Reply { out: &mut out, version: Version::Resp2 };
        for number in [0, 9, 10, 123, u64::MAX] {
            reply.unsigned(number);
        }
        reply.signed(-1);
        reply.signed(i64::MIN);
        assert_eq!(
            out.escape_ascii().to_string(),
            ":0\\r\\n:9\\r\\n:10\\r\\n:123\\r\\n:18446744073709551615\\r\\n\
             :-1\\r\\n:-9223372036854775808\\r\\n"
        );
    }

    #[test]
    fn an_error_is_always_one_line() {
        let mut out = Vec::new();
        Reply { out: &mut out, version: Version::Resp2 }.error(b"ERR a\r\nb\n");
        assert_eq!(out, b"-ERR a  b \r\n");
    }
}
