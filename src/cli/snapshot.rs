//! `kvorum snapshot`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Error;
use crate::disk::FileDisk;
use crate::snapshot::{SnapshotError, Summary, verify};

#[derive(Debug, clap::Subcommand)]
pub(super) enum SnapshotCommand {
    /// Check every byte of a snapshot or backup and print what it is
    ///
    /// Exit code 1, naming the offset, when it is damaged, cut short, or no snapshot at all.
    Verify {
        /// The file, whatever its name
        file: PathBuf,
    },
}

pub(super) fn run(command: &SnapshotCommand) -> Result<(), Error> {
    let SnapshotCommand::Verify { file } = command;
    let Summary { index, term, keys, sessions, bytes, cluster } = verify_file(file)?;
    let cluster = cluster.0;
    writeln!(
        io::stdout(),
        "index={index} term={term} keys={keys} sessions={sessions} bytes={bytes} \
         cluster={cluster:016x}"
    )?;
    Ok(())
}

fn verify_file(file: &Path) -> Result<Summary, SnapshotError> {
    let fail = |source| SnapshotError::Io { action: "read", path: file.to_owned(), source };
    // The data directory's own files are no symbolic links, but this one may be.
    let real = file.canonicalize().map_err(fail)?;
    let name = real.file_name().and_then(|name| name.to_str());
    let (Some(directory), Some(name), true) = (real.parent(), name, real.is_file()) else {
        return Err(SnapshotError::NotSnapshot { path: file.to_owned() });
    };
    verify(&FileDisk::open_read_only(directory), name, None)
}
