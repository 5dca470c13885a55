//! What a node tells about itself, for the commands that only it can answer.

use super::session::Session;
use crate::types::{ClusterId, LogIndex, NodeId, Quorum, Term};

/// The state of a node at the moment when a command is [executed](super::execute()).
///
/// `other_clients` has to leave out the connection that asks: its session is borrowed by
/// `execute`. A reactor takes that session out of its table for the call (`Session` has a cheap
/// default) and puts it back.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The connection that asks.
    pub client: ClientFacts<'a>,
    /// Calls its argument once for every other RESP connection, in any order.
    pub other_clients: ClientVisitor<'a>,
    /// The node's place in the cluster.
    pub cluster: ClusterFacts<'a>,
    /// The process: version, clocks, addresses, settings.
    pub server: ServerFacts<'a>,
    /// Counters and sizes.
    pub stats: StatsFacts,
}

/// Visits connections; see [`Facts::other_clients`].
pub type ClientVisitor<'a> = &'a dyn Fn(&mut dyn FnMut(ClientFacts<'_>, &Session));

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct ClientFacts<'a> {
    /// Its number, never used twice by one process.
    pub id: u64,
    /// The client's address.
    pub address: &'a str,
    /// The node's address that it is connected to.
    pub local_address: &'a str,
    /// Seconds since it was accepted.
    pub age_s: u64,
    /// Seconds since it last sent something.
    pub idle_s: u64,
}

/// What a node is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Leads its term.
    Leader,
    /// A voter that follows, or looks for, a leader.
    Follower,
    /// A voter that stands for election.
    Candidate,
    /// A replica without a vote.
    Learner,
}

impl Role {
    /// As the text protocol's STATUS prints it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Leader => "leader",
            Role::Follower => "follower",
            Role::Candidate => "candidate",
            Role::Learner => "learner",
        }
    }
}

/// The node's place in the cluster, and how far its log is.
#[derive(Clone, Copy, Debug)]
pub struct ClusterFacts<'a> {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// This node.
    pub node_id: NodeId,
    /// Its role.
    pub role: Role,
    /// The current term.
    pub term: Term,
    /// The leader of the term, when it is known; this node itself when it leads.
    pub leader: Option<LeaderFacts<'a>>,
    /// The commit index.
    pub commit: LogIndex,
    /// The last entry applied to the store.
    pub applied: LogIndex,
    /// The last entry of the log.
    pub last: LogIndex,
    /// The last entry that is durable here.
    pub durable: LogIndex,
    /// All voters, this node included.
    pub voters: &'a [NodeId],
    /// All learners.
    pub learners: &'a [NodeId],
    /// The nodes that copy from this one; empty when it does not lead.
    pub replicas: &'a [ReplicaFacts<'a>],
    /// W of connections that did not choose one.
    pub write_quorum: Quorum,
    /// R of connections that did not choose one.
    pub read_quorum: Quorum,
    /// The promises that the configuration gives up, a word each: `w`, `r`, `fsync`.
    pub relaxed: &'a [&'a str],
}

/// The leader, as another node sees it.
#[derive(Clone, Copy, Debug)]
pub struct LeaderFacts<'a> {
    /// Who.
    pub node_id: NodeId,
    /// Its client address, `host:port`.
    pub address: &'a str,
    /// Whether there is a connection to it.
    pub connected: bool,
    /// Seconds since it was last heard.
    pub silent_s: u64,
}

/// A node that copies from this leader.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaFacts<'a> {
    /// Its client address, `host:port`.
    pub address: &'a str,
    /// The last entry that it holds durably.
    pub durable: LogIndex,
    /// Whether there is a connection to it.
    pub connected: bool,
    /// Seconds since it last acknowledged anything.
    pub silent_s: u64,
}

/// The process.
#[derive(Clone, Copy, Debug)]
pub struct ServerFacts<'a> {
    /// The version of kvorum.
    pub version: &'a str,
    /// 40 hexadecimal digits, drawn when the process starts.
    pub run_id: &'a str,
    /// The process id.
    pub process_id: u32,
    /// The client port.
    pub tcp_port: u16,
    /// Microseconds since 1970, by the wall clock.
    pub unix_time_us: u64,
    /// Seconds since the process started.
    pub uptime_s: u64,
    /// When a write counts as durable.
    pub fsync: Fsync,
    /// Where the log is.
    pub data_dir: &'a str,
    /// `--connections-max`.
    pub connections_max: usize,
    /// `--memory-max`, in bytes.
    pub memory_max: Option<u64>,
    /// `--value-bytes-max`.
    pub value_bytes_max: usize,
    /// Whether the log is still being read; nothing but this is answered before it is.
    pub loading: bool,
}

/// When a write counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// After fdatasync.
    Always,
    /// fdatasync comes every so many milliseconds.
    EveryMs(u64),
    /// Left to the operating system.
    Never,
}

/// Counters since the process started, and sizes now.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatsFacts {
    /// Keys in the store.
    pub keys: u64,
    /// Sessions of clients in the state.
    pub sessions: u64,
    /// Bytes that the store and the buffers use.
    pub used_memory: u64,
    /// Bytes of the process in memory.
    pub resident_memory: u64,
    /// Connections open, of all client protocols.
    pub connected_clients: u64,
    /// Connections accepted.
    pub connections_total: u64,
    /// Connections refused over `--connections-max`.
    pub connections_rejected: u64,
    /// Requests carried out.
    pub commands_total: u64,
    /// Reads that found their key.
    pub hits: u64,
    /// Reads that did not.
    pub misses: u64,
    /// Of the node's own snapshots.
    pub snapshots: SnapshotFacts,
    /// CPU time in user mode, in microseconds.
    pub cpu_user_us: u64,
    /// CPU time in the kernel, in microseconds.
    pub cpu_system_us: u64,
}

/// The snapshots of a node.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotFacts {
    /// The last entry that the newest one on the disk covers; 0 without one.
    pub index: LogIndex,
    /// Whether one is being made, or is about to be.
    pub in_progress: bool,
    /// When the last one was finished, or the process began if none was since: in seconds since
    /// 1970, by the wall clock.
    pub saved_at_s: u64,
    /// Whether the last attempt came to nothing.
    pub has_failed: bool,
}
