//! The text protocol: one request a line, one reply line each, for a person with netcat and for
//! scripts. `protocol/SPEC.md` has its grammar.
//!
//! A line ends at `\n`; one `\r` before it belongs to the line end. Exactly one space separates
//! words, so nothing is ever guessed: a key is what stands between the first and the second space,
//! and a value is everything behind the second, byte for byte. Every line gets exactly one reply,
//! also an empty one and one that is no request. Only two things end the connection: a line that
//! outgrows the limits before its end has come, because there is no telling where the next
//! request begins, and HTTP.
//!
//! A value that holds a line break is printed escaped:
//!
//! ```text
//! \n  \r  \\      line feed, carriage return, backslash
//! \xNN            any other control character's bytes, and bytes that are not UTF-8 (hex)
//! ```
//!
//! All other characters stand for themselves, so the original comes back by undoing every escape.

use std::fmt::{self, Write as _};

use crate::command::{Command, Op, check_key};
use crate::error::{DecodeError, ErrorCode};
use crate::limits::Limits;
use crate::membership::Change;
use crate::request::{Read, Request};
use crate::response::Response;
use crate::types::{NodeId, Quorum};

/// What one line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A request for the node.
    Request(Request<'a>),
    /// Asks for the verbs: answer with [`encode_help`].
    Help,
    /// Closes the connection after the replies to what came before it.
    Quit,
}

/// Why a line is not a request. It is answered with [`encode_line_error`], nothing was applied, and
/// the next line is read as usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError<'a> {
    /// Nothing stands on the line.
    Empty,
    /// The first word is not a verb.
    UnknownVerb(&'a [u8]),
    /// The verb exists; this is how it is used.
    Usage(&'static str),
    /// A key or value is over its limit.
    TooLarge {
        /// `"key"` or `"value"`.
        what: &'static str,
        /// The most that is accepted, in bytes.
        limit: usize,
    },
}

impl LineError<'_> {
    /// The code of the answer.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            LineError::UnknownVerb(_) => ErrorCode::UnknownCommand,
            LineError::Empty | LineError::Usage(_) => ErrorCode::BadRequest,
            LineError::TooLarge { .. } => ErrorCode::TooLarge,
        }
    }
}

/// How much of an unknown verb an error repeats, in bytes before escaping.
const SHOWN_BYTES_MAX: usize = 32;

impl fmt::Display for LineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LineError::Empty => f.write_str("the line is empty; HELP lists the verbs"),
            LineError::UnknownVerb(word) => {
                let shown = &word[..word.len().min(SHOWN_BYTES_MAX)];
                let dots = if shown.len() < word.len() { "..." } else { "" };
                write!(f, "'{}{dots}' is not a verb; HELP lists them", Escaped(shown))
            }
            LineError::Usage(usage) => write!(f, "usage: {usage}"),
            LineError::TooLarge { what, limit } => {
                write!(f, "the {what} is over the limit of {limit} bytes")
            }
        }
    }
}

impl std::error::Error for LineError<'_> {}

/// Why nothing more can be read from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// The line is over this many bytes: answer with [`encode_stream_error`] and close.
    LineTooLong(usize),
    /// HTTP, sent by mistake or by a browser that was made to: close at once, without a word.
    Http,
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::LineTooLong(limit) => {
                write!(f, "the line is over the limit of {limit} bytes; closing")
            }
            StreamError::Http => f.write_str("this is HTTP"),
        }
    }
}

impl std::error::Error for StreamError {}

/// A line, or why it is none, and how many bytes of the input it takes with its end.
pub type ParsedLine<'a> = (Result<Line<'a>, LineError<'a>>, usize);

/// Reads the line at the start of `input`; `None` when its end has not come yet. `scanned` says
/// how many bytes of `input` are known to hold no line end, because an earlier call saw them and
/// returned `None`; 0 is always right, the true number keeps a long line that trickles in from
/// being searched again and again.
///
/// # Errors
/// When the connection must be closed; see [`StreamError`].
#[inline]
pub fn parse<'a>(
    input: &'a [u8],
    scanned: usize,
    limits: &Limits,
) -> Result<Option<ParsedLine<'a>>, StreamError> {
    if is_http(input) {
        return Err(StreamError::Http);
    }
    let line_bytes_max = limits.request_bytes_max();
    let window = &input[..input.len().min(line_bytes_max)];
    let unseen = window.get(scanned..).unwrap_or_default();
    let Some(end) = memchr::memchr(b'\n', unseen).map(|at| scanned + at) else {
        if window.len() == line_bytes_max {
            return Err(StreamError::LineTooLong(line_bytes_max));
        }
        return Ok(None);
    };
    let line = &window[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Ok(Some((parse_line(line, limits), end + 1)))
}

/// A browser can be made to send requests to any port, with lines of the attacker's choice in the
/// body. Its first line or its `Host` header comes before them.
#[inline]
fn is_http(input: &[u8]) -> bool {
    let Some(start) = input.first_chunk::<5>() else {
        return false;
    };
    matches!(start[0], b'P' | b'p' | b'H' | b'h')
        && (start.eq_ignore_ascii_case(b"POST ") || start.eq_ignore_ascii_case(b"Host:"))
}

fn parse_line<'a>(line: &'a [u8], limits: &Limits) -> Result<Line<'a>, LineError<'a>> {
    let (verb, arguments) = match memchr::memchr(b' ', line) {
        Some(space) => (&line[..space], Some(&line[space + 1..])),
        None => (line, None),
    };
    let is = |name: &[u8]| verb.eq_ignore_ascii_case(name);
    if is(b"GET") {
        let key = one_key(arguments, "GET key", limits)?;
        Ok(Line::Request(Request::Read(Read::Get(key))))
    } else if is(b"SET") {
        parse_set(arguments, limits)
    } else if is(b"DELETE") {
        let key = one_key(arguments, "DELETE key", limits)?;
        Ok(Line::Request(Request::Write(Command::new(Op::Delete { key }))))
    } else if is(b"WHO_IS_LEADER") {
        alone(arguments, "WHO_IS_LEADER", Line::Request(Request::WhoIsLeader))
    } else if is(b"QUORUM") {
        parse_quorum(arguments)
    } else if is(b"TRANSFER") {
        parse_transfer(arguments)
    } else if is(b"MEMBER") {
        parse_change(arguments)
    } else if is(b"PING") {
        alone(arguments, "PING", Line::Request(Request::Ping))
    } else if is(b"STATUS") {
        alone(arguments, "STATUS", Line::Request(Request::Status))
    } else if is(b"MEMBERS") {
        alone(arguments, "MEMBERS", Line::Request(Request::Members))
    } else if is(b"SNAPSHOT") {
        alone(arguments, "SNAPSHOT", Line::Request(Request::Snapshot))
    } else if is(b"HELP") {
        alone(arguments, "HELP", Line::Help)
    } else if is(b"QUIT") {
        alone(arguments, "QUIT", Line::Quit)
    } else if line.is_empty() {
        Err(LineError::Empty)
    } else {
        Err(LineError::UnknownVerb(verb))
    }
}

fn one_key<'a>(
    arguments: Option<&'a [u8]>,
    usage: &'static str,
    limits: &Limits,
) -> Result<&'a [u8], LineError<'a>> {
    match arguments {
        Some(key) if !key.is_empty() && memchr::memchr(b' ', key).is_none() => {
            check_key(key, limits).map_err(too_large)?;
            Ok(key)
        }
        _ => Err(LineError::Usage(usage)),
    }
}

fn parse_set<'a>(arguments: Option<&'a [u8]>, limits: &Limits) -> Result<Line<'a>, LineError<'a>> {
    const USAGE: LineError<'_> = LineError::Usage("SET key value");
    let arguments = arguments.ok_or(USAGE)?;
    let space = memchr::memchr(b' ', arguments).ok_or(USAGE)?;
    if space == 0 {
        return Err(USAGE);
    }
    let (key, value) = (&arguments[..space], &arguments[space + 1..]);
    let command = Command::new(Op::Set { key, value });
    command.check(limits).map_err(too_large)?;
    Ok(Line::Request(Request::Write(command)))
}

fn too_large<'a>(error: DecodeError) -> LineError<'a> {
    match error {
        DecodeError::TooLarge { what, limit } => LineError::TooLarge { what, limit },
        other => unreachable!("only limits are checked here, not: {other}"),
    }
}

fn alone<'a>(
    arguments: Option<&[u8]>,
    usage: &'static str,
    line: Line<'a>,
) -> Result<Line<'a>, LineError<'a>> {
    match arguments {
        None => Ok(line),
        Some(_) => Err(LineError::Usage(usage)),
    }
}

fn parse_quorum<'a>(arguments: Option<&[u8]>) -> Result<Line<'a>, LineError<'a>> {
    const USAGE: LineError<'_> = LineError::Usage("QUORUM w=<n|majority|all> r=<n|majority>");
    let (mut write, mut read) = (None, None);
    for word in arguments.ok_or(USAGE)?.split(|byte| *byte == b' ') {
        let word = std::str::from_utf8(word).map_err(|_| USAGE)?;
        let (name, level) = word.split_once('=').ok_or(USAGE)?;
        let level: Quorum = level.parse().map_err(|_| USAGE)?;
        let slot = match name {
            "w" | "W" => &mut write,
            "r" | "R" if level != Quorum::All => &mut read,
            _ => return Err(USAGE),
        };
        if slot.replace(level).is_some() {
            return Err(USAGE);
        }
    }
    Ok(Line::Request(Request::Quorum { write, read }))
}

fn parse_transfer<'a>(arguments: Option<&[u8]>) -> Result<Line<'a>, LineError<'a>> {
    const USAGE: LineError<'_> = LineError::Usage("TRANSFER [id]");
    let id = |word: &[u8]| match std::str::from_utf8(word).ok()?.parse() {
        Ok(id @ 1..) => Some(NodeId(id)),
        _ => None,
    };
    let to = arguments.map(|word| id(word).ok_or(USAGE)).transpose()?;
    Ok(Line::Request(Request::Transfer { to }))
}

fn parse_change<'a>(arguments: Option<&'a [u8]>) -> Result<Line<'a>, LineError<'a>> {
    const USAGE: LineError<'_> =
        LineError::Usage("MEMBER add id=client/peer|remove id|promote id|demote id");
    let change = std::str::from_utf8(arguments.ok_or(USAGE)?).map_err(|_| USAGE)?;
    if Change::parse(change).is_err() {
        return Err(USAGE);
    }
    Ok(Line::Request(Request::ChangeMembers { change, base: None }))
}

/// What a text client is told for [`Response::Ok`]: the one reply whose words depend on the
/// request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Acknowledgement {
    /// `OK`.
    #[default]
    Ok,
    /// `PONG`, for a PING.
    Pong,
}

impl Acknowledgement {
    /// The word for this request.
    #[must_use]
    pub fn of(request: &Request<'_>) -> Acknowledgement {
        match request {
            Request::Ping => Acknowledgement::Pong,
            _ => Acknowledgement::Ok,
        }
    }
}

/// Appends the reply line for a response.
///
/// # Panics
/// For [`Response::Values`], [`Response::SnapshotPart`] and [`Response::Copies`]: no line asks for
/// them.
#[inline]
pub fn encode(out: &mut Vec<u8>, acknowledgement: Acknowledgement, response: &Response<'_>) {
    match *response {
        Response::Value { value, .. } => encode_value(out, value),
        Response::NotFound | Response::Deleted { count: 0, .. } => put(out, &[b"NOT_FOUND"]),
        Response::Written { .. } | Response::Deleted { .. } => put(out, &[b"OK"]),
        Response::Ok => match acknowledgement {
            Acknowledgement::Ok => put(out, &[b"OK"]),
            Acknowledgement::Pong => put(out, &[b"PONG"]),
        },
        Response::Leader(Some(leader)) => put(out, &[b"LEADER ", leader.as_bytes()]),
        Response::Leader(None) => put(out, &[b"NO_LEADER"]),
        Response::Status(pairs) => put(out, &[b"STATUS ", pairs.as_bytes()]),
        Response::Members(pairs) => put(out, &[b"MEMBERS ", pairs.as_bytes()]),
        Response::NotLeader { leader } => put(out, &[b"NOT_LEADER leader=", leader.as_bytes()]),
        Response::Error { code, message } => {
            put_error(out, code, format_args!("{}", Escaped(message.as_bytes())));
        }
        // Only SNAPSHOT is answered with a number.
        Response::Number(index) => {
            put(out, &[b"SNAPSHOT index=", index.to_string().as_bytes()]);
        }
        Response::Values(_) | Response::SnapshotPart { .. } | Response::Copies(_) => {
            unreachable!("no request of the text protocol is answered with {response:?}")
        }
    }
}

/// Appends the reply line for a line that is not a request.
#[cold]
pub fn encode_line_error(out: &mut Vec<u8>, error: &LineError<'_>) {
    put_error(out, error.code(), format_args!("{error}"));
}

/// Appends the last line before the connection is closed; nothing for HTTP.
#[cold]
pub fn encode_stream_error(out: &mut Vec<u8>, error: &StreamError) {
    match error {
        StreamError::LineTooLong(_) => {
            put_error(out, ErrorCode::TooLarge, format_args!("{error}"));
        }
        StreamError::Http => {}
    }
}

/// Appends the reply line for HELP.
pub fn encode_help(out: &mut Vec<u8>) {
    put(
        out,
        &[b"HELP GET key | SET key value | DELETE key | WHO_IS_LEADER | \
            QUORUM w=<n|majority|all> r=<n|majority> | TRANSFER [id] | \
            MEMBER add id=client/peer|remove id|promote id|demote id | PING | STATUS | \
            MEMBERS | SNAPSHOT | HELP | QUIT"],
    );
}

#[inline]
fn encode_value(out: &mut Vec<u8>, value: &[u8]) {
    if memchr::memchr2(b'\n', b'\r', value).is_none() {
        put(out, &[b"VALUE ", value]);
    } else {
        out.extend_from_slice(b"VALUE_ESCAPED ");
        write_escaped(&mut Appender(out), value).expect(CANNOT_FAIL);
        out.push(b'\n');
    }
}

#[inline]
fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.reserve(parts.iter().map(|part| part.len()).sum::<usize>() + 1);
    for part in parts {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

fn put_error(out: &mut Vec<u8>, code: ErrorCode, words: fmt::Arguments<'_>) {
    writeln!(Appender(out), "ERROR {} {words}", code.word()).expect(CANNOT_FAIL);
}

const CANNOT_FAIL: &str = "appending to a vector cannot fail";

struct Appender<'a>(&'a mut Vec<u8>);

impl fmt::Write for Appender<'_> {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Prints bytes on one line, so that they can be had back exactly; see the head of this module.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0)
    }
}

/// A binary value of many megabytes comes through here, on the thread that serves everyone: hence
/// no formatting machinery for each byte.
fn write_escaped(out: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        let text = chunk.valid();
        let mut plain_from = 0;
        for (at, character) in text.char_indices() {
            if character != '\\' && !character.is_control() {
                continue;
            }
            let behind = at + character.len_utf8();
            out.write_str(&text[plain_from..at])?;
            match character {
                '\n' => out.write_str("\\n")?,
                '\r' => out.write_str("\\r")?,
                '\\' => out.write_str("\\\\")?,
                _ => write_hex(out, &text.as_bytes()[at..behind])?,
            }
            plain_from = behind;
        }
        out.write_str(&text[plain_from..])?;
        write_hex(out, chunk.invalid())?;
    }
    Ok(())
}

fn write_hex(out: &mut impl fmt::Write, bytes: &[u8]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.write_str("\\x")?;
        out.write_char(char::from(DIGITS[usize::from(byte >> 4)]))?;
        out.write_char(char::from(DIGITS[usize::from(byte & 15)]))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_judged_by_the_line_and_by_its_parts() {
        let limits = Limits { key_bytes_max: 3, value_bytes_max: 4 };
        let refused = |line: &[u8], what, limit| {
            let error = LineError::TooLarge { what, limit };
            assert_eq!(parse(line, 0, &limits), Ok(Some((Err(error), line.len()))));
        };
        refused(b"GET abcd\n", "key", 3);
        refused(b"DELETE abcd\r\n", "key", 3);
        refused(b"SET abcd v\n", "key", 3);
        refused(b"SET abc 12345\n", "value", 4);
        assert!(matches!(parse(b"SET abc 1234\r\n", 0, &limits), Ok(Some((Ok(_), 14)))));
    }

    #[test]
    fn a_line_that_outgrows_the_limits_ends_the_stream_however_it_comes() {
        let limits = Limits { key_bytes_max: 3, value_bytes_max: 4 };
        let max = limits.request_bytes_max();
        let mut line = vec![b'x'; max - 1];
        assert_eq!(parse(&line, 0, &limits), Ok(None));
        line.push(b'\n');
        assert!(matches!(parse(&line, 0, &limits), Ok(Some((Err(_), n))) if n == max));
        line.insert(0, b'x');
        assert_eq!(parse(&line, 0, &limits), Err(StreamError::LineTooLong(max)));
        assert_eq!(parse(&line[..max], max - 1, &limits), Err(StreamError::LineTooLong(max)));
    }

    #[test]
    fn what_was_scanned_is_not_searched_again() {
        let limits = Limits::default();
        let whole = Ok(Some((Ok(Line::Request(Request::Ping)), 6)));
        assert_eq!(parse(b"PING\r\nPING", 4, &limits), whole);
        assert_eq!(parse(b"PING\r\nPING", 0, &limits), whole);
        assert_eq!(parse(b"PING", 4, &limits), Ok(None));
    }

    #[test]
    fn every_error_message_stays_on_its_line() {
        let mut out = Vec::new();
        let response = Response::Error { code: ErrorCode::Busy, message: "a\nb\r\0" };
        encode(&mut out, Acknowledgement::Ok, &response);
        assert_eq!(out, b"ERROR BUSY a\\nb\\r\\x00\n");
        out.clear();
        encode_line_error(&mut out, &LineError::UnknownVerb(&[b'a', 0, 0xff, b'\r', b'\\']));
        let line = "ERROR UNKNOWN_COMMAND 'a\\x00\\xff\\r\\\\' is not a verb; HELP lists them\n";
        assert_eq!(std::str::from_utf8(&out), Ok(line));
        out.clear();
        encode_line_error(&mut out, &LineError::UnknownVerb(&[b'a'; 33]));
        assert!(out.starts_with(b"ERROR UNKNOWN_COMMAND 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...'"));
    }
}
