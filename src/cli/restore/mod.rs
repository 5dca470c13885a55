//! `kvorum restore`: a data directory for a new cluster, from a backup.

mod target;

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use kvorum_protocol::{ClusterId, LogIndex, Lsn, Member, MemberList, NodeId, Role};

use super::Error;
use super::progress::Progress;
use super::snapshot::FileOfDisk;
use crate::config::LISTEN_DEFAULT;
use crate::core::digest::mix;
use crate::core::{Record, ReplayError, SnapshotHead};
use crate::disk::{Disk, DiskError, advice};
use crate::snapshot::{self, Reader, SnapshotInfo};
use crate::wal::{self, Identity, RecordView, RecoverySink, WalConfig};
use target::Target;

/// Any odd number without a pattern will do.
const NEW_CLUSTER: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug, clap::Args)]
pub(super) struct RestoreFlags {
    /// The backup
    file: PathBuf,
    /// The data directory that is made; it must be missing or empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The node that it is for
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    id: u16,
    /// The voters of the new cluster, as for `kvorum serve`; the same list for every node. Without
    /// any it is a cluster of one
    #[arg(long = "member", value_name = "ID=CLIENT/PEER", value_parser = voter)]
    members: Vec<Member>,
    /// Its learners
    #[arg(long = "learner", value_name = "ID=CLIENT/PEER", value_parser = learner)]
    learners: Vec<Member>,
}

fn voter(text: &str) -> Result<Member, String> {
    Member::parse(text, Role::Voter).map_err(|error| error.to_string())
}

fn learner(text: &str) -> Result<Member, String> {
    Member::parse(text, Role::Learner).map_err(|error| error.to_string())
}

/// Why nothing was restored.
#[derive(Debug)]
pub(super) enum RestoreError {
    /// The list of members is none, or the node is not in it.
    Members(String),
    /// The directory holds something.
    NotEmpty(PathBuf),
    /// The directory holds what a restore has made before it was killed, and nothing else.
    Interrupted(PathBuf),
    /// The directory can not be made or looked at.
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory can not be used.
    Disk(DiskError),
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestoreError::Members(what) => f.write_str(what),
            RestoreError::NotEmpty(path) => write!(
                f,
                "{}: is not empty: choose another --data, nothing is overwritten",
                path.display()
            ),
            RestoreError::Interrupted(path) => write!(
                f,
                "{}: holds only what a restore that was interrupted has left: empty it, or choose \
                 another --data",
                path.display()
            ),
            RestoreError::Directory { path, source } => {
                write!(f, "{}: {source}: {}", path.display(), advice(source))
            }
            RestoreError::Disk(error) => error.fmt(f),
        }
    }
}

pub(super) fn run(flags: &RestoreFlags) -> Result<(), Error> {
    let members = members(flags)?;
    let file = FileOfDisk::find(&flags.file)?;
    let reader = Reader::open(&file.disk, &file.name, None)?;
    let total_bytes = file.disk.path(&file.name).metadata()?.len();
    let target = Target::lock(&flags.data)?;
    let (info, identity) = restore(flags, reader, target.disk(), &members, total_bytes)?;
    target.keep();
    let mut out = io::stdout().lock();
    let (data, index, cluster) = (flags.data.display(), info.index, identity.cluster.0);
    writeln!(out, "restored {data}: index={index} cluster={cluster:016x}")?;
    let listed = flags.members.iter().map(|member| format!(" --member {member}"));
    let learners = flags.learners.iter().map(|member| format!(" --learner {member}"));
    let listed: String = listed.chain(learners).collect();
    writeln!(out, "start it: kvorum serve --id {} --data {data}{listed}", flags.id)?;
    if members.members().len() > 1 {
        writeln!(out, "restore the other members from the same file, with the same list")?;
    }
    Ok(())
}

fn restore(
    flags: &RestoreFlags,
    reader: Reader<'_>,
    disk: Arc<dyn Disk>,
    members: &MemberList,
    total_bytes: u64,
) -> Result<(SnapshotInfo, Identity), Error> {
    let (cluster, end) = (cluster(reader.cluster(), reader.head(), members), reader.head().end);
    let identity = Identity::random(NodeId(flags.id), Some(cluster));
    let change = |head: &mut SnapshotHead| {
        head.members = members.clone();
        head.members_index = LogIndex(0);
    };
    let mut progress = Progress::new("restore", "MiB");
    let told = |bytes: u64| progress.at(bytes >> 20, Some(total_bytes >> 20));
    // The data first: a directory with a log and without its snapshot would begin empty.
    let info = snapshot::copy(reader, disk.clone(), cluster, change, told)?;
    progress.end();
    let config = WalConfig { snapshot_index: info.index, ..WalConfig::new(identity) };
    let (mut log, _) = wal::open(disk, config, &mut Nothing)?;
    // The log says that it goes on behind the snapshot: should that be damaged one day, nobody
    // takes the rest for the whole. And no term comes again that the snapshot knows.
    log.stage(Lsn(1), &Record::TermVote { term: end.term, voted_for: None });
    log.stage(Lsn(2), &Record::Install { end });
    log.write()?;
    log.sync()?;
    log.close()?;
    Ok((info, identity))
}

/// The list that the new cluster begins with.
fn members(flags: &RestoreFlags) -> Result<MemberList, RestoreError> {
    let wrong = |what: String| RestoreError::Members(what);
    let id = NodeId(flags.id);
    let listed: Vec<Member> = flags.members.iter().chain(&flags.learners).cloned().collect();
    let members = match listed.is_empty() {
        true => MemberList::lone(id, LISTEN_DEFAULT),
        false => MemberList::new(listed),
    };
    let members = members.map_err(|error| wrong(format!("--member: {error}")))?;
    match members.get(id) {
        Some(_) => Ok(members),
        None => Err(wrong(format!("--member: no member or learner has this node's id {id}"))),
    }
}

/// One that no node has yet, and that all nodes get which are restored from the same file with the
/// same list. A cluster of one shares it with nobody.
fn cluster(old: ClusterId, head: &SnapshotHead, members: &MemberList) -> ClusterId {
    if members.members().len() == 1 {
        return ClusterId(rand::random());
    }
    let parts = [old.0, head.end.index.0, head.state_hash, members.cluster_id().0];
    ClusterId(parts.into_iter().fold(NEW_CLUSTER, |id, part| mix(id ^ part, NEW_CLUSTER)))
}

/// A log that is made has nothing to tell.
struct Nothing;

impl RecoverySink for Nothing {
    fn start(&mut self, _: Lsn, _: &wal::LogState) {}

    fn record(&mut self, _: Lsn, _: LogIndex, _: &RecordView<'_>) -> Result<(), ReplayError> {
        Ok(())
    }

    fn progress(&mut self, _: u64, _: u64) {}
}
