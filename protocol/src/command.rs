//! The write commands: what stands in the log, and in the body of a binary write request.
//!
//! ```text
//!  0        1       2            4                                   (little-endian)
//! +--------+-------+------------+---------------------+-----+-------+
//! | opcode | flags | key_length | session, sequence   | key | rest  |
//! |   u8   |  u8   |    u16     | 2 x u64, if flag 1  |     |       |
//! +--------+-------+------------+---------------------+-----+-------+
//!
//! opcode           key_length, key   rest
//! NOOP       0x00  0                 empty; the first entry of a term
//! SET        0x02  the key           the value, to the end
//! DELETE     0x03  the key           empty
//! SET_MANY   0x05  0                 u32 count, then count x (u16 klen, u32 vlen, key, value)
//! DELETE_MANY 0x06 0                 u32 count, then count x (u16 klen, key)
//! OPEN_SESSION 0x09 0                u32 window; its index is the new session's name
//! MEMBERSHIP 0x20  0                 the member list, see `crate::membership`
//! ```
//!
//! A SET_MANY is one entry and therefore atomic. `(session, sequence)` names a client's write, so
//! that a retry is recognised. Only the four writes of a client's data have them.

use crate::error::DecodeError;
use crate::limits::{KEYS_PER_REQUEST_MAX, Limits, SESSION_WINDOW_MAX, VALUE_BYTES_MAX};

/// Opcodes shared by the log and the binary protocol.
pub mod opcode {
    /// The first entry of a term.
    pub const NOOP: u8 = 0x00;
    /// Stores one value.
    pub const SET: u8 = 0x02;
    /// Removes one key.
    pub const DELETE: u8 = 0x03;
    /// Stores several values atomically.
    pub const SET_MANY: u8 = 0x05;
    /// Removes several keys atomically.
    pub const DELETE_MANY: u8 = 0x06;
    /// Opens a session.
    pub const OPEN_SESSION: u8 = 0x09;
    /// Replaces the member list.
    pub const MEMBERSHIP: u8 = 0x20;
}

/// Set in `flags` when the session fields are present. No other bit has a meaning yet.
pub const FLAG_SESSION: u8 = 1;

const HEADER_BYTES: usize = 4;
const SESSION_BYTES: usize = 16;

/// Names one write of one client session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSequence {
    /// The session: the index of the entry that opened it.
    pub session: u64,
    /// The client's number for this write, unique within the session; the first is 1.
    pub sequence: u64,
}

/// A write: what it does, and who may retry it. Borrows from the buffer that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command<'a> {
    /// Present when the client may retry this write.
    pub session: Option<SessionSequence>,
    /// What to do.
    pub op: Op<'a>,
}

/// What a command does to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<'a> {
    /// Nothing: commits the entries of earlier terms (Raft paper, section 8).
    Noop,
    /// Stores `value` under `key`.
    Set {
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Removes `key`.
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// Stores several pairs at one log index; a key that comes twice keeps the last value.
    SetMany(PairList<'a>),
    /// Removes several keys at one log index.
    DeleteMany(KeyList<'a>),
    /// Opens a session, named by the index of this entry.
    OpenSession {
        /// How many writes the client may have under way at once, 1 to [`SESSION_WINDOW_MAX`].
        window: u32,
    },
    /// Replaces the member list; the bytes are a [`crate::MemberList`].
    Membership(&'a [u8]),
}

impl<'a> Command<'a> {
    /// A command that no session covers.
    #[must_use]
    pub fn new(op: Op<'a>) -> Command<'a> {
        Command { session: None, op }
    }

    /// Reads a command that fills `bytes` exactly.
    ///
    /// # Errors
    /// Any structure that [`encode`](Command::encode) could not have written, and a value over
    /// [`VALUE_BYTES_MAX`].
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, DecodeError> {
        let (&[opcode, flags, low, high], rest) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
        let (session, rest) = match flags {
            0 => (None, rest),
            FLAG_SESSION => {
                let (session, rest) = take_u64(rest)?;
                let (sequence, rest) = take_u64(rest)?;
                (Some(SessionSequence { session, sequence }), rest)
            }
            _ => return Err(DecodeError::Invalid("flags")),
        };
        let key_length = usize::from(u16::from_le_bytes([low, high]));
        let (key, rest) = rest.split_at_checked(key_length).ok_or(DecodeError::Truncated)?;
        let op = match opcode {
            opcode::SET => {
                check_value_bytes(rest.len(), VALUE_BYTES_MAX)?;
                Op::Set { key, value: rest }
            }
            opcode::DELETE if rest.is_empty() => Op::Delete { key },
            opcode::DELETE => return Err(DecodeError::TrailingBytes),
            _ if key_length != 0 => return Err(DecodeError::Invalid("key_length")),
            opcode::SET_MANY => Op::SetMany(PairList::decode(rest)?),
            opcode::DELETE_MANY => Op::DeleteMany(KeyList::decode(rest)?),
            _ if session.is_some() => return Err(no_session_has(opcode)),
            opcode::OPEN_SESSION => Op::OpenSession { window: decode_window(rest)? },
            opcode::MEMBERSHIP => Op::Membership(rest),
            opcode::NOOP if rest.is_empty() => Op::Noop,
            opcode::NOOP => return Err(DecodeError::TrailingBytes),
            other => return Err(DecodeError::UnknownOpcode(other)),
        };
        Ok(Command { session, op })
    }

    /// How many bytes [`encode`](Command::encode) appends.
    #[inline]
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let session = if self.session.is_some() { SESSION_BYTES } else { 0 };
        HEADER_BYTES
            + session
            + match self.op {
                Op::Noop => 0,
                Op::Set { key, value } => key.len() + value.len(),
                Op::Delete { key } => key.len(),
                Op::SetMany(pairs) => pairs.bytes.len(),
                Op::DeleteMany(keys) => keys.bytes.len(),
                Op::OpenSession { window } => size_of_val(&window),
                Op::Membership(bytes) => bytes.len(),
            }
    }

    /// Appends the command in the layout above.
    ///
    /// # Panics
    /// When a key is longer than a `u16` can say; every decoder has checked that before.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let window;
        let (opcode, key, rest): (u8, &[u8], &[u8]) = match self.op {
            Op::Noop => (opcode::NOOP, &[], &[]),
            Op::Set { key, value } => (opcode::SET, key, value),
            Op::Delete { key } => (opcode::DELETE, key, &[]),
            Op::SetMany(pairs) => (opcode::SET_MANY, &[], pairs.bytes),
            Op::DeleteMany(keys) => (opcode::DELETE_MANY, &[], keys.bytes),
            Op::OpenSession { window: slots } => {
                window = slots.to_le_bytes();
                (opcode::OPEN_SESSION, &[], &window)
            }
            Op::Membership(bytes) => (opcode::MEMBERSHIP, &[], bytes),
        };
        let key_length = u16::try_from(key.len()).expect("keys are bounded by KEY_BYTES_MAX");
        let [low, high] = key_length.to_le_bytes();
        match self.session {
            None => out.extend_from_slice(&[opcode, 0, low, high]),
            Some(SessionSequence { session, sequence }) => {
                out.extend_from_slice(&[opcode, FLAG_SESSION, low, high]);
                out.extend_from_slice(&session.to_le_bytes());
                out.extend_from_slice(&sequence.to_le_bytes());
            }
        }
        out.extend_from_slice(key);
        out.extend_from_slice(rest);
    }

    /// Compares every key and value with the configured limits.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] naming what is over its limit.
    #[inline]
    pub fn check(&self, limits: &Limits) -> Result<(), DecodeError> {
        match self.op {
            Op::Set { key, value } => check_key(key, limits).and(check_value(value, limits)),
            Op::Delete { key } => check_key(key, limits),
            Op::SetMany(pairs) => pairs.iter().try_for_each(|(key, value)| {
                check_key(key, limits).and(check_value(value, limits))
            }),
            Op::DeleteMany(keys) => keys.iter().try_for_each(|key| check_key(key, limits)),
            Op::OpenSession { .. } | Op::Noop | Op::Membership(_) => Ok(()),
        }
    }
}

/// What is wrong with a command that no session can cover, and that names one.
#[cold]
fn no_session_has(opcode: u8) -> DecodeError {
    match opcode {
        opcode::NOOP | opcode::OPEN_SESSION | opcode::MEMBERSHIP => DecodeError::Invalid("flags"),
        other => DecodeError::UnknownOpcode(other),
    }
}

fn decode_window(rest: &[u8]) -> Result<u32, DecodeError> {
    let (window, rest) = rest.split_first_chunk().ok_or(DecodeError::Truncated)?;
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes);
    }
    let window = u32::from_le_bytes(*window);
    match (1..=SESSION_WINDOW_MAX).contains(&window) {
        true => Ok(window),
        false => Err(DecodeError::Invalid("session window")),
    }
}

/// Compares a key with its limit.
///
/// # Errors
/// [`DecodeError::TooLarge`] for a longer one.
#[inline]
pub fn check_key(key: &[u8], limits: &Limits) -> Result<(), DecodeError> {
    if key.len() <= limits.key_bytes_max {
        return Ok(());
    }
    Err(DecodeError::TooLarge { what: "key", limit: limits.key_bytes_max })
}

#[inline]
fn check_value(value: &[u8], limits: &Limits) -> Result<(), DecodeError> {
    check_value_bytes(value.len(), limits.value_bytes_max)
}

#[inline]
fn check_value_bytes(bytes: usize, limit: usize) -> Result<(), DecodeError> {
    if bytes <= limit { Ok(()) } else { Err(DecodeError::TooLarge { what: "value", limit }) }
}

/// A validated, encoded list of keys: `u32 count, count x (u16 klen, key)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyList<'a> {
    bytes: &'a [u8],
}

impl<'a> KeyList<'a> {
    /// Checks that `bytes` is exactly one list.
    ///
    /// # Errors
    /// A count over [`KEYS_PER_REQUEST_MAX`], or lengths that do not add up.
    pub fn decode(bytes: &'a [u8]) -> Result<KeyList<'a>, DecodeError> {
        let (count, mut rest) = take_count(bytes)?;
        for _ in 0..count {
            (_, rest) = take_key(rest)?;
        }
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes);
        }
        Ok(KeyList { bytes })
    }

    /// Encodes `keys` into `scratch`, replacing what it held.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] for too many keys, or a key over its limit.
    pub fn encode<'k>(
        keys: impl ExactSizeIterator<Item = &'k [u8]>,
        limits: &Limits,
        scratch: &'a mut Vec<u8>,
    ) -> Result<KeyList<'a>, DecodeError> {
        begin_list(keys.len(), scratch)?;
        for key in keys {
            check_key(key, limits)?;
            put_u16(key.len(), scratch);
            scratch.extend_from_slice(key);
        }
        Ok(KeyList { bytes: scratch })
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        list_len(self.bytes)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoded list.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The keys, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = &self.bytes[4..];
        std::iter::from_fn(move || {
            let key;
            (key, rest) = take_key(rest).ok()?;
            Some(key)
        })
    }
}

/// A validated, encoded list of pairs: `u32 count, count x (u16 klen, u32 vlen, key, value)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairList<'a> {
    bytes: &'a [u8],
}

impl<'a> PairList<'a> {
    /// Checks that `bytes` is exactly one list.
    ///
    /// # Errors
    /// A count over [`KEYS_PER_REQUEST_MAX`], a value over [`VALUE_BYTES_MAX`], or lengths that do
    /// not add up.
    pub fn decode(bytes: &'a [u8]) -> Result<PairList<'a>, DecodeError> {
        let (count, mut rest) = take_count(bytes)?;
        for _ in 0..count {
            (_, rest) = take_pair(rest)?;
        }
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes);
        }
        Ok(PairList { bytes })
    }

    /// Encodes `pairs` into `scratch`, replacing what it held.
    ///
    /// # Errors
    /// [`DecodeError::TooLarge`] for too many pairs, or a key or value over its limit.
    pub fn encode<'k>(
        pairs: impl ExactSizeIterator<Item = (&'k [u8], &'k [u8])>,
        limits: &Limits,
        scratch: &'a mut Vec<u8>,
    ) -> Result<PairList<'a>, DecodeError> {
        begin_list(pairs.len(), scratch)?;
        for (key, value) in pairs {
            check_key(key, limits)?;
            check_value(value, limits)?;
            put_u16(key.len(), scratch);
            let value_length =
                u32::try_from(value.len()).map_err(|_| DecodeError::Invalid("value length"))?;
            scratch.extend_from_slice(&value_length.to_le_bytes());
            scratch.extend_from_slice(key);
            scratch.extend_from_slice(value);
        }
        Ok(PairList { bytes: scratch })
    }

    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        list_len(self.bytes)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The encoded list.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The pairs, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let mut rest = &self.bytes[4..];
        std::iter::from_fn(move || {
            let pair;
            (pair, rest) = take_pair(rest).ok()?;
            Some(pair)
        })
    }
}

fn begin_list(count: usize, scratch: &mut Vec<u8>) -> Result<(), DecodeError> {
    scratch.clear();
    let encoded = u32::try_from(count).ok().filter(|_| count <= KEYS_PER_REQUEST_MAX);
    let Some(encoded) = encoded else {
        return Err(DecodeError::TooLarge { what: "keys", limit: KEYS_PER_REQUEST_MAX });
    };
    scratch.extend_from_slice(&encoded.to_le_bytes());
    Ok(())
}

fn list_len(bytes: &[u8]) -> usize {
    take_count(bytes).expect("lists are validated when they are made").0
}

/// `len` has been checked against [`crate::limits::KEY_BYTES_MAX`].
fn put_u16(len: usize, scratch: &mut Vec<u8>) {
    let len = u16::try_from(len).expect("keys are bounded by KEY_BYTES_MAX");
    scratch.extend_from_slice(&len.to_le_bytes());
}

fn take_count(bytes: &[u8]) -> Result<(usize, &[u8]), DecodeError> {
    let (count, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > KEYS_PER_REQUEST_MAX {
        return Err(DecodeError::TooLarge { what: "keys", limit: KEYS_PER_REQUEST_MAX });
    }
    Ok((count, rest))
}

fn take_key(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (length, rest) = bytes.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    rest.split_at_checked(usize::from(u16::from_le_bytes(*length))).ok_or(DecodeError::Truncated)
}

type Pair<'a> = (&'a [u8], &'a [u8]);

fn take_pair(bytes: &[u8]) -> Result<(Pair<'_>, &[u8]), DecodeError> {
    let (key_length, rest) = bytes.split_first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    let (value_length, rest) = rest.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
    let key_length = usize::from(u16::from_le_bytes(*key_length));
    let value_length = u32::from_le_bytes(*value_length) as usize;
    check_value_bytes(value_length, VALUE_BYTES_MAX)?;
    let (key, rest) = rest.split_at_checked(key_length).ok_or(DecodeError::Truncated)?;
    let (value, rest) = rest.split_at_checked(value_length).ok_or(DecodeError::Truncated)?;
    Ok(((key, value), rest))
}

fn take_u64(bytes: &[u8]) -> Result<(u64, &[u8]), DecodeError> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
    Ok((u64::from_le_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(command: Command<'_>) {
        let mut bytes = Vec::new();
        command.encode(&mut bytes);
        assert_eq!(bytes.len(), command.encoded_len());
        assert_eq!(Command::decode(&bytes), Ok(command));
    }

    #[test]
    fn every_command_survives_encoding() {
        let limits = Limits::default();
        let mut scratch = Vec::new();
        let session = Some(SessionSequence { session: 7, sequence: u64::MAX });
        round_trip(Command::new(Op::Noop));
        round_trip(Command { session, op: Op::Set { key: b"k", value: b"a b\0" } });
        round_trip(Command::new(Op::Set { key: b"", value: b"" }));
        round_trip(Command::new(Op::Delete { key: b"k" }));
        round_trip(Command::new(Op::Membership(b"1=a/b")));
        let pairs = [(&b"a"[..], &b"1"[..]), (b"b", b"")];
        let list = PairList::encode(pairs.into_iter(), &limits, &mut scratch).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), pairs);
        round_trip(Command { session, op: Op::SetMany(list) });
        let keys = [&b"a"[..], b"", b"ccc"];
        let list = KeyList::encode(keys.into_iter(), &limits, &mut scratch).unwrap();
        assert_eq!(list.iter().collect::<Vec<_>>(), keys);
        round_trip(Command::new(Op::DeleteMany(list)));
        round_trip(Command::new(Op::OpenSession { window: SESSION_WINDOW_MAX }));
    }

    /// Only what a client writes has a session; what opens one is in none.
    #[test]
    fn a_session_covers_the_writes_of_a_client_alone() {
        let session = Some(SessionSequence { session: 7, sequence: 1 });
        for op in [Op::Noop, Op::Membership(b""), Op::OpenSession { window: 1 }] {
            let mut bytes = Vec::new();
            Command { session, op }.encode(&mut bytes);
            assert_eq!(Command::decode(&bytes), Err(DecodeError::Invalid("flags")));
        }
    }

    #[test]
    fn a_window_is_neither_empty_nor_over_its_limit() {
        for window in [0, SESSION_WINDOW_MAX + 1, u32::MAX] {
            let mut bytes = Vec::new();
            Command::new(Op::OpenSession { window }).encode(&mut bytes);
            assert_eq!(Command::decode(&bytes), Err(DecodeError::Invalid("session window")));
        }
    }

    /// The store takes no longer ones, and a log may be forged, checksums and all.
    #[test]
    fn a_value_over_the_highest_limit_is_an_error() {
        let value = vec![0; VALUE_BYTES_MAX + 1];
        let error = Err(DecodeError::TooLarge { what: "value", limit: VALUE_BYTES_MAX });
        let mut bytes = Vec::new();
        Command::new(Op::Set { key: b"k", value: &value }).encode(&mut bytes);
        assert_eq!(Command::decode(&bytes), error);
        assert!(Command::decode(&bytes[..bytes.len() - 1]).is_ok());

        let list = |length: usize| {
            let length = u32::try_from(length).unwrap().to_le_bytes();
            [&[opcode::SET_MANY, 0, 0, 0, 1, 0, 0, 0, 1, 0][..], &length, b"k", &value].concat()
        };
        assert_eq!(Command::decode(&list(VALUE_BYTES_MAX + 1)), error);
        let largest = list(VALUE_BYTES_MAX);
        assert!(Command::decode(&largest[..largest.len() - 1]).is_ok());
    }

    #[test]
    fn lengths_that_do_not_add_up_are_errors() {
        assert_eq!(Command::decode(&[2, 0, 5, 0, b'k']), Err(DecodeError::Truncated));
        assert_eq!(Command::decode(&[3, 0, 1, 0, b'k', 0]), Err(DecodeError::TrailingBytes));
        assert_eq!(Command::decode(&[2, 2, 1, 0, b'k']), Err(DecodeError::Invalid("flags")));
        assert_eq!(Command::decode(&[0x77, 0, 0, 0]), Err(DecodeError::UnknownOpcode(0x77)));
        let too_many = u32::try_from(KEYS_PER_REQUEST_MAX + 1).unwrap().to_le_bytes();
        assert!(matches!(KeyList::decode(&too_many), Err(DecodeError::TooLarge { .. })));
    }
}
