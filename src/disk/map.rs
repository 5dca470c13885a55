//! A file's contents as one slice, without copying them.

use std::fs::File;
use std::io;
use std::ops::Deref;

use memmap2::{Advice, Mmap};

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
    /// Maps a file for reading and brings its pages in.
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
        // drops the contents first (`wal::recovery`). An administrator who edits a live log as
        // root is outside of what any program can prove.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(file)? };
        // Reading ahead of use overlaps the disk with the checks. It also turns a sector that can
        // not be read into an error here, where a plain access would be a SIGBUS: that is EFAULT
        // of MADV_POPULATE_READ (madvise(2), Linux 5.14). An older kernel says EINVAL.
        match map.advise(Advice::PopulateRead) {
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                Err(io::Error::new(error.kind(), format!("the medium does not read: {error}")))
            }
            _ => Ok(Contents(Source::Mapped(map))),
        }
    }
}
