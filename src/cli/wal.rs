//! `kvorum wal`.

use std::io::{self, BufWriter, Write as _};
use std::path::PathBuf;

use super::Error;
use crate::wal::{dump, outline, verify};

#[derive(Debug, clap::Subcommand)]
pub(super) enum WalCommand {
    /// Print every record, one a line, the entries of a batch below it, and a summary
    ///
    /// Exit code 1 when the log is damaged, after what stands before the damage was printed.
    Dump {
        /// Leave the entries of batches out: terms, votes, truncations, and what came between
        #[arg(long)]
        brief: bool,
        /// The data directory of a node
        directory: PathBuf,
    },
    /// Check every byte and print a summary
    ///
    /// Exit code 1, naming file, offset and index, when the log is damaged. A torn record at the
    /// end was never acknowledged and is no damage.
    Verify {
        /// The data directory of a node
        directory: PathBuf,
    },
}

pub(super) fn run(command: &WalCommand) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match command {
        WalCommand::Dump { brief: false, directory } => dump(directory, &mut out),
        WalCommand::Dump { brief: true, directory } => outline(directory, &mut out),
        WalCommand::Verify { directory } => verify(directory, &mut out),
    };
    // What stands before the damage is printed before the error is.
    out.flush()?;
    result?;
    Ok(())
}
