//! One node: Raft, the end of the log, the state and the requests that wait for them.

use std::ops::ControlFlow;
use std::time::Duration;

use kvorum_protocol::limits::{BATCH_BYTES_SOFT, COMMAND_BYTES_MAX};
use kvorum_protocol::peer::Message;
use kvorum_protocol::{
    Batch, Command, Copies, LogIndex, Lsn, MemberList, NodeId, Op, Quorum, Read, Response, Term,
    ValueList, ValueListBuilder,
};

use super::apply::{Applied, apply, for_each_entry};
use super::log::Log;
use super::output::{Answer, Output, Record, Refusal, Reply, ReplyTo};
use super::pending::Pending;
use super::raft::{Raft, Role};
use super::recovery::Recovery;
use super::store::{KeyHash, Store};
use super::time::{Instant, Now};
use super::waits::{Wait, Waits};

/// How many keys of a GET_MANY are brought near before the first is looked up.
const GET_MANY_AHEAD: usize = 64;

/// Bytes of writes that may be open or on their way to the disk. Beyond it further writes wait at
/// their connections, and reads go on.
const LOG_BACKLOG_BYTES_MAX: usize = 64 << 20;

/// Reads that may wait for an index, of all connections together.
const PENDING_READS_MAX: usize = 1 << 18;

/// Requests that may wait for copies, of all connections together.
const PENDING_WAITS_MAX: usize = 1 << 16;

/// Bytes of keys that they may ask for, beyond which no further one may begin to wait.
const PENDING_READS_BYTES_SOFT: usize = 32 << 20;

/// Room that a record takes in the log beyond its body: its header, and the rest of a disk block.
const RECORD_OVERHEAD_BYTES: u64 = 2 * 4096;

/// One `poll` stops when its answers hold this many bytes of values; the shell polls again.
const POLL_VALUES_BYTES_SOFT: usize = 4 << 20;

const _: () = assert!(COMMAND_BYTES_MAX < u32::MAX as usize);

/// What a node is told once.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node.
    pub id: NodeId,
    /// All members, this node among the voters; written as the first entry of an empty log.
    pub members: MemberList,
    /// W of a write that does not say its own.
    pub write_quorum: Quorum,
    /// R of a read that does not say its own.
    pub read_quorum: Quorum,
    /// How long a request may wait for W or R unless it says its own.
    pub quorum_timeout: Duration,
    /// Bytes of keys, values and table beyond which writes are refused.
    pub memory_max: Option<u64>,
    /// How often a leader shows that it is alive.
    pub heartbeat: Duration,
    /// A follower that hears nothing stands for election after a random time of one to two of
    /// these.
    pub election_timeout: Duration,
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
            write_quorum: Quorum::Majority,
            read_quorum: Quorum::Majority,
            quorum_timeout: Duration::from_secs(5),
            memory_max: None,
            heartbeat: Duration::from_millis(50),
            election_timeout: Duration::from_millis(300),
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
    /// comes through [`Output::replies`] when W voters hold it durably.
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
    /// The answer comes through [`Output::replies`].
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
    /// Bytes of keys, values and table.
    pub memory_bytes: usize,
    /// GETs that found their key, and that did not.
    pub reads_found: u64,
    /// See `reads_found`.
    pub reads_missed: u64,
}

/// The pure core of one node.
///
/// No I/O, no clock, no thread, no randomness: time is an argument. Methods fall in four families:
///
/// - **requests**: [`write`](Node::write) and [`read`](Node::read) admit or answer;
/// - **events**: [`durable`](Node::durable), [`set_log_room`](Node::set_log_room) and
///   [`tick`](Node::tick) only change state;
/// - **speech**: [`poll`](Node::poll) decides, applies and answers, [`seal`](Node::seal) hands out
///   the records of the turn, once a turn each;
/// - **getters**.
///
/// Calling an event, speech or a getter too often is harmless.
pub struct Node {
    config: NodeConfig,
    raft: Raft,
    log: Log,
    store: Store,
    pending: Pending,
    waits: Waits,
    /// Records made since the last `seal`.
    records: Vec<(Lsn, Record)>,
    /// Answers made outside `poll`.
    replies: Vec<Reply>,
    /// When to stand for election; `NEVER` in office.
    election_deadline: Instant,
    /// Bytes that the log is certain to take, of what is not sealed yet.
    log_room_bytes: u64,
    /// Whether more room may not come: then writes are refused instead of waiting for it.
    log_is_short_of_space: bool,
    reads_found: u64,
    reads_missed: u64,
}

impl Node {
    /// A node in the state that its log tells, a follower until its first [`tick`](Node::tick).
    #[must_use]
    pub fn new(config: NodeConfig, recovery: Recovery, log_room_bytes: u64) -> Node {
        let voters = config.members.voters().map(|member| member.id).collect();
        let raft = Raft::new(config.id, voters, recovery.term, recovery.voted_for);
        let mut node = Node {
            raft,
            log: Log::new(recovery.end, recovery.last_lsn),
            store: recovery.store,
            pending: Pending::default(),
            waits: Waits::default(),
            records: Vec::new(),
            replies: Vec::new(),
            election_deadline: Instant::default(),
            log_room_bytes,
            log_is_short_of_space: false,
            reads_found: 0,
            reads_missed: 0,
            config,
        };
        if node.log.end().index == LogIndex(0) {
            node.bootstrap();
        }
        node
    }

    /// The first entry of every log is the first member list, of term 0: the same bytes on every
    /// node, so that it counts as decided from the start.
    fn bootstrap(&mut self) {
        let mut members = Vec::new();
        self.config.members.encode(&mut members);
        self.log.push(&Command::new(Op::Membership(&members)));
        self.seal_open(Term(0), 0);
    }

    // Requests

    /// Admits a write into the log, or says why not.
    #[inline]
    pub fn write(
        &mut self,
        now: &Now,
        to: ReplyTo,
        command: &Command<'_>,
        options: &Options,
    ) -> WriteOutcome {
        if let Err(refusal) = self.admit(command, options) {
            return WriteOutcome::Refused(refusal);
        }
        // Before the room is looked at: each record needs its own header and padding.
        if self.log.open_bytes() >= BATCH_BYTES_SOFT {
            self.seal_open(self.raft.term(), now.wall_ms);
        }
        let log_bytes = self.log.open_bytes() as u64 + command.encoded_len() as u64;
        if log_bytes + RECORD_OVERHEAD_BYTES > self.log_room_bytes {
            return match self.log_is_short_of_space {
                true => WriteOutcome::Refused(Refusal::DiskFull),
                false => WriteOutcome::Later,
            };
        }
        if self.log.staged_bytes() + self.log.open_bytes() > LOG_BACKLOG_BYTES_MAX {
            return WriteOutcome::Later;
        }
        let index = self.log.push(command);
        let timeout = options.timeout.unwrap_or(self.config.quorum_timeout);
        self.pending.push_write(index, to, now.monotonic.after(timeout));
        WriteOutcome::Waiting(index)
    }

    #[inline]
    fn admit(&self, command: &Command<'_>, options: &Options) -> Result<(), Refusal> {
        if !matches!(self.raft.role(), Role::Leader { .. }) {
            return Err(Refusal::NoLeader);
        }
        self.check_quorum(options.quorum)?;
        let bytes = command.encoded_len();
        if bytes > COMMAND_BYTES_MAX {
            return Err(Refusal::RequestTooLarge);
        }
        if command.session.is_some() {
            return Err(Refusal::NoSessions);
        }
        let grows = matches!(command.op, Op::Set { .. } | Op::SetMany(_));
        if grows && self.config.memory_max.is_some_and(|max| self.memory_with(bytes) > max) {
            return Err(Refusal::MemoryLimit);
        }
        Ok(())
    }

    /// What the state would hold if all that is admitted, and `bytes` more, were new to it.
    fn memory_with(&self, bytes: usize) -> u64 {
        (self.store.bytes() + self.log.staged_bytes() + self.log.open_bytes() + bytes) as u64
    }

    /// Whether the cluster has as many voters as `quorum` asks for.
    ///
    /// # Errors
    /// [`Refusal::QuorumTooLarge`] when it has not.
    #[inline]
    pub fn check_quorum(&self, quorum: Option<Quorum>) -> Result<(), Refusal> {
        let Some(quorum) = quorum else { return Ok(()) };
        let voters = self.raft.voters().len();
        match quorum.size(voters) {
            Some(_) => Ok(()),
            None => Err(Refusal::QuorumTooLarge {
                voters: u8::try_from(voters).expect("bounded by VOTERS_MAX"),
            }),
        }
    }

    /// Answers a read, or lets it wait until [`Asker::after`] is applied, so that it sees that
    /// write and nothing behind it. `scratch` takes the bytes of answers that are put together.
    ///
    /// # Errors
    /// A refusal.
    #[inline]
    pub fn read<'a>(
        &'a mut self,
        now: &Now,
        asker: &Asker,
        read: &Read<'_>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<ReadOutcome<'a>, Refusal> {
        self.check_quorum(asker.options.quorum)?;
        self.check_readable(asker.options.quorum)?;
        if asker.after > self.log.applied() {
            if self.is_full_of_reads(asker.after) {
                return Ok(ReadOutcome::Later);
            }
            let timeout = asker.options.timeout.unwrap_or(self.config.quorum_timeout);
            let deadline = now.monotonic.after(timeout);
            self.pending.push_read(asker.after, asker.to, read, deadline);
            return Ok(ReadOutcome::Waiting { value_bytes: value_bytes(&self.store, read) });
        }
        if let Read::Get(key) = read {
            let hash = asker.hash.unwrap_or_else(|| self.store.hash(key));
            let found = self.store.get_hashed(hash, key);
            self.reads_found += u64::from(found.is_some());
            self.reads_missed += u64::from(found.is_none());
            return Ok(ReadOutcome::Ready(value_response(found)));
        }
        scratch.clear();
        look_up(&self.store, read, scratch).map(ReadOutcome::Ready)
    }

    /// Whether a read that waits for `after` is one too many, so that
    /// [`read`](Node::read) would say [`Later`](ReadOutcome::Later).
    #[inline]
    #[must_use]
    pub fn is_full_of_reads(&self, after: LogIndex) -> bool {
        after > self.log.applied()
            && (self.pending.reads_len() >= PENDING_READS_MAX
                || self.pending.reads_bytes() >= PENDING_READS_BYTES_SOFT)
    }

    /// Who holds an entry durably: at once if that is enough, otherwise (`None`) through
    /// [`Output::replies`] as soon as it is, or when the time is over. Only a leader knows.
    ///
    /// # Errors
    /// A refusal.
    pub fn wait(&mut self, now: &Now, to: ReplyTo, wait: Wait) -> Result<Option<Copies>, Refusal> {
        if !matches!(self.raft.role(), Role::Leader { .. }) {
            return Err(match self.raft.leader() {
                Some(leader) => Refusal::NotLeader { leader },
                None => Refusal::NoLeader,
            });
        }
        if self.waits.count() >= PENDING_WAITS_MAX {
            return Err(Refusal::Busy);
        }
        let others = wait.others.min(self.config.members.members().len() - 1);
        let (wait, own) = (Wait { others, ..wait }, self.log.durable().0);
        let others = self.durable_elsewhere();
        Ok(self.waits.admit(now.monotonic, to, wait, own, &others))
    }

    /// Answers those that wait for copies: also those that have waited long enough at `now`.
    fn answer_waits(&mut self, now: Option<Instant>) {
        if self.waits.count() == 0 {
            return;
        }
        if !matches!(self.raft.role(), Role::Leader { .. }) {
            let answer = Answer::Refused(Refusal::LeaderChanged);
            self.replies.extend(self.waits.take_all().map(|to| Reply { to, answer }));
            return;
        }
        let own = self.log.durable().0;
        let others = self.durable_elsewhere();
        self.waits.answer(now, own, &others, |to, copies| {
            self.replies.push(Reply { to, answer: Answer::Copies(copies) });
        });
    }

    fn durable_elsewhere(&self) -> Vec<LogIndex> {
        self.progress().map(|member| member.durable).collect()
    }

    /// A leader answers for the cluster once an entry of its own term is applied; R = 1 is
    /// answered by anyone.
    #[inline]
    fn check_readable(&self, quorum: Option<Quorum>) -> Result<(), Refusal> {
        if quorum.unwrap_or(self.config.read_quorum) == Quorum::Count(1) {
            return Ok(());
        }
        if self.is_ready() { Ok(()) } else { Err(Refusal::NoLeader) }
    }

    // Events

    /// Every record up to `upto` survives a power cut.
    pub fn durable(&mut self, upto: Lsn) {
        self.log.mark_durable(upto);
    }

    /// Behind the record at `written`, the log takes this many bytes with certainty. When it is
    /// short of space it may not get more.
    pub fn set_log_room(&mut self, written: Lsn, bytes: u64, is_short_of_space: bool) {
        let behind = self.log.staged_bytes_behind(written, RECORD_OVERHEAD_BYTES);
        self.log_room_bytes = bytes.saturating_sub(behind);
        self.log_is_short_of_space = is_short_of_space;
    }

    /// A message came from another member. The shell has checked that it is who it says.
    pub fn receive(&mut self, _now: &Now, _from: NodeId, _message: Message) {}

    /// A connection to `member` stands, for the first time or again: what was on its way before
    /// may be lost.
    pub fn member_joined(&mut self, _now: &Now, _member: NodeId) {}

    /// The connection to `member` broke, and its process is not there to take another: connecting
    /// was refused. Not to be called for what may be the network.
    pub fn member_lost(&mut self, _now: &Now, _member: NodeId) {}

    /// What a [`Fetch`](super::Fetch) has brought: consecutive batches from the one that holds
    /// `from` on, or none when they could not be read.
    pub fn fetched(&mut self, _now: &Now, _member: NodeId, _from: LogIndex, _batches: Vec<Batch>) {}

    /// Hands leadership to `to`, or to the voter that is furthest. Whether it has gone there shows
    /// in the [`status`](Node::status); writes wait meanwhile. After an election timeout the node
    /// gives up and goes on.
    ///
    /// # Errors
    /// Why it can not.
    pub fn transfer(&mut self, _now: &Now, _to: Option<NodeId>) -> Result<(), TransferError> {
        Err(TransferError::Alone)
    }

    /// Timers: stands for election, gives up what waited too long. A no-op before
    /// [`deadline`](Node::deadline).
    pub fn tick(&mut self, now: &Now) {
        if matches!(self.raft.role(), Role::Follower) && now.monotonic >= self.election_deadline {
            let vote_lsn = self.log.take_lsn();
            self.raft.stand_for_election(vote_lsn);
            let (term, voted_for) = (self.raft.term(), self.raft.voted_for());
            self.records.push((vote_lsn, Record::TermVote { term, voted_for }));
            self.election_deadline = Instant::NEVER;
        }
        let replies = std::cell::RefCell::new(&mut self.replies);
        let refuse = |to, refusal| {
            replies.borrow_mut().push(Reply { to, answer: Answer::Refused(refusal) });
        };
        self.pending.expire(
            now.monotonic,
            |to| refuse(to, Refusal::QuorumTimeout),
            |to| refuse(to, Refusal::ReadTimeout),
        );
        if self.waits.deadline() <= now.monotonic {
            self.answer_waits(Some(now.monotonic));
        }
    }

    // Speech

    /// Decides, applies and answers. True when there is more to say than one output should hold:
    /// deliver this one and poll again.
    pub fn poll(&mut self, out: &mut Output) -> bool {
        self.answer_waits(None);
        out.replies.append(&mut self.replies);
        if self.raft.is_elected(self.log.durable_lsn()) {
            let first_index = self.log.push(&Command::new(Op::Noop));
            self.raft.become_leader(first_index);
        }
        self.advance_commit();
        self.apply_committed(out)
    }

    /// Hands out the records of the turn, the open batch sealed.
    pub fn seal(&mut self, now: &Now, out: &mut Output) {
        self.seal_open(self.raft.term(), now.wall_ms);
        out.records.append(&mut self.records);
    }

    fn seal_open(&mut self, term: Term, wall_ms: u64) {
        let Some((lsn, record)) = self.log.seal(term, wall_ms) else { return };
        if let Record::Batch(batch) = &record {
            let bytes = batch.bytes().len() as u64 + RECORD_OVERHEAD_BYTES;
            self.log_room_bytes = self.log_room_bytes.saturating_sub(bytes);
        }
        self.records.push((lsn, record));
    }

    /// A leader commits what a majority holds durably, by counting only in its own term (Raft
    /// paper, section 5.4.2). Its own durable mark is all that there is to count so far.
    fn advance_commit(&mut self) {
        let Role::Leader { .. } = self.raft.role() else { return };
        let (durable, term) = self.log.durable();
        let holders = 1;
        let majority = self.raft.voters().len() / 2 + 1;
        if holders >= majority && term == self.raft.term() && durable > self.log.committed() {
            self.log.commit(durable);
        }
    }

    fn apply_committed(&mut self, out: &mut Output) -> bool {
        loop {
            if self.answer_reads(out) {
                return true;
            }
            let Some((batch, offset)) = self.log.next_to_apply() else { return false };
            let index = self.log.applied().next();
            let flow = for_each_entry(
                batch.bytes(),
                offset,
                index,
                self,
                |this| &this.store,
                |this, entry| {
                    let applied = apply(&mut this.store, entry);
                    this.log.mark_applied(entry.index, entry.end);
                    this.answer_write(entry.index, applied, out);
                    let read_waits = this.pending.first_read_index() == Some(entry.index);
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
    fn answer_write(&mut self, version: LogIndex, applied: Applied, out: &mut Output) {
        let Some(to) = self.pending.take_write(version) else { return };
        let answer = match applied {
            Applied::Written => Answer::Written { version },
            Applied::Deleted(count) => Answer::Deleted { version, count },
            Applied::Nothing => unreachable!("nobody waits for a no-op or a member list"),
        };
        out.replies.push(Reply { to, answer });
    }

    /// Answers the reads that have waited for the applied index; true when `out` is full first.
    fn answer_reads(&mut self, out: &mut Output) -> bool {
        while let Some(waiting) = self.pending.take_read(self.log.applied()) {
            let answer = look_up_into(&self.store, &waiting.read.borrow(), &mut out.values);
            out.replies.push(Reply { to: waiting.to, answer });
            if out.values.len() >= POLL_VALUES_BYTES_SOFT {
                return true;
            }
        }
        false
    }

    // Getters

    /// When the shell should call [`tick`](Node::tick) next, if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.election_deadline.min(self.pending.deadline()).min(self.waits.deadline())
    }

    /// Whether [`seal`](Node::seal) would hand out anything.
    #[must_use]
    pub fn has_records(&self) -> bool {
        !self.records.is_empty() || self.log.open_bytes() > 0
    }

    /// The state, for prefetching and for counting its keys.
    #[inline]
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether the node leads, and its state is that of the log it found.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self.raft.role(), Role::Leader { first_index } if first_index <= self.applied())
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

    /// All members.
    #[must_use]
    pub fn members(&self) -> &MemberList {
        &self.config.members
    }

    /// How far the others are; nobody unless this node leads.
    pub fn progress(&self) -> impl Iterator<Item = MemberProgress> {
        std::iter::empty()
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
            durable: self.log.durable().0,
            keys: self.store.len(),
            memory_bytes: self.store.bytes(),
            reads_found: self.reads_found,
            reads_missed: self.reads_missed,
        }
    }
}

#[inline]
fn value_response(found: Option<(LogIndex, &[u8])>) -> Response<'_> {
    match found {
        Some((version, value)) => Response::Value { version, value },
        None => Response::NotFound,
    }
}

fn value_bytes(store: &Store, read: &Read<'_>) -> usize {
    let bytes_of = |key| store.get(key).map_or(0, |(_, value)| value.len());
    match read {
        Read::Get(key) => bytes_of(key),
        Read::GetMany(keys) => keys.iter().map(bytes_of).sum(),
        Read::Exists(_) | Read::Length(_) => 0,
    }
}

/// Answers a read from the state; lists are put together in `scratch`, which is empty before.
fn look_up<'a>(
    store: &'a Store,
    read: &Read<'_>,
    scratch: &'a mut Vec<u8>,
) -> Result<Response<'a>, Refusal> {
    match read {
        Read::Get(key) => Ok(value_response(store.get(key))),
        Read::GetMany(keys) => {
            let count = u32::try_from(keys.len()).expect("bounded by KEYS_PER_REQUEST_MAX");
            let mut list = ValueListBuilder::new(count, scratch);
            keys.iter().take(GET_MANY_AHEAD).for_each(|key| store.prefetch(store.hash(key)));
            let built = keys.iter().try_for_each(|key| list.push(store.get(key)));
            built.map_err(|_| Refusal::ReplyTooLarge)?;
            Ok(Response::Values(ValueList::decode(scratch).expect("just written")))
        }
        Read::Exists(keys) => {
            let count = keys.iter().filter(|key| store.get(key).is_some()).count();
            Ok(Response::Number(count as u64))
        }
        Read::Length(key) => {
            let length = store.get(key).map_or(0, |(_, value)| value.len());
            Ok(Response::Number(length as u64))
        }
    }
}

/// The same, with every byte copied to the end of `values`.
fn look_up_into(store: &Store, read: &Read<'_>, values: &mut Vec<u8>) -> Answer {
    let start = values.len();
    if let Read::GetMany(keys) = read {
        let count = u32::try_from(keys.len()).expect("bounded by KEYS_PER_REQUEST_MAX");
        let mut list = ValueListBuilder::new(count, values);
        let built = keys.iter().try_for_each(|key| list.push(store.get(key)));
        if built.is_err() {
            values.truncate(start);
            return Answer::Refused(Refusal::ReplyTooLarge);
        }
        return Answer::Values { start, end: values.len() };
    }
    match look_up(store, read, &mut Vec::new()) {
        Ok(Response::Value { version, value }) => {
            values.extend_from_slice(value);
            Answer::Value { version, start, end: values.len() }
        }
        Ok(Response::Number(number)) => Answer::Number(number),
        _ => Answer::NotFound,
    }
}
