//! What can go wrong with the log. Every message is one line that names the file and says what to
//! do; none of these may be answered by starting with less data.

use std::fmt;
use std::io;
use std::path::PathBuf;

use kvorum_protocol::{ClusterId, DecodeError, LogIndex, Lsn, NodeId};

use super::identity::IDENTITY_NAME;
use super::state::Discontinuity;
use crate::core::ReplayError;
use crate::disk::advice;

/// Why the log can not be opened, written or read.
#[derive(Debug)]
pub enum WalError {
    /// The system refused an operation. On the log being written this is final: what was not
    /// synced before may or may not be on the disk.
    Io {
        /// What was tried, as `"sync"`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No segment could be made for what is staged. Nothing is lost or half written: it stays
    /// staged, and writing works again when there is space.
    NoRoom {
        /// The segment that could not be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What was read can not be printed.
    Output {
        /// What the system said.
        source: io::Error,
    },
    /// An earlier error was final.
    Stopped,
    /// Bytes that were once durable can not be read back.
    Corrupt {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The record that should be there.
        lsn: Lsn,
        /// The first entry that is missing.
        index: LogIndex,
        /// What is wrong.
        fault: Fault,
    },
    /// A record is whole, but makes no sense to this program.
    NotUnderstood {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The record.
        lsn: Lsn,
        /// What is wrong.
        oddity: Oddity,
    },
    /// A file of another version of the format.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The end of the log is damaged: nobody can tell what the node has promised last.
    EndLost {
        /// The last segment.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong.
        fault: Fault,
    },
    /// The file that says what a repair has to do holds something else.
    OrderDamaged {
        /// The file.
        path: PathBuf,
    },
    /// A file that must be there is not.
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file named almost like a segment.
    StrangeFile {
        /// The file.
        path: PathBuf,
    },
    /// The identity file holds something else.
    IdentityDamaged {
        /// The file.
        path: PathBuf,
    },
    /// The directory belongs to another node.
    OtherNode {
        /// The identity file.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who wants it.
        expected: NodeId,
    },
    /// The directory belongs to another cluster.
    OtherCluster {
        /// The identity file.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Who wants it.
        expected: ClusterId,
    },
    /// A segment came from another directory.
    ForeignSegment {
        /// The segment.
        path: PathBuf,
    },
}

/// Why bytes are not the record that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no record at all.
    NoRecord,
    /// The record header's checksum does not match.
    HeaderChecksum,
    /// It is a record of another segment, from before this file was recycled.
    OtherSegment,
    /// It is another record than the one that follows the last.
    Chain,
    /// Its length reaches beyond the segment.
    Length,
    /// The body's checksum does not match.
    BodyChecksum,
    /// The segment's first block is damaged.
    SegmentHeader,
    /// The file is not as long as its first block says; in bytes.
    FileLength {
        /// What it says.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// The next segment starts at a later record.
    RecordsMissing {
        /// Where the next segment starts.
        next_segment_starts: Lsn,
    },
}

/// Why a whole record makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// Its kind is not known.
    Kind(u8),
    /// It has a flag without a meaning.
    Flags(u8),
    /// Its body is not what its kind asks for.
    Body(DecodeError),
    /// It does not follow from the records before.
    Order(Discontinuity),
    /// The state machine rejects it.
    Replay(ReplayError),
}

impl WalError {
    /// Whether the process has to stop. What is not fatal can be tried again later.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        !matches!(self, WalError::NoRoom { .. })
    }

    /// Whether something was on the disk once, and is not any more as it was.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let is_snapshot =
            |oddity: &Oddity| matches!(oddity, Oddity::Replay(ReplayError::SnapshotMissing(_)));
        match self {
            WalError::Corrupt { .. } | WalError::Missing { .. } => true,
            WalError::NotUnderstood { oddity, .. } => is_snapshot(oddity),
            _ => false,
        }
    }

    /// What is wrong, without what to do about it.
    #[must_use]
    pub fn finding(&self) -> String {
        match self {
            WalError::Corrupt { path, offset, lsn, index, fault } => format!(
                "{} is corrupt at offset {offset} (lsn {lsn}, index {index}): {fault}",
                path.display()
            ),
            WalError::NotUnderstood { path, offset, lsn, oddity } => format!(
                "{} has a record at offset {offset} (lsn {lsn}) that can not be used: {oddity}",
                path.display()
            ),
            WalError::Missing { path } => format!("{} is missing", path.display()),
            other => other.to_string(),
        }
    }
}

const RESTORE: &str = "nothing was changed; a member of a cluster gives up what is damaged with \
                       kvorum repair, and the others fill it again; without others, restore a \
                       backup into another directory (kvorum restore)";

const REPLACE: &str = "bring back the newest directory that this node had, or replace it by a node \
                       with a new id (kvorum member remove, then kvorum member add)";

impl fmt::Display for WalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WalError::Io { action, path, source } => {
                let after = match *action {
                    "write" | "sync" => ", then start again: what was synced before is safe",
                    _ => "",
                };
                let advice = advice(source);
                write!(f, "can not {action} {}: {source}: {advice}{after}", path.display())
            }
            WalError::NoRoom { path, source } => {
                let advice = advice(source);
                write!(f, "can not make room for {}: {source}: {advice}", path.display())
            }
            WalError::Output { source } => write!(f, "can not write the output: {source}"),
            WalError::Stopped => f.write_str("the log stopped at an earlier error"),
            WalError::Corrupt { .. } => write!(f, "{}: {RESTORE}", self.finding()),
            WalError::NotUnderstood { path, offset, lsn, oddity } => write!(
                f,
                "{} has a record at offset {offset} (lsn {lsn}) that can not be used: {oddity}: {}",
                path.display(),
                match oddity {
                    Oddity::Replay(ReplayError::SnapshotMissing(_)) => RESTORE,
                    _ => "start the version of kvorum that wrote it",
                }
            ),
            WalError::Version { path, found } => write!(
                f,
                "{} has format version {found}, this program knows {}: start the version of \
                 kvorum that wrote it",
                path.display(),
                super::layout::FORMAT_VERSION
            ),
            WalError::EndLost { path, offset, fault } => write!(
                f,
                "{} is damaged at offset {offset} ({fault}), and nothing behind that tells how the \
                 node has voted last and what it has acknowledged, so it can not be repaired: \
                 {REPLACE}",
                path.display()
            ),
            WalError::OrderDamaged { path } => write!(
                f,
                "{} is damaged, and with it what an interrupted repair has to remember: {REPLACE}",
                path.display()
            ),
            WalError::Missing { path } if path.ends_with(IDENTITY_NAME) => {
                write!(f, "{}: {REPLACE}", self.finding())
            }
            WalError::Missing { .. } => write!(f, "{}: {RESTORE}", self.finding()),
            WalError::StrangeFile { path } => write!(
                f,
                "{} is named almost like a segment of the log: move it away if it is not, restore \
                 its name if it is",
                path.display()
            ),
            WalError::IdentityDamaged { path } => {
                write!(f, "{} is damaged: {REPLACE}", path.display())
            }
            WalError::OtherNode { path, found, expected } => write!(
                f,
                "{} belongs to node {found}, not to node {expected}: start with --id {found}, or \
                 with another --data",
                path.display()
            ),
            WalError::OtherCluster { path, found, expected } => write!(
                f,
                "{} belongs to cluster {:016x}, not to {:016x}, which the --member list makes: \
                 give the list that the directory began with, or none, or another --data",
                path.display(),
                found.0,
                expected.0
            ),
            WalError::ForeignSegment { path } => write!(
                f,
                "{} comes from another data directory: move it away, or restore the directory",
                path.display()
            ),
        }
    }
}

impl std::error::Error for WalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WalError::Io { source, .. }
            | WalError::NoRoom { source, .. }
            | WalError::Output { source } => Some(source),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoRecord => f.write_str("no record"),
            Fault::HeaderChecksum => f.write_str("the record header's checksum does not match"),
            Fault::OtherSegment => f.write_str("a record of another segment"),
            Fault::Chain => f.write_str("the record does not follow the one before"),
            Fault::Length => f.write_str("the record is longer than the segment"),
            Fault::BodyChecksum => f.write_str("the record body's checksum does not match"),
            Fault::SegmentHeader => f.write_str("the segment header is damaged"),
            Fault::FileLength { expected, found } => {
                write!(f, "the file has {found} bytes instead of {expected}")
            }
            Fault::RecordsMissing { next_segment_starts } => {
                write!(f, "the next segment starts at lsn {next_segment_starts}")
            }
        }
    }
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Oddity::Kind(kind) => write!(f, "record kind {kind} is not known"),
            Oddity::Flags(flags) => write!(f, "record flags {flags:#04x} are not known"),
            Oddity::Body(error) => error.fmt(f),
            Oddity::Order(error) => error.fmt(f),
            Oddity::Replay(error) => error.fmt(f),
        }
    }
}
