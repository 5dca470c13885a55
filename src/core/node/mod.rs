//! One node: Raft, the end of the log, the state and the requests that wait for them.

mod audit;
mod config;
mod election;
mod following;
mod leading;
mod membership;
mod reads;
mod receive;
mod snapshot;
mod transfer;
mod writes;

use std::collections::VecDeque;
use std::ops::ControlFlow;

use kvorum_protocol::peer::{Message, SnapshotChunk};
use kvorum_protocol::{Command, LogIndex, Lsn, NodeId, Op, Quorum, Term};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use self::leading::Leading;
use super::apply::{apply, for_each_entry};
use super::asks::Asks;
use super::audit::{Checkpoints, Disagreement};
use super::following::Following;
use super::log::Log;
use super::membership::Membership;
use super::outcome::Outcome;
use super::output::{Answer, Fetch, Output, Record, Refusal, Reply, ReplyTo, SnapshotFetch};
use super::pending::PendingReads;
use super::quorum::majority;
use super::raft::{Raft, Role};
use super::recovery::Recovery;
use super::room::{NextSegment, RECORD_OVERHEAD_BYTES, Room};
use super::sessions::Sessions;
use super::state::State;
use super::store::Store;
use super::time::{Instant, Now};
use super::waits::Waits;
use super::writes::PendingWrites;

pub use config::{
    Asker, MemberProgress, NodeConfig, NodeStatus, Options, ReadOutcome, TransferError, Violation,
    WriteOutcome,
};
pub use membership::ChangeRefusal;

/// One `poll` stops when its answers hold this many bytes of values; the shell polls again.
const POLL_VALUES_BYTES_SOFT: usize = 4 << 20;

/// Bytes of applied batches that stay in memory for members that are a little behind.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Messages that may wait for the record of a term, on a disk that takes long for it. Beyond it
/// the oldest are lost, as any message may be.
const GATED_MAX: usize = 1024;

/// The pure core of one node.
///
/// No I/O, no clock, no thread, no global randomness: time is an argument, chance a seed. Methods
/// fall in four families:
///
/// - **requests**: [`write`](Node::write) and [`read`](Node::read) admit or answer;
/// - **events**: [`durable`](Node::durable), [`set_log_room`](Node::set_log_room),
///   [`receive`](Node::receive), [`tick`](Node::tick) and their like only change state;
/// - **speech**: [`poll`](Node::poll) decides, applies, answers and sends, [`seal`](Node::seal)
///   makes a batch of the turn's writes;
/// - **getters**.
///
/// Calling an event, speech or a getter too often is harmless.
///
/// One rule covers all messages: none leaves before the record of the current term and vote is
/// durable here. What a message says of entries, it says of durable ones. So whatever this node
/// has ever said is still true after it has crashed.
pub struct Node {
    config: NodeConfig,
    membership: Membership,
    /// The time of the last event.
    now: Instant,
    rng: SmallRng,
    raft: Raft,
    log: Log,
    state: State,
    /// What a leader knows and nobody else; `Some` exactly in that role.
    leading: Option<Box<Leading>>,
    /// What everybody else knows of the leader.
    following: Following,
    writes: PendingWrites,
    reads: PendingReads,
    asks: Asks,
    waits: Waits,
    /// Records made since the last `seal`.
    records: Vec<(Lsn, Record)>,
    /// Messages that wait until the record at the position is durable, in order.
    gated: VecDeque<(Lsn, NodeId, Message)>,
    /// Messages and fetches made since the last `poll` or `seal`.
    messages: Vec<(NodeId, Message)>,
    fetches: Vec<Fetch>,
    snapshot_fetches: Vec<SnapshotFetch>,
    /// For whom the answer to a fetch is due, of the log or of a snapshot.
    fetching: Vec<NodeId>,
    fetching_snapshot: Vec<NodeId>,
    /// Parts of a leader's snapshot that have come since the last `poll`.
    snapshot_parts: Vec<(NodeId, SnapshotChunk)>,
    /// Answers made outside `poll`.
    replies: Vec<Reply>,
    /// Whom a node names as the leader that was removed and hears nothing any more.
    successor: Option<NodeId>,
    /// The cluster goes on without this node.
    is_retired: bool,
    /// When to stand for election; `None` before the first tick.
    election_deadline: Option<Instant>,
    /// The record of the current term and vote was on its way to the disk at the last tick.
    votes_soon: bool,
    /// What the log is certain to take.
    room: Room,
    checkpoints: Checkpoints,
    /// What the shell has not heard yet.
    disagreement: Option<Disagreement>,
    /// It was told that states differ and nobody knows who is right. Once is enough.
    split_told: bool,
    reads_found: u64,
    reads_missed: u64,
    #[cfg(feature = "seeded-bugs")]
    seeded_bug: Option<super::seeded::Bug>,
    /// Reads of a leadership that is over; only that bug keeps any.
    #[cfg(feature = "seeded-bugs")]
    kept_rounds: Option<super::rounds::Rounds>,
}

/// Whether a bug is switched on that the simulator must find. Never, unless for its tests.
macro_rules! has_bug {
    ($node:expr, $bug:ident) => {{
        #[cfg(feature = "seeded-bugs")]
        {
            $node.seeded_bug == Some($crate::core::seeded::Bug::$bug)
        }
        #[cfg(not(feature = "seeded-bugs"))]
        {
            let _ = || &$node;
            false
        }
    }};
}
use has_bug;

impl Node {
    /// A node in the state that its log tells, a follower until its first [`tick`](Node::tick).
    ///
    /// # Panics
    /// When it shall begin a log of a cluster that it is no member of.
    #[must_use]
    pub fn new(config: NodeConfig, mut recovery: Recovery, log_room_bytes: u64) -> Node {
        let snapshot = recovery.void_log();
        let applied = recovery.log.committed.index;
        let checkpoints = Checkpoints::new(config.checkpoint_entries, applied);
        let mut lists = recovery.lists;
        if lists.first().is_none_or(|(index, _)| *index > recovery.log.committed.index) {
            lists.insert(0, (LogIndex(0), config.members.clone()));
        }
        let membership = Membership::new(config.id, lists);
        let voters: Vec<NodeId> = membership.list().voters().map(|member| member.id).collect();
        let is_alone = membership.is_alone();
        let mut rng = SmallRng::seed_from_u64(config.seed);
        let kept_bytes_max = if is_alone { 0 } else { KEPT_BYTES_MAX };
        let mut node = Node {
            now: Instant::default(),
            writes: PendingWrites::new(majority(voters.len())),
            raft: Raft::new(config.id, voters, recovery.term, recovery.voted_for),
            log: Log::new(recovery.log, kept_bytes_max),
            state: recovery.state,
            leading: None,
            following: Following::default(),
            reads: PendingReads::default(),
            asks: Asks::new(rand::RngExt::random::<u64>(&mut rng) >> 1),
            waits: Waits::default(),
            records: Vec::new(),
            gated: VecDeque::new(),
            messages: Vec::new(),
            fetches: Vec::new(),
            snapshot_fetches: Vec::new(),
            fetching: Vec::new(),
            fetching_snapshot: Vec::new(),
            snapshot_parts: Vec::new(),
            replies: Vec::new(),
            successor: None,
            is_retired: false,
            election_deadline: None,
            votes_soon: false,
            room: Room::new(log_room_bytes),
            checkpoints,
            disagreement: None,
            split_told: false,
            reads_found: 0,
            reads_missed: 0,
            #[cfg(feature = "seeded-bugs")]
            seeded_bug: None,
            #[cfg(feature = "seeded-bugs")]
            kept_rounds: None,
            rng,
            membership,
            config,
        };
        if let Some(end) = snapshot {
            node.go_on_behind_snapshot(end);
        }
        // An empty log that was not always empty is filled by others.
        if node.log.claim().index == LogIndex(0) && !node.config.joins {
            node.bootstrap();
        }
        node.follow_members();
        node.following.matched = node.log.committed();
        node
    }

    /// The first entry of every log is the first member list, of term 0: the same bytes on every
    /// node.
    fn bootstrap(&mut self) {
        let (id, list) = (self.config.id, self.config.members.clone());
        assert!(list.get(id).is_some(), "node {id} is not a member");
        let mut members = Vec::new();
        list.encode(&mut members);
        assert_eq!(self.raft.term(), Term(0), "an empty log knows no term");
        self.append_members(0, &Command::new(Op::Membership(&members)), list);
    }

    /// Switches a bug on.
    #[cfg(feature = "seeded-bugs")]
    pub fn seed_bug(&mut self, bug: super::seeded::Bug) {
        self.seeded_bug = Some(bug);
        let has_it = !bug.is_of_one_node() || self.config.id == super::seeded::ODD_NODE;
        self.state.bug = has_it.then_some(bug);
        self.membership.bug = Some(bug);
        if has_bug!(self, SessionsLostAtRestart) {
            self.state.sessions.forget_all();
        }
    }

    /// Damages the state: a key is gone that no entry has deleted.
    #[cfg(feature = "seeded-bugs")]
    pub fn lose_key(&mut self, key: &[u8]) {
        self.state.store.delete(key);
    }

    /// Only for the bug of a table that others than the leader do not keep.
    #[cfg(feature = "seeded-bugs")]
    fn forget_outcome(&mut self, command: &Command<'_>) {
        if let Some(name) = command.session
            && has_bug!(self, SessionsOnlyAtLeader)
            && !self.raft.is_leader()
        {
            self.state.sessions.forget(name);
        }
    }

    // Events

    /// Every record up to `upto` survives a power cut.
    pub fn durable(&mut self, upto: Lsn) {
        self.log.mark_durable(upto);
    }

    /// Behind the record at `written`, the log takes this many bytes with certainty, the next
    /// segment included if that is ready.
    pub fn set_log_room(&mut self, written: Lsn, bytes: u64, next: NextSegment) {
        let unseen_bytes = self.log.staged_bytes_behind(written, RECORD_OVERHEAD_BYTES);
        self.room.set(bytes, unseen_bytes, next);
    }

    /// Timers. A no-op before [`deadline`](Node::deadline).
    pub fn tick(&mut self, now: &Now) {
        self.now = now.monotonic;
        if self.raft.is_leader() {
            self.tick_leader();
        } else {
            self.tick_election();
        }
        self.expire();
        if self.waits.deadline() <= self.now {
            self.answer_waits(Some(self.now));
        }
    }

    fn expire(&mut self) {
        let timeout = match has_bug!(self, TimeoutMeansRefused) {
            true => Refusal::Busy,
            false => Refusal::QuorumTimeout,
        };
        let (now, replies) = (self.now, &mut self.replies);
        self.writes.expire(now, |to| refuse(replies, to, timeout));
        self.reads.expire(now, |to| refuse(replies, to, Refusal::ReadTimeout));
        self.asks.expire(now, |to| refuse(replies, to, Refusal::ReadTimeout));
        if let Some(leading) = &mut self.leading {
            leading.rounds.expire(now, |to| refuse(replies, to, Refusal::ReadTimeout));
        }
    }

    // Speech

    /// Decides, applies, answers and sends. True when there is more to say than one output should
    /// hold: deliver this one and poll again.
    pub fn poll(&mut self, out: &mut Output) -> bool {
        self.answer_waits(None);
        out.replies.append(&mut self.replies);
        self.win_election();
        self.advance_commit();
        self.answer_other_writes(out);
        self.settle_asks();
        let mut more = self.apply_committed(out);
        self.answer_other_writes(out);
        self.leave_as_nonvoter();
        if self.raft.is_leader() {
            self.begin_round();
            more |= self.release_reads(out);
            self.go_on_transferring();
            self.replicate();
            self.ask_for_hashes();
        } else {
            self.ask();
            self.take_parked();
            self.acknowledge();
            self.tell_hash();
        }
        self.send_gated(out);
        more
    }

    /// Makes one batch of the writes admitted since the last call, sends it to the others, asks
    /// them what the reads of the turn need to know, and hands out the records for this node's own
    /// log.
    pub fn seal(&mut self, now: &Now, out: &mut Output) {
        self.seal_open(self.raft.term(), now.wall_ms);
        if self.raft.is_leader() {
            self.begin_round();
            self.replicate();
        } else {
            self.ask();
        }
        self.send_gated(out);
        out.records.append(&mut self.records);
    }

    fn seal_open(&mut self, term: Term, wall_ms: u64) {
        if let Some(staged) = self.log.seal(term, wall_ms) {
            self.keep_record(staged);
        }
    }

    fn keep_record(&mut self, (lsn, record): (Lsn, Record)) {
        if let Record::Batch(batch) = &record {
            self.room.use_up(batch.bytes().len());
        }
        self.records.push((lsn, record));
    }

    /// Sends a message as soon as the current term and vote are durable.
    fn send(&mut self, to: NodeId, message: Message) {
        let mut gate = self.raft.vote_lsn();
        if has_bug!(self, VoteBeforeDurable) && matches!(message, Message::VoteReply { .. }) {
            gate = Lsn(0);
        }
        if gate <= self.log.durable_lsn() {
            self.messages.push((to, message));
            return;
        }
        // The last acknowledgement says all that the ones before it say.
        if matches!(message, Message::Ack { .. }) {
            self.gated.retain(|(_, _, waits)| !matches!(waits, Message::Ack { .. }));
        }
        if self.gated.len() == GATED_MAX {
            self.gated.pop_front();
        }
        self.gated.push_back((gate, to, message));
    }

    fn send_gated(&mut self, out: &mut Output) {
        let durable = self.log.durable_lsn();
        out.messages.append(&mut self.messages);
        while let Some((_, to, message)) = self.gated.pop_front_if(|gated| gated.0 <= durable) {
            out.messages.push((to, message));
        }
        out.fetches.append(&mut self.fetches);
        out.snapshot_fetches.append(&mut self.snapshot_fetches);
        out.snapshot_parts.append(&mut self.snapshot_parts);
    }

    fn apply_committed(&mut self, out: &mut Output) -> bool {
        loop {
            if self.answer_reads(out) {
                return true;
            }
            let Some((batch, offset)) = self.log.next_to_apply() else { return false };
            let (index, time) = (self.log.applied().next(), batch.header().log_time);
            let flow = for_each_entry(
                batch.bytes(),
                offset,
                index,
                self,
                |this| &this.state.store,
                |this, entry| {
                    let outcome = apply(&mut this.state, time, entry);
                    #[cfg(feature = "seeded-bugs")]
                    this.forget_outcome(&entry.command);
                    this.log.mark_applied(entry.index, entry.end);
                    this.checkpoints.pass(entry.index, || this.state.hash());
                    this.answer_write(entry.index, outcome, out);
                    let read_waits = this.reads.first_index() == Some(entry.index);
                    if (read_waits && this.answer_reads(out)) || entry.index == this.log.committed()
                    {
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                },
            );
            if flow.is_break() && self.log.applied() < self.log.committed() {
                return true;
            }
        }
    }

    #[inline]
    fn answer_write(&mut self, index: LogIndex, outcome: Outcome, out: &mut Output) {
        if let Some((to, answer)) = self.writes.applied(index, || outcome.answer()) {
            out.replies.push(Reply { to, answer });
        }
    }

    // Getters

    /// When the shell should call [`tick`](Node::tick) next, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let waits = self.waits.deadline();
        let requests = self.writes.deadline().min(self.reads.deadline()).min(waits);
        match &self.leading {
            Some(leading) => requests.min(leading.deadline(self.is_alone())),
            None => {
                let asks = self.asks.deadline(self.ask_patience());
                let votes = self.raft.vote_lsn() > self.log.durable_lsn();
                let election = self.election_deadline.unwrap_or_default();
                let election = if votes { Instant::NEVER } else { election };
                requests.min(asks).min(election)
            }
        }
    }

    /// Whether [`seal`](Node::seal) would hand out any records.
    #[must_use]
    pub fn has_records(&self) -> bool {
        !self.records.is_empty() || self.log.open_bytes() > 0
    }

    /// The keys of the state, for prefetching and for counting them.
    #[inline]
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.state.store
    }

    /// The sessions of the state.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.state.sessions
    }

    /// What the applied entries have made.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether the node leads, and its state is that of the log it found.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.raft.role(), Role::Leader { first_index } if first_index <= self.applied())
    }

    /// The last entry that was here before a repair, as long as it is not durable here again; 0
    /// otherwise. Others may count on everything up to it.
    #[must_use]
    pub fn lost_until(&self) -> LogIndex {
        let claim = self.log.durable_claim();
        if claim.index == self.log.durable() { LogIndex(0) } else { claim.index }
    }

    /// Whether it leads, ready or not.
    #[inline]
    #[must_use]
    pub fn leads(&self) -> bool {
        self.raft.is_leader()
    }

    /// Index of the last entry in the state.
    #[inline]
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.log.applied()
    }

    /// How many GETs were answered at once.
    #[inline]
    #[must_use]
    pub fn reads_answered(&self) -> u64 {
        self.reads_found + self.reads_missed
    }

    /// How far the others are; nobody unless this node leads.
    pub fn progress(&self) -> impl Iterator<Item = MemberProgress> {
        self.leading.iter().flat_map(|leading| leading.members.iter()).map(|member| {
            MemberProgress {
                id: member.id,
                matched: member.matched,
                durable: member.durable,
                heard_at: member.heard_at,
            }
        })
    }

    /// The voters, in the order of their ids.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        self.raft.voters()
    }

    /// What the node was told.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// The figures that STATUS and INFO show.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            role: self.raft.role(),
            term: self.raft.term(),
            leader: self.raft.leader(),
            committed: self.log.committed(),
            applied: self.log.applied(),
            last: self.log.end().index,
            durable: self.log.durable(),
            keys: self.state.store.len(),
            sessions: self.state.sessions.len(),
            memory_bytes: self.state.bytes(),
            reads_found: self.reads_found,
            reads_missed: self.reads_missed,
        }
    }

    /// Whether the cluster has as many voters as `quorum` asks for.
    ///
    /// # Errors
    /// [`Refusal::QuorumTooLarge`] when it has not.
    #[inline]
    pub fn check_quorum(&self, quorum: Option<Quorum>) -> Result<(), Refusal> {
        quorum.map_or(Ok(()), |quorum| self.quorum_size(quorum).map(|_| ()))
    }

    #[inline]
    fn quorum_size(&self, quorum: Quorum) -> Result<usize, Refusal> {
        let voters = self.raft.voters().len();
        quorum.size(voters).ok_or_else(|| Refusal::QuorumTooLarge {
            voters: u8::try_from(voters).expect("bounded by VOTERS_MAX"),
        })
    }
}

fn refuse(replies: &mut Vec<Reply>, to: ReplyTo, refusal: Refusal) {
    replies.push(Reply { to, answer: Answer::Refused(refusal) });
}
