//! What is refused before it is sent.

use kvorum_protocol::command::check_key;
use kvorum_protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use kvorum_protocol::{DecodeError, Limits, Quorum, Read, Request};

/// No server accepts more than this, however it is configured.
pub(super) const LIMITS: Limits =
    Limits { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: VALUE_BYTES_MAX };

/// Refuses what no server accepts, and what could not even be encoded.
pub(super) fn check(request: &Request<'_>) -> Result<(), DecodeError> {
    match request {
        Request::Write(command) => command.check(&LIMITS),
        Request::Read(Read::Get(key) | Read::Length(key)) => check_key(key, &LIMITS),
        // A list was checked when it was made.
        _ => Ok(()),
    }
}

/// Refuses an R that does not exist.
pub(super) fn check_read_quorum(quorum: Option<Quorum>) -> Result<(), DecodeError> {
    match quorum {
        Some(Quorum::All) => Err(DecodeError::Invalid("read quorum 'all'")),
        _ => Ok(()),
    }
}
