//! Errors that a program can act on.

use std::fmt;

use kvorum_protocol::{DecodeError, ErrorCode};

use super::failure::Failure;
use super::route::{End, EndReason};

/// Why a call has no result. [`kind`](Error::kind) says what is known of its effect and is what a
/// program decides by; [`cause`](Error::cause) says why. Nothing has to be read from the words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<Parts>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Parts {
    kind: ErrorKind,
    cause: Cause,
    server: Option<String>,
    /// Of the server.
    message: Option<String>,
}

/// What is known of the effect of a call that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Nothing was applied, and nothing will be: calling again is safe. Reads that failed for
    /// other reasons than wrong usage are of this kind, too.
    NotApplied,
    /// A write was sent, and may have been applied, or may yet be.
    OutcomeUnknown,
    /// Nothing was applied, and the same call would fail again.
    WrongUsage,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// No server could be reached in all the time; the last one failed like this.
    NoServer(Failure),
    /// No server leads, or the servers do not agree on who does.
    NoLeader,
    /// The connection broke before the answer came.
    Lost(Failure),
    /// The call's time was over before there was an answer.
    Timeout,
    /// W or R voters did not answer in time.
    Quorum,
    /// The leader lost its office before it answered.
    LeaderChanged,
    /// The servers had too much to do in all the time.
    Busy,
    /// The servers' `--memory-max` is reached; deletes still work.
    MemoryLimit,
    /// The leader's disk is full; reads still work.
    DiskFull,
    /// A key, a value or the whole request is over its limit.
    TooLarge,
    /// What was asked makes no sense, such as a W of more voters than there are.
    BadRequest,
    /// The server is too old, or too new, to know the request.
    UnknownCommand,
    /// The cluster has forgotten the session of a write while its outcome was open.
    SessionExpired,
    /// The server's answer does not belong to the request.
    WrongAnswer,
}

impl Error {
    pub(super) fn new(kind: ErrorKind, cause: Cause) -> Error {
        Error(Box::new(Parts { kind, cause, server: None, message: None }))
    }

    /// The same, said of this server.
    pub(super) fn at(mut self, server: &str) -> Error {
        self.0.server = Some(server.to_owned());
        self
    }

    /// The same, in the words of the server.
    pub(super) fn saying(mut self, message: String) -> Error {
        self.0.message = Some(message);
        self
    }

    /// A request that is refused before it is sent, and why in words.
    pub(super) fn wrong_usage(message: &str) -> Error {
        Error::new(ErrorKind::WrongUsage, Cause::BadRequest).saying(message.to_owned())
    }

    /// How a call has ended; `failure` is the last one of a connection in its course.
    pub(super) fn of(end: End, failure: Option<Failure>) -> Error {
        let cause = match end.reason {
            EndReason::Unreachable => Cause::NoServer(failure.unwrap_or(Failure::Silent)),
            EndReason::NoLeaderFound => Cause::NoLeader,
            EndReason::Lost => Cause::Lost(failure.unwrap_or(Failure::Closed)),
            EndReason::Late => Cause::Timeout,
            EndReason::Refused(code) => Cause::from(code),
        };
        let kind = match cause {
            _ if end.is_open => ErrorKind::OutcomeUnknown,
            Cause::TooLarge | Cause::BadRequest | Cause::UnknownCommand => ErrorKind::WrongUsage,
            _ => ErrorKind::NotApplied,
        };
        Error::new(kind, cause)
    }

    /// What is known of the effect.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Why it failed.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// The server that said so, or failed, if it was one.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.0.server.as_deref()
    }

    /// What the server said, for a person.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }
}

impl From<ErrorCode> for Cause {
    fn from(code: ErrorCode) -> Cause {
        match code {
            ErrorCode::UnknownCommand => Cause::UnknownCommand,
            ErrorCode::BadRequest => Cause::BadRequest,
            ErrorCode::TooLarge => Cause::TooLarge,
            ErrorCode::NoLeader => Cause::NoLeader,
            ErrorCode::QuorumTimeout => Cause::Quorum,
            ErrorCode::LeaderChanged => Cause::LeaderChanged,
            ErrorCode::Busy => Cause::Busy,
            ErrorCode::MemoryLimit => Cause::MemoryLimit,
            ErrorCode::DiskFull => Cause::DiskFull,
            ErrorCode::SessionExpired => Cause::SessionExpired,
        }
    }
}

/// A request that no server accepts, and that was not sent.
impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Error {
        Error::new(ErrorKind::WrongUsage, Cause::from(error.code())).saying(error.to_string())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Cause::NoServer(failure) => return write!(f, "no server can be reached: {failure}"),
            Cause::Lost(failure) => return write!(f, "the connection was lost: {failure}"),
            Cause::NoLeader => "NO_LEADER the servers do not agree on a leader",
            Cause::Timeout => "no answer in time",
            Cause::Quorum => "QUORUM_TIMEOUT",
            Cause::LeaderChanged => "LEADER_CHANGED",
            Cause::Busy => "BUSY",
            Cause::MemoryLimit => "MEMORY_LIMIT",
            Cause::DiskFull => "DISK_FULL",
            Cause::TooLarge => "TOO_LARGE",
            Cause::BadRequest => "BAD_REQUEST",
            Cause::UnknownCommand => "UNKNOWN_COMMAND",
            Cause::SessionExpired => "SESSION_EXPIRED",
            Cause::WrongAnswer => "the server's answer does not belong to the request",
        };
        f.write_str(words)
    }
}

/// In one line: the server, the cause, its words, and what is known of the effect unless it is
/// that of a call that must be corrected.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { kind, cause, server, message } = &*self.0;
        if let Some(server) = server {
            write!(f, "{server}: ")?;
        }
        cause.fmt(f)?;
        if let Some(message) = message {
            write!(f, ": {message}")?;
        }
        match kind {
            ErrorKind::NotApplied => f.write_str("; nothing was applied"),
            ErrorKind::OutcomeUnknown => f.write_str("; the write may or may not be applied"),
            ErrorKind::WrongUsage => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_been_applied_is_never_said_to_be_not() {
        for code in ErrorCode::ALL {
            let open = End { reason: EndReason::Refused(code), is_open: true };
            assert_eq!(Error::of(open, None).kind(), ErrorKind::OutcomeUnknown, "{code:?}");
            let closed = End { is_open: false, ..open };
            assert_ne!(Error::of(closed, None).kind(), ErrorKind::OutcomeUnknown, "{code:?}");
        }
    }

    #[test]
    fn an_error_names_the_server_the_cause_and_the_effect() {
        let end = End { reason: EndReason::Lost, is_open: true };
        let error = Error::of(end, Some(Failure::Closed)).at("a:1");
        assert_eq!(error.server(), Some("a:1"));
        assert_eq!(error.cause(), &Cause::Lost(Failure::Closed));
        assert_eq!(
            error.to_string(),
            "a:1: the connection was lost: the server closed the connection; the write may or may \
             not be applied"
        );
        let wrong = Error::from(DecodeError::TooLarge { what: "key", limit: 7 });
        assert_eq!(wrong.to_string(), "TOO_LARGE: key is over the limit of 7");
        assert_eq!(wrong.kind(), ErrorKind::WrongUsage);
    }
}
