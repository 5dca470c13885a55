//! From a configuration to a running server, and every way in which that can fail.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::peer::Refusal;
use kvorum_protocol::{Member, MemberList, NodeId};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::data::{self, Data};
use super::join::{self, AskMembers};
use super::listener::Listener;
use super::log_queue::LogState;
use super::members::{self, Start, list};
use super::outvoted;
use super::peer::{self, KnownError, PeersConfig, SecretError, load_known, read_secret};
use super::reactor::{Fatal, Parts, Reactor, SURPLUS_MAX};
use super::server::Server;
use super::signals::Signals;
use super::snapshots::{SnapshotsConfig, Trigger};
use crate::config::{Config, ConfigError};
use crate::core::{Node, NodeConfig, Recovery};
use crate::disk::{Disk, DiskError, FileDisk, advice};
use crate::snapshot::SnapshotError;
use crate::wal::{self, WalError};

/// Descriptors beside those of client connections: log, listener, poll, spare.
const DESCRIPTORS_RESERVED: u64 = 64;

/// A cluster may grow while it runs: at least so many other members find descriptors.
const OTHERS_EXPECTED: usize = 8;

// Connections that are being refused must leave enough for the log to open its next segment.
const _: () = assert!(SURPLUS_MAX as u64 + 32 <= DESCRIPTORS_RESERVED);

/// Whether log writes bypass the page cache. See `wal/FORMAT.md`.
const DIRECT_IO: bool = true;

/// Nothing is lost on a connection that stands, so there is no hurry.
const RESEND_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the server could not start, or had to stop.
#[derive(Debug)]
pub enum ServeError {
    /// The data directory can not be used.
    Disk(DiskError),
    /// The log can not be used.
    Log(WalError),
    /// The snapshots can not be read.
    Snapshot(SnapshotError),
    /// A snapshot without the log that belongs to it.
    NoLog {
        /// The snapshot.
        snapshot: PathBuf,
    },
    /// No node has ever used the directory.
    NoData {
        /// The directory.
        directory: PathBuf,
    },
    /// The log is damaged, and nobody else has what is lost.
    NobodyElse {
        /// The data directory.
        directory: PathBuf,
    },
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
        /// This node.
        id: NodeId,
        /// What another member says.
        refusal: Refusal,
    },
    /// Equal entries have made another state here than on most voters.
    Outvoted {
        /// The data directory.
        directory: PathBuf,
        /// This node.
        id: NodeId,
        /// Where, and both hashes.
        words: String,
    },
    /// This node was removed from its cluster.
    Removed {
        /// The data directory.
        directory: PathBuf,
        /// This node.
        id: NodeId,
    },
    /// The cluster secret can not be used.
    Secret(SecretError),
    /// Whoever reaches the peer port could take the cluster over.
    OpenPeerPort {
        /// The address.
        address: String,
    },
    /// The note of whom to join can not be read or written.
    Note {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
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
            ServeError::NoLog { snapshot } => write!(
                f,
                "{}: there is no log with this snapshot, as when a restore was interrupted: \
                 empty the directory and run kvorum restore again",
                snapshot.display()
            ),
            ServeError::NoData { directory } => write!(
                f,
                "{}: it is not the data directory of a node: name that with --data",
                directory.display()
            ),
            ServeError::NobodyElse { directory } => write!(
                f,
                "{}: the log has lost entries, and what is left of it names no other voter that \
                 could have them: give the --member list of the first boot (kvorum serve \
                 --repair-from-peers --member ...), replace the node (kvorum member remove, then \
                 kvorum member add), or, if it was alone, restore a backup (kvorum restore)",
                directory.display()
            ),
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
            ServeError::Removed { directory, id } => write!(
                f,
                "{}: node {id} was removed from its cluster: it has nothing to serve any more; to \
                 come back it needs an empty --data and a new --id (kvorum member add)",
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
            ServeError::Forgot { directory, id, refusal } => write!(
                f,
                "{}: {refusal}: bring back the newest directory that this node had, or replace \
                 the node by one with a new id (kvorum member remove {id}, then kvorum member add)",
                directory.display()
            ),
            ServeError::Outvoted { directory, id, words } => write!(
                f,
                "{}: {words}; do not serve from it again: replace the node by one with a \
                 new id and an empty --data, which the cluster fills (kvorum member remove {id}, \
                 then kvorum member add)",
                directory.display()
            ),
            ServeError::Secret(error) => error.fmt(f),
            ServeError::OpenPeerPort { address } => write!(
                f,
                "peers are not served on {address}, where other machines can reach them, without \
                 a secret: give all nodes the same --cluster-secret-file"
            ),
            ServeError::Note { path, source } => {
                write!(f, "{}: can not use it: {source}: {}", path.display(), advice(source))
            }
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
    /// The note of whom to join.
    fn note(disk: &dyn Disk, source: io::Error) -> ServeError {
        ServeError::Note { path: disk.path(join::NAME), source }
    }

    fn new(fatal: Fatal, id: NodeId, directory: &Path) -> ServeError {
        let directory = directory.to_owned();
        match fatal {
            Fatal::Log(error) => ServeError::Log(error),
            Fatal::LogStuck(patience) => ServeError::LogStuck { patience },
            Fatal::Forgot(refusal) => ServeError::Forgot { directory, id, refusal },
            Fatal::Outvoted(disagreement) => {
                ServeError::Outvoted { directory, id, words: disagreement.to_string() }
            }
            Fatal::Removed => ServeError::Removed { directory, id },
            Fatal::Poll(source) => ServeError::System { action: "wait for events", source },
        }
    }
}

/// Runs a node until a signal stops it.
///
/// # Errors
/// One line for a person: what could not be done, where, and what to do.
pub fn serve(config: Config, ask: AskMembers<'_>) -> Result<(), ServeError> {
    let signals = Signals::register();
    let mut signals =
        signals.map_err(|source| ServeError::System { action: "await signals", source })?;
    let secret = config.cluster_secret_file.as_deref().map(read_secret).transpose();
    let secret = secret.map_err(ServeError::Secret)?;
    // An address that is taken should be known before the log is read.
    let early = config.listen.as_deref().map(bind).transpose()?;
    let disk = FileDisk::open(&config.data, DIRECT_IO).map_err(ServeError::Disk)?;
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let noted = outvoted::noted(&*disk);
    let noted =
        noted.map_err(|source| ServeError::System { action: "look at the notes", source })?;
    if let Some(words) = noted {
        return Err(ServeError::Outvoted { directory: config.data, id: config.id, words });
    }
    let mut invitation = None;
    let servers = whom_to_join(&config, &*disk)?;
    if let Some(servers) = &servers {
        // The directory gets the name of its cluster when it is first used.
        if wal::read_identity(&*disk).map_err(ServeError::Log)?.is_none() {
            join::note(&*disk, servers).map_err(|source| ServeError::note(&*disk, source))?;
            invitation = join::wait_for_invitation(config.id, servers, ask, &mut signals);
            if invitation.is_none() {
                return Ok(());
            }
        }
    }
    // Nodes that boot with the same list are of one cluster; a lone one is its own. Whether a
    // directory that is in use belongs to the configured cluster, `members` judges.
    let configured = config.members.as_ref().filter(|members| members.members().len() > 1);
    let invited = invitation.as_ref().map(|invitation| invitation.cluster);
    let cluster = invited.or(configured.map(MemberList::cluster_id));
    let Data { writer, recovery, snapshots, log_bytes } = data::open(&config, &disk, cluster)?;
    if let Some(former) = recovery.former_end() {
        log::warn!(
            "the log was repaired: it ends with index {}, and once ended with {} of term {}; until \
             it is filled again this node does not lead, and votes only for who has that",
            recovery.last_index(),
            former.index,
            former.term
        );
    }
    if let (Some(servers), None, true) =
        (&servers, &invitation, members::may_be_joining(config.id, &recovery))
    {
        invitation = join::wait_for_invitation(config.id, servers, ask, &mut signals);
        if invitation.is_none() {
            return Ok(());
        }
    }
    let Start { members, told_index, joins } =
        members::at_start(&config, &recovery, writer.identity().cluster, invitation)?;
    let is_alone = members.voters().all(|voter| voter.id == config.id);
    if is_alone && recovery.former_end().is_some() {
        return Err(ServeError::NobodyElse { directory: config.data });
    }
    config.check_quorums(members.voters().count()).map_err(ServeError::Config)?;
    let own = own_entry(&config, &members, &recovery)?;
    let has_moved = members.get(config.id).is_some_and(|known| known.peer != own.peer);
    let has_moved = has_moved.then(|| own.clone());
    let others = match own.peer.is_empty() {
        true => 0,
        false => members.members().len().max(OTHERS_EXPECTED),
    };
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
    let peers = match own.peer.is_empty() {
        true => None,
        false => Some(PeersConfig {
            id: config.id,
            members: members.clone(),
            told_index,
            address: own.peer.clone(),
            cluster: identity.cluster,
            incarnation: identity.incarnation,
            durable: LogState { term: recovery.term(), last: recovery.claimed_index() },
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
    let (id, fsync) = (config.id, config.fsync);
    let relaxed = config.relaxed(members.voters().count());
    let node_config = NodeConfig {
        joins,
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
        disk: Arc::clone(&disk),
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
    let parts = Parts { listener, node, writer, fsync, server, peers, snapshots, signals };
    let mut reactor = Reactor::new(parts)
        .map_err(|source| ServeError::System { action: "set up the loop", source })?;
    let served = reactor.run_until_ready().and_then(|is_ready| {
        for relaxed in relaxed {
            log::warn!("relaxed: {}", relaxed.words());
        }
        if is_ready {
            has_moved.iter().try_for_each(|own| reactor.move_lone(own))?;
            announce(id, &local.to_string());
        }
        reactor.run()
    });
    if let Err(Fatal::Outvoted(disagreement)) = &served
        && let Err(error) = outvoted::note(&*disk, &disagreement.to_string())
    {
        log::error!("{}: can not note it: {error}: do not start it again", directory.display());
    }
    served.map_err(|fatal| ServeError::new(fatal, id, &directory))
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

/// Servers of the cluster that this node joins, if it does: by the flag, or by what an earlier
/// start has noted.
fn whom_to_join(config: &Config, disk: &dyn Disk) -> Result<Option<Vec<String>>, ServeError> {
    if !config.join.is_empty() {
        return Ok(Some(config.join.clone()));
    }
    join::noted(disk).map_err(|source| ServeError::note(disk, source))
}

/// This node as a member. It may still be one when the last list in the log leaves it out: that may
/// be taken back, as long as it is not known to be committed.
fn own_entry(
    config: &Config,
    members: &MemberList,
    recovery: &Recovery,
) -> Result<Member, ServeError> {
    let id = config.id;
    let lone = members::lone(config);
    if let [only] = members.members()
        && only.id == id
        && only.peer.is_empty()
        && !lone.peer.is_empty()
    {
        return Ok(lone);
    }
    if let Some(own) = members.get(id).or_else(|| recovery.earlier_member(id)) {
        return Ok(own.clone());
    }
    let directory = config.data.clone();
    Err(match members.is_retired(id) {
        true => ServeError::Removed { directory, id },
        false => ServeError::NotMember { directory, id },
    })
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
