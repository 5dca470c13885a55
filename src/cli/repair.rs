//! `kvorum repair`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::Error;
use crate::disk::{Disk, FileDisk};
use crate::net::{Repaired, ServeError, repair};
use crate::wal::IDENTITY_NAME;

#[derive(Debug, clap::Args)]
pub(super) struct RepairFlags {
    /// The data directory of a member that is stopped
    #[arg(long, value_name = "DIR", default_value = "kvorum-data")]
    data: PathBuf,
}

pub(super) fn run(flags: &RepairFlags) -> Result<(), Error> {
    let directory = &flags.data;
    // Opening makes what is missing, and locks it: nothing of that where no node ever was.
    let looked_at = FileDisk::open_read_only(directory);
    let names = looked_at.list().unwrap_or_default();
    if !names.iter().any(|name| name == IDENTITY_NAME || name.starts_with("segment-")) {
        return Err(ServeError::NoData { directory: directory.clone() }.into());
    }
    let disk = FileDisk::open(directory, true).map_err(ServeError::Disk)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let mut out = io::stdout().lock();
    let Some(repaired) = repair(&disk, directory, None)? else {
        writeln!(out, "{}: nothing to repair", directory.display())?;
        return Ok(());
    };
    writeln!(out, "{repaired}")?;
    let Repaired { former_end, .. } = repaired;
    writeln!(
        out,
        "start it as before; until it has index {} again it does not lead, and votes only for who \
         has that",
        former_end.index
    )?;
    Ok(())
}
