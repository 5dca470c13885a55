//! A session as it stands in a snapshot.
//!
//! ```text
//!  0    8        12         16          24          32      40
//! +----+--------+----------+-----------+-----------+-------+------------ - -
//! | id | window | outcomes | last_used | last_time | first | per outcome
//! |u64 |  u32   |   u32    |    u64    |    u64    |  u64  |
//! +----+--------+----------+-----------+-----------+-------+------------ - -
//! outcome   kind u8; unless it is 0, version u64; if it is 3, count u32
//! kinds     0 none has come, 1 nothing, 2 written, 3 deleted, 4 session expired, 5 too old
//! ```

use std::collections::vec_deque::VecDeque;

use kvorum_protocol::limits::{SESSION_SLOTS_MAX, SESSION_WINDOW_MAX, SESSIONS_MAX};
use kvorum_protocol::{DecodeError, LogIndex, LogTimeMs};

use super::Session;
use crate::core::outcome::{Applied, Outcome};

const NONE: u8 = 0;
const NOTHING: u8 = 1;
const WRITTEN: u8 = 2;
const DELETED: u8 = 3;
const SESSION_EXPIRED: u8 = 4;
const SEQUENCE_TOO_OLD: u8 = 5;

/// What stands before the outcomes of a session.
const FIXED_BYTES: usize = 40;

/// The most that an outcome takes.
const OUTCOME_BYTES_MAX: usize = 13;

/// The longest session.
pub const SESSION_BYTES_MAX: usize = FIXED_BYTES + SESSION_WINDOW_MAX as usize * OUTCOME_BYTES_MAX;

/// The most that all sessions of a cluster take.
pub const ALL_SESSIONS_BYTES_MAX: usize =
    SESSIONS_MAX * FIXED_BYTES + SESSION_SLOTS_MAX * OUTCOME_BYTES_MAX;

impl Session {
    /// Appends the session, which has the name `id`, in the layout above.
    pub fn encode(&self, id: LogIndex, out: &mut Vec<u8>) {
        let outcomes = u32::try_from(self.outcomes.len()).expect("at most its window");
        out.extend_from_slice(&id.0.to_le_bytes());
        out.extend_from_slice(&self.window.to_le_bytes());
        out.extend_from_slice(&outcomes.to_le_bytes());
        for number in [self.last_used.0, self.last_time.0, self.first] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for outcome in &self.outcomes {
            let Some(Outcome { version, applied }) = outcome else {
                out.push(NONE);
                continue;
            };
            let (kind, count) = match applied {
                Applied::Nothing => (NOTHING, None),
                Applied::Written => (WRITTEN, None),
                Applied::Deleted(count) => (DELETED, Some(count)),
                Applied::SessionExpired => (SESSION_EXPIRED, None),
                Applied::SequenceTooOld => (SEQUENCE_TOO_OLD, None),
            };
            out.push(kind);
            out.extend_from_slice(&version.0.to_le_bytes());
            out.extend(count.into_iter().flat_map(|count| count.to_le_bytes()));
        }
    }

    /// Reads the session at the start of `bytes`; returns its name, and what stands behind it too.
    ///
    /// # Errors
    /// No session stands there, or not a whole one.
    pub fn decode(bytes: &[u8]) -> Result<(LogIndex, Session, &[u8]), DecodeError> {
        let mut rest = bytes;
        let id = LogIndex(take_u64(&mut rest)?);
        let window = take_u32(&mut rest)?;
        let count = take_u32(&mut rest)?;
        let last_used = LogIndex(take_u64(&mut rest)?);
        let last_time = LogTimeMs(take_u64(&mut rest)?);
        let first = take_u64(&mut rest)?;
        if !(1..=SESSION_WINDOW_MAX).contains(&window) || count > window {
            return Err(DecodeError::Invalid("window of a session"));
        }
        if first == 0 || first.checked_add(u64::from(window) - 1).is_none() {
            return Err(DecodeError::Invalid("first sequence of a session"));
        }
        if id == LogIndex(0) || id > last_used {
            return Err(DecodeError::Invalid("age of a session"));
        }
        let mut outcomes = VecDeque::with_capacity((count as usize).min(rest.len()));
        for _ in 0..count {
            outcomes.push_back(decode_outcome(&mut rest)?);
        }
        if outcomes.iter().flatten().any(|outcome| outcome.version > last_used) {
            return Err(DecodeError::Invalid("age of a session"));
        }
        Ok((id, Session { window, last_used, last_time, first, outcomes }, rest))
    }
}

fn decode_outcome(rest: &mut &[u8]) -> Result<Option<Outcome>, DecodeError> {
    let [kind] = take(rest)?;
    if kind == NONE {
        return Ok(None);
    }
    let version = LogIndex(take_u64(rest)?);
    let applied = match kind {
        NOTHING => Applied::Nothing,
        WRITTEN => Applied::Written,
        DELETED => Applied::Deleted(take_u32(rest)?),
        SESSION_EXPIRED => Applied::SessionExpired,
        SEQUENCE_TOO_OLD => Applied::SequenceTooOld,
        _ => return Err(DecodeError::Invalid("outcome of a session")),
    };
    Ok(Some(Outcome { version, applied }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DecodeError> {
    let (taken, behind) = rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
    *rest = behind;
    Ok(*taken)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, DecodeError> {
    take(rest).map(u32::from_le_bytes)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, DecodeError> {
    take(rest).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn session() -> Session {
        let outcome = |applied| Some(Outcome { version: LogIndex(8), applied });
        let outcomes = [
            outcome(Applied::Written),
            None,
            outcome(Applied::Deleted(3)),
            outcome(Applied::Nothing),
            outcome(Applied::SessionExpired),
            outcome(Applied::SequenceTooOld),
        ];
        let (last_used, last_time) = (LogIndex(9), LogTimeMs(77));
        Session { window: 16, last_used, last_time, first: 4, outcomes: outcomes.into() }
    }

    fn encoded(id: LogIndex, session: &Session) -> Vec<u8> {
        let mut bytes = Vec::new();
        session.encode(id, &mut bytes);
        bytes
    }

    #[test]
    fn a_session_survives_encoding_and_no_part_of_it_passes() {
        let mut bytes = encoded(LogIndex(5), &session());
        for length in 0..bytes.len() {
            assert_eq!(Session::decode(&bytes[..length]), Err(DecodeError::Truncated));
        }
        bytes.push(9);
        assert_eq!(Session::decode(&bytes), Ok((LogIndex(5), session(), &[9][..])));
    }

    /// A client may begin at the end of all sequences.
    #[test]
    fn a_window_up_to_the_last_sequence_is_read() {
        let last = Session { first: u64::MAX - 15, ..session() };
        let bytes = encoded(LogIndex(5), &last);
        assert_eq!(Session::decode(&bytes), Ok((LogIndex(5), last, &[][..])));
        let beyond = Session { first: u64::MAX - 14, ..session() };
        assert!(Session::decode(&encoded(LogIndex(5), &beyond)).is_err());
    }

    #[test]
    fn contradictions_are_refused() {
        for wrong in [
            Session { window: 5, ..session() },
            Session { window: SESSION_WINDOW_MAX + 1, ..session() },
            Session { first: 0, ..session() },
            Session { first: u64::MAX, ..session() },
            Session { last_used: LogIndex(4), ..session() },
            Session { last_used: LogIndex(7), ..session() },
        ] {
            assert!(Session::decode(&encoded(LogIndex(5), &wrong)).is_err(), "{wrong:?}");
        }
        assert!(Session::decode(&encoded(LogIndex(0), &session())).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(
            at in 0usize..200,
            byte in any::<u8>(),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = encoded(LogIndex(5), &session());
            let at = at % bytes.len();
            bytes[at] = byte;
            for bytes in [bytes, noise] {
                if let Ok((id, session, rest)) = Session::decode(&bytes) {
                    prop_assert_eq!([&encoded(id, &session)[..], rest].concat(), bytes);
                }
            }
        }
    }
}
