//! Reading a snapshot from its start to its end, a chunk at a time, with everything checked.

use std::collections::HashSet;

use kvorum_protocol::{ClusterId, LogIndex, Term};

use super::error::SnapshotError;
use super::layout::{CHUNK_HEADER_BYTES, Fault, HeadBody, Kind};
use super::sequence::{Place, Sequence};
use crate::core::SnapshotHead;
use crate::core::digest::{self, Sum};
use crate::core::store::Store;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, ReadFile};

/// Reads one snapshot, in the memory of one chunk. That no key stands there twice is not checked:
/// that takes as much memory as the keys, and [`load`](super::load) does it.
pub struct Reader<'a> {
    disk: &'a dyn Disk,
    name: &'a str,
    file: Box<dyn ReadFile>,
    sequence: Sequence,
    /// The chunk that was read last.
    buffer: AlignedBuffer,
    cluster: ClusterId,
    head: SnapshotHead,
    /// Says which shard a key belongs to; it stays empty.
    shards: Store,
    sessions: HashSet<LogIndex>,
    /// What the items and sessions so far add to the hash of the state.
    sums: (Sum, Sum),
}

/// What a chunk holds: all of it was checked.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// So many sessions.
    Sessions {
        /// How many.
        count: u32,
        /// As [`Session::encode`](crate::core::sessions::Session::encode) appends them.
        body: &'a [u8],
    },
    /// Items of some neighbouring shards.
    Items {
        /// The first shard.
        first_shard: u16,
        /// The last one.
        last_shard: u16,
        /// How many.
        count: u32,
        /// As [`EncodedItem::encode`](crate::core::store::EncodedItem::encode) appends them.
        body: &'a [u8],
    },
    /// Items of any shards.
    Strays {
        /// How many.
        count: u32,
        /// As in `Items`.
        body: &'a [u8],
    },
}

/// What a snapshot is about, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The last entry that it covers.
    pub index: LogIndex,
    /// The term of that entry.
    pub term: Term,
    /// How many keys.
    pub keys: u64,
    /// How many sessions.
    pub sessions: u64,
    /// Length of the file.
    pub bytes: u64,
    /// Whose it is.
    pub cluster: ClusterId,
}

/// Checks every byte of a snapshot.
///
/// # Errors
/// The first thing that is wrong. With `cluster`, a snapshot of any other is wrong.
pub fn verify(
    disk: &dyn Disk,
    name: &str,
    cluster: Option<ClusterId>,
) -> Result<Summary, SnapshotError> {
    let mut reader = Reader::open(disk, name, cluster)?;
    while reader.next_chunk()?.is_some() {}
    let totals = reader.sequence.totals();
    Ok(Summary {
        index: reader.head.end.index,
        term: reader.head.end.term,
        keys: totals.keys,
        sessions: totals.sessions,
        bytes: totals.bytes,
        cluster: reader.cluster,
    })
}

impl<'a> Reader<'a> {
    /// Begins to read a file, whatever its name is.
    ///
    /// # Errors
    /// It can not be read, or does not begin as a snapshot does. With `cluster`, it belongs to
    /// another one.
    pub fn open(
        disk: &'a dyn Disk,
        name: &'a str,
        cluster: Option<ClusterId>,
    ) -> Result<Reader<'a>, SnapshotError> {
        let io = |source| SnapshotError::Io { action: "read", path: disk.path(name), source };
        let file = disk.open_to_read(name).map_err(io)?;
        let mut sequence = Sequence::new(file.bytes().map_err(io)?);
        let mut buffer = AlignedBuffer::new();
        let place = read_chunk(disk, name, &*file, &mut sequence, &mut buffer)?;
        let (cluster, head) = read_head(disk, name, &place, buffer.as_slice(), cluster)?;
        let shards = Store::new(head.hash_seed);
        let (sessions, sums) = (HashSet::new(), <(Sum, Sum)>::default());
        Ok(Reader { disk, name, file, sequence, buffer, cluster, head, shards, sessions, sums })
    }

    /// What the snapshot says of itself.
    #[must_use]
    pub fn head(&self) -> &SnapshotHead {
        &self.head
    }

    /// Whose snapshot it is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// How many bytes were read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.sequence.offset()
    }

    /// The next chunk; `None` when there was the last, and all is as it should be.
    ///
    /// # Errors
    /// The bytes are not what was written.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, SnapshotError> {
        if self.sequence.has_ended() {
            return Ok(None);
        }
        let Reader { disk, name, sequence, buffer, .. } = self;
        let place = read_chunk(*disk, name, &*self.file, sequence, buffer)?;
        let corrupt = |fault| corrupt(self.disk, self.name, &place, fault);
        let body = place.body(self.buffer.as_slice()).map_err(corrupt)?;
        let (count, cut) = (place.header.items, self.head.end.index);
        let (first_shard, last_shard) = (place.header.first_shard, place.header.last_shard);
        match place.header.kind {
            Kind::Head => unreachable!("only the first chunk is one"),
            Kind::Sessions => {
                let (ids, sum) = (&mut self.sessions, &mut self.sums.1);
                let checked = place.sessions(body, cut, |id, session| {
                    *sum = sum.and(session.digest(id));
                    ids.insert(id).then_some(()).ok_or(Fault::Twice)
                });
                checked.map_err(corrupt)?;
                Ok(Some(Chunk::Sessions { count, body }))
            }
            Kind::Items | Kind::Strays => {
                let (shards, sum) = (&self.shards, &mut self.sums.0);
                let checked = place.items(body, cut, |item| {
                    sum.add(digest::item(digest::key(item.key), item.version, item.value));
                    let shard = shards.shard_of(item.key);
                    place.may_hold(shard).then_some(()).ok_or(Fault::ForeignItem)
                });
                checked.map_err(corrupt)?;
                Ok(Some(match place.header.kind {
                    Kind::Items => Chunk::Items { first_shard, last_shard, count, body },
                    _ => Chunk::Strays { count, body },
                }))
            }
            Kind::End => {
                self.sequence.check_totals(body, self.head.keys).map_err(corrupt)?;
                let (items, sessions) = self.sums;
                if digest::state(items, sessions) != self.head.state_hash {
                    return Err(corrupt(Fault::StateHash));
                }
                Ok(None)
            }
        }
    }
}

/// Reads the next chunk into `buffer`.
fn read_chunk(
    disk: &dyn Disk,
    name: &str,
    file: &dyn ReadFile,
    sequence: &mut Sequence,
    buffer: &mut AlignedBuffer,
) -> Result<Place, SnapshotError> {
    let (chunk, offset) = (sequence.chunk(), sequence.offset());
    let io = |source| SnapshotError::Io { action: "read", path: disk.path(name), source };
    let fault = |fault| match fault {
        Fault::NoChunk | Fault::Cut if chunk == 0 && offset == 0 => {
            SnapshotError::NotSnapshot { path: disk.path(name) }
        }
        fault => SnapshotError::Corrupt { path: disk.path(name), chunk, offset, fault },
    };
    sequence.expect_header().map_err(fault)?;
    buffer.clear();
    buffer.extend_zeros(BLOCK_BYTES);
    let found = file.read_at(offset, buffer.as_mut_slice()).map_err(io)?;
    buffer.truncate(found);
    let header = buffer.as_slice().first_chunk::<CHUNK_HEADER_BYTES>().ok_or(fault(Fault::Cut))?;
    let place = sequence.next(header).map_err(fault)?;
    if place.bytes() > BLOCK_BYTES && found == BLOCK_BYTES {
        buffer.extend_zeros(place.bytes() - BLOCK_BYTES);
        let rest = &mut buffer.as_mut_slice()[BLOCK_BYTES..];
        let found = file.read_at(offset + BLOCK_BYTES as u64, rest).map_err(io)?;
        buffer.truncate(BLOCK_BYTES + found);
    }
    if buffer.len() < place.bytes() {
        return Err(fault(Fault::Cut));
    }
    Ok(place)
}

/// Reads the first chunk, whose bytes are `bytes`.
pub(super) fn read_head(
    disk: &dyn Disk,
    name: &str,
    place: &Place,
    bytes: &[u8],
    cluster: Option<ClusterId>,
) -> Result<(ClusterId, SnapshotHead), SnapshotError> {
    let path = || disk.path(name);
    let body = place.body(bytes).map_err(|fault| corrupt(disk, name, place, fault))?;
    match HeadBody::decode(body) {
        Ok(HeadBody::Known(found, head)) => match cluster {
            Some(expected) if expected != found => {
                Err(SnapshotError::OtherCluster { path: path(), found, expected })
            }
            _ => Ok((found, *head)),
        },
        Ok(HeadBody::Version(found)) => Err(SnapshotError::Version { path: path(), found }),
        Err(error) => Err(corrupt(disk, name, place, Fault::Body(error))),
    }
}

pub(super) fn corrupt(disk: &dyn Disk, name: &str, place: &Place, fault: Fault) -> SnapshotError {
    let Place { chunk, offset, .. } = *place;
    SnapshotError::Corrupt { path: disk.path(name), chunk, offset, fault }
}
