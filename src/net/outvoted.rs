//! A node whose state was found to be wrong serves nobody again, not even when something starts it
//! again by itself.

use std::io;

use crate::disk::Disk;

/// What the node has said when it stopped.
const NAME: &str = "outvoted";

/// Writes it down, durably.
///
/// # Errors
/// The disk does not take it.
pub fn note(disk: &dyn Disk, words: &str) -> io::Result<()> {
    disk.write_file(NAME, words.as_bytes())?;
    disk.sync_dir()
}

/// What was written down, if it was.
///
/// # Errors
/// The disk can not be read.
pub fn noted(disk: &dyn Disk) -> io::Result<Option<String>> {
    match disk.read(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(words) => Ok(Some(String::from_utf8_lossy(&words).into_owned())),
    }
}
