//! `kvorum snapshot`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::Error;
use super::backup::take_snapshot;
use super::servers::ClientFlags;
use crate::client::Connection;
use crate::disk::FileDisk;
use crate::snapshot::{SnapshotError, Summary, verify};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct SnapshotFlags {
    #[command(flatten)]
    client: ClientFlags,
    #[command(subcommand)]
    command: Option<SnapshotCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum SnapshotCommand {
    /// Check every byte of a snapshot or backup and print what it is
    ///
    /// Exit code 1, naming the offset, when it is damaged, cut short, or no snapshot at all.
    Verify {
        /// The file, whatever its name
        file: PathBuf,
    },
}

pub(super) fn run(flags: &SnapshotFlags) -> Result<(), Error> {
    match &flags.command {
        Some(SnapshotCommand::Verify { file }) => Ok(print_summary(&verify_file(file)?)?),
        None => take(&flags.client),
    }
}

/// Has each of the servers take one.
fn take(flags: &ClientFlags) -> Result<(), Error> {
    let mut is_silent = false;
    for server in &flags.servers {
        let connection = Connection::open(server, flags.deadline());
        let taken = connection
            .map_err(|error| error.to_string())
            .and_then(|mut connection| take_snapshot(&mut connection));
        match taken {
            Ok(index) => writeln!(io::stdout(), "{server} index={index}")?,
            Err(what) => {
                is_silent = true;
                writeln!(io::stderr(), "kvorum: {server}: {what}")?;
            }
        }
    }
    if is_silent { Err(Error::Silent) } else { Ok(()) }
}

pub(super) fn print_summary(summary: &Summary) -> io::Result<()> {
    let Summary { index, term, keys, sessions, bytes, cluster } = summary;
    let cluster = cluster.0;
    writeln!(
        io::stdout(),
        "index={index} term={term} keys={keys} sessions={sessions} bytes={bytes} \
         cluster={cluster:016x}"
    )
}

pub(super) fn verify_file(file: &Path) -> Result<Summary, SnapshotError> {
    let FileOfDisk { disk, name } = FileOfDisk::find(file)?;
    verify(&disk, &name, None)
}

/// A file of any name, and the directory that it is in, to be looked at.
pub(super) struct FileOfDisk {
    pub disk: FileDisk,
    pub name: String,
}

impl FileOfDisk {
    pub(super) fn find(file: &Path) -> Result<FileOfDisk, SnapshotError> {
        let fail = |source| SnapshotError::Io { action: "read", path: file.to_owned(), source };
        // The data directory's own files are no symbolic links, but this one may be.
        let real = file.canonicalize().map_err(fail)?;
        let name = real.file_name().and_then(|name| name.to_str());
        let (Some(directory), Some(name), true) = (real.parent(), name, real.is_file()) else {
            return Err(SnapshotError::NotSnapshot { path: file.to_owned() });
        };
        Ok(FileOfDisk { disk: FileDisk::open_read_only(directory), name: name.to_owned() })
    }
}
