//! The clients' part of the turn: who comes, who is served, who has to go.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;

use kvorum_protocol::ErrorCode;
use mio::net::TcpStream;
use mio::{Interest, Token};
use slab::Slab;

use super::Reactor;
use crate::core::Now;
use crate::net::connection::{Connection, Next};
use crate::net::listener::Accepted;
use crate::net::session::{Session, Turn};

/// Connections accepted in one turn, so that a storm of them does not starve those that are here.
const ACCEPTS_PER_TURN: usize = 64;

/// When a turn has served for so long, the log and the timers come first again.
const TURN_MAX: Duration = Duration::from_millis(2);

/// What the room for answers that are put together keeps.
const SCRATCH_KEPT_BYTES: usize = 1 << 20;

/// A turn looks at the clock after this many connections.
const CLOCK_EVERY: usize = 16;

/// How often a request that the core could not take is tried again without news.
const BACKLOG_RETRY: Duration = Duration::from_millis(50);

/// How often connections are looked over for requests that never end.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// When accepting fails for a reason that only time can mend.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Connections beyond `--connections-max` that are told so and given time to hear it.
pub const SURPLUS_MAX: usize = 32;

const TOO_MANY_CONNECTIONS: &str = "too many connections (--connections-max); try again later";

/// The connections by slot; empty for the moment in which one is served.
pub type Connections = Slab<Option<Box<Connection>>>;

impl Reactor {
    pub(super) fn accept(&mut self, now: &Now) {
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
    pub(super) fn serve_queue(&mut self, now: &Now) {
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
                wishes: &mut self.wishes,
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

    pub(super) fn settle(&mut self, id: u64, next: Next) {
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
    pub(super) fn sweep(&mut self, now: &Now) {
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
pub(super) fn token(id: u64) -> Token {
    const { assert!(usize::BITS == 64, "tokens hold a generation and a slot") };
    #[allow(clippy::cast_possible_truncation)]
    Token(id as usize)
}

#[inline]
pub(super) fn slot_of(id: u64) -> usize {
    (id & 0xffff_ffff) as usize
}

#[inline]
pub(super) fn connection_mut(connections: &mut Connections, id: u64) -> Option<&mut Connection> {
    connections.get_mut(slot_of(id))?.as_deref_mut().filter(|connection| connection.id() == id)
}

pub(super) fn take_connection(connections: &mut Connections, id: u64) -> Option<Box<Connection>> {
    let slot = connections.get_mut(slot_of(id))?;
    slot.take_if(|connection| connection.id() == id)
}

#[inline]
pub(super) fn enqueue(connection: &mut Connection, id: u64, queue: &mut VecDeque<u64>) {
    if !connection.queued {
        connection.queued = true;
        queue.push_back(id);
    }
}
