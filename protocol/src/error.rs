//! What can be wrong with bytes, and what can go wrong with a request.

use std::fmt;

/// One way in which bytes from the network or the disk are not what they should be. Whoever gets
/// one closes that connection, or refuses that file; it is never a reason to stop the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The structure ends before its own lengths say it does.
    Truncated,
    /// Bytes are left over inside a structure of known length.
    TrailingBytes,
    /// The checksum does not match the bytes.
    Checksum,
    /// A length is over its limit; `limit` is in bytes.
    TooLarge {
        /// What was too large: `"key"`, `"value"`, `"request"`, ...
        what: &'static str,
        /// The most that is accepted, in bytes (or in keys for `"keys"`).
        limit: usize,
    },
    /// A fixed field holds a value that has no meaning.
    Invalid(&'static str),
    /// The operation is not known to this version.
    UnknownOpcode(u8),
}

impl DecodeError {
    /// The code with which a request is refused that could not be decoded for this reason.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            DecodeError::UnknownOpcode(_) => ErrorCode::UnknownCommand,
            DecodeError::TooLarge { .. } => ErrorCode::TooLarge,
            DecodeError::Truncated
            | DecodeError::TrailingBytes
            | DecodeError::Checksum
            | DecodeError::Invalid(_) => ErrorCode::BadRequest,
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DecodeError::Truncated => f.write_str("the data ends too early"),
            DecodeError::TrailingBytes => f.write_str("bytes are left over after the data"),
            DecodeError::Checksum => f.write_str("the checksum does not match"),
            DecodeError::TooLarge { what, limit } => {
                write!(f, "{what} is over the limit of {limit}")
            }
            DecodeError::Invalid(what) => write!(f, "{what} is not valid"),
            DecodeError::UnknownOpcode(op) => write!(f, "opcode {op:#04x} is not known"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why a request failed, as every protocol reports it. The text protocol prints [`word`].
///
/// Only [`QuorumTimeout`] and [`LeaderChanged`] leave the outcome of a write open; every other
/// code promises that this sending of it changes nothing, now or later.
///
/// [`word`]: ErrorCode::word
/// [`QuorumTimeout`]: ErrorCode::QuorumTimeout
/// [`LeaderChanged`]: ErrorCode::LeaderChanged
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ErrorCode {
    /// The verb or opcode does not exist here.
    UnknownCommand = 0x10,
    /// The verb exists, its arguments are wrong.
    BadRequest = 0x11,
    /// A key, value or request is over its limit.
    TooLarge = 0x12,
    /// No leader is known; try again soon.
    NoLeader = 0x13,
    /// W or R voters did not answer in time. **A write's outcome is open.**
    QuorumTimeout = 0x14,
    /// The leader lost its office before the answer. **A write's outcome is open.**
    LeaderChanged = 0x15,
    /// The node has too much in flight; try again soon.
    Busy = 0x16,
    /// `--memory-max` is reached; deletes still work.
    MemoryLimit = 0x17,
    /// The log has no room left on its disk; reads still work.
    DiskFull = 0x18,
    /// The session of the write is over, or never was. This sending was not applied; whether an
    /// earlier one was, nobody knows any more.
    SessionExpired = 0x19,
}

impl ErrorCode {
    /// Every code, for tables and tests.
    pub const ALL: [ErrorCode; 10] = [
        ErrorCode::UnknownCommand,
        ErrorCode::BadRequest,
        ErrorCode::TooLarge,
        ErrorCode::NoLeader,
        ErrorCode::QuorumTimeout,
        ErrorCode::LeaderChanged,
        ErrorCode::Busy,
        ErrorCode::MemoryLimit,
        ErrorCode::DiskFull,
        ErrorCode::SessionExpired,
    ];

    /// The word that the text protocol prints after `ERROR`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            ErrorCode::UnknownCommand => "UNKNOWN_COMMAND",
            ErrorCode::BadRequest => "BAD_REQUEST",
            ErrorCode::TooLarge => "TOO_LARGE",
            ErrorCode::NoLeader => "NO_LEADER",
            ErrorCode::QuorumTimeout => "QUORUM_TIMEOUT",
            ErrorCode::LeaderChanged => "LEADER_CHANGED",
            ErrorCode::Busy => "BUSY",
            ErrorCode::MemoryLimit => "MEMORY_LIMIT",
            ErrorCode::DiskFull => "DISK_FULL",
            ErrorCode::SessionExpired => "SESSION_EXPIRED",
        }
    }

    /// Whether a write answered with this code may still be applied.
    #[must_use]
    pub fn outcome_is_open(self) -> bool {
        matches!(self, ErrorCode::QuorumTimeout | ErrorCode::LeaderChanged)
    }

    /// The code with this number in the binary protocol.
    #[must_use]
    pub fn from_number(number: u8) -> Option<ErrorCode> {
        ErrorCode::ALL.into_iter().find(|code| *code as u8 == number)
    }
}
