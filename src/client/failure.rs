//! What can happen to a connection.

use std::fmt;
use std::io;

use kvorum_protocol::ErrorCode;
use kvorum_protocol::binary::{FrameError, PrefaceError};

/// Why a connection could not be made, or is of no more use.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The operating system reported this.
    Io(io::ErrorKind),
    /// The name could not be resolved.
    Unresolved,
    /// The server closed it, or ended.
    Closed,
    /// The server gave no sign of life, asked or not, for longer than it may; or the connection
    /// was not there in time.
    Silent,
    /// The other side does not speak this protocol.
    Preface(PrefaceError),
    /// The other side sent something that can not be understood.
    Frame(FrameError),
    /// The other side answered something that was not asked.
    Unasked,
    /// More requests than are kept in mind stayed without an answer.
    Unanswered,
    /// The server took its leave.
    Refused {
        /// For programs; `None` for a code that this version does not know.
        code: Option<ErrorCode>,
        /// For a person.
        message: String,
    },
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Failure::Silent,
            // What has not been read at the end makes a reset of it.
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Failure::Closed,
            kind => Failure::Io(kind),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Io(kind) => kind.fmt(f),
            Failure::Unresolved => f.write_str("the name can not be resolved"),
            Failure::Closed => f.write_str("the server closed the connection"),
            Failure::Silent => f.write_str("the server gives no sign of life"),
            Failure::Preface(error) => error.fmt(f),
            Failure::Frame(error) => error.fmt(f),
            Failure::Unasked => f.write_str("the server answered what was not asked"),
            Failure::Unanswered => f.write_str("the server leaves too much unanswered"),
            Failure::Refused { code: Some(code), message } => {
                write!(f, "{} {message}", code.word())
            }
            Failure::Refused { code: None, message } => f.write_str(message),
        }
    }
}

impl std::error::Error for Failure {}
