//! What can go wrong with a snapshot. Every message is one line that names the file and says what
//! to do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use kvorum_protocol::{ClusterId, LogIndex};

use super::layout::{FORMAT_VERSION, Fault};
use crate::disk::advice;

/// Why a snapshot can not be written or read. Other snapshots, and the log, are untouched by it.
#[derive(Debug)]
pub enum SnapshotError {
    /// The system refused an operation.
    Io {
        /// What was tried, as `"write"`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    NotSnapshot {
        /// The file.
        path: PathBuf,
    },
    /// Bytes are not what was written.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The chunk, from 0.
        chunk: u64,
        /// Where in the file it starts.
        offset: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// A file of another version of the format.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The snapshot belongs to another cluster.
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Who wants it.
        expected: ClusterId,
    },
    /// The snapshot is of another index than its name or its sender says.
    OtherIndex {
        /// The file.
        path: PathBuf,
        /// Of which it is.
        found: LogIndex,
        /// Of which it should be.
        expected: LogIndex,
    },
    /// The bytes of an incoming snapshot do not continue what has come.
    Gap {
        /// The file.
        path: PathBuf,
        /// Where the bytes belong.
        found: u64,
        /// Where the next byte belongs.
        expected: u64,
    },
}

impl SnapshotError {
    /// Whether the file is not what was written, and not only out of reach or of another kind.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            SnapshotError::NotSnapshot { .. }
                | SnapshotError::Corrupt { .. }
                | SnapshotError::OtherIndex { .. }
        )
    }
}

impl fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SnapshotError::Io { action, path, source } => {
                let advice = advice(source);
                write!(f, "can not {action} {}: {source}: {advice}", path.display())
            }
            SnapshotError::NotSnapshot { path } => {
                write!(f, "{} is no snapshot of kvorum: check the path", path.display())
            }
            SnapshotError::Corrupt { path, chunk, offset, fault } => write!(
                f,
                "{} is corrupt at offset {offset} (chunk {chunk}): {fault}: use an older snapshot, \
                 a backup, or let the node copy the data from its peers",
                path.display()
            ),
            SnapshotError::Version { path, found } => write!(
                f,
                "{} has format version {found}, this program knows {FORMAT_VERSION}: use the \
                 version of kvorum that wrote it",
                path.display()
            ),
            SnapshotError::OtherCluster { path, found, expected } => write!(
                f,
                "{} belongs to cluster {:016x}, not to {:016x}: move it away",
                path.display(),
                found.0,
                expected.0
            ),
            SnapshotError::OtherIndex { path, found, expected } => write!(
                f,
                "{} is the snapshot of index {found}, not of {expected}: move it away",
                path.display()
            ),
            SnapshotError::Gap { path, found, expected } => write!(
                f,
                "{} lacks bytes: {found} is where the next ones belong, {expected} is where it \
                 ends: send it again from there",
                path.display()
            ),
        }
    }
}

impl std::error::Error for SnapshotError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            SnapshotError::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
