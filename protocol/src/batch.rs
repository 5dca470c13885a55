//! The batch: the unit of the replicated log. The leader of a term encodes the entries that it
//! admits in one turn once; the same bytes go to its own log, to every peer, and into their logs,
//! and each place checks the same checksum.
//!
//! ```text
//!  0     4        8       12      16            24     32            40         44   48
//! +-----+--------+-------+-------+-------------+------+-------------+----------+----+---------
//! | crc | length | magic | count | first_index | term | log_time_ms | prev_crc | 0  | entries
//! +-----+--------+-------+-------+-------------+------+-------------+----------+----+---------
//! entry: u32 length, then that many bytes of one `crate::command`
//! ```
//!
//! Little-endian. `crc` is the CRC-32 (IEEE 802.3) of everything behind it; `length` counts the
//! whole batch. `prev_crc` is the `crc` of the batch before, so that two logs that agree on one
//! batch agree on all before it (Raft paper, log matching), and a stale batch in a recycled
//! segment can not pass for the next one.

use bytes::Bytes;

use crate::command::Command;
use crate::error::DecodeError;
use crate::limits::BATCH_BYTES_MAX;
use crate::types::{LogIndex, LogTimeMs, Term};

/// Bytes before the first entry.
pub const BATCH_HEADER_BYTES: usize = 48;

const MAGIC: u32 = u32::from_le_bytes(*b"KVB1");

/// A sealed batch: whole, with a good checksum, and with nothing in it that `apply` could not
/// execute. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    bytes: Bytes,
    header: BatchHeader,
}

/// The fixed fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Checksum of the batch; the next batch names it in `prev_crc`.
    pub crc: u32,
    /// How many entries, at least 1.
    pub count: u32,
    /// Index of the first entry.
    pub first_index: LogIndex,
    /// Term of the leader that made the batch; all its entries are of this term.
    pub term: Term,
    /// Log time of all its entries.
    pub log_time: LogTimeMs,
    /// `crc` of the batch before; 0 for the first.
    pub prev_crc: u32,
}

impl BatchHeader {
    /// Index of the last entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        LogIndex(self.first_index.0 + u64::from(self.count) - 1)
    }

    /// Reads the fixed fields alone, to see whether the batch is of interest. Nothing vouches for
    /// them before [`check`] has seen the whole.
    ///
    /// # Errors
    /// These are no fields of any batch.
    pub fn peek(bytes: &[u8]) -> Result<BatchHeader, DecodeError> {
        let head = bytes.first_chunk::<BATCH_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
        if u32_at(head, 8) != MAGIC {
            return Err(DecodeError::Invalid("batch magic"));
        }
        let header = BatchHeader {
            crc: u32_at(head, 0),
            count: u32_at(head, 12),
            first_index: LogIndex(u64_at(head, 16)),
            term: Term(u64_at(head, 24)),
            log_time: LogTimeMs(u64_at(head, 32)),
            prev_crc: u32_at(head, 40),
        };
        if header.count == 0 || header.first_index.0.checked_add(u64::from(header.count)).is_none()
        {
            return Err(DecodeError::Invalid("batch count"));
        }
        Ok(header)
    }
}

#[inline]
fn u32_at(head: &[u8; BATCH_HEADER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[inline]
fn u64_at(head: &[u8; BATCH_HEADER_BYTES], at: usize) -> u64 {
    u64::from(u32_at(head, at)) | u64::from(u32_at(head, at + 4)) << 32
}

impl Batch {
    /// Checks and takes over an encoded batch.
    ///
    /// # Errors
    /// Wrong lengths, checksum, magic, or an entry that is no command.
    pub fn decode(bytes: Bytes) -> Result<Batch, DecodeError> {
        let header = check(&bytes)?;
        Ok(Batch { bytes, header })
    }

    /// Checks an encoded batch and copies it.
    ///
    /// # Errors
    /// As [`decode`](Batch::decode).
    pub fn copy_from(bytes: &[u8]) -> Result<Batch, DecodeError> {
        let header = check(bytes)?;
        Ok(Batch { bytes: Bytes::copy_from_slice(bytes), header })
    }

    /// The fixed fields.
    #[must_use]
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The encoded batch, for the log and for peers.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The commands with their indexes, in order.
    pub fn entries(&self) -> impl Iterator<Item = (LogIndex, Command<'_>)> {
        entries(self.header.first_index, &self.bytes)
    }
}

/// Checks one encoded batch in place, as recovery does with a mapped file.
///
/// # Errors
/// Wrong lengths, checksum, magic, or an entry that is no command.
pub fn check(bytes: &[u8]) -> Result<BatchHeader, DecodeError> {
    let (head, body) =
        bytes.split_first_chunk::<BATCH_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
    if u32_at(head, 4) as usize != bytes.len() {
        return Err(DecodeError::Invalid("batch length"));
    }
    if crc32fast::hash(&bytes[4..]) != u32_at(head, 0) {
        return Err(DecodeError::Checksum);
    }
    let header = BatchHeader::peek(head)?;
    let mut rest = body;
    for _ in 0..header.count {
        let entry;
        (entry, rest) = take_entry(rest)?;
        Command::decode(entry)?;
    }
    if !rest.is_empty() {
        return Err(DecodeError::TrailingBytes);
    }
    Ok(header)
}

/// The commands of a batch that [`check`] has accepted, with their indexes.
///
/// # Panics
/// While iterating, when the bytes were not accepted by [`check`].
pub fn entries(
    first_index: LogIndex,
    bytes: &[u8],
) -> impl Iterator<Item = (LogIndex, Command<'_>)> {
    let mut rest = &bytes[BATCH_HEADER_BYTES..];
    let mut index = first_index;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (entry, behind) = take_entry(rest).expect("batches are checked when they are made");
        rest = behind;
        let command = Command::decode(entry).expect("batches are checked when they are made");
        let this = index;
        index = index.next();
        Some((this, command))
    })
}

/// The command of the entry at `offset`, and where the next entry starts, in a batch that
/// [`check`] has accepted.
///
/// # Panics
/// When `offset` is not the start of an entry of such a batch.
#[inline]
#[must_use]
pub fn entry_at(bytes: &[u8], offset: usize) -> (Command<'_>, usize) {
    let (entry, rest) =
        take_entry(&bytes[offset..]).expect("batches are checked when they are made");
    let command = Command::decode(entry).expect("batches are checked when they are made");
    (command, bytes.len() - rest.len())
}

#[inline]
fn take_entry(bytes: &[u8]) -> Result<(&[u8], &[u8]), DecodeError> {
    let (length, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
    rest.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or(DecodeError::Truncated)
}

/// The open batch of a leader: takes entries until it is sealed.
#[derive(Debug)]
pub struct BatchBuilder {
    /// Empty, or a header's room followed by whole entries.
    bytes: Vec<u8>,
    count: u32,
    first_index: LogIndex,
}

impl BatchBuilder {
    /// An empty batch whose first entry will have `first_index`.
    #[must_use]
    pub fn new(first_index: LogIndex) -> BatchBuilder {
        BatchBuilder { bytes: Vec::new(), count: 0, first_index }
    }

    /// Appends a command and returns its index.
    ///
    /// # Panics
    /// When the batch grows beyond [`BATCH_BYTES_MAX`]: admission has checked the command's size,
    /// and the batch is sealed when it is soft-full.
    #[inline]
    pub fn push(&mut self, command: &Command<'_>) -> LogIndex {
        if self.bytes.is_empty() {
            self.bytes.resize(BATCH_HEADER_BYTES, 0);
        }
        let length = command.encoded_len();
        assert!(self.bytes.len() + 4 + length <= BATCH_BYTES_MAX, "the batch is over its limit");
        self.bytes.reserve(4 + length);
        let encoded = u32::try_from(length).expect("bounded by BATCH_BYTES_MAX");
        self.bytes.extend_from_slice(&encoded.to_le_bytes());
        command.encode(&mut self.bytes);
        let index = LogIndex(self.first_index.0 + u64::from(self.count));
        self.count += 1;
        index
    }

    /// Whether nothing was pushed since the last seal.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many bytes the batch has so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The index that the next pushed command will get.
    #[must_use]
    pub fn next_index(&self) -> LogIndex {
        LogIndex(self.first_index.0 + u64::from(self.count))
    }

    /// Seals the entries into a batch and starts the next one; `None` when there are none.
    pub fn seal(&mut self, term: Term, log_time: LogTimeMs, prev_crc: u32) -> Option<Batch> {
        if self.is_empty() {
            return None;
        }
        // The next batch is likely to be about as large: one allocation for it instead of a
        // series of growths.
        let capacity = self.bytes.len().min(crate::limits::BATCH_BYTES_SOFT) * 5 / 4;
        let mut bytes = std::mem::replace(&mut self.bytes, Vec::with_capacity(capacity));
        let length = u32::try_from(bytes.len()).expect("bounded by BATCH_BYTES_MAX");
        let mut header = BatchHeader {
            crc: 0,
            count: self.count,
            first_index: self.first_index,
            term,
            log_time,
            prev_crc,
        };
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes[8..12].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[12..16].copy_from_slice(&header.count.to_le_bytes());
        bytes[16..24].copy_from_slice(&header.first_index.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&header.term.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&header.log_time.0.to_le_bytes());
        bytes[40..44].copy_from_slice(&header.prev_crc.to_le_bytes());
        header.crc = crc32fast::hash(&bytes[4..]);
        bytes[0..4].copy_from_slice(&header.crc.to_le_bytes());
        self.first_index = header.last_index().next();
        self.count = 0;
        Some(Batch { bytes: bytes.into(), header })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Op;

    fn sealed() -> Batch {
        let mut builder = BatchBuilder::new(LogIndex(5));
        assert_eq!(builder.push(&Command::new(Op::Set { key: b"k", value: b"v" })), LogIndex(5));
        assert_eq!(builder.push(&Command::new(Op::Delete { key: b"k" })), LogIndex(6));
        builder.seal(Term(3), LogTimeMs(99), 0xabcd).unwrap()
    }

    #[test]
    fn a_sealed_batch_decodes_to_its_entries() {
        let batch = sealed();
        let again = Batch::decode(batch.bytes().clone()).unwrap();
        assert_eq!(again, batch);
        assert_eq!(Batch::copy_from(batch.bytes()), Ok(again.clone()));
        assert_eq!(BatchHeader::peek(batch.bytes()), Ok(*batch.header()));
        assert_eq!(batch.header().last_index(), LogIndex(6));
        let entries: Vec<_> = again.entries().collect();
        assert_eq!(entries[0].1.op, Op::Set { key: b"k", value: b"v" });
        assert_eq!(entries[1], (LogIndex(6), Command::new(Op::Delete { key: b"k" })));
    }

    #[test]
    fn a_peek_answers_for_indexes_that_can_be_computed_with() {
        let bytes = sealed().bytes().to_vec();
        let peek = |at: usize, field: &[u8]| {
            let mut bytes = bytes.clone();
            bytes[at..at + field.len()].copy_from_slice(field);
            BatchHeader::peek(&bytes)
        };
        assert!(peek(12, &1u32.to_le_bytes()).is_ok(), "nothing is summed");
        assert_eq!(peek(12, &[0; 4]), Err(DecodeError::Invalid("batch count")));
        assert_eq!(peek(16, &[0xff; 8]), Err(DecodeError::Invalid("batch count")));
        assert_eq!(peek(8, &[0; 4]), Err(DecodeError::Invalid("batch magic")));
        assert_eq!(BatchHeader::peek(&bytes[..47]), Err(DecodeError::Truncated));
    }

    #[test]
    fn no_flipped_bit_and_no_truncation_passes() {
        let batch = sealed();
        for bit in 0..batch.bytes().len() * 8 {
            let mut bytes = batch.bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&bytes).is_err(), "bit {bit}");
        }
        for length in 0..batch.bytes().len() {
            assert!(check(&batch.bytes()[..length]).is_err(), "length {length}");
        }
    }
}
