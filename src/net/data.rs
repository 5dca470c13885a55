//! What a data directory holds: the newest sound snapshot, and the log behind it.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::limits::BATCH_BYTES_SOFT;
use kvorum_protocol::{ClusterId, LogIndex, Lsn};

use super::repair::repair;
use super::serve::ServeError;
use crate::config::Config;
use crate::core::snapshot::SnapshotHead;
use crate::core::state::State;
use crate::core::{Recovery, ReplayError, SessionBounds};
use crate::disk::Disk;
use crate::snapshot::{self, SnapshotError, SnapshotInfo};
use crate::wal::{self, Identity, RecordView, RecoverySink, WalConfig, WalError, Writer};

/// Reading that takes longer says how far it is, this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// What was found.
pub struct Data {
    /// Goes on with the log.
    pub writer: Writer,
    /// What snapshot and log add up to.
    pub recovery: Recovery,
    /// The snapshots, newest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Bytes of the log that no snapshot covers.
    pub log_bytes: u64,
}

/// Reads everything, or begins a log in an empty directory, which then belongs to `cluster`. What
/// is damaged is repaired, if the configuration says so.
///
/// # Errors
/// What was durable is not there any more, or can not be read.
pub fn open(
    config: &Config,
    disk: &Arc<dyn Disk>,
    cluster: Option<ClusterId>,
) -> Result<Data, ServeError> {
    let error = match read(config, disk, cluster) {
        Err(error) if config.repair_from_peers && is_damage(&error) => error,
        other => return other,
    };
    log::error!("{error}");
    let repaired = repair(disk, &config.data, config.members.as_ref())?.ok_or(error)?;
    log::warn!("{repaired}");
    read(config, disk, cluster)
}

fn is_damage(error: &ServeError) -> bool {
    match error {
        ServeError::Log(error) => error.is_damage(),
        ServeError::Snapshot(error) => error.is_damage(),
        _ => false,
    }
}

fn read(
    config: &Config,
    disk: &Arc<dyn Disk>,
    cluster: Option<ClusterId>,
) -> Result<Data, ServeError> {
    snapshot::remove_strays(&**disk).map_err(ServeError::Snapshot)?;
    let Loaded { snapshots, newest, mut damaged } = load_newest(disk)?;
    let snapshot_index = snapshots.first().map_or(LogIndex(0), |newest| newest.index);
    let wal_config = WalConfig {
        batch_bytes_max: BATCH_BYTES_SOFT + config.limits.request_bytes_max(),
        snapshot_index,
        ..WalConfig::new(Identity::random(config.id, cluster))
    };
    let recovery = match newest {
        Some((head, state)) => Recovery::from_snapshot(head, state),
        None => Recovery::new(rand::random()),
    };
    let mut replay = Replay::new(recovery.of(config.id), snapshot_index);
    let opened = wal::open(Arc::clone(disk), wal_config, &mut replay);
    let (writer, recovered) = match (opened, &mut damaged) {
        (Ok(opened), _) => opened,
        // The log begins behind a snapshot that can not be used: that one is the matter.
        (Err(WalError::Missing { .. }), Some(_)) => {
            let (_, error) = damaged.take().expect("there is one");
            return Err(ServeError::Snapshot(error));
        }
        (Err(error), _) => return Err(ServeError::Log(error)),
    };
    if let Some(cut) = &recovered.cut {
        log::warn!(
            "{}: cut at offset {}, where an unfinished write began ({}); nothing acknowledged \
             was behind it",
            cut.path.display(),
            cut.offset,
            cut.fault
        );
    }
    replay.finish();
    // It may be the only one here that knew of entries which others count on.
    if let Some((info, damaged)) = damaged {
        if info.index > replay.recovery.claimed_index() {
            return Err(ServeError::Snapshot(damaged));
        }
        snapshot::set_aside(&**disk, &info).map_err(ServeError::Snapshot)?;
    }
    let Replay { recovery, log_bytes, .. } = replay;
    Ok(Data { writer, recovery, snapshots, log_bytes })
}

/// The snapshots of a directory.
struct Loaded {
    /// The newest sound one, and all older ones.
    snapshots: Vec<SnapshotInfo>,
    /// What it holds.
    newest: Option<(SnapshotHead, State)>,
    /// The newest one, when it can not be used, and why.
    damaged: Option<(SnapshotInfo, SnapshotError)>,
}

/// A damaged snapshot is passed over: the log may reach back to the one before, or to the
/// beginning.
fn load_newest(disk: &Arc<dyn Disk>) -> Result<Loaded, ServeError> {
    let disk = &**disk;
    let mut snapshots = snapshot::list(disk).map_err(ServeError::Snapshot)?;
    let identity = wal::read_identity(disk).map_err(ServeError::Log)?;
    if let (None, Some(newest)) = (&identity, snapshots.first()) {
        return Err(ServeError::NoLog { snapshot: newest.path.clone() });
    }
    let cluster = identity.map(|identity| identity.cluster);
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let mut damaged = None;
    while let Some(newest) = snapshots.first() {
        let start = Instant::now();
        match snapshot::load(disk, newest, cluster, threads, SessionBounds::default()) {
            Ok(loaded) => {
                let (keys, index, took) = (loaded.0.keys, newest.index, start.elapsed());
                if took >= PROGRESS_INTERVAL {
                    let seconds = took.as_secs_f64();
                    log::info!(
                        "the snapshot is read: {keys} keys at index {index} in {seconds:.1} s"
                    );
                }
                return Ok(Loaded { snapshots, newest: Some(loaded), damaged });
            }
            Err(error) => {
                log::error!("{error}; it is passed over");
                let info = snapshots.remove(0);
                damaged.get_or_insert((info, error));
            }
        }
    }
    Ok(Loaded { snapshots, newest: None, damaged })
}

/// Feeds the core with the log, and says how far it is when that takes long.
struct Replay {
    recovery: Recovery,
    snapshot_index: LogIndex,
    log_bytes: u64,
    start: Instant,
    told: Instant,
    was_told: bool,
}

impl Replay {
    fn new(recovery: Recovery, snapshot_index: LogIndex) -> Replay {
        let now = Instant::now();
        let (log_bytes, was_told) = (0, false);
        Replay { recovery, snapshot_index, log_bytes, start: now, told: now, was_told }
    }

    fn finish(&self) {
        if self.was_told {
            log::info!(
                "the log is read: {} keys at index {} in {:.1} s",
                self.recovery.keys(),
                self.recovery.last_index(),
                self.start.elapsed().as_secs_f64()
            );
        }
    }
}

impl RecoverySink for Replay {
    fn start(&mut self, lsn: Lsn, state: &wal::LogState) {
        RecoverySink::start(&mut self.recovery, lsn, state);
    }

    fn record(
        &mut self,
        lsn: Lsn,
        commit: LogIndex,
        record: &RecordView<'_>,
    ) -> Result<(), ReplayError> {
        if let RecordView::Batch { header, bytes } = record
            && header.last_index() > self.snapshot_index
        {
            self.log_bytes += bytes.len() as u64;
        }
        self.recovery.record(lsn, commit, record)
    }

    fn progress(&mut self, done_bytes: u64, total_bytes: u64) {
        if self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        (self.told, self.was_told) = (Instant::now(), true);
        log::info!(
            "reading the log: {} of {} MiB, {} keys",
            done_bytes >> 20,
            total_bytes >> 20,
            self.recovery.keys()
        );
    }
}
