//! A file's contents as one slice, without copying them.

use std::fs::File;
use std::io;
use std::ops::{Deref, Range};

use memmap2::{Advice, Mmap};

use super::BLOCK_BYTES;

/// The bytes of a file: mapped, or read into memory.
pub struct Contents(Source);

enum Source {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Owned(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Contents {
        Contents(Source::Owned(bytes))
    }
}

impl Contents {
    /// Maps a file for reading, and brings its first blocks in.
    ///
    /// The caller holds the lock of the file's directory and does not write the file before the
    /// `Contents` is dropped.
    pub(super) fn map(file: &File) -> io::Result<Contents> {
        if file.metadata()?.len() == 0 {
            return Ok(Contents::from(Vec::new()));
        }
        // SAFETY: a mapping is sound while nobody changes or shortens the file under it. Other
        // processes are kept out: the files are made with mode 0600 in a directory of mode 0700,
        // and every kvorum process takes the directory's exclusive lock before it writes there
        // (`FileDisk::open`, the only constructor whose disk maps). Within this process, the only
        // writers are `DiskFile`s; the log reads a segment before it opens it for writing, and
        // drops the contents first (`settle` in `wal::recovery`); a snapshot is never written once
        // it has the name under which it is read. An administrator who edits a
        // live log as root is outside of what any program can prove.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(file)? };
        populate(&map, 0..map.len().min(FIRST_BYTES))?;
        Ok(Contents(Source::Mapped(map)))
    }

    /// Brings all of it into memory, if it is not there yet. Done ahead of use, and on another
    /// thread, it overlaps the disk with the work on what came before.
    ///
    /// # Errors
    /// A part of the file can not be read from the medium.
    pub fn read_ahead(&self) -> io::Result<()> {
        self.read_ahead_of(0..self.len())
    }

    /// The same for some of it.
    ///
    /// # Errors
    /// A part of that can not be read from the medium.
    ///
    /// # Panics
    /// When the range reaches beyond the end.
    pub fn read_ahead_of(&self, range: Range<usize>) -> io::Result<()> {
        assert!(range.end <= self.len(), "behind the end");
        match &self.0 {
            Source::Mapped(map) => populate(map, range),
            Source::Owned(_) => Ok(()),
        }
    }
}

/// What is looked at to decide whether the rest is needed.
const FIRST_BYTES: usize = 2 * BLOCK_BYTES;

/// Brings a range in. This also turns a sector that can not be read into an error, where
/// a plain access would be a SIGBUS: EFAULT of MADV_POPULATE_READ (madvise(2), Linux 5.14). An
/// older kernel says EINVAL, and the pages come in when they are used.
fn populate(map: &Mmap, range: Range<usize>) -> io::Result<()> {
    match map.advise_range(Advice::PopulateRead, range.start, range.len()) {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
            Err(io::Error::new(error.kind(), format!("the medium does not read: {error}")))
        }
        _ => Ok(()),
    }
}
