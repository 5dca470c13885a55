//! From a configuration to a running server, and every way in which that can fail.

use std::fmt;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::limits::BATCH_BYTES_SOFT;
use kvorum_protocol::peer::Refusal;
use kvorum_protocol::{ClusterId, LogIndex, Lsn, Member, MemberList, NodeId, Role};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::listener::Listener;
use super::log_queue::LogState;
use super::peer::{self, KnownError, PeersConfig, SecretError, load_known, read_secret};
use super::reactor::{Fatal, Reactor, SURPLUS_MAX};
use super::server::Server;
use super::signals::Signals;
use super::snapshots::{SnapshotsConfig, Trigger};
use crate::config::{Config, ConfigError, LISTEN_DEFAULT};
use crate::core::snapshot::SnapshotHead;
use crate::core::state::State;
use crate::core::{Disagreement, Node, NodeConfig, Recovery, ReplayError, SessionBounds};
use crate::disk::{Disk, DiskError, FileDisk};
use crate::snapshot::{self, SnapshotError, SnapshotInfo};
use crate::wal::{self, Identity, RecordView, RecoverySink, WalConfig, WalError, Writer};

/// Descriptors beside those of client connections: log, listener, poll, spare.
const DESCRIPTORS_RESERVED: u64 = 64;

// Connections that are being refused must leave enough for the log to open its next segment.
const _: () = assert!(SURPLUS_MAX as u64 + 32 <= DESCRIPTORS_RESERVED);

/// Whether log writes bypass the page cache. See `wal/FORMAT.md`.
const DIRECT_IO: bool = true;

/// Nothing is lost on a connection that stands, so there is no hurry.
const RESEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Recovery that takes longer says how far it is, this often.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Why the server could not start, or had to stop.
#[derive(Debug)]
pub enum ServeError {
    /// The data directory can not be used.
    Disk(DiskError),
    /// The log can not be used.
    Log(WalError),
    /// The snapshots can not be read.
    Snapshot(SnapshotError),
    /// Nobody can be served there.
    Listen {
        /// The address asked for.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The members that the log names are not those that this node can be one of.
    NotMember {
        /// The data directory.
        directory: PathBuf,
        /// This node.
        id: NodeId,
    },
    /// The data directory belongs to another cluster than `--member` describes.
    OtherCluster {
        /// The data directory.
        directory: PathBuf,
        /// The members of its cluster, as far as its log names them.
        found: Option<MemberList>,
    },
    /// The settings do not go with what the log says.
    Config(ConfigError),
    /// What is known of the other members can not be read.
    Known(KnownError),
    /// The data directory has lost votes or entries that the other members count on.
    Forgot {
        /// The data directory.
        directory: PathBuf,
        /// What another member says.
        refusal: Refusal,
    },
    /// Equal entries have made another state here than on most voters.
    Outvoted {
        /// The data directory.
        directory: PathBuf,
        /// Where, and both hashes.
        disagreement: Disagreement,
    },
    /// The cluster secret can not be used.
    Secret(SecretError),
    /// Whoever reaches the peer port could take the cluster over.
    OpenPeerPort {
        /// The address.
        address: String,
    },
    /// The process was asked to stop, and the disk did not take the last writes.
    LogStuck {
        /// How long it was waited for.
        patience: Duration,
    },
    /// The operating system refuses something that the loop needs.
    System {
        /// What it was needed for.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServeError::Disk(error) => error.fmt(f),
            ServeError::Log(error) => error.fmt(f),
            ServeError::Snapshot(error) => error.fmt(f),
            ServeError::Config(error) => error.fmt(f),
            ServeError::Listen { address, source } => {
                write!(f, "can not listen on {address}: {source}; choose another with --listen")
            }
            ServeError::NotMember { directory, id } => write!(
                f,
                "{}: the log says that node {id} is no member of its cluster: start it with \
                 another --data",
                directory.display()
            ),
            ServeError::OtherCluster { directory, found } => {
                write!(f, "{}: it belongs to another cluster", directory.display())?;
                if let Some(found) = found {
                    write!(f, ", with the members {}", list(found))?;
                }
                write!(f, ": start with another --data, or with the --member flags of that cluster")
            }
            ServeError::Known(error) => error.fmt(f),
            ServeError::Forgot { directory, refusal } => write!(
                f,
                "{}: {refusal}: bring back the newest directory that this node had, or replace \
                 the node by one with a new id",
                directory.display()
            ),
            ServeError::Outvoted { directory, disagreement } => write!(
                f,
                "{}: {disagreement}; do not serve from it again: replace the node by one with a \
                 new id and an empty --data, which the cluster fills",
                directory.display()
            ),
            ServeError::Secret(error) => error.fmt(f),
            ServeError::OpenPeerPort { address } => write!(
                f,
                "peers are not served on {address}, where other machines can reach them, without \
                 a secret: give all nodes the same --cluster-secret-file"
            ),
            ServeError::LogStuck { patience } => write!(
                f,
                "stopped before the log took the last writes: the disk did not answer for \
                 {patience:?}; no acknowledgement counts on a copy of them here"
            ),
            ServeError::System { action, source } => write!(f, "can not {action}: {source}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    fn new(fatal: Fatal, directory: &Path) -> ServeError {
        match fatal {
            Fatal::Log(error) => ServeError::Log(error),
            Fatal::LogStuck(patience) => ServeError::LogStuck { patience },
            Fatal::Forgot(refusal) => {
                ServeError::Forgot { directory: directory.to_owned(), refusal }
            }
            Fatal::Outvoted(disagreement) => {
                ServeError::Outvoted { directory: directory.to_owned(), disagreement }
            }
            Fatal::Poll(source) => ServeError::System { action: "wait for events", source },
        }
    }
}

/// Runs a node until a signal stops it.
///
/// # Errors
/// One line for a person: what could not be done, where, and what to do.
pub fn serve(config: Config) -> Result<(), ServeError> {
    let signals = Signals::register();
    let signals =
        signals.map_err(|source| ServeError::System { action: "await signals", source })?;
    let secret = config.cluster_secret_file.as_deref().map(read_secret).transpose();
    let secret = secret.map_err(ServeError::Secret)?;
    // An address that is taken should be known before the log is read.
    let early = config.listen.as_deref().map(bind).transpose()?;
    let Opened { disk, writer, recovery, snapshots, log_bytes } = open(&config)?;
    let members = members(&config, &recovery, writer.identity().cluster)?;
    config.check_quorums(members.voters().count()).map_err(ServeError::Config)?;
    let own = members.get(config.id).expect("`members` makes sure").clone();
    let others = members.members().len() - 1;
    let connections_max = raise_descriptor_limit(config.connections_max, others);
    let listener = match early {
        Some(listener) => listener,
        None => bind(&own.client)?,
    };
    let local = listener.local_addr();
    let local = local.map_err(|source| ServeError::System { action: "learn the port", source })?;
    // A lone node is where it listens; a member is where the others are told to find it.
    let address = if own.peer.is_empty() { local.to_string() } else { own.client };
    let identity = writer.identity();
    let peers = match others {
        0 => None,
        _ => Some(PeersConfig {
            id: config.id,
            members: members.clone(),
            cluster: identity.cluster,
            incarnation: identity.incarnation,
            durable: LogState { term: recovery.term(), last: recovery.last_index() },
            listener: bind_peers(
                config.peer_listen.as_deref().unwrap_or(&own.peer),
                secret.is_some(),
            )?,
            known: load_known(&*disk).map_err(ServeError::Known)?,
            secret,
            trace: config.trace_peers,
            disk: Arc::clone(&disk),
        }),
    };
    if peers.is_none() && config.peer_listen.is_some() {
        log::warn!("--peer-listen is not used: a lone node has no peers");
    }
    let (id, fsync) = (config.id, config.fsync);
    let relaxed = config.relaxed(members.voters().count());
    let node_config = NodeConfig {
        write_quorum: config.write_quorum,
        read_quorum: config.read_quorum,
        quorum_timeout: Duration::from_millis(config.quorum_timeout_ms),
        memory_max: config.memory_bytes_max,
        heartbeat: Duration::from_millis(config.heartbeat_ms),
        election_timeout: Duration::from_millis(config.election_timeout_ms),
        resend_timeout: RESEND_TIMEOUT,
        seed: rand::random(),
        ..NodeConfig::new(id, members)
    };
    let snapshots = SnapshotsConfig {
        disk,
        trigger: Trigger {
            log_percent: config.snapshot_log_percent,
            log_bytes_min: config.snapshot_log_bytes_min,
        },
        kept: snapshots,
        log_bytes,
    };
    let (cluster, directory) = (identity.cluster, config.data.clone());
    let node = Node::new(node_config, recovery, writer.room());
    let server = Server::new(config, cluster, address, connections_max);
    let reactor = Reactor::new(listener, node, writer, fsync, server, peers, snapshots, signals);
    let mut reactor =
        reactor.map_err(|source| ServeError::System { action: "set up the loop", source })?;
    let served = reactor.run_until_ready().and_then(|is_ready| {
        for relaxed in relaxed {
            log::warn!("relaxed: {}", relaxed.words());
        }
        if is_ready {
            announce(id, &local.to_string());
        }
        reactor.run()
    });
    served.map_err(|fatal| ServeError::new(fatal, &directory))
}

/// The line that scripts and tests wait for.
fn announce(id: NodeId, listen: &str) {
    let mut out = io::stdout().lock();
    // Whoever started the node without reading its output can do without the line.
    let _ = writeln!(out, "kvorum ready id={id} listen={listen}").and_then(|()| out.flush());
}

fn bind(address: &str) -> Result<Listener, ServeError> {
    Listener::bind(address)
        .map_err(|source| ServeError::Listen { address: address.to_owned(), source })
}

/// The peer port. Without a secret it must not be reachable from other machines.
fn bind_peers(address: &str, has_secret: bool) -> Result<Listener, ServeError> {
    let listener = bind(address)?;
    let local = listener.local_addr();
    let local = local.map_err(|source| ServeError::System { action: "learn the port", source })?;
    if !has_secret && !local.ip().is_loopback() {
        return Err(ServeError::OpenPeerPort { address: local.to_string() });
    }
    Ok(listener)
}

/// The members that the log says, or on first boot the configured ones. `cluster` is the one that
/// the directory belongs to.
fn members(
    config: &Config,
    recovery: &Recovery,
    cluster: ClusterId,
) -> Result<MemberList, ServeError> {
    let other_cluster = |found: Option<&MemberList>| ServeError::OtherCluster {
        directory: config.data.clone(),
        found: found.cloned(),
    };
    let members = match (recovery.members(), &config.members) {
        (Some(logged), Some(configured)) if configured != logged => {
            // The list of the first boot, or one that has grown old or been edited, names some of
            // the members where they are. One that names nobody is about another cluster.
            if configured.cluster_id() != cluster && !have_a_place_in_common(configured, logged) {
                return Err(other_cluster(Some(logged)));
            }
            let logged_list = list(logged);
            log::warn!("--member is not used: the log says that the members are {logged_list}");
            logged.clone()
        }
        (Some(logged), _) => logged.clone(),
        (None, Some(configured)) => {
            if configured.members().len() > 1 && configured.cluster_id() != cluster {
                return Err(other_cluster(None));
            }
            configured.clone()
        }
        (None, None) => {
            let client = LISTEN_DEFAULT.to_owned();
            let peer = String::new();
            let lone = Member { id: config.id, role: Role::Voter, client, peer };
            MemberList::new(vec![lone]).expect("one member with a good address")
        }
    };
    if members.get(config.id).is_none() {
        return Err(ServeError::NotMember { directory: config.data.clone(), id: config.id });
    }
    Ok(members)
}

/// The members for a person, voters and learners alike.
fn list(members: &MemberList) -> String {
    let words: Vec<String> = members.members().iter().map(Member::to_string).collect();
    words.join(", ")
}

/// Whether some node of one list is where a node of the other is.
fn have_a_place_in_common(one: &MemberList, other: &MemberList) -> bool {
    let is_there = |member: &Member| {
        let at = |there: &Member| {
            there.client == member.client || !there.peer.is_empty() && there.peer == member.peer
        };
        other.members().iter().any(at)
    };
    one.members().iter().any(is_there)
}

/// Allows as many descriptors as clients, `others` other members and log need; answers how many
/// client connections that is.
fn raise_descriptor_limit(connections_max: usize, others: usize) -> usize {
    let reserved = DESCRIPTORS_RESERVED + peer::descriptors(others);
    let wanted = connections_max as u64 + reserved;
    let mut limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    if current >= wanted {
        return connections_max;
    }
    let allowed = wanted.min(limit.maximum.unwrap_or(u64::MAX));
    limit.current = Some(allowed);
    let reached = setrlimit(Resource::Nofile, limit).map_or(current, |()| allowed);
    if reached >= wanted {
        return connections_max;
    }
    let served = reached.saturating_sub(reserved).max(1);
    log::warn!(
        "--connections-max {connections_max} needs {wanted} file descriptors, the limit is \
         {reached} (ulimit -n): serving {served} connections at once"
    );
    usize::try_from(served).unwrap_or(connections_max)
}

// The log

/// What the data directory holds.
struct Opened {
    disk: Arc<dyn Disk>,
    writer: Writer,
    recovery: Recovery,
    /// The snapshots, newest first.
    snapshots: Vec<SnapshotInfo>,
    /// Bytes of the log.
    log_bytes: u64,
}

/// Reads the newest snapshot that is sound, and the log behind it.
fn open(config: &Config) -> Result<Opened, ServeError> {
    let disk = FileDisk::open(&config.data, DIRECT_IO).map_err(ServeError::Disk)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    // Nodes that boot with the same list are of one cluster; a lone one is its own. Whether a
    // directory that is in use belongs to the configured cluster, `members` judges.
    let members = config.members.as_ref().filter(|members| members.members().len() > 1);
    let cluster = members.map(MemberList::cluster_id);
    let wal_config = WalConfig {
        batch_bytes_max: BATCH_BYTES_SOFT + config.limits.request_bytes_max(),
        ..WalConfig::new(Identity::random(config.id, cluster))
    };
    snapshot::remove_strays(&*disk).map_err(ServeError::Snapshot)?;
    let (snapshots, loaded) = load_snapshot(&*disk)?;
    let snapshot_index = snapshots.first().map_or(LogIndex(0), |newest| newest.index);
    let wal_config = WalConfig { snapshot_index, ..wal_config };
    let mut replay = Replay::new(loaded.map(|(head, state)| Recovery::from_snapshot(head, state)));
    let (writer, recovered) =
        wal::open(Arc::clone(&disk), wal_config, &mut replay).map_err(ServeError::Log)?;
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
    let (recovery, log_bytes) = (replay.recovery, recovered.bytes);
    Ok(Opened { disk, writer, recovery, snapshots, log_bytes })
}

/// The newest snapshot that is sound, and it and all older ones. A damaged one is passed over: the
/// log may reach back to the one before, or to the beginning, and says so if it does not.
fn load_snapshot(
    disk: &dyn Disk,
) -> Result<(Vec<SnapshotInfo>, Option<(SnapshotHead, State)>), ServeError> {
    let mut snapshots = snapshot::list(disk).map_err(ServeError::Snapshot)?;
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    while let Some(newest) = snapshots.first() {
        let start = Instant::now();
        match snapshot::load(disk, newest, None, threads, SessionBounds::default()) {
            Ok(loaded) => {
                if start.elapsed() >= PROGRESS_INTERVAL {
                    let (keys, index) = (loaded.0.keys, newest.index);
                    let seconds = start.elapsed().as_secs_f64();
                    log::info!(
                        "the snapshot is read: {keys} keys at index {index} in {seconds:.1} s"
                    );
                }
                return Ok((snapshots, Some(loaded)));
            }
            Err(error) => {
                log::error!("{error}; it is passed over");
                snapshots.remove(0);
            }
        }
    }
    Ok((snapshots, None))
}

/// Feeds the core with the log, and says how far it is when that takes long.
struct Replay {
    recovery: Recovery,
    start: Instant,
    told: Instant,
    was_told: bool,
}

impl Replay {
    fn new(snapshot: Option<Recovery>) -> Replay {
        let now = Instant::now();
        let recovery = snapshot.unwrap_or_else(|| Recovery::new(rand::random()));
        Replay { recovery, start: now, told: now, was_told: false }
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
