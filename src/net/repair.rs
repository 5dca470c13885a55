//! Repairing a member's data directory: what is damaged is given up, and the cluster fills it
//! again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvorum_protocol::{LogIndex, MemberList, NodeId};

use super::serve::ServeError;
use crate::core::log::EntryId;
use crate::disk::Disk;
use crate::snapshot::{self, Reader, SnapshotInfo, snapshot_name};
use crate::wal::{self, Identity, WalConfig, WalError};

/// What was done.
#[derive(Debug)]
pub struct Repaired {
    /// The data directory.
    pub directory: PathBuf,
    /// What was wrong with the log; `None` when only a snapshot was damaged.
    pub damage: Option<WalError>,
    /// The last entry that is still there; 0 when there is none.
    pub last: LogIndex,
    /// The last entry that once was.
    pub former_end: EntryId,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repaired { directory, damage, last, former_end } = self;
        match damage {
            Some(damage) => write!(f, "{}", damage.finding())?,
            None => write!(f, "{}: a snapshot is damaged", directory.display())?,
        }
        write!(
            f,
            ": repaired: the log ends with index {last}, and once ended with index {} of term {}: \
             the cluster fills it when the node is started",
            former_end.index, former_end.term
        )
    }
}

/// Repairs the directory of `disk`, whose lock is held. `configured` is whom the flags name.
/// `None` when nothing is damaged that is needed.
///
/// # Errors
/// It can not be repaired, and nothing was changed: what is damaged may hold a promise, or nobody
/// has what is lost.
pub fn repair(
    disk: &Arc<dyn Disk>,
    directory: &Path,
    configured: Option<&MemberList>,
) -> Result<Option<Repaired>, ServeError> {
    let files = &**disk;
    let missing = || ServeError::Log(WalError::Missing { path: files.path(wal::IDENTITY_NAME) });
    let identity = wal::read_identity(files).map_err(ServeError::Log)?.ok_or_else(missing)?;
    let Snapshots { sound, damaged } = look_at_snapshots(files, &identity)?;
    let snapshot_index = sound.as_ref().map_or(LogIndex(0), |sound| sound.index);
    let claimed = damaged.first().map_or(LogIndex(0), |newest| newest.index);
    let found = wal::diagnose(files, snapshot_index, claimed).map_err(ServeError::Log)?;
    let Some(found) = found else { return Ok(None) };
    // The list that the node will go by when it starts: it has to find the others.
    let members = match &sound {
        Some(sound) if sound.index >= found.kept => Some(members_of(files, sound, &identity)?),
        _ => found.members.clone(),
    };
    let configured = configured.filter(|list| list.cluster_id() == identity.cluster);
    let members = members.as_ref().or(configured);
    if members.is_none_or(|members| !names_others(members, identity.node)) {
        return Err(ServeError::NobodyElse { directory: directory.to_owned() });
    }
    found.order(files).map_err(ServeError::Log)?;
    // Only now: as long as nothing is decided, they are what the log begins behind.
    for info in &damaged {
        snapshot::set_aside(files, info).map_err(ServeError::Snapshot)?;
    }
    finish_repair(disk, snapshot_index)?;
    let (last, former_end) = (found.kept.max(snapshot_index), found.former_end());
    Ok(Some(Repaired { directory: directory.to_owned(), damage: found.damage, last, former_end }))
}

/// Does what was decided.
fn finish_repair(disk: &Arc<dyn Disk>, snapshot_index: LogIndex) -> Result<(), ServeError> {
    let identity = wal::read_identity(&**disk).map_err(ServeError::Log)?.expect("it was read");
    let config = WalConfig { snapshot_index, ..WalConfig::new(identity) };
    let (log, _) = wal::open(Arc::clone(disk), config, &mut ()).map_err(ServeError::Log)?;
    log.close().map_err(ServeError::Log)?;
    Ok(())
}

/// The snapshots of a directory.
struct Snapshots {
    /// The newest that can be used.
    sound: Option<SnapshotInfo>,
    /// Newer ones that can not, the newest first.
    damaged: Vec<SnapshotInfo>,
}

fn look_at_snapshots(disk: &dyn Disk, identity: &Identity) -> Result<Snapshots, ServeError> {
    let listed = snapshot::list(disk).map_err(ServeError::Snapshot)?;
    let mut damaged = Vec::new();
    for info in listed {
        match snapshot::verify(disk, &snapshot_name(info.index), Some(identity.cluster)) {
            Ok(_) => return Ok(Snapshots { sound: Some(info), damaged }),
            Err(error) if error.is_damage() => {
                log::error!("{error}; it is passed over");
                damaged.push(info);
            }
            Err(error) => return Err(ServeError::Snapshot(error)),
        }
    }
    Ok(Snapshots { sound: None, damaged })
}

fn members_of(
    disk: &dyn Disk,
    info: &SnapshotInfo,
    identity: &Identity,
) -> Result<MemberList, ServeError> {
    let name = snapshot_name(info.index);
    let reader = Reader::open(disk, &name, Some(identity.cluster));
    Ok(reader.map_err(ServeError::Snapshot)?.head().members.clone())
}

fn names_others(members: &MemberList, own: NodeId) -> bool {
    members.voters().any(|voter| voter.id != own)
}
