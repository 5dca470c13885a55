//! Reading a snapshot in parts, for a member that gets it over the network.

use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::{LogIndex, Term};

use super::error::SnapshotError;
use super::layout::snapshot_name;
use super::reader::Reader;
use super::{SnapshotInfo, io_error, list};
use crate::core::SnapshotPart;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, ReadFile};

/// Reads parts of snapshots. A snapshot stays readable here while its parts are asked for, though
/// its name may be gone: a newer one has taken its place, and a member must still get the end of
/// what it has begun to take. After the last part it is let go.
pub struct PartReader {
    disk: Arc<dyn Disk>,
    part_bytes: usize,
    /// The one that was read last.
    open: Option<Open>,
}

struct Open {
    info: SnapshotInfo,
    /// The term of its last entry.
    term: Term,
    file: Box<dyn ReadFile>,
}

impl PartReader {
    /// Reads parts of so many bytes.
    ///
    /// # Panics
    /// When these are no whole blocks.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, part_bytes: usize) -> PartReader {
        assert!(part_bytes > 0 && part_bytes.is_multiple_of(BLOCK_BYTES), "parts are whole blocks");
        PartReader { disk, part_bytes, open: None }
    }

    /// The part at `offset` of the snapshot up to `index`, or of the newest one.
    ///
    /// # Errors
    /// It is not there, or can not be read.
    pub fn read(
        &mut self,
        index: Option<LogIndex>,
        offset: u64,
    ) -> Result<SnapshotPart, SnapshotError> {
        let is_open = |open: &&Open| index == Some(open.info.index);
        if self.open.as_ref().filter(is_open).is_none() {
            self.open = Some(self.find(index)?);
        }
        let Open { info, term, file } = self.open.as_ref().expect("just opened");
        let io = |source| io_error(&*self.disk, "read", &snapshot_name(info.index), source);
        let block = BLOCK_BYTES as u64;
        let (start, skipped) = (offset / block * block, offset % block);
        let mut buffer = AlignedBuffer::new();
        buffer.extend_zeros(self.part_bytes);
        let found = file.read_at(start, buffer.as_mut_slice()).map_err(io)?;
        let skipped = usize::try_from(skipped).expect("less than a block");
        let bytes = buffer.as_slice().get(skipped..found).unwrap_or_default();
        if bytes.is_empty() {
            return Err(io(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let part = SnapshotPart {
            index: info.index,
            index_term: *term,
            total_bytes: info.bytes,
            offset,
            bytes: Bytes::copy_from_slice(bytes),
        };
        if offset + part.bytes.len() as u64 == info.bytes {
            // Its room on the disk is free again when its name is gone.
            self.open = None;
        }
        Ok(part)
    }

    fn find(&self, index: Option<LogIndex>) -> Result<Open, SnapshotError> {
        let disk = &*self.disk;
        let mut found = list(disk)?.into_iter();
        let Some(info) = found.find(|info| index.is_none_or(|index| info.index == index)) else {
            let name = snapshot_name(index.unwrap_or_default());
            return Err(io_error(disk, "read", &name, std::io::ErrorKind::NotFound.into()));
        };
        let name = snapshot_name(info.index);
        let term = Reader::open(disk, &name, None)?.head().end.term;
        let file = disk.open_to_read(&name);
        let file = file.map_err(|source| io_error(disk, "read", &name, source))?;
        Ok(Open { info, term, file })
    }
}
