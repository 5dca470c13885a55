//! Writing a snapshot: chunk after chunk into a file that gets its name when it is whole.

use std::io;
use std::sync::Arc;

use kvorum_protocol::{ClusterId, LogIndex};

use super::error::SnapshotError;
use super::layout::{
    BODY_BYTES_SOFT, CHUNK_HEADER_BYTES, ChunkHeader, HeadBody, Kind, SLICE_BYTES_MAX, Totals,
    snapshot_name,
};
use super::sequence::padded_bytes;
use super::{SNAPSHOT_TMP_NAME, SnapshotInfo};
use crate::core::SnapshotHead;
use crate::core::store::EncodedItem;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, DiskFile};

/// So many bytes are synced at once: little enough that a sync of the log does not wait long
/// behind it.
const SYNC_BYTES: u64 = 8 << 20;

/// Writes one snapshot. One thread drives it, which may be slow: it waits for the disk.
///
/// Dropped before [`finish`](SnapshotWriter::finish), or after an error, it removes what it has
/// written. Older snapshots are never touched.
pub struct SnapshotWriter {
    file: TemporaryFile,
    index: LogIndex,
    items: Chunk,
    strays: Chunk,
    sessions: Chunk,
    /// `crc` of the last header written.
    prev: u32,
    totals: Totals,
    unsynced_bytes: u64,
}

/// A chunk that is being filled. The buffer begins with the room for its header.
struct Chunk {
    kind: Kind,
    shards: Option<(u16, u16)>,
    items: u32,
    buffer: AlignedBuffer,
}

impl SnapshotWriter {
    /// Begins the snapshot of this cluster that `head` describes.
    ///
    /// # Errors
    /// The system refuses an operation.
    pub fn create(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        head: &SnapshotHead,
    ) -> Result<SnapshotWriter, SnapshotError> {
        let mut writer = SnapshotWriter {
            file: TemporaryFile::create(disk, SNAPSHOT_TMP_NAME)?,
            index: head.end.index,
            items: Chunk::new(Kind::Items),
            strays: Chunk::new(Kind::Strays),
            sessions: Chunk::new(Kind::Sessions),
            prev: 0,
            totals: Totals::default(),
            unsynced_bytes: 0,
        };
        let mut body = Vec::new();
        HeadBody::encode(cluster, head, &mut body);
        let mut chunk = Chunk::new(Kind::Head);
        chunk.append(&body, 0);
        writer.write(&mut chunk)?;
        Ok(writer)
    }

    /// Adds `count` sessions, as [`Sessions::walk`](crate::core::sessions::Sessions::walk) appends
    /// them: at most 4 MiB, and the session that goes beyond.
    ///
    /// # Errors
    /// The system refuses an operation.
    ///
    /// # Panics
    /// When there are more bytes.
    pub fn sessions(&mut self, count: u32, body: &[u8]) -> Result<(), SnapshotError> {
        assert!(body.len() <= SLICE_BYTES_MAX, "a slice of {} bytes", body.len());
        self.put(|writer| &mut writer.sessions, None, count, body)
    }

    /// Adds `count` items of these shards, as [`Store::walk`](crate::core::store::Store::walk)
    /// appends them: at most 4 MiB, and the item that goes beyond.
    ///
    /// # Errors
    /// The system refuses an operation.
    ///
    /// # Panics
    /// When there are more bytes, or the shards come before those of an earlier call.
    pub fn items(
        &mut self,
        first_shard: u16,
        last_shard: u16,
        count: u32,
        body: &[u8],
    ) -> Result<(), SnapshotError> {
        assert!(body.len() <= SLICE_BYTES_MAX, "a slice of {} bytes", body.len());
        self.put(|writer| &mut writer.items, Some((first_shard, last_shard)), count, body)
    }

    /// Adds `count` items of any shards, as
    /// [`Store::take_strays`](crate::core::store::Store::take_strays) appends them.
    ///
    /// # Errors
    /// The system refuses an operation.
    pub fn strays(&mut self, count: u32, body: &[u8]) -> Result<(), SnapshotError> {
        if body.len() <= SLICE_BYTES_MAX {
            return self.put(|writer| &mut writer.strays, None, count, body);
        }
        let mut rest = body;
        for _ in 0..count {
            let (_, behind) = EncodedItem::decode(rest).expect("it holds so many items");
            let item = &rest[..rest.len() - behind.len()];
            self.put(|writer| &mut writer.strays, None, 1, item)?;
            rest = behind;
        }
        Ok(())
    }

    /// Nothing more comes: when this returns, the snapshot stands under its name, whole and
    /// durable.
    ///
    /// # Errors
    /// The system refuses an operation.
    pub fn finish(mut self) -> Result<SnapshotInfo, SnapshotError> {
        for chunk in [Self::sessions_mut, Self::items_mut, Self::strays_mut] {
            self.close(chunk)?;
        }
        let totals = Totals {
            chunks: self.totals.chunks + 1,
            bytes: self.file.offset + padded_bytes(size_of::<Totals>()) as u64,
            ..self.totals
        };
        let mut chunk = Chunk::new(Kind::End);
        chunk.append(&totals.encode(), 0);
        self.write(&mut chunk)?;
        self.file.publish(self.index)
    }

    fn sessions_mut(&mut self) -> &mut Chunk {
        &mut self.sessions
    }

    fn items_mut(&mut self) -> &mut Chunk {
        &mut self.items
    }

    fn strays_mut(&mut self) -> &mut Chunk {
        &mut self.strays
    }

    fn put(
        &mut self,
        chunk_of: impl Fn(&mut SnapshotWriter) -> &mut Chunk,
        shards: Option<(u16, u16)>,
        count: u32,
        body: &[u8],
    ) -> Result<(), SnapshotError> {
        let chunk = chunk_of(self);
        chunk.take_shards(shards);
        chunk.append(body, count);
        if chunk.body_bytes() >= BODY_BYTES_SOFT { self.close(chunk_of) } else { Ok(()) }
    }

    /// Writes a chunk, if it holds anything, and begins the next one of its kind.
    fn close(
        &mut self,
        chunk_of: impl Fn(&mut SnapshotWriter) -> &mut Chunk,
    ) -> Result<(), SnapshotError> {
        let chunk = chunk_of(self);
        if chunk.items == 0 {
            return Ok(());
        }
        let mut full = std::mem::replace(chunk, Chunk::new(chunk.kind));
        let count = u64::from(full.items);
        match full.kind {
            Kind::Sessions => self.totals.sessions += count,
            _ => self.totals.keys += count,
        }
        self.write(&mut full)?;
        full.clear();
        *chunk_of(self) = full;
        Ok(())
    }

    fn write(&mut self, chunk: &mut Chunk) -> Result<(), SnapshotError> {
        self.prev = chunk.seal(self.prev);
        self.totals.chunks += 1;
        self.file.write(chunk.buffer.as_slice())?;
        self.unsynced_bytes += chunk.buffer.len() as u64;
        if self.unsynced_bytes >= SYNC_BYTES {
            self.unsynced_bytes = 0;
            self.file.sync()?;
        }
        Ok(())
    }
}

impl Chunk {
    fn new(kind: Kind) -> Chunk {
        let mut chunk = Chunk { kind, shards: None, items: 0, buffer: AlignedBuffer::new() };
        chunk.clear();
        chunk
    }

    fn clear(&mut self) {
        (self.shards, self.items) = (None, 0);
        self.buffer.clear();
        self.buffer.extend_zeros(CHUNK_HEADER_BYTES);
    }

    fn body_bytes(&self) -> usize {
        self.buffer.len() - CHUNK_HEADER_BYTES
    }

    fn take_shards(&mut self, shards: Option<(u16, u16)>) {
        self.shards = match (self.shards, shards) {
            (Some((first, before)), Some((next, last))) => {
                assert!(next >= before && last >= next, "shards come in order");
                Some((first, last))
            }
            (before, next) => next.or(before),
        };
    }

    fn append(&mut self, body: &[u8], count: u32) {
        self.items += count;
        self.buffer.extend_from_slice(body);
    }

    /// Fills the header in, and the last block up; returns the header's checksum.
    fn seal(&mut self, prev: u32) -> u32 {
        let body = &self.buffer.as_slice()[CHUNK_HEADER_BYTES..];
        let (first_shard, last_shard) = self.shards.unwrap_or_default();
        let header = ChunkHeader {
            prev,
            body_crc: crc32fast::hash(body),
            body_bytes: u32::try_from(body.len()).expect("bounded by BODY_BYTES_MAX"),
            kind: self.kind,
            first_shard,
            last_shard,
            items: self.items,
        };
        let (bytes, crc) = header.encode();
        self.buffer.as_mut_slice()[..CHUNK_HEADER_BYTES].copy_from_slice(&bytes);
        self.buffer.pad_to(BLOCK_BYTES);
        crc
    }
}

/// A file that is written from its start to its end, and is gone when it is dropped before it got
/// its name.
pub(super) struct TemporaryFile {
    disk: Arc<dyn Disk>,
    name: &'static str,
    file: Box<dyn DiskFile>,
    /// How many bytes were written.
    pub offset: u64,
    is_published: bool,
}

impl TemporaryFile {
    pub fn create(disk: Arc<dyn Disk>, name: &'static str) -> Result<TemporaryFile, SnapshotError> {
        let file = match disk.create_zeroed(name, 0) {
            Ok(file) => file,
            Err(source) => {
                // It may be there in part.
                let _ = disk.remove(name);
                return Err(SnapshotError::Io { action: "create", path: disk.path(name), source });
            }
        };
        Ok(TemporaryFile { disk, name, file, offset: 0, is_published: false })
    }

    /// Appends whole blocks.
    pub fn write(&mut self, blocks: &[u8]) -> Result<(), SnapshotError> {
        let written = self.file.write_at(self.offset, blocks);
        written.map_err(|source| self.error("write", source))?;
        self.offset += blocks.len() as u64;
        Ok(())
    }

    pub fn sync(&self) -> Result<(), SnapshotError> {
        self.file.sync().map_err(|source| self.error("sync", source))
    }

    /// Gives the file the name of the snapshot of this index: whole, and durable.
    pub fn publish(mut self, index: LogIndex) -> Result<SnapshotInfo, SnapshotError> {
        self.sync()?;
        let name = snapshot_name(index);
        let renamed = self.disk.rename(self.name, &name);
        renamed.map_err(|source| self.error("rename", source))?;
        self.is_published = true;
        self.disk.sync_dir().map_err(|source| {
            // Nobody may rely on a name that a power cut may take away. Should this fail, too, then
            // the next start makes the name durable before it relies on it.
            let _ = self.disk.remove(&name);
            self.error("sync the directory of", source)
        })?;
        Ok(SnapshotInfo { index, bytes: self.offset, path: self.disk.path(&name) })
    }

    fn error(&self, action: &'static str, source: io::Error) -> SnapshotError {
        SnapshotError::Io { action, path: self.disk.path(self.name), source }
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if !self.is_published {
            // What stays is removed at the next start.
            let _ = self.disk.remove(self.name);
        }
    }
}
