//! Reading a snapshot in parts, for a member that gets it over the network.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use kvorum_protocol::{LogIndex, Term};

use super::error::SnapshotError;
use super::layout::snapshot_name;
use super::reader::Reader;
use super::{SnapshotInfo, io_error, list};
use crate::core::SnapshotPart;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, ReadFile};

/// How many snapshots are kept open: of several members and backups each may want another one.
const OPEN_MAX: usize = 4;

/// Reads parts of snapshots. A snapshot stays readable here while its parts are asked for, though
/// its name may be gone: a newer one has taken its place, and a member must still get the end of
/// what it has begun to take.
pub struct PartReader {
    disk: Arc<dyn Disk>,
    part_bytes: usize,
    /// Those that were read lately, the last one at the end.
    open: Vec<Open>,
}

struct Open {
    info: SnapshotInfo,
    /// The term of its last entry.
    term: Term,
    /// What tells the file from others of the same index and length.
    number: u64,
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
        PartReader { disk, part_bytes, open: Vec::new() }
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
        let known = self.open.iter().position(|open| index == Some(open.info.index));
        let open = match known {
            Some(at) => self.open.remove(at),
            None => self.find(index)?,
        };
        if self.open.len() == OPEN_MAX {
            self.open.remove(0);
        }
        self.open.push(open);
        let Open { info, term, number, file } = self.open.last().expect("just opened");
        let fail = |source| io_error(&*self.disk, "read", &snapshot_name(info.index), source);
        let block = BLOCK_BYTES as u64;
        let (start, skipped) = (offset / block * block, offset % block);
        let mut buffer = AlignedBuffer::new();
        buffer.extend_zeros(self.part_bytes);
        let found = file.read_at(start, buffer.as_mut_slice()).map_err(fail)?;
        let skipped = usize::try_from(skipped).expect("less than a block");
        let bytes = buffer.as_slice().get(skipped..found).unwrap_or_default();
        if bytes.is_empty() {
            return Err(fail(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(SnapshotPart {
            index: info.index,
            index_term: *term,
            total_bytes: info.bytes,
            file: *number,
            offset,
            bytes: Bytes::copy_from_slice(bytes),
        })
    }

    /// Nobody has asked for a part for a while: what was removed meanwhile gives its room on the
    /// disk back.
    pub fn rest(&mut self) {
        self.open.clear();
    }

    fn find(&self, index: Option<LogIndex>) -> Result<Open, SnapshotError> {
        let disk = &*self.disk;
        let mut found = list(disk)?.into_iter();
        let Some(info) = found.find(|info| index.is_none_or(|index| info.index == index)) else {
            let name = snapshot_name(index.unwrap_or_default());
            return Err(io_error(disk, "read", &name, io::ErrorKind::NotFound.into()));
        };
        let name = snapshot_name(info.index);
        let term = Reader::open(disk, &name, None)?.head().end.term;
        let file = disk.open_to_read(&name);
        let fail = |source| io_error(disk, "read", &name, source);
        let file = file.map_err(fail)?;
        let number = number(&*file, info.bytes).map_err(fail)?;
        Ok(Open { info, term, number, file })
    }
}

/// The checksum of the last block: it holds the header of the last chunk, which is chained to the
/// headers before it, and so to every byte of the file.
fn number(file: &dyn ReadFile, bytes: u64) -> io::Result<u64> {
    let block = BLOCK_BYTES as u64;
    let mut last = AlignedBuffer::new();
    last.extend_zeros(BLOCK_BYTES);
    let start = (bytes / block).saturating_sub(1) * block;
    let found = file.read_at(start, last.as_mut_slice())?;
    Ok(u64::from(crc32fast::hash(&last.as_slice()[..found])))
}
