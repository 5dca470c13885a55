//! What goes into a node and what it tells of itself, beside messages and records.

use std::time::Duration;

use kvorum_protocol::{LogIndex, MemberList, NodeId, Quorum, Response, Term};

use crate::core::output::{Refusal, ReplyTo};
use crate::core::raft::Role;
use crate::core::store::KeyHash;
use crate::core::time::Instant;

/// See [`NodeConfig::promotion_lag_max`]. Under load a member that keeps up lacks some thousand at
/// any moment.
const PROMOTION_LAG_MAX: u64 = 16_384;

/// Often enough for a busy cluster to compare its states every second, and too rarely to be felt.
pub const CHECKPOINT_ENTRIES: u64 = 4096;

/// What a node is told once.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub id: NodeId,
    /// The members of the first boot, this node among them; written as the first entry of an empty
    /// log. Later the log says who is a member.
    pub members: MemberList,
    /// An empty log is left empty: its entries come from a cluster that has begun already.
    pub joins: bool,
    /// W of a write that does not say its own.
    pub write_quorum: Quorum,
    /// R of a read that does not say its own.
    pub read_quorum: Quorum,
    /// How long a request may wait for W or R unless it says its own.
    pub quorum_timeout: Duration,
    /// Bytes of keys, values, table and sessions beyond which writes are refused.
    pub memory_max: Option<u64>,
    /// How often a leader shows that it is alive.
    pub heartbeat: Duration,
    /// A follower that hears nothing stands for election after a random time of one to two of
    /// these.
    pub election_timeout: Duration,
    /// Entries that were sent and not acknowledged are sent again after this time, and after a
    /// longer one each time. A connection loses nothing unless it breaks, which is told at once:
    /// so this may be long, and has to be for slow links.
    pub resend_timeout: Duration,
    /// A learner that lacks more entries than these is not promoted: commits could have to wait for
    /// it.
    pub promotion_lag_max: u64,
    /// The hash of the state is noted at the indexes that are a multiple of this: the same on all
    /// nodes of a cluster, or they can not be compared.
    pub checkpoint_entries: u64,
    /// For everything that is left to chance.
    pub seed: u64,
}

impl NodeConfig {
    /// The defaults of the command line, for tests and benchmarks.
    #[must_use]
    pub fn new(id: NodeId, members: MemberList) -> NodeConfig {
        NodeConfig {
            id,
            members,
            joins: false,
            write_quorum: Quorum::Majority,
            read_quorum: Quorum::Majority,
            quorum_timeout: Duration::from_secs(5),
            memory_max: None,
            heartbeat: Duration::from_millis(50),
            election_timeout: Duration::from_millis(300),
            resend_timeout: Duration::from_secs(10),
            promotion_lag_max: PROMOTION_LAG_MAX,
            checkpoint_entries: CHECKPOINT_ENTRIES,
            seed: 1,
        }
    }
}

/// What a request may say of itself; `None` takes the node's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// W or R.
    pub quorum: Option<Quorum>,
    /// How long it may wait.
    pub timeout: Option<Duration>,
}

/// Who asks for a read, and on what terms.
#[derive(Clone, Copy, Debug)]
pub struct Asker {
    /// Where an answer that comes later goes.
    pub to: ReplyTo,
    /// The state must have applied this: the last write of the same connection.
    pub after: LogIndex,
    /// The hash of the key, if it was computed for the prefetch.
    pub hash: Option<KeyHash>,
    /// R, and how long it may wait.
    pub options: Options,
}

/// What becomes of a write at once.
#[derive(Clone, Copy, Debug)]
pub enum WriteOutcome {
    /// It is in the log at this index, which later reads of its connection wait for. The answer
    /// comes through [`Output::replies`](crate::core::Output::replies) when W voters hold it
    /// durably.
    Waiting(LogIndex),
    /// Too much is on its way to the disk: ask again when the log reports.
    Later,
    /// It is not in the log and never will be.
    Refused(Refusal),
}

/// What becomes of a read at once.
#[derive(Debug)]
pub enum ReadOutcome<'a> {
    /// This is the answer.
    Ready(Response<'a>),
    /// The answer comes through [`Output::replies`](crate::core::Output::replies).
    Waiting {
        /// How many bytes of values it would hold now; writes that are under way may change that.
        value_bytes: usize,
    },
    /// Too many reads wait: ask again when the log reports.
    Later,
}

/// Why leadership can not be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferError {
    /// This node does not lead; the leader, if it is known.
    NotLeader(Option<NodeId>),
    /// There is no other voter.
    Alone,
    /// This voter has not been heard for an election timeout.
    Silent(NodeId),
    /// No other voter has.
    AllSilent,
    /// Not a voter.
    NotVoter(NodeId),
}

/// How far a leader knows another member to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberProgress {
    /// Who.
    pub id: NodeId,
    /// Up to here its log is this node's.
    pub matched: LogIndex,
    /// Up to here that is durable.
    pub durable: LogIndex,
    /// When it was heard last.
    pub heard_at: Option<Instant>,
}

/// The figures that STATUS and INFO show.
#[derive(Clone, Copy, Debug)]
pub struct NodeStatus {
    /// Role in the current term.
    pub role: Role,
    /// Current term.
    pub term: Term,
    /// Leader, as far as known.
    pub leader: Option<NodeId>,
    /// Index of the last decided entry.
    pub committed: LogIndex,
    /// Index of the last entry in the state.
    pub applied: LogIndex,
    /// Index of the last entry in the log.
    pub last: LogIndex,
    /// Index of the last entry that survives a power cut here.
    pub durable: LogIndex,
    /// How many keys there are.
    pub keys: usize,
    /// How many sessions there are.
    pub sessions: usize,
    /// Bytes of keys, values, table and sessions.
    pub memory_bytes: usize,
    /// GETs that found their key, and that did not.
    pub reads_found: u64,
    /// See `reads_found`.
    pub reads_missed: u64,
}

/// A message that no correct node of this cluster sends; its connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation(pub &'static str);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Violation {}
