//! Snapshots on the disk: the state of a node at one log index, in a file of checksummed chunks.
//! The format and its reasons are in `FORMAT.md`, beside this file.
//!
//! # How to drive it
//! [`SnapshotWriter`] writes what a walk over the store hands out, on a thread of its own.
//! [`Incoming`] takes the file of another node, and [`Arrivals`] says which one. Both give the file
//! its name when it is whole and durable. At start [`remove_strays`] clears away what a crash has
//! left of that, [`list`] says what there is, and [`load`] builds the state from the newest that is
//! good. [`verify`] checks every byte without building anything, and [`Reader`] hands out what is
//! in there.
//!
//! # What it promises
//! - A file with the name of a snapshot was whole and durable when it got it.
//! - What can be read back is what was written, or it is refused, with the place named.
//! - Writing one touches no other.

mod arrivals;
mod copy;
mod error;
mod incoming;
mod layout;
mod load;
mod part;
mod reader;
mod sequence;
mod writer;

use std::io;
use std::path::PathBuf;

use kvorum_protocol::LogIndex;

pub use arrivals::Arrivals;
pub use copy::copy;
pub use error::SnapshotError;
pub use incoming::Incoming;
pub use layout::{Fault, snapshot_name};
pub use load::load;
pub use part::PartReader;
pub use reader::{Chunk, Reader, Summary, verify};
pub use writer::SnapshotWriter;

use crate::disk::Disk;
use layout::snapshot_index;

/// What every snapshot begins with.
pub const MAGIC: [u8; 4] = *b"KVS1";

/// Where a snapshot of this node is written before it gets its name.
const SNAPSHOT_TMP_NAME: &str = "snapshot.tmp";

/// Where a snapshot of another node is written before it gets its name.
const INSTALL_TMP_NAME: &str = "install.tmp";

/// A snapshot of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The last entry that it covers.
    pub index: LogIndex,
    /// Length of the file.
    pub bytes: u64,
    /// The file.
    pub path: PathBuf,
}

/// Whether a file of this name, in a data directory, is a snapshot, or was to be one of this node.
#[must_use]
pub fn is_named(name: &str) -> bool {
    name == SNAPSHOT_TMP_NAME || snapshot_index(name).is_some()
}

/// The snapshots of a data directory, the newest first. Nothing is checked but their names.
///
/// # Errors
/// The directory or a file can not be read.
pub fn list(disk: &dyn Disk) -> Result<Vec<SnapshotInfo>, SnapshotError> {
    let names = disk.list().map_err(|source| io_error(disk, "list", "", source))?;
    let mut found = Vec::new();
    for (index, name) in names.iter().filter_map(|name| Some((snapshot_index(name)?, name))) {
        let bytes = disk.open_to_read(name).and_then(|file| file.bytes());
        let bytes = bytes.map_err(|source| io_error(disk, "read", name, source))?;
        found.push(SnapshotInfo { index, bytes, path: disk.path(name) });
    }
    found.sort_unstable_by_key(|info| std::cmp::Reverse(info.index));
    Ok(found)
}

/// Removes a snapshot; the name is gone for good after the next sync of the directory.
///
/// # Errors
/// The system refuses to.
pub fn remove(disk: &dyn Disk, info: &SnapshotInfo) -> Result<(), SnapshotError> {
    let name = snapshot_name(info.index);
    disk.remove(&name).map_err(|source| io_error(disk, "remove", &name, source))
}

/// Gives a damaged snapshot another name, so that nobody takes it for a sound one again.
///
/// # Errors
/// The system refuses to.
pub fn set_aside(disk: &dyn Disk, info: &SnapshotInfo) -> Result<(), SnapshotError> {
    let name = snapshot_name(info.index);
    let renamed = disk.rename(&name, &format!("{name}.damaged"));
    renamed.map_err(|source| io_error(disk, "rename", &name, source))
}

/// Removes what a crash has left of snapshots that were being written or received, and makes
/// durable which ones are there: a crash can have left a name that the next one would take away.
/// To be called at start, before anything else is done here.
///
/// # Errors
/// The system refuses to.
pub fn remove_strays(disk: &dyn Disk) -> Result<(), SnapshotError> {
    for name in [SNAPSHOT_TMP_NAME, INSTALL_TMP_NAME] {
        match disk.remove(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(io_error(disk, "remove", name, source)),
            Ok(()) => {}
        }
    }
    disk.sync_dir().map_err(|source| io_error(disk, "sync the directory of", "", source))
}

fn io_error(disk: &dyn Disk, action: &'static str, name: &str, source: io::Error) -> SnapshotError {
    SnapshotError::Io { action, path: disk.path(name), source }
}
