//! From bytes to the arguments of one command, incrementally.
//!
//! A command is an array of bulk strings, `*2\r\n$3\r\nGET\r\n$1\r\nk\r\n`, or a line of words
//! (an *inline command*). See the RESP specification, "Sending commands to a Redis server", at
//! <https://redis.io/docs/latest/develop/reference/protocol-spec/>.

use std::fmt;

use super::args::Args;
use super::inline;
use crate::limits::{
    Limits, RESP_ARG_FRAMING_BYTES_MAX, RESP_ARGS_MAX, RESP_BULK_BYTES_MIN, RESP_INLINE_BYTES_MAX,
};

/// Reads commands off the front of one connection's input.
///
/// Call [`decode`](Decoder::decode) with the unconsumed input, which must start where it started
/// at the last call and may only have grown. After `Command` or `Skip`, drop `consumed` bytes from
/// its front before the next call. After an error the connection is lost: send
/// [`ProtocolError::encode`] and close.
///
/// A command that has not arrived as a whole is not scanned from its start again: the decoder
/// remembers how far it came, and reads the ranges of all arguments in one pass when the last has
/// arrived. So each byte of a command's framing is looked at twice at most, however it dribbles in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    /// Bytes that hold whole arguments, or an inline command's bytes without a line end;
    /// 0 at a command's start.
    scanned: usize,
    /// How many arguments the command has in all.
    args_total: usize,
    /// How many of them are behind `scanned`.
    args_left: usize,
}

/// What stands at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The start of a command. Calling again is of no use before the input has `at_least` bytes;
    /// what a client claims here it has not sent yet, so memory should follow what arrives.
    NeedMore {
        /// Bytes of input, from the command's start.
        at_least: usize,
    },
    /// A command, of which [`Args`] now holds the arguments; at least its name.
    Command {
        /// Its length in bytes.
        consumed: usize,
    },
    /// An empty array or line, which asks for nothing and gets no reply.
    Skip {
        /// Its length in bytes.
        consumed: usize,
    },
}

/// Bytes that are no RESP command. The stream can not be resynchronised after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number of arguments is not a number, or over [`RESP_ARGS_MAX`].
    MultibulkLength,
    /// The length of an argument is not a number, or over the configured limits.
    BulkLength,
    /// An argument starts with this byte instead of `$`.
    ExpectedBulk(u8),
    /// The content of an argument is not followed by `\r\n`, so its length was wrong.
    MissingLineEnd,
    /// The whole command is over this many bytes.
    RequestTooLarge {
        /// The most that is accepted, in bytes.
        limit: usize,
    },
    /// An inline command is over [`RESP_INLINE_BYTES_MAX`].
    InlineTooLarge,
    /// A quote of an inline command is not closed, or is not followed by a space.
    UnbalancedQuotes,
    /// A line of an HTTP request: sent by mistake, or through a browser by an attacker.
    Http,
}

impl ProtocolError {
    /// Appends the reply after which the connection closes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(format!("-ERR Protocol error: {self}\r\n").as_bytes());
    }
}

impl fmt::Display for ProtocolError {
    /// In the words of Redis, where it has some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::MultibulkLength => f.write_str("invalid multibulk length"),
            ProtocolError::BulkLength => f.write_str("invalid bulk length"),
            ProtocolError::ExpectedBulk(b'\r' | b'\n') => f.write_str("expected '$', got ' '"),
            ProtocolError::ExpectedBulk(byte) => {
                write!(f, "expected '$', got '{}'", byte.escape_ascii())
            }
            ProtocolError::MissingLineEnd => {
                f.write_str("expected a line end after the bulk string, its length is wrong")
            }
            ProtocolError::RequestTooLarge { limit } => {
                write!(f, "the request is over the limit of {limit} bytes")
            }
            ProtocolError::InlineTooLarge => f.write_str("too big inline request"),
            ProtocolError::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            ProtocolError::Http => f.write_str("HTTP is not spoken here"),
        }
    }
}

impl std::error::Error for ProtocolError {}

impl Decoder {
    /// Reads the command at the front of `input`.
    ///
    /// # Errors
    /// Bytes that are no command, or that claim more than `limits` allow; the claim is refused
    /// before the claimed bytes arrive.
    #[inline]
    pub fn decode(
        &mut self,
        input: &[u8],
        limits: &Limits,
        args: &mut Args,
    ) -> Result<Decoded, ProtocolError> {
        match input.first() {
            None => Ok(Decoded::NeedMore { at_least: 1 }),
            Some(b'*') => self.decode_array(input, limits, args),
            Some(_) => self.decode_inline(input, args),
        }
    }

    #[inline]
    fn decode_array(
        &mut self,
        input: &[u8],
        limits: &Limits,
        args: &mut Args,
    ) -> Result<Decoded, ProtocolError> {
        let one_more = Decoded::NeedMore { at_least: input.len() + 1 };
        args.clear();
        let resumed = self.scanned != 0;
        if !resumed {
            if input.get(1) == Some(&b'-') {
                return decode_negative_count(input);
            }
            let Number::Line { number, end } = take_number(input, 1) else {
                return need_more_or(input, 1, ProtocolError::MultibulkLength);
            };
            if number == 0 {
                return Ok(Decoded::Skip { consumed: end });
            }
            if number > RESP_ARGS_MAX {
                return Err(ProtocolError::MultibulkLength);
            }
            *self = Decoder { scanned: end, args_total: number, args_left: number };
        }
        let bulk_bytes_max =
            limits.value_bytes_max.max(limits.key_bytes_max).max(RESP_BULK_BYTES_MIN);
        let request_bytes_max =
            limits.request_bytes_max() + RESP_ARG_FRAMING_BYTES_MAX * (self.args_total + 1);
        while self.args_left > 0 {
            let at = self.scanned;
            match input.get(at) {
                None => return Ok(one_more),
                Some(b'$') => {}
                Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
            }
            let Number::Line { number: length, end: start } = take_number(input, at + 1) else {
                return need_more_or(input, at + 1, ProtocolError::BulkLength);
            };
            if length > bulk_bytes_max {
                return Err(ProtocolError::BulkLength);
            }
            let end = start + length;
            if end + 2 > request_bytes_max {
                return Err(ProtocolError::RequestTooLarge { limit: request_bytes_max });
            }
            match input.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Err(ProtocolError::MissingLineEnd),
                None if input.get(end).is_some_and(|byte| *byte != b'\r') => {
                    return Err(ProtocolError::MissingLineEnd);
                }
                None => return Ok(Decoded::NeedMore { at_least: end + 2 }),
            }
            if !resumed {
                args.push(start, length);
            }
            self.scanned = end + 2;
            self.args_left -= 1;
        }
        let consumed = self.scanned;
        *self = Decoder::default();
        if resumed {
            // Whole by now: one more pass, for the arguments that were there before.
            return self.decode_array(input, limits, args);
        }
        Ok(Decoded::Command { consumed })
    }

    fn decode_inline(&mut self, input: &[u8], args: &mut Args) -> Result<Decoded, ProtocolError> {
        let Some(line_end) = input[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = input.len();
            if input.len() > RESP_INLINE_BYTES_MAX {
                return Err(ProtocolError::InlineTooLarge);
            }
            return Ok(Decoded::NeedMore { at_least: input.len() + 1 });
        };
        let line_end = self.scanned + line_end;
        *self = Decoder::default();
        if line_end > RESP_INLINE_BYTES_MAX {
            return Err(ProtocolError::InlineTooLarge);
        }
        args.clear();
        inline::split(&input[..line_end], args)?;
        let consumed = line_end + 1;
        let words = args.of(&[]);
        if words.is_empty() {
            return Ok(Decoded::Skip { consumed });
        }
        let name = words.get(0);
        if name.eq_ignore_ascii_case(b"POST") || name.eq_ignore_ascii_case(b"Host:") {
            return Err(ProtocolError::Http);
        }
        Ok(Decoded::Command { consumed })
    }
}

/// `*-1\r\n` and the like: a null array, which Redis skips as well.
fn decode_negative_count(input: &[u8]) -> Result<Decoded, ProtocolError> {
    match take_number(input, 2) {
        Number::Line { number: 1.., end } => Ok(Decoded::Skip { consumed: end }),
        Number::Line { .. } => Err(ProtocolError::MultibulkLength),
        _ => need_more_or(input, 2, ProtocolError::MultibulkLength),
    }
}

/// For a number that could not be taken: whether it is incomplete, or none.
#[cold]
fn need_more_or(input: &[u8], at: usize, error: ProtocolError) -> Result<Decoded, ProtocolError> {
    match take_number(input, at) {
        Number::Incomplete => Ok(Decoded::NeedMore { at_least: input.len() + 1 }),
        _ => Err(error),
    }
}

enum Number {
    /// A number and its line end; `end` is behind them.
    Line {
        number: usize,
        end: usize,
    },
    Incomplete,
    Malformed,
}

/// Takes a decimal number of at most nine digits (`limits.rs` asserts that these are enough) and
/// its line end. Like Redis, no sign and no leading zero.
#[inline]
fn take_number(input: &[u8], at: usize) -> Number {
    let mut number = 0;
    let mut digits = 0;
    loop {
        match input.get(at + digits) {
            Some(digit @ b'0'..=b'9') if digits < 9 => {
                number = number * 10 + usize::from(digit - b'0');
                digits += 1;
            }
            Some(b'\r') if digits > 0 => break,
            Some(_) => return Number::Malformed,
            None => return Number::Incomplete,
        }
    }
    if digits > 1 && input[at] == b'0' {
        return Number::Malformed;
    }
    match input.get(at + digits + 1) {
        Some(b'\n') => Number::Line { number, end: at + digits + 2 },
        Some(_) => Number::Malformed,
        None => Number::Incomplete,
    }
}
