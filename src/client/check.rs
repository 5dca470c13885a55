//! What is refused before it is sent.

use kvorum_protocol::command::check_key;
use kvorum_protocol::limits::{COMMAND_BYTES_MAX, VOTERS_MAX};
use kvorum_protocol::{DecodeError, Limits, Quorum, Read, Request};

/// Refuses what no server accepts, and what could not even be encoded.
pub(super) fn check(request: &Request<'_>) -> Result<(), DecodeError> {
    match request {
        Request::Write(command) => {
            command.check(&Limits::MAX)?;
            check_bytes(command.encoded_len())
        }
        Request::Read(Read::Get(key) | Read::Length(key)) => check_key(key, &Limits::MAX),
        // Each key was checked when the list was made.
        Request::Read(Read::GetMany(keys) | Read::Exists(keys)) => {
            check_bytes(keys.as_bytes().len())
        }
        _ => Ok(()),
    }
}

fn check_bytes(bytes: usize) -> Result<(), DecodeError> {
    if bytes <= COMMAND_BYTES_MAX {
        return Ok(());
    }
    Err(DecodeError::TooLarge { what: "request", limit: COMMAND_BYTES_MAX })
}

/// Refuses an R that does not exist.
pub(super) fn check_read_quorum(quorum: Option<Quorum>) -> Result<(), DecodeError> {
    match quorum {
        Some(Quorum::All) => Err(DecodeError::Invalid("read quorum 'all'")),
        _ => check_write_quorum(quorum),
    }
}

/// Refuses a W that no cluster can have.
pub(super) fn check_write_quorum(quorum: Option<Quorum>) -> Result<(), DecodeError> {
    match quorum {
        Some(Quorum::Count(n)) if !(1..=VOTERS_MAX).contains(&n) => {
            Err(DecodeError::Invalid("quorum level"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::limits::KEY_BYTES_MAX;
    use kvorum_protocol::{Command, KeyList, Op};

    use super::*;

    #[test]
    fn quorums_that_no_cluster_can_have_are_refused() {
        for (quorum, is_w, is_r) in [
            (Quorum::Count(0), false, false),
            (Quorum::Count(1), true, true),
            (Quorum::Count(VOTERS_MAX), true, true),
            (Quorum::Count(VOTERS_MAX + 1), false, false),
            (Quorum::Majority, true, true),
            (Quorum::All, true, false),
        ] {
            assert_eq!(check_write_quorum(Some(quorum)).is_ok(), is_w, "W = {quorum:?}");
            assert_eq!(check_read_quorum(Some(quorum)).is_ok(), is_r, "R = {quorum:?}");
        }
    }

    #[test]
    fn lists_of_more_bytes_than_a_request_may_have_are_refused() {
        let key = vec![0; KEY_BYTES_MAX];
        let too_large = Err(DecodeError::TooLarge { what: "request", limit: COMMAND_BYTES_MAX });
        for (count, expected) in [(1000, Ok(())), (1100, too_large)] {
            let mut scratch = Vec::new();
            let keys = std::iter::repeat_n(key.as_slice(), count);
            let list = KeyList::encode(keys, &Limits::MAX, &mut scratch).unwrap();
            assert_eq!(check(&Request::Read(Read::GetMany(list))), expected);
            assert_eq!(check(&Request::Write(Command::new(Op::DeleteMany(list)))), expected);
        }
    }
}
