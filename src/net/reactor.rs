//! The server in one loop. Everything that this process does for its clients happens in
//! [`Reactor::turn`], on one thread:
//!
//! 1. sleep until a socket, the log thread, a signal or a timer has something to say;
//! 2. take what the log has made durable, and what other members say; apply and answer it;
//! 3. read every ready connection once, and serve all the requests that are there;
//! 4. seal the writes of the turn into one batch, and hand it to the log thread and the members;
//! 5. if nobody reads, wait for the disk a little: most often that is quicker than another turn.
//!    A leader of others does not: it waits for them.
//!
//! Events are edge-triggered: what is not drained is remembered in `queue`, and the next turn
//! does not sleep.

mod clients;
mod finish;

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::limits::RETIREMENT;
use kvorum_protocol::peer::{Reason, Refusal};
use kvorum_protocol::{LogIndex, Member, Response};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::clock::Clock;
use super::listener::Listener;
use super::log_queue::{LogQueue, LogState};
use super::log_reader::{Fetched, LogReader};
use super::log_thread::{LogThread, News};
use super::outbox::OutboxPool;
use super::peer::{self, Peers, PeersConfig};
use super::server::Server;
use super::signals::Signals;
use super::snapshot_reads::{SnapshotReads, Wish};
use super::snapshots::{Snapshots, SnapshotsConfig};
use crate::config::Fsync;
use crate::core::{Disagreement, Instant, Node, Now, Output, ReplyTo};
use crate::wal::{WalError, Writer};

pub use clients::{Connections, SURPLUS_MAX};

use clients::{connection_mut, enqueue};

const LISTENER: Token = Token(usize::MAX);
const LOG: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);
const PEER_LISTENER: Token = Token(usize::MAX - 3);

/// What a turn reads of one connection. Also its share: the others come next.
const READ_BUFFER_BYTES: usize = 128 << 10;

/// How long a turn waits for the disk before it goes on without it. Most often the disk is quicker
/// than another turn, and the writers' next requests then come together: with 50 writers and
/// nobody else a fifth more throughput than without. Whoever reads would wait for nothing, so it is
/// only done while nobody does.
const DISK_WAIT: Duration = Duration::from_micros(200);

/// Without a read for so long, nobody reads.
const READS_PAUSE: Duration = Duration::from_millis(2);

/// How long the poll may sleep after the signal.
const FINISH_POLL: Duration = Duration::from_millis(10);

/// What makes the process stop.
#[derive(Debug)]
pub enum Fatal {
    /// The log can not be trusted any more.
    Log(WalError),
    /// Another member knows that this node's log has lost what it has promised to keep.
    Forgot(Refusal),
    /// The state of this node is not that of the majority.
    Outvoted(Disagreement),
    /// The cluster has removed this node.
    Removed,
    /// The poll itself failed.
    Poll(io::Error),
    /// The disk did not take the last writes in this time, and the process was asked to stop.
    LogStuck(Duration),
}

/// The one thread that owns everything.
pub struct Reactor {
    poll: Poll,
    clock: Clock,
    listener: Listener,
    /// When to accept again; `None` while nobody is known to wait.
    accept_at: Option<Instant>,
    signals: Signals,
    connections: Connections,
    /// Distinguishes the connections that a slot has held, so that neither a late event nor a late
    /// answer reaches a stranger.
    generation: u32,
    /// How many of the connections are there only to be refused.
    surplus: usize,
    /// Connections with something to do, each at most once.
    queue: VecDeque<u64>,
    /// Connections whose next request waits for the log or for the core, each at most once.
    await_backlog: Vec<u64>,
    /// When they try again without news. `Some` while there are any.
    backlog_at: Option<Instant>,
    /// Connections with fresh answers, each at most once.
    dirty: Vec<u64>,
    sweep_at: Option<Instant>,
    node: Node,
    out: Output,
    log: LogQueue,
    /// The other members, and who reads the log back for them; `None` for a lone node.
    peers: Option<Peers>,
    reader: Option<LogReader>,
    snapshots: Snapshots,
    /// What clients want of the snapshots, since the last turn, and who reads them.
    wishes: Vec<Wish>,
    snapshot_reads: SnapshotReads,
    server: Server,
    /// The read buffer of all connections.
    shared: Box<[u8]>,
    scratch: Vec<u8>,
    pool: OutboxPool,
    /// How many reads the core had answered at the last look, and when that had changed.
    reads_seen: u64,
    read_at: Option<Instant>,
    stopping: bool,
    /// See [`Node::members_version`], at the last look.
    members_version: u64,
    /// When this node found that the cluster has removed it.
    retired_at: Option<Instant>,
}

/// What the loop is put together from.
pub struct Parts {
    /// The client port.
    pub listener: Listener,
    /// The core.
    pub node: Node,
    /// Goes on with the log.
    pub writer: Writer,
    /// When its writes count as durable.
    pub fsync: Fsync,
    /// Settings and counters.
    pub server: Server,
    /// The other members; `None` where nobody can reach this node.
    pub peers: Option<PeersConfig>,
    /// What there is of snapshots.
    pub snapshots: SnapshotsConfig,
    /// The wish to stop.
    pub signals: Signals,
}

impl Reactor {
    /// Registers everything; nothing is served yet.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn new(parts: Parts) -> io::Result<Reactor> {
        let Parts { mut listener, node, writer, fsync, server, peers, snapshots, signals } = parts;
        let poll = Poll::new()?;
        poll.registry().register(listener.source(), LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), LOG)?);
        let mut source = SourceFd(&signals.descriptor());
        poll.registry().register(&mut source, SIGNALS, Interest::READABLE)?;
        let log = LogThread::start(writer, fsync, Arc::clone(&waker))?;
        let recovered = LogState { term: node.status().term, last: node.status().durable };
        let log = LogQueue::new(log, recovered);
        let snapshot_reads = SnapshotReads::new(Arc::clone(&snapshots.disk), Arc::clone(&waker));
        let (clock, cluster) = (Clock::start(), server.cluster_id);
        let snapshots = Snapshots::start(snapshots, cluster, &clock.now(), Arc::clone(&waker))?;
        let read =
            |peers: &PeersConfig| LogReader::start(Arc::clone(&peers.disk), Arc::clone(&waker));
        let reader = peers.as_ref().map(read).transpose()?;
        let start =
            |config| Peers::start(config, poll.registry().try_clone()?, PEER_LISTENER, waker);
        let peers = peers.map(start).transpose()?;
        Ok(Reactor {
            poll,
            clock,
            listener,
            accept_at: None,
            signals,
            connections: Slab::with_capacity(server.connections_max),
            generation: 0,
            surplus: 0,
            queue: VecDeque::new(),
            await_backlog: Vec::new(),
            backlog_at: None,
            dirty: Vec::new(),
            sweep_at: None,
            node,
            out: Output::default(),
            log,
            peers,
            reader,
            snapshots,
            wishes: Vec::new(),
            snapshot_reads,
            server,
            shared: vec![0; READ_BUFFER_BYTES].into(),
            scratch: Vec::new(),
            pool: OutboxPool::default(),
            reads_seen: 0,
            read_at: None,
            stopping: false,
            members_version: 0,
            retired_at: None,
        })
    }

    /// Runs until a lone node leads and has applied what its log holds. That of several has its
    /// member list in the log then: when it starts again it needs no other. False when a signal has
    /// said stop before.
    ///
    /// # Errors
    /// What makes the process stop.
    pub fn run_until_ready(&mut self) -> Result<bool, Fatal> {
        let mut events = Events::with_capacity(16);
        let has_members = |node: &Node| node.status().durable > LogIndex(0);
        while !(self.node.is_ready() || !self.node.is_alone() && has_members(&self.node)) {
            if self.stopping || self.is_retired() {
                return Ok(false);
            }
            self.turn(&mut events)?;
        }
        Ok(true)
    }

    /// A lone node says in the log where others find it, and waits until that is committed.
    ///
    /// # Errors
    /// What makes the process stop.
    pub fn move_lone(&mut self, own: &Member) -> Result<(), Fatal> {
        let now = self.clock.now();
        if !self.node.move_lone(&now, &own.client, &own.peer) {
            return Ok(());
        }
        let mut events = Events::with_capacity(16);
        while self.node.committed_members().0 < self.node.members_index() && !self.stopping {
            self.turn(&mut events)?;
        }
        log::info!("from now on others can join this node at {}", own.peer);
        Ok(())
    }

    /// Serves until a signal says stop; then everything admitted is durable and answered.
    ///
    /// # Errors
    /// What makes the process stop.
    pub fn run(&mut self) -> Result<(), Fatal> {
        let mut events = Events::with_capacity(1024);
        while !self.stopping && !self.is_retired() {
            self.turn(&mut events)?;
        }
        self.finish(&mut events)?;
        if self.retired_at.is_some() { Err(Fatal::Removed) } else { Ok(()) }
    }

    /// Looks whether the log says that the cluster has removed this node. A leader goes on until
    /// another one leads.
    fn look_for_removal(&mut self, now: &Now) {
        let version = self.node.members_version();
        if version != self.members_version && !self.node.leads() {
            self.members_version = version;
            if self.node.is_removed() {
                self.retire(now);
            }
        }
    }

    /// The cluster goes on without this node. Clients that come meanwhile are sent there.
    fn retire(&mut self, now: &Now) {
        self.node.retire(now);
        self.peers = None;
        self.retired_at = self.retired_at.or(Some(now.monotonic));
    }

    /// Whether that was long enough ago.
    fn is_retired(&self) -> bool {
        self.retired_at.is_some_and(|at| self.clock.monotonic() >= at.after(RETIREMENT))
    }

    fn turn(&mut self, events: &mut Events) -> Result<(), Fatal> {
        let timeout = self.sleep_for();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
            Err(error) => return Err(Fatal::Poll(error)),
            Ok(()) => {}
        }
        let now = self.clock.now();
        let is_idle = events.is_empty();
        self.note_events(events, &now);
        // What is durable first: it must not be given up for having waited.
        let news = self.log.news().map_err(Fatal::Log)?;
        self.take_news(news, &now);
        self.hear_peers(&now)?;
        self.snapshots.take_results(&now, &mut self.node, &mut self.out.replies);
        // Whoever is told now that one is durable may ask at once what there is.
        self.server.snapshots = self.snapshots.facts();
        self.look_for_removal(&now);
        self.node.tick(&now);
        self.speak(&now);
        self.retry_backlog(&now);
        self.accept(&now);
        self.serve_queue(&now);
        if !self.node.is_alone() {
            // What reads ask the other members leaves in their own turn.
            self.speak(&now);
        }
        let submitted = self.submit(&now);
        self.flush_peers(&now);
        let waits_for_others = !self.node.is_alone() && self.node.leads();
        if submitted && self.queue.is_empty() && !waits_for_others && !self.reads_come(&now) {
            let news = self.log.wait_for_news(DISK_WAIT).map_err(Fatal::Log)?;
            if news.is_some() {
                self.take_news(news, &now);
                self.submit(&now);
                self.flush_peers(&now);
            }
        }
        self.take_snapshot(&now, is_idle);
        self.sweep(&now);
        Ok(())
    }

    /// Goes on with a snapshot, and gives up what the newest ones cover.
    fn take_snapshot(&mut self, now: &Now, is_idle: bool) {
        for wish in self.wishes.drain(..) {
            match wish {
                Wish::Take(to) => self.snapshots.demand(to),
                Wish::Save => self.snapshots.save(),
                Wish::Read(to, read) => self.snapshot_reads.submit(to, read),
            }
        }
        for (to, found) in self.snapshot_reads.take_results() {
            self.complete(to, &found.response());
        }
        let (node, replies) = (&mut self.node, &mut self.out.replies);
        let upto = self.snapshots.step(now, &self.clock, is_idle, node, replies);
        self.server.snapshots = self.snapshots.facts();
        if let Some(upto) = upto {
            self.log.release(upto);
        }
        if !self.out.replies.is_empty() || !self.dirty.is_empty() {
            self.deliver_replies();
        }
    }

    /// Brings an answer that is not the core's to its connection.
    fn complete(&mut self, to: ReplyTo, response: &Response<'_>) {
        let id = to.connection;
        let Some(connection) = connection_mut(&mut self.connections, id) else { return };
        connection.complete(to.tag, response, &mut self.pool);
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Whether clients read at the moment.
    fn reads_come(&mut self, now: &Now) -> bool {
        let reads = self.node.reads_answered();
        if reads != self.reads_seen {
            (self.reads_seen, self.read_at) = (reads, Some(now.monotonic));
        }
        self.read_at.is_some_and(|at| now.monotonic.since(at) < READS_PAUSE)
    }

    /// How long the poll may sleep.
    fn sleep_for(&self) -> Option<Duration> {
        let has_peer_work = self.peers.as_ref().is_some_and(Peers::has_work);
        if !self.queue.is_empty() || has_peer_work || self.snapshots.has_work() {
            return Some(Duration::ZERO);
        }
        if self.stopping {
            return Some(FINISH_POLL);
        }
        let never = Instant::NEVER;
        let growth_ends = if self.node.has_records() { self.log.growth_ends() } else { never };
        let deadline = self
            .node
            .deadline()
            .min(growth_ends)
            .min(self.snapshots.deadline())
            .min(self.peers.as_ref().map_or(never, Peers::deadline))
            .min(self.accept_at.unwrap_or(never))
            .min(self.retired_at.map_or(never, |at| at.after(RETIREMENT)))
            .min(self.sweep_at.unwrap_or(never))
            .min(self.backlog_at.unwrap_or(never));
        (deadline < never).then(|| deadline.since(self.clock.monotonic()))
    }

    fn note_events(&mut self, events: &Events, now: &Now) {
        for event in events {
            match event.token() {
                LISTENER => self.accept_at = Some(now.monotonic),
                LOG => {}
                SIGNALS => self.stopping = self.signals.wish_to_stop(),
                PEER_LISTENER => {
                    if let Some(peers) = &mut self.peers {
                        peers.on_caller(now);
                    }
                }
                Token(id) if peer::is_peer(id as u64) => {
                    if let Some(peers) = &mut self.peers {
                        peers.on_event(id as u64, event);
                    }
                }
                Token(id) => {
                    let id = id as u64;
                    let Some(connection) = connection_mut(&mut self.connections, id) else {
                        continue;
                    };
                    let ended = event.is_read_closed() || event.is_error();
                    // A broken connection is "writable": the write then says how it ended.
                    let writable = event.is_writable() || event.is_error();
                    connection.on_event(event.is_readable(), ended, writable);
                    enqueue(connection, id, &mut self.queue);
                }
            }
        }
    }

    // Core, log and peers

    /// Tells the core what is durable, and delivers what it has to say.
    fn take_news(&mut self, news: Option<News>, now: &Now) {
        if let Some(news) = news {
            self.node.durable(news.durable);
            self.node.set_log_room(news.staged, news.room_bytes, news.next_segment);
            self.snapshots.note_log(news.appended_bytes, news.log_bytes);
            if let (Some(state), Some(peers)) =
                (self.log.note_durable(news.durable), &mut self.peers)
            {
                let last = state.last.max(self.node.lost_until());
                peers.set_durable(LogState { last, ..state });
            }
        }
        self.speak(now);
        if news.is_some() {
            self.end_backlog();
        }
    }

    /// Tells the core what other members say, and what was read back for them.
    fn hear_peers(&mut self, now: &Now) -> Result<(), Fatal> {
        for fetched in self.reader.iter_mut().flat_map(LogReader::take_results) {
            match fetched {
                Fetched::Log { member, from, batches } => {
                    self.node.fetched(now, member, from, batches);
                }
                Fetched::Snapshot { member, part } => {
                    self.node.snapshot_fetched(now, member, part);
                }
            }
        }
        let Some(peers) = &mut self.peers else { return Ok(()) };
        peers.receive(now, &mut self.node);
        match peers.take_verdict() {
            Some(refusal) if refusal.reason == Reason::Removed => {
                log::info!("{refusal}");
                self.retire(now);
            }
            Some(refusal) => return Err(Fatal::Forgot(refusal)),
            None => {}
        }
        match self.node.take_disagreement() {
            Some(outvoted @ Disagreement::Outvoted { .. }) => Err(Fatal::Outvoted(outvoted)),
            Some(split) => {
                log::error!("{split}");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Sends what the turn has to say to them, with one write for each connection.
    fn flush_peers(&mut self, now: &Now) {
        if let Some(peers) = &mut self.peers {
            peers.flush(now, &mut self.node);
        }
    }

    /// Delivers what the core has to say.
    fn speak(&mut self, now: &Now) {
        while self.node.poll(&mut self.out) {
            self.deliver(now);
        }
        self.deliver(now);
    }

    /// Lets those try again whose request the core could not take.
    fn end_backlog(&mut self) {
        for id in std::mem::take(&mut self.await_backlog) {
            let Some(connection) = connection_mut(&mut self.connections, id) else { continue };
            connection.end_backlog();
            enqueue(connection, id, &mut self.queue);
        }
        self.backlog_at = None;
    }

    /// The same from time to time without news: their patience may be over.
    fn retry_backlog(&mut self, now: &Now) {
        if self.backlog_at.is_some_and(|at| at <= now.monotonic) {
            self.end_backlog();
        }
    }

    /// Seals the turn, unless its batch should still grow, and hands the records to the log thread,
    /// unless it is busy. Answers whether it did.
    fn submit(&mut self, now: &Now) -> bool {
        self.log.set_readers(!self.node.is_alone());
        if self.node.has_records() && self.log.wants_records(now.monotonic) {
            self.node.seal(now, &mut self.out);
            self.log.note_sealed(now.monotonic);
            self.deliver(now);
        }
        self.log.submit(self.node.status().committed)
    }

    /// Brings everything that the core has said to where it belongs.
    fn deliver(&mut self, now: &Now) {
        self.log.push(&mut self.out.records);
        if let Some(peers) = &mut self.peers {
            for (to, message) in &self.out.messages {
                peers.send(now, *to, message);
            }
        }
        if let Some(reader) = &mut self.reader {
            self.out.fetches.drain(..).for_each(|fetch| reader.submit(fetch));
            self.out.snapshot_fetches.drain(..).for_each(|fetch| reader.submit_snapshot(fetch));
        }
        for (from, chunk) in self.out.snapshot_parts.drain(..) {
            self.snapshots.keep_part(from, chunk);
        }
        self.deliver_replies();
    }

    /// Brings answers to their connections, and sends them.
    fn deliver_replies(&mut self) {
        for reply in &self.out.replies {
            let id = reply.to.connection;
            let Some(connection) = connection_mut(&mut self.connections, id) else { continue };
            let response = self.out.response(&reply.answer, self.node.members());
            connection.complete(reply.to.tag, &response, &mut self.pool);
            if !connection.dirty {
                connection.dirty = true;
                self.dirty.push(id);
            }
        }
        self.out.clear();
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(connection) = connection_mut(&mut self.connections, id) else { continue };
            connection.dirty = false;
            let next = connection.deliver(&mut self.pool);
            self.server.count_buffers(connection);
            self.settle(id, next);
        }
        self.dirty = dirty;
    }
}
