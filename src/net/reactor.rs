//! The server in one loop. Everything that this process does for its clients happens in
//! [`Reactor::turn`], on one thread:
//!
//! 1. sleep until a socket, the log thread, a signal or a timer has something to say;
//! 2. take what the log has made durable, apply and answer it;
//! 3. read every ready connection once, and serve all the requests that are there;
//! 4. seal the writes of the turn into one batch and hand it to the log thread;
//! 5. if nobody reads, wait for the disk a little: most often that is quicker than another turn.
//!
//! Events are edge-triggered: what is not drained is remembered in `queue`, and the next turn
//! does not sleep.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::ErrorCode;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::clock::Clock;
use super::connection::{Connection, Next};
use super::listener::{Accepted, Listener};
use super::log_thread::{LogThread, News};
use super::outbox::OutboxPool;
use super::server::Server;
use super::session::{Session, Turn};
use super::signals::Signals;
use crate::config::Fsync;
use crate::core::{Instant, Node, Now, Output};
use crate::wal::{WalError, Writer};

const LISTENER: Token = Token(usize::MAX);
const LOG: Token = Token(usize::MAX - 1);
const SIGNALS: Token = Token(usize::MAX - 2);

/// Connections accepted in one turn, so that a storm of them does not starve those that are here.
const ACCEPTS_PER_TURN: usize = 64;

/// What a turn reads of one connection. Also its share: the others come next.
const READ_BUFFER_BYTES: usize = 128 << 10;

/// When a turn has served for so long, the log and the timers come first again.
const TURN_MAX: Duration = Duration::from_millis(2);

/// How long a turn waits for the disk before it goes on without it. Most often the disk is quicker
/// than another turn, and the writers' next requests then come together: with 50 writers and
/// nobody else a fifth more throughput than without. Whoever reads would wait for nothing, so it is
/// only done while nobody does.
const DISK_WAIT: Duration = Duration::from_micros(200);

/// Without a read for so long, nobody reads.
const READS_PAUSE: Duration = Duration::from_millis(2);

/// What the room for answers that are put together keeps.
const SCRATCH_KEPT_BYTES: usize = 1 << 20;

/// A turn looks at the clock after this many connections.
const CLOCK_EVERY: usize = 16;

/// After the signal: how long the log may take at least, how long clients may take to read their
/// replies, and how long the poll may sleep meanwhile.
const FINISH_LOG_MIN: Duration = Duration::from_secs(5);
const FINISH_REPLIES: Duration = Duration::from_secs(1);
const FINISH_POLL: Duration = Duration::from_millis(10);

/// How often a request that the core could not take is tried again without news.
const BACKLOG_RETRY: Duration = Duration::from_millis(50);

/// How often connections are looked over for requests that never end.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// When accepting fails for a reason that only time can mend.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Connections beyond `--connections-max` that are told so and given time to hear it.
pub(super) const SURPLUS_MAX: usize = 32;

const TOO_MANY_CONNECTIONS: &str = "too many connections (--connections-max); try again later";

/// The connections by slot; empty for the moment in which one is served.
pub type Connections = Slab<Option<Box<Connection>>>;

/// What makes the process stop.
#[derive(Debug)]
pub enum Fatal {
    /// The log can not be trusted any more.
    Log(WalError),
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
    log: LogThread,
    server: Server,
    /// The read buffer of all connections.
    shared: Box<[u8]>,
    scratch: Vec<u8>,
    pool: OutboxPool,
    /// How many reads the core had answered at the last look, and when that had changed.
    reads_seen: u64,
    read_at: Option<Instant>,
    stopping: bool,
}

impl Reactor {
    /// Registers everything; nothing is served yet.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn new(
        mut listener: Listener,
        node: Node,
        writer: Writer,
        fsync: Fsync,
        server: Server,
        signals: Signals,
    ) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        poll.registry().register(listener.source(), LISTENER, Interest::READABLE)?;
        let waker = Arc::new(Waker::new(poll.registry(), LOG)?);
        let mut source = SourceFd(&signals.descriptor());
        poll.registry().register(&mut source, SIGNALS, Interest::READABLE)?;
        Ok(Reactor {
            poll,
            clock: Clock::start(),
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
            log: LogThread::start(writer, fsync, waker)?,
            server,
            shared: vec![0; READ_BUFFER_BYTES].into(),
            scratch: Vec::new(),
            pool: OutboxPool::default(),
            reads_seen: 0,
            read_at: None,
            stopping: false,
        })
    }

    /// Runs until the node leads and has applied what its log holds.
    ///
    /// # Errors
    /// What makes the process stop.
    pub fn run_until_ready(&mut self) -> Result<(), Fatal> {
        let mut events = Events::with_capacity(16);
        while !self.node.is_ready() {
            self.turn(&mut events)?;
        }
        Ok(())
    }

    /// Serves until a signal says stop; then everything admitted is durable and answered.
    ///
    /// # Errors
    /// What makes the process stop.
    pub fn run(&mut self) -> Result<(), Fatal> {
        let mut events = Events::with_capacity(1024);
        while !self.stopping {
            self.turn(&mut events)?;
        }
        self.finish(&mut events)
    }

    fn turn(&mut self, events: &mut Events) -> Result<(), Fatal> {
        let timeout = self.sleep_for();
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => events.clear(),
            Err(error) => return Err(Fatal::Poll(error)),
            Ok(()) => {}
        }
        let now = self.clock.now();
        self.note_events(events, &now);
        // What is durable first: it must not be given up for having waited.
        let news = self.log.news().map_err(Fatal::Log)?;
        self.take_news(news);
        self.node.tick(&now);
        self.speak();
        self.retry_backlog(&now);
        self.accept(&now);
        self.serve_queue(&now);
        if self.submit(&now) && self.queue.is_empty() && !self.reads_come(&now) {
            let news = self.log.wait_for_news(DISK_WAIT).map_err(Fatal::Log)?;
            if news.is_some() {
                self.take_news(news);
                self.submit(&now);
            }
        }
        self.sweep(&now);
        Ok(())
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
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.stopping {
            return Some(FINISH_POLL);
        }
        let never = Instant::NEVER;
        let deadline = self
            .node
            .deadline()
            .min(self.accept_at.unwrap_or(never))
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

    // Core and log

    /// Tells the core what is durable, and delivers what it has to say.
    fn take_news(&mut self, news: Option<News>) {
        if let Some(news) = news {
            self.node.durable(news.durable);
            self.node.set_log_room(news.staged, news.room_bytes, news.is_short_of_space);
        }
        self.speak();
        if news.is_some() {
            self.end_backlog();
        }
    }

    /// Delivers what the core has to say.
    fn speak(&mut self) {
        while self.node.poll(&mut self.out) {
            self.deliver();
        }
        self.deliver();
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

    /// Hands the records of the turn to the log thread, unless it is busy: then they wait, and the
    /// batch grows. Answers whether it did.
    fn submit(&mut self, now: &Now) -> bool {
        if self.log.is_busy() || !self.node.has_records() {
            return false;
        }
        self.node.seal(now, &mut self.out);
        let committed = self.node.status().committed;
        self.log.submit(std::mem::take(&mut self.out.records), committed);
        true
    }

    /// Brings answers to their connections, and sends them.
    fn deliver(&mut self) {
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

    // Connections

    fn accept(&mut self, now: &Now) {
        if self.stopping || self.accept_at.is_none_or(|at| at > now.monotonic) {
            return;
        }
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok(Accepted::Connection(stream, peer)) => {
                    if let Err(error) = self.adopt(stream, peer, now) {
                        log::warn!("{peer}: can not be served: {error}");
                    }
                }
                Ok(Accepted::OutOfDescriptors(stream)) => {
                    self.server.connections_rejected += 1;
                    refuse(stream, "the process is out of file descriptors");
                    self.listener.restore_spare();
                }
                Ok(Accepted::Nobody) => {
                    self.accept_at = None;
                    return;
                }
                Err(error) => {
                    log::warn!("accept: {error}");
                    self.accept_at = Some(now.monotonic.after(ACCEPT_RETRY));
                    return;
                }
            }
        }
    }

    fn adopt(&mut self, stream: TcpStream, peer: SocketAddr, now: &Now) -> io::Result<()> {
        stream.set_nodelay(true)?;
        self.server.connections_total += 1;
        let is_surplus = self.connections.len() - self.surplus >= self.server.connections_max;
        if is_surplus {
            self.server.connections_rejected += 1;
            if self.surplus >= SURPLUS_MAX {
                refuse(stream, TOO_MANY_CONNECTIONS);
                return Ok(());
            }
        }
        self.generation = self.generation.wrapping_add(1);
        let slot = self.connections.vacant_entry();
        let id = u64::from(self.generation) << 32 | slot.key() as u64;
        let number = self.server.connections_total;
        let session = Session::new(id, number, peer, now.monotonic);
        let mut connection = Box::new(if is_surplus {
            Connection::refused(stream, session, busy_line(TOO_MANY_CONNECTIONS).as_bytes())
        } else {
            Connection::new(stream, session)
        });
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(connection.source(), token(id), interest)?;
        slot.insert(Some(connection));
        self.surplus += usize::from(is_surplus);
        Ok(())
    }

    /// Serves each connection that is queued now, once, as far as the turn's time allows.
    fn serve_queue(&mut self, now: &Now) {
        for served in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { break };
            let Some(mut connection) = take_connection(&mut self.connections, id) else { continue };
            connection.queued = false;
            let mut turn = Turn {
                now,
                node: &mut self.node,
                server: &mut self.server,
                clients: &self.connections,
                outbox_end: 0,
                scratch: &mut self.scratch,
            };
            let next = connection.serve(&mut turn, &mut self.shared, &mut self.pool);
            if connection.unfinished_since.is_some() && self.sweep_at.is_none() {
                self.sweep_at = Some(now.monotonic.after(SWEEP_INTERVAL));
            }
            self.scratch.clear();
            self.scratch.shrink_to(SCRATCH_KEPT_BYTES);
            self.server.count_buffers(&mut connection);
            self.connections[slot_of(id)] = Some(connection);
            self.settle(id, next);
            let looks_up = served % CLOCK_EVERY == CLOCK_EVERY - 1;
            if self.server.buffers_are_full()
                || looks_up && self.clock.monotonic().since(now.monotonic) > TURN_MAX
            {
                break;
            }
        }
        self.shed();
    }

    fn settle(&mut self, id: u64, next: Next) {
        match next {
            Next::Wait => {}
            Next::Again => self.enqueue(id),
            Next::AwaitBacklog => {
                self.await_backlog.push(id);
                if self.backlog_at.is_none() {
                    self.backlog_at = Some(self.clock.monotonic().after(BACKLOG_RETRY));
                }
            }
            Next::Drop => self.drop_connection(id),
        }
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(connection) = connection_mut(&mut self.connections, id) {
            enqueue(connection, id, &mut self.queue);
        }
    }

    fn drop_connection(&mut self, id: u64) {
        let Some(mut connection) = take_connection(&mut self.connections, id) else { return };
        self.connections.remove(slot_of(id));
        self.server.buffer_bytes -= connection.counted_bytes;
        self.surplus -= usize::from(connection.is_surplus);
        // Closing the descriptor would do; a failure here means that it is gone already.
        let _ = self.poll.registry().deregister(connection.source());
    }

    /// Ends connections whose request, or whose end, does not come.
    fn sweep(&mut self, now: &Now) {
        if self.sweep_at.is_none_or(|at| at > now.monotonic) {
            return;
        }
        let mut overdue = Vec::new();
        let mut unfinished = false;
        for connection in self.connections.iter().filter_map(|(_, slot)| slot.as_deref()) {
            if connection.is_overdue(now.monotonic) {
                overdue.push(connection.id());
            }
            unfinished |= connection.unfinished_since.is_some();
        }
        for id in overdue {
            self.drop_connection(id);
        }
        self.sweep_at = unfinished.then(|| now.monotonic.after(SWEEP_INTERVAL));
    }

    /// Ends connections that hold replies which nobody reads, when all together hold too much.
    fn shed(&mut self) {
        if !self.server.buffers_are_full() {
            return;
        }
        let all = self.connections.iter().filter_map(|(_, slot)| slot.as_deref());
        let unread: Vec<u64> = all.filter(|c| c.is_unread()).map(Connection::id).collect();
        log::warn!("{} connections closed: they do not read what they asked for", unread.len());
        for id in unread {
            self.drop_connection(id);
        }
    }

    /// After the signal: what was admitted becomes durable, is answered, and is sent.
    fn finish(&mut self, events: &mut Events) -> Result<(), Fatal> {
        log::info!("stopping: finishing the log");
        let all = self.connections.iter().filter_map(|(_, slot)| slot.as_deref());
        let ids: Vec<u64> = all.map(Connection::id).collect();
        for id in ids {
            if let Some(connection) = connection_mut(&mut self.connections, id) {
                connection.end();
                enqueue(connection, id, &mut self.queue);
            }
        }
        let patience = self.node.config().quorum_timeout.max(FINISH_LOG_MIN);
        let log_deadline = self.clock.monotonic().after(patience);
        while self.log.is_busy() || self.node.has_records() {
            self.turn(events)?;
            if self.clock.monotonic() > log_deadline {
                self.log.abandon();
                return Err(Fatal::LogStuck(patience));
            }
        }
        let deadline = self.clock.monotonic().after(FINISH_REPLIES);
        let is_owed = |(_, slot): (usize, &Option<Box<Connection>>)| {
            slot.as_deref().is_some_and(Connection::is_owed)
        };
        while self.connections.iter().any(is_owed) && self.clock.monotonic() < deadline {
            self.turn(events)?;
        }
        self.log.stop().map_err(Fatal::Log)
    }
}

/// Tells a connection that there is no place for it, at once or not at all.
fn refuse(mut stream: TcpStream, why: &str) {
    // A client that does not get the line sees that it is closed.
    let _ = stream.write(busy_line(why).as_bytes());
}

/// A connection that is refused has said nothing yet, so it hears of it in the text protocol.
fn busy_line(why: &str) -> String {
    format!("ERROR {} {why}\n", ErrorCode::Busy.word())
}

#[inline]
fn token(id: u64) -> Token {
    const { assert!(usize::BITS == 64, "tokens hold a generation and a slot") };
    #[allow(clippy::cast_possible_truncation)]
    Token(id as usize)
}

#[inline]
fn slot_of(id: u64) -> usize {
    (id & 0xffff_ffff) as usize
}

#[inline]
fn connection_mut(connections: &mut Connections, id: u64) -> Option<&mut Connection> {
    connections.get_mut(slot_of(id))?.as_deref_mut().filter(|connection| connection.id() == id)
}

fn take_connection(connections: &mut Connections, id: u64) -> Option<Box<Connection>> {
    let slot = connections.get_mut(slot_of(id))?;
    slot.take_if(|connection| connection.id() == id)
}

#[inline]
fn enqueue(connection: &mut Connection, id: u64, queue: &mut VecDeque<u64>) {
    if !connection.queued {
        connection.queued = true;
        queue.push_back(id);
    }
}
