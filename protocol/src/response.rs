//! What a client is told, the same for every protocol.

use crate::error::{DecodeError, ErrorCode};
use crate::types::LogIndex;

/// An answer. Borrows from the store, or from the buffer that it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response<'a> {
    /// The request needed no more words (PING, QUORUM, TRANSFER).
    Ok,
    /// A write was applied at this index, with the durability that was asked for.
    Written {
        /// The index of the entry.
        version: LogIndex,
    },
    /// A delete was applied.
    Deleted {
        /// The index of the entry.
        version: LogIndex,
        /// How many of the keys existed.
        count: u32,
    },
    /// The value of a key.
    Value {
        /// The index of the entry that last changed the key.
        version: LogIndex,
        /// The value.
        value: &'a [u8],
    },
    /// The key is absent.
    NotFound,
    /// The values of several keys.
    Values(ValueList<'a>),
    /// How many keys exist, how long a value is, or which is the last entry that a snapshot covers.
    Number(u64),
    /// Who holds the last write of a connection durably. Only RESP asks (`WAIT`, `WAITAOF`).
    Copies(Copies),
    /// The leader's client address, or that none is known.
    Leader(Option<&'a str>),
    /// The node's state in one line of `name=value` pairs.
    Status(&'a str),
    /// Who is in the cluster: a [`MembersLine`](crate::MembersLine).
    Members(&'a str),
    /// A part of a snapshot file.
    SnapshotPart {
        /// The last entry that the snapshot covers.
        index: LogIndex,
        /// Length of the whole file.
        total_bytes: u64,
        /// The bytes from the offset that was asked for; at least one.
        bytes: &'a [u8],
    },
    /// The write was not applied: this node is not the leader; `leader` is its client address.
    NotLeader {
        /// Where to go.
        leader: &'a str,
    },
    /// The request failed; see [`ErrorCode`] for what is known of its outcome.
    Error {
        /// For programs.
        code: ErrorCode,
        /// For a person: what happened and what to do.
        message: &'a str,
    },
}

/// Which members hold an entry durably.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copies {
    /// Whether the node that was asked does.
    pub here: bool,
    /// How many of the others do, voters and learners.
    pub elsewhere: usize,
}

/// A validated, encoded list of values: `u32 count`, then per key `u64 version` (0: absent),
/// `u32 length`, value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueList<'a> {
    bytes: &'a [u8],
}

const VALUE_HEADER_BYTES: usize = 12;

impl<'a> ValueList<'a> {
    /// Checks that `bytes` is exactly one list.
    ///
    /// # Errors
    /// Lengths that do not add up.
    pub fn decode(bytes: &'a [u8]) -> Result<ValueList<'a>, DecodeError> {
        let (count, mut rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
        for _ in 0..u32::from_le_bytes(*count) {
            (_, rest) = take_value(rest).ok_or(DecodeError::Truncated)?;
        }
        if !rest.is_empty() {
            return Err(DecodeError::TrailingBytes);
        }
        Ok(ValueList { bytes })
    }

    /// How many values there are, absent ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        let count = self.bytes.first_chunk::<4>().expect("validated when it was made");
        u32::from_le_bytes(*count) as usize
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

    /// The values in the order of the keys; `None` for an absent one.
    pub fn iter(&self) -> impl Iterator<Item = Option<(LogIndex, &'a [u8])>> + use<'a> {
        let mut rest = &self.bytes[4..];
        std::iter::from_fn(move || {
            let value;
            (value, rest) = take_value(rest)?;
            Some(value)
        })
    }
}

type FoundValue<'a> = Option<(LogIndex, &'a [u8])>;

fn take_value(bytes: &[u8]) -> Option<(FoundValue<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<VALUE_HEADER_BYTES>()?;
    let [v0, v1, v2, v3, v4, v5, v6, v7, l0, l1, l2, l3] = *head;
    let version = u64::from_le_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let (value, rest) = rest.split_at_checked(length)?;
    Some(((version != 0).then_some((LogIndex(version), value)), rest))
}

/// Writes a [`ValueList`] value by value.
#[derive(Debug)]
pub struct ValueListBuilder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> ValueListBuilder<'a> {
    /// Starts a list of `count` values at the end of `out`.
    pub fn new(count: u32, out: &'a mut Vec<u8>) -> ValueListBuilder<'a> {
        let start = out.len();
        out.extend_from_slice(&count.to_le_bytes());
        ValueListBuilder { out, start }
    }

    /// Appends the next value.
    ///
    /// # Errors
    /// When the list grows beyond [`crate::limits::REPLY_BYTES_MAX`]; the list is then useless.
    pub fn push(&mut self, found: Option<(LogIndex, &[u8])>) -> Result<(), DecodeError> {
        let (version, value) = found.unwrap_or((LogIndex(0), &[]));
        let limit = crate::limits::REPLY_BYTES_MAX;
        if self.out.len() - self.start + VALUE_HEADER_BYTES + value.len() > limit {
            return Err(DecodeError::TooLarge { what: "reply", limit });
        }
        let length =
            u32::try_from(value.len()).map_err(|_| DecodeError::Invalid("value length"))?;
        self.out.extend_from_slice(&version.0.to_le_bytes());
        self.out.extend_from_slice(&length.to_le_bytes());
        self.out.extend_from_slice(value);
        Ok(())
    }
}
