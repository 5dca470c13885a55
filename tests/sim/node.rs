//! A simulated machine: a clock, a disk, and most of the time a process.

use std::collections::{BTreeMap, VecDeque};

use kvorum::core::snapshot::SnapshotHead;
use kvorum::core::state::State;
use kvorum::core::{Node, Output, SnapshotPart};
use kvorum::wal::Fetcher;
use kvorum_protocol::peer::Message;
use kvorum_protocol::{Batch, Change, LogIndex, NodeId};

use crate::clients::OpNumber;
use crate::clock::Clock;
use crate::log::{Log, Standing};
use crate::memory_disk::MemoryDisk;
use crate::network::Place;
use crate::queue::Time;
use crate::snapshots::Snapshots;

pub struct Machine {
    pub id: NodeId,
    pub clock: Clock,
    pub disk: MemoryDisk,
    /// `None` while the node is down.
    pub process: Option<Box<Process>>,
    /// Counts the processes: what was meant for one never reaches the next.
    pub life: u32,
    /// The process gets nothing to do before this.
    pub paused_until: Time,
    /// When the process has its next turn. Other turns in the queue are void.
    pub turn_at: Time,
    /// The disk has no space for more.
    pub is_full: bool,
    /// It is going to be full when the log begins its next segment.
    pub fills_at_roll: bool,
    /// A sector was damaged: the log may refuse to open.
    pub is_damaged: bool,
    /// The log has refused, for good; or it is no member, not yet or not any more.
    pub is_out: bool,
    /// An operation of the disk is going to fail.
    pub is_doomed: bool,
}

/// What a crash forgets.
pub struct Process {
    pub core: Node,
    pub log: Log,
    /// Reads the log back.
    pub fetcher: Fetcher,
    pub snapshots: Snapshots,
    pub out: Output,
    /// What the log said last.
    pub told: Option<Standing>,
    /// What came since the last turn.
    pub inbox: Vec<Input>,
    pub requests: VecDeque<OpNumber>,
    /// Requests that the core could not take, with the time when the node gives them up.
    pub backlog: VecDeque<(OpNumber, Time)>,
    /// Requests whose answer is due, and the latest time for it.
    pub waiting: BTreeMap<OpNumber, Time>,
    /// The last write of each connection.
    pub last_writes: BTreeMap<u64, LogIndex>,
    /// When the log wants to be tended.
    pub tend_at: Option<Time>,
    /// Which members its connections are with: [`Node::members_version`].
    pub members_version: u64,
    /// How many turns in a row have wanted the next one at once.
    pub hurries: u32,
    pub scratch: Vec<u8>,
}

/// What the other members cause.
pub enum Input {
    Message(NodeId, Message),
    Joined(NodeId),
    Lost(NodeId),
    Fetched(NodeId, LogIndex, Vec<Batch>),
    SnapshotFetched(NodeId, Option<SnapshotPart>),
    /// Index and file of a leader's snapshot, and how much of it is here.
    SnapshotKept(LogIndex, u64, u64),
    /// A leader's snapshot is here as a whole.
    Loaded(Box<(SnapshotHead, State)>),
    /// An operator asks for it.
    Transfer(Option<NodeId>),
    /// The same.
    Change(Change),
}

impl Machine {
    pub fn new(place: Place, clock: Clock) -> Machine {
        Machine {
            id: id_of(place),
            clock,
            disk: MemoryDisk::new(),
            process: None,
            life: 0,
            paused_until: 0,
            turn_at: Time::MAX,
            is_full: false,
            fills_at_roll: false,
            is_damaged: false,
            is_out: false,
            is_doomed: false,
        }
    }

    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }
}

impl Process {
    pub fn new(core: Node, log: Log, fetcher: Fetcher, snapshots: Snapshots) -> Process {
        Process {
            core,
            log,
            fetcher,
            snapshots,
            out: Output::default(),
            told: None,
            inbox: Vec::new(),
            requests: VecDeque::new(),
            backlog: VecDeque::new(),
            waiting: BTreeMap::new(),
            last_writes: BTreeMap::new(),
            tend_at: None,
            members_version: 0,
            hurries: 0,
            scratch: Vec::new(),
        }
    }
}

/// The name of the node at a place.
pub fn id_of(place: Place) -> NodeId {
    NodeId(u16::try_from(place + 1).expect("clusters are small"))
}

/// The place of the node with a name.
pub fn place_of(id: NodeId) -> Place {
    usize::from(id.0) - 1
}
