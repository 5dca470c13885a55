//! The only door to the file system: one directory, behind a trait small enough to be simulated
//! completely. The log and the snapshots run unchanged on [`FileDisk`] and on the memory disk of
//! the tests, which loses, tears and reorders whatever was not synced.
//!
//! What a [`Disk`] promises is what POSIX and `fsync(2)` promise, and no more:
//! - bytes are durable when [`DiskFile::sync`] has returned, not before;
//! - a name is durable when [`Disk::sync_dir`] has returned, not before;
//! - [`Disk::rename`] is atomic: after a crash the old or the new name stands, never half;
//! - a 512-byte sector is written whole or not at all.

mod advice;
mod aligned;
mod file;
mod map;

use std::io;
use std::path::PathBuf;

pub use advice::{advice, is_out_of_descriptors};
pub use aligned::AlignedBuffer;
pub use file::{DiskError, FileDisk};
pub use map::Contents;

/// What is written at once: the block of the file system, and the alignment of direct I/O.
pub const BLOCK_BYTES: usize = 4096;

/// A directory of files. Shared with the thread that prepares segments.
pub trait Disk: Send + Sync {
    /// Where `name` stands, for messages.
    fn path(&self, name: &str) -> PathBuf;

    /// The names in the directory, in no order.
    ///
    /// # Errors
    /// The directory can not be read.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The whole contents of a file that nobody writes while they are used. More than the first
    /// two blocks is to be looked at after [`Contents::read_ahead`] only.
    ///
    /// # Errors
    /// The file is not there, or its bytes can not be read from the medium.
    fn read(&self, name: &str) -> io::Result<Contents>;

    /// Writes a small file whole and syncs it; what stood under that name is gone.
    ///
    /// # Errors
    /// Any; the file may then hold anything.
    fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Makes a file of `bytes` zeros that are really written, not only reserved: overwriting them
    /// later needs no metadata. Not synced. What stood under that name is gone.
    ///
    /// # Errors
    /// Any; the file may then be there in part.
    fn create_zeroed(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for writing.
    ///
    /// # Errors
    /// The file is not there or may not be written.
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;

    /// Opens an existing file for reading while it is written elsewhere in this process. What is
    /// read so leaves as little as possible behind in the page cache, where others need the room.
    ///
    /// # Errors
    /// The file is not there or may not be read.
    fn open_to_read(&self, name: &str) -> io::Result<Box<dyn ReadFile>>;

    /// Gives a file another name, taking the place of what stood there.
    ///
    /// # Errors
    /// Any; the old name then stands.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// Any; the file may then still be there.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// How many bytes of new files the file system would take now. Others may take them first,
    /// and a quota may allow less.
    ///
    /// # Errors
    /// The file system does not tell.
    fn free_bytes(&self) -> io::Result<u64>;

    /// Makes all renames and removals, and the names of new files, durable.
    ///
    /// # Errors
    /// Any; nothing is known of the names since the last call then.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file of whole blocks.
pub trait DiskFile: Send {
    /// Writes all of `bytes`; both `offset` and the length are multiples of [`BLOCK_BYTES`], and
    /// `bytes` comes from an [`AlignedBuffer`].
    ///
    /// # Errors
    /// Any; some of the bytes may then be written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes everything written before this call durable (`fdatasync(2)`).
    ///
    /// # Errors
    /// Any. **Never to be called again on the same data**: the kernel marks the pages clean, so
    /// the second call would succeed with nothing on the disk (Rebello et al., "Can Applications
    /// Recover from fsync Failures?", ATC 2020).
    fn sync(&self) -> io::Result<()>;
}

/// A file that is open for reading.
pub trait ReadFile: Send {
    /// Reads from `offset` on into `bytes`, until they are full or the file ends; returns how many
    /// were read. Both `offset` and the length are multiples of [`BLOCK_BYTES`], and `bytes` comes
    /// from an [`AlignedBuffer`].
    ///
    /// A block that is being written meanwhile may come back old, new, or mixed of both.
    ///
    /// # Errors
    /// The medium does not read.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// How long the file is.
    ///
    /// # Errors
    /// The file system does not tell.
    fn bytes(&self) -> io::Result<u64>;
}
