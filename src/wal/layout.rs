//! Where every byte of a segment stands; the pictures and the reasons are in `FORMAT.md`.

use kvorum_protocol::{ClusterId, LogIndex, LogTimeMs, Lsn, NodeId, Term};

use super::identity::Identity;
use super::state::LogState;
use crate::core::log::{EntryId, LogEnd};
use crate::disk::BLOCK_BYTES;

/// The version of the format that this program writes; it reads no other.
pub const FORMAT_VERSION: u32 = 1;

/// The first block of a segment.
pub const SEGMENT_HEADER_BYTES: usize = BLOCK_BYTES;

/// What stands before the body of a record.
pub const RECORD_HEADER_BYTES: usize = 64;

/// Records of one group follow each other at multiples of this.
pub const RECORD_ALIGNMENT: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"KVORUMLG";
const SEGMENT_FIELDS_BYTES: usize = 128;
const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"KVR1");

/// Set on the last record of a group: the next one starts at the next block. No other flag has a
/// meaning.
pub const FLAG_END_OF_GROUP: u8 = 1;

/// The name of the segment with this sequence number. Names sort as the numbers do.
#[must_use]
pub fn segment_name(sequence: u64) -> String {
    format!("segment-{sequence:016x}.log")
}

/// What a file name says about a file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileName {
    /// A segment and its sequence number.
    Segment(u64),
    /// Looks like a segment, but no segment is ever named so.
    NoSegment,
    /// None of the log's.
    Other,
}

impl FileName {
    /// Reads a name.
    #[must_use]
    pub fn parse(name: &str) -> FileName {
        let Some(rest) = name.strip_prefix("segment-") else { return FileName::Other };
        let number = rest.strip_suffix(".log").unwrap_or(rest);
        match u64::from_str_radix(number, 16) {
            Ok(sequence) if sequence > 0 && segment_name(sequence) == name => {
                FileName::Segment(sequence)
            }
            _ => FileName::NoSegment,
        }
    }
}

/// The first block of a segment that is in use: where it belongs, and the state of the log before
/// its first record, so that it can be read when the segments before it are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log this is.
    pub identity: Identity,
    /// Number of this segment; counts up by one.
    pub sequence: u64,
    /// Length of the file.
    pub segment_bytes: u64,
    /// Position of the first record.
    pub first_lsn: Lsn,
    /// `crc` of the last record of the segment before; 0 for the first.
    pub prev: u32,
    /// Highest index known to be committed.
    pub commit: LogIndex,
    /// Term, vote and end of the replicated log before the first record.
    pub state: LogState,
}

/// What the first block of a segment holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderBlock {
    /// The segment is in use.
    Valid(SegmentHeader),
    /// Zeros: prepared, never used.
    Unused,
    /// Written by another version of the format.
    Version(u32),
    /// Anything else. A crash can not leave this: the fields are in one sector.
    Damaged,
}

impl SegmentHeader {
    /// The fields as they stand at the start of the first block.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_FIELDS_BYTES] {
        let mut bytes = [0; SEGMENT_FIELDS_BYTES];
        let LogState { term, voted_for, end, former_end } = &self.state;
        bytes[0..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut bytes, 8, FORMAT_VERSION);
        put_u32(&mut bytes, 12, self.prev);
        put_u64(&mut bytes, 16, self.identity.cluster.0);
        put_u64(&mut bytes, 24, self.identity.incarnation);
        put_u64(&mut bytes, 32, self.sequence);
        put_u64(&mut bytes, 40, self.segment_bytes);
        put_u64(&mut bytes, 48, self.first_lsn.0);
        put_u64(&mut bytes, 56, term.0);
        put_u64(&mut bytes, 64, self.commit.0);
        put_u64(&mut bytes, 72, end.index.0);
        put_u64(&mut bytes, 80, end.term.0);
        put_u64(&mut bytes, 88, end.time.0);
        put_u32(&mut bytes, 96, end.crc);
        bytes[100..102].copy_from_slice(&self.identity.node.0.to_le_bytes());
        bytes[102..104].copy_from_slice(&voted_for.map_or(0, |node| node.0).to_le_bytes());
        put_u64(&mut bytes, 104, former_end.index.0);
        put_u64(&mut bytes, 112, former_end.term.0);
        let crc = crc32fast::hash(&bytes[..124]);
        put_u32(&mut bytes, 124, crc);
        bytes
    }

    /// Reads the start of a segment file.
    #[must_use]
    pub fn decode(segment: &[u8]) -> HeaderBlock {
        let Some(bytes) = segment.first_chunk::<SEGMENT_HEADER_BYTES>() else {
            return HeaderBlock::Damaged;
        };
        let bytes = &bytes[..SEGMENT_FIELDS_BYTES];
        if bytes.iter().all(|byte| *byte == 0) {
            return HeaderBlock::Unused;
        }
        if bytes[..8] != SEGMENT_MAGIC {
            return HeaderBlock::Damaged;
        }
        // Before the checksum, because another version may keep it elsewhere.
        if u32_at(bytes, 8) != FORMAT_VERSION {
            return HeaderBlock::Version(u32_at(bytes, 8));
        }
        if crc32fast::hash(&bytes[..124]) != u32_at(bytes, 124) {
            return HeaderBlock::Damaged;
        }
        let node = |at: usize| NodeId(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        HeaderBlock::Valid(SegmentHeader {
            identity: Identity {
                cluster: ClusterId(u64_at(bytes, 16)),
                node: node(100),
                incarnation: u64_at(bytes, 24),
            },
            sequence: u64_at(bytes, 32),
            segment_bytes: u64_at(bytes, 40),
            first_lsn: Lsn(u64_at(bytes, 48)),
            prev: u32_at(bytes, 12),
            commit: LogIndex(u64_at(bytes, 64)),
            state: LogState {
                term: Term(u64_at(bytes, 56)),
                voted_for: Some(node(102)).filter(|node| node.0 != 0),
                end: LogEnd {
                    index: LogIndex(u64_at(bytes, 72)),
                    term: Term(u64_at(bytes, 80)),
                    crc: u32_at(bytes, 96),
                    time: LogTimeMs(u64_at(bytes, 88)),
                },
                former_end: EntryId {
                    index: LogIndex(u64_at(bytes, 104)),
                    term: Term(u64_at(bytes, 112)),
                },
            },
        })
    }
}

/// What stands before the body of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// `crc` of the record before, in whatever segment: a chain through the whole log.
    pub prev: u32,
    /// Length of the body.
    pub body_bytes: u32,
    /// The first four bytes of the body, which are the CRC-32 of the rest of it; 0 without body.
    pub body_crc: u32,
    /// What the body is; see [`super::record`].
    pub kind: u8,
    /// [`FLAG_END_OF_GROUP`] or 0.
    pub flags: u8,
    /// The incarnation of the node's data.
    pub incarnation: u64,
    /// Sequence number of the segment.
    pub segment: u64,
    /// Position of the record.
    pub lsn: Lsn,
    /// Everything in this segment before this offset was durable when the record was written.
    pub synced: u64,
    /// Highest index known to be committed when the record was written.
    pub commit: LogIndex,
}

/// Why bytes are no record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFault {
    /// Nothing was ever written here, or something else.
    NoRecord,
    /// The checksum does not match.
    Checksum,
}

impl RecordHeader {
    /// The header's bytes, and its checksum, which the next record names as `prev`.
    #[must_use]
    pub fn encode(&self) -> ([u8; RECORD_HEADER_BYTES], u32) {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        put_u32(&mut bytes, 0, RECORD_MAGIC);
        put_u32(&mut bytes, 8, self.prev);
        put_u32(&mut bytes, 12, self.body_bytes);
        put_u32(&mut bytes, 16, self.body_crc);
        bytes[20] = self.kind;
        bytes[21] = self.flags;
        put_u64(&mut bytes, 24, self.incarnation);
        put_u64(&mut bytes, 32, self.segment);
        put_u64(&mut bytes, 40, self.lsn.0);
        put_u64(&mut bytes, 48, self.synced);
        put_u64(&mut bytes, 56, self.commit.0);
        let crc = crc32fast::hash(&bytes[8..]);
        put_u32(&mut bytes, 4, crc);
        (bytes, crc)
    }

    /// Reads the header at the start of `bytes`; also returns its checksum.
    ///
    /// # Errors
    /// When there is none, or not a whole one.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<(RecordHeader, u32), HeaderFault> {
        let bytes = bytes.first_chunk::<RECORD_HEADER_BYTES>().ok_or(HeaderFault::NoRecord)?;
        if u32_at(bytes, 0) != RECORD_MAGIC {
            return Err(HeaderFault::NoRecord);
        }
        let crc = u32_at(bytes, 4);
        if crc32fast::hash(&bytes[8..]) != crc {
            return Err(HeaderFault::Checksum);
        }
        let header = RecordHeader {
            prev: u32_at(bytes, 8),
            body_bytes: u32_at(bytes, 12),
            body_crc: u32_at(bytes, 16),
            kind: bytes[20],
            flags: bytes[21],
            incarnation: u64_at(bytes, 24),
            segment: u64_at(bytes, 32),
            lsn: Lsn(u64_at(bytes, 40)),
            synced: u64_at(bytes, 48),
            commit: LogIndex(u64_at(bytes, 56)),
        };
        Ok((header, crc))
    }

    /// Whether the block was meant to be a record of this segment, be it whole or not.
    #[must_use]
    pub fn claims(bytes: &[u8], incarnation: u64, segment: u64) -> bool {
        bytes.len() >= RECORD_HEADER_BYTES
            && u32_at(bytes, 0) == RECORD_MAGIC
            && u64_at(bytes, 24) == incarnation
            && u64_at(bytes, 32) == segment
    }
}

/// How many bytes a record with this body takes within its group.
#[must_use]
pub fn record_bytes(body_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + body_bytes).next_multiple_of(RECORD_ALIGNMENT)
}

/// The most that a record with this body adds to the log: a group of its own.
#[must_use]
pub fn footprint(body_bytes: usize) -> u64 {
    record_bytes(body_bytes).next_multiple_of(BLOCK_BYTES) as u64
}

pub(super) fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

pub(super) fn put_u64(bytes: &mut [u8], at: usize, number: u64) {
    bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
}

/// The caller has checked that `bytes` is long enough.
#[inline]
pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The caller has checked that `bytes` is long enough.
#[inline]
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment_header() -> SegmentHeader {
        SegmentHeader {
            identity: Identity { cluster: ClusterId(1 << 60), node: NodeId(3), incarnation: 77 },
            sequence: 9,
            segment_bytes: 4 << 20,
            first_lsn: Lsn(1000),
            prev: 0xfeed,
            commit: LogIndex(990),
            state: LogState {
                term: Term(4),
                voted_for: Some(NodeId(2)),
                end: LogEnd {
                    index: LogIndex(995),
                    term: Term(3),
                    crc: 0xbeef,
                    time: LogTimeMs(1 << 41),
                },
                former_end: EntryId { index: LogIndex(1001), term: Term(3) },
            },
        }
    }

    #[test]
    fn a_segment_header_survives_and_no_flipped_bit_passes() {
        let header = segment_header();
        let mut block = vec![0; SEGMENT_HEADER_BYTES];
        assert_eq!(SegmentHeader::decode(&block), HeaderBlock::Unused);
        block[..SEGMENT_FIELDS_BYTES].copy_from_slice(&header.encode());
        assert_eq!(SegmentHeader::decode(&block), HeaderBlock::Valid(header));
        for bit in 0..SEGMENT_FIELDS_BYTES * 8 {
            block[bit / 8] ^= 1 << (bit % 8);
            let decoded = SegmentHeader::decode(&block);
            assert!(
                matches!(decoded, HeaderBlock::Damaged | HeaderBlock::Version(_)),
                "bit {bit}: {decoded:?}"
            );
            block[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(SegmentHeader::decode(&block[..4095]), HeaderBlock::Damaged);
    }

    #[test]
    fn a_record_header_survives_and_no_flipped_bit_passes() {
        let header = RecordHeader {
            prev: 1,
            body_bytes: 2,
            body_crc: 3,
            kind: 4,
            flags: FLAG_END_OF_GROUP,
            incarnation: 5,
            segment: 6,
            lsn: Lsn(7),
            synced: 8,
            commit: LogIndex(9),
        };
        let (mut bytes, crc) = header.encode();
        assert_eq!(RecordHeader::decode(&bytes), Ok((header, crc)));
        assert!(RecordHeader::claims(&bytes, 5, 6) && !RecordHeader::claims(&bytes, 5, 7));
        for bit in 0..RECORD_HEADER_BYTES * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(RecordHeader::decode(&bytes).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn names_sort_as_numbers_and_only_exact_ones_are_segments() {
        assert_eq!(segment_name(255), "segment-00000000000000ff.log");
        assert!(segment_name(0x0fff) < segment_name(0x1000));
        assert_eq!(FileName::parse(&segment_name(7)), FileName::Segment(7));
        assert_eq!(FileName::parse("LOCK"), FileName::Other);
        for strange in [
            "segment-7.log",
            "segment-0000000000000000.log",
            "segment-00000000000000FF.log",
            "segment-0000000000000007.log.bak",
            "segment-",
        ] {
            assert_eq!(FileName::parse(strange), FileName::NoSegment, "{strange}");
        }
    }
}
