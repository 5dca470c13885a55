//! The receiving side of an install: the bytes of another node's snapshot file, in order.

use std::sync::Arc;

use kvorum_protocol::{ClusterId, LogIndex};

use super::error::SnapshotError;
use super::reader::verify;
use super::writer::TemporaryFile;
use super::{INSTALL_TMP_NAME, SnapshotInfo};
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk};

/// So many bytes are written at once.
const WRITE_BYTES: usize = 1 << 20;

/// Takes a whole snapshot file in. Dropped before [`finish`](Incoming::finish), or after an error,
/// it removes what has come.
pub struct Incoming {
    disk: Arc<dyn Disk>,
    file: TemporaryFile,
    index: LogIndex,
    /// What has come and is not written: less than `WRITE_BYTES`.
    buffer: AlignedBuffer,
}

impl Incoming {
    /// Begins with the first byte of the snapshot of `index`.
    ///
    /// # Errors
    /// The system refuses an operation.
    pub fn create(disk: Arc<dyn Disk>, index: LogIndex) -> Result<Incoming, SnapshotError> {
        let file = TemporaryFile::create(disk.clone(), INSTALL_TMP_NAME)?;
        Ok(Incoming { disk, file, index, buffer: AlignedBuffer::new() })
    }

    /// The snapshot that is coming.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        self.index
    }

    /// How many bytes have come: where the next one belongs.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.file.offset + self.buffer.len() as u64
    }

    /// Takes the bytes at `offset`.
    ///
    /// # Errors
    /// [`SnapshotError::Gap`] when other bytes come next; nothing is lost by it. Anything else is
    /// final.
    pub fn write(&mut self, offset: u64, mut bytes: &[u8]) -> Result<(), SnapshotError> {
        if offset != self.offset() {
            let path = self.disk.path(INSTALL_TMP_NAME);
            return Err(SnapshotError::Gap { path, found: offset, expected: self.offset() });
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(WRITE_BYTES - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == WRITE_BYTES {
                self.file.write(self.buffer.as_slice())?;
                self.buffer.clear();
            }
        }
        Ok(())
    }

    /// All bytes have come: checks every one, and gives the snapshot its name, durably. Only then
    /// may an older state be thrown away.
    ///
    /// # Errors
    /// The bytes are no whole snapshot of this index, with `cluster` of that cluster; or the
    /// system refuses an operation.
    pub fn finish(mut self, cluster: Option<ClusterId>) -> Result<SnapshotInfo, SnapshotError> {
        // If less came than a whole block, and more than the zeros at its end is missing, then the
        // checksums find it out.
        self.buffer.pad_to(BLOCK_BYTES);
        if !self.buffer.is_empty() {
            self.file.write(self.buffer.as_slice())?;
        }
        self.file.sync()?;
        let found = verify(&*self.disk, INSTALL_TMP_NAME, cluster)?;
        if found.index != self.index {
            let path = self.disk.path(INSTALL_TMP_NAME);
            let (found, expected) = (found.index, self.index);
            return Err(SnapshotError::OtherIndex { path, found, expected });
        }
        self.file.publish(self.index)
    }
}
