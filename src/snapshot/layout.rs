//! Where every byte of a snapshot file stands; the pictures and the reasons are in `FORMAT.md`.

use std::fmt;

use kvorum_protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use kvorum_protocol::{ClusterId, DecodeError, LogIndex};

use super::MAGIC;
use crate::core::SnapshotHead;
use crate::core::sessions::{ALL_SESSIONS_BYTES_MAX, SESSION_BYTES_MAX};
use crate::core::snapshot::{u32_at, u64_at};
use crate::core::store::SHARDS;

/// The version of the format that this program writes; it reads no other.
pub const FORMAT_VERSION: u32 = 1;

/// What stands before the body of a chunk.
pub const CHUNK_HEADER_BYTES: usize = 32;

/// A chunk is closed when its body has so many bytes.
pub const BODY_BYTES_SOFT: usize = 1 << 20;

/// The most bytes of what is put into a chunk at once: what a turn hands over, up to the item that
/// takes it past 4 MiB.
pub const SLICE_BYTES_MAX: usize = (4 << 20) + 12 + KEY_BYTES_MAX + VALUE_BYTES_MAX;

/// The most bytes of a body.
pub const BODY_BYTES_MAX: usize = BODY_BYTES_SOFT + SLICE_BYTES_MAX;

const _: () = assert!(BODY_BYTES_MAX < u32::MAX as usize);
const _: () = assert!((4 << 20) + SESSION_BYTES_MAX <= SLICE_BYTES_MAX);
// Earlier programs wrote all of them into one chunk.
const _: () = assert!(ALL_SESSIONS_BYTES_MAX <= BODY_BYTES_MAX);

const CHUNK_MAGIC: u32 = u32::from_le_bytes(MAGIC);
const HEAD_FIELDS_BYTES: usize = 12;
const END_BYTES: usize = 32;

/// The name of the snapshot of this index. Names sort as the indexes do.
#[must_use]
pub fn snapshot_name(index: LogIndex) -> String {
    format!("snapshot-{:016x}.kv", index.0)
}

/// The index of the snapshot with this name; `None` when no snapshot has such a name.
#[must_use]
pub fn snapshot_index(name: &str) -> Option<LogIndex> {
    let number = name.strip_prefix("snapshot-")?.strip_suffix(".kv")?;
    let index = LogIndex(u64::from_str_radix(number, 16).ok()?);
    (snapshot_name(index) == name).then_some(index)
}

/// What the body of a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whose snapshot it is, and of what; the first chunk.
    Head,
    /// Sessions.
    Sessions,
    /// Keys and values, of some neighbouring shards.
    Items,
    /// Keys and values of any shards.
    Strays,
    /// What there is in all; the last chunk.
    End,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Head, Kind::Sessions, Kind::Items, Kind::Strays, Kind::End];

    fn number(self) -> u8 {
        match self {
            Kind::Head => 1,
            Kind::Sessions => 2,
            Kind::Items => 3,
            Kind::Strays => 4,
            Kind::End => 5,
        }
    }
}

/// What stands before the body of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkHeader {
    /// `crc` of the header of the chunk before; 0 for the first one.
    pub prev: u32,
    /// CRC-32 of the body.
    pub body_crc: u32,
    /// Length of the body.
    pub body_bytes: u32,
    /// What the body is.
    pub kind: Kind,
    /// The first shard of which items may be here; 0 unless the kind is [`Kind::Items`].
    pub first_shard: u16,
    /// The last one.
    pub last_shard: u16,
    /// How many items or sessions there are.
    pub items: u32,
}

/// Why bytes are not the chunk that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The file ends before the chunk does.
    Cut,
    /// There is no chunk at all.
    NoChunk,
    /// The checksum of the chunk's header does not match.
    HeaderChecksum,
    /// It is another chunk than the one that follows the last.
    Chain,
    /// Its length is over the limit.
    Length,
    /// The checksum of the body does not match.
    BodyChecksum,
    /// What fills the last block up is not zero.
    Padding,
    /// Something stands behind the last chunk.
    TrailingBytes,
    /// Its kind is not known.
    Kind(u8),
    /// Its shards are none, or come before those of an earlier chunk.
    Shards,
    /// Another chunk stands in front, or the second one is the first again.
    Order,
    /// The body is not what its kind asks for.
    Body(DecodeError),
    /// It holds an item of another shard than it says.
    ForeignItem,
    /// It holds something that changed after the snapshot was cut.
    TooNew,
    /// It holds a key or a session that is in the snapshot already.
    Twice,
    /// There are not as many of these as the snapshot says.
    Count(&'static str),
    /// What all chunks hold does not come to the hash of the state that was cut.
    StateHash,
}

impl ChunkHeader {
    /// The header's bytes, and its checksum, which the next chunk names as `prev`.
    #[must_use]
    pub fn encode(&self) -> ([u8; CHUNK_HEADER_BYTES], u32) {
        let mut bytes = [0; CHUNK_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&CHUNK_MAGIC.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.prev.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_crc.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.items.to_le_bytes());
        bytes[24..26].copy_from_slice(&self.first_shard.to_le_bytes());
        bytes[26..28].copy_from_slice(&self.last_shard.to_le_bytes());
        bytes[28] = self.kind.number();
        let crc = crc32fast::hash(&bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        (bytes, crc)
    }

    /// Reads a header; also returns its checksum.
    ///
    /// # Errors
    /// There is none, or not a whole one, or one that says what no header says.
    pub fn decode(bytes: &[u8; CHUNK_HEADER_BYTES]) -> Result<(ChunkHeader, u32), Fault> {
        if u32_at(bytes, 0) != CHUNK_MAGIC {
            return Err(Fault::NoChunk);
        }
        let crc = crc32fast::hash(&bytes[8..]);
        if crc != u32_at(bytes, 4) {
            return Err(Fault::HeaderChecksum);
        }
        let number = bytes[28];
        let kind = Kind::ALL.into_iter().find(|kind| kind.number() == number);
        let header = ChunkHeader {
            prev: u32_at(bytes, 8),
            body_crc: u32_at(bytes, 12),
            body_bytes: u32_at(bytes, 16),
            kind: kind.ok_or(Fault::Kind(number))?,
            first_shard: u16::from_le_bytes([bytes[24], bytes[25]]),
            last_shard: u16::from_le_bytes([bytes[26], bytes[27]]),
            items: u32_at(bytes, 20),
        };
        if bytes[29..] != [0; 3] {
            return Err(Fault::Body(DecodeError::Invalid("reserved field")));
        }
        if header.body_bytes as usize > BODY_BYTES_MAX {
            return Err(Fault::Length);
        }
        let (first, last) = (header.first_shard, header.last_shard);
        let in_range = first <= last && usize::from(last) < SHARDS;
        if !in_range || (kind != Some(Kind::Items) && last != 0) {
            return Err(Fault::Shards);
        }
        Ok((header, crc))
    }
}

/// The body of the first chunk.
#[derive(Debug)]
pub enum HeadBody {
    /// Whose snapshot it is, and of what.
    Known(ClusterId, Box<SnapshotHead>),
    /// Written by another version of the format.
    Version(u32),
}

impl HeadBody {
    /// Appends the body for this cluster's snapshot.
    pub fn encode(cluster: ClusterId, head: &SnapshotHead, out: &mut Vec<u8>) {
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        out.extend_from_slice(&cluster.0.to_le_bytes());
        head.encode(out);
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Another body.
    pub fn decode(body: &[u8]) -> Result<HeadBody, DecodeError> {
        // Before anything else, because another version may keep the rest elsewhere.
        let version = body.first_chunk().ok_or(DecodeError::Truncated)?;
        let version = u32::from_le_bytes(*version);
        if version != FORMAT_VERSION {
            return Ok(HeadBody::Version(version));
        }
        let (fields, head) =
            body.split_first_chunk::<HEAD_FIELDS_BYTES>().ok_or(DecodeError::Truncated)?;
        let cluster = ClusterId(u64_at(fields, 4));
        Ok(HeadBody::Known(cluster, Box::new(SnapshotHead::decode(head)?)))
    }
}

/// The body of the last chunk: what there is in all, itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Chunks.
    pub chunks: u64,
    /// Keys.
    pub keys: u64,
    /// Sessions.
    pub sessions: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

impl Totals {
    /// The body.
    #[must_use]
    pub fn encode(&self) -> [u8; END_BYTES] {
        let mut body = [0; END_BYTES];
        let numbers = [self.chunks, self.keys, self.sessions, self.bytes];
        for (field, number) in body.chunks_exact_mut(8).zip(numbers) {
            field.copy_from_slice(&number.to_le_bytes());
        }
        body
    }

    /// Reads the body.
    ///
    /// # Errors
    /// Another length.
    pub fn decode(body: &[u8]) -> Result<Totals, DecodeError> {
        let body: &[u8; END_BYTES] = body.try_into().map_err(|_| DecodeError::Truncated)?;
        let [chunks, keys, sessions, bytes] = [0, 8, 16, 24].map(|at| u64_at(body, at));
        Ok(Totals { chunks, keys, sessions, bytes })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Cut => f.write_str("the file ends too early"),
            Fault::NoChunk => f.write_str("no chunk of a snapshot"),
            Fault::HeaderChecksum => f.write_str("the chunk header's checksum does not match"),
            Fault::Chain => f.write_str("the chunk does not follow the one before"),
            Fault::Length => f.write_str("the chunk is longer than any"),
            Fault::BodyChecksum => f.write_str("the chunk body's checksum does not match"),
            Fault::Padding => f.write_str("the end of its last block is not zero"),
            Fault::TrailingBytes => f.write_str("bytes are left over behind the last chunk"),
            Fault::Kind(kind) => write!(f, "chunk kind {kind} is not known"),
            Fault::Shards => f.write_str("its shards are not in order"),
            Fault::Order => f.write_str("another chunk must stand there"),
            Fault::Body(error) => error.fmt(f),
            Fault::ForeignItem => f.write_str("it holds a key of another shard"),
            Fault::TooNew => f.write_str("it holds what changed after the snapshot was cut"),
            Fault::Twice => f.write_str("it holds a key or a session for the second time"),
            Fault::Count(what) => write!(f, "there are not as many {what} as it says"),
            Fault::StateHash => f.write_str("the snapshot holds another state than was cut"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> ChunkHeader {
        ChunkHeader {
            prev: 1,
            body_crc: 2,
            body_bytes: 3,
            kind: Kind::Items,
            first_shard: 4,
            last_shard: 4095,
            items: 6,
        }
    }

    #[test]
    fn a_header_survives_encoding_and_no_flipped_bit_passes() {
        let (bytes, crc) = header().encode();
        assert_eq!(ChunkHeader::decode(&bytes), Ok((header(), crc)));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ChunkHeader::decode(&bytes).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn headers_that_contradict_themselves_are_refused() {
        let fault = |header: ChunkHeader| ChunkHeader::decode(&header.encode().0).unwrap_err();
        assert_eq!(fault(ChunkHeader { first_shard: 9, last_shard: 8, ..header() }), Fault::Shards);
        assert_eq!(fault(ChunkHeader { last_shard: 4096, ..header() }), Fault::Shards);
        assert_eq!(fault(ChunkHeader { kind: Kind::Strays, ..header() }), Fault::Shards);
        assert_eq!(fault(ChunkHeader { body_bytes: u32::MAX, ..header() }), Fault::Length);
    }

    #[test]
    fn only_the_names_of_snapshots_name_snapshots() {
        assert_eq!(snapshot_index("snapshot-00000000000000ff.kv"), Some(LogIndex(255)));
        for name in [
            "snapshot-00000000000000FF.kv",
            "snapshot-ff.kv",
            "snapshot-+0000000000000ff.kv",
            "snapshot-00000000000000ff.kv.bak",
            "snapshot.tmp",
            "segment-00000000000000ff.log",
        ] {
            assert_eq!(snapshot_index(name), None, "{name}");
        }
    }
}
