//! One client connection: its socket, its buffers and its protocol.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::time::Duration;

use kvorum_protocol::binary::{self, PREFACE};
use kvorum_protocol::text::{self, Acknowledgement};
use kvorum_protocol::{ErrorCode, LogIndex, Response};
use mio::net::TcpStream;

use super::binary::BinarySession;
use super::outbox::{Outbox, OutboxPool, Sent};
use super::resp::RespSession;
use super::session::{OUTBOX_BYTES_SOFT, Pause, Served, Session, Turn};
use super::text::TextSession;
use crate::core::Instant;

/// What one connection may send in a turn before the others have theirs.
const SEND_BUDGET_BYTES: usize = 1 << 20;

/// What one connection may read in a turn while it receives one large request.
const LARGE_READ_BYTES: usize = 1 << 20;

/// Room that an inbox may keep beyond twice what it holds.
const INBOX_SLACK_BYTES: usize = 16 << 10;

/// Unsent replies beyond this end a connection: its client asked, behind a write, for far more
/// than it reads.
const OUTBOX_BYTES_HARD: usize = 256 << 20;

/// How long a request may stay unfinished, plus a second for so many bytes of it. Whoever holds a
/// connection with a byte now and then must not hold it for ever.
const UNFINISHED_MAX: Duration = Duration::from_secs(60);
const UNFINISHED_BYTES_A_SECOND: usize = 16 << 10;

/// A TLS client speaks first and then waits: for ever, when nobody tells it that this is not TLS
/// (RFC 8446, section 5.1: a handshake record of major version 3).
const TLS_HANDSHAKE: [u8; 2] = [0x16, 0x03];
const NO_TLS: &str = "TLS is not spoken here; closing";

/// How long a closed connection waits for its client to close, too.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// What the first bytes said.
#[derive(Debug)]
enum Protocol {
    /// Nothing, so far.
    Unknown,
    Binary(BinarySession),
    Text(TextSession),
    Resp(Box<RespSession>),
}

/// How far a connection is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It is served.
    No,
    /// What it has sent is all that will be served; it is closed when that is answered and sent.
    AfterReplies,
    /// Everything is sent and said to be the end; it waits for the client's end, so that unread
    /// input does not make the kernel reset the connection and take the last replies back.
    Lingering,
}

/// What the reactor has to do with a connection after serving it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for its socket, or for an answer of the core.
    Wait,
    /// Serve it again next turn, it has more.
    Again,
    /// Serve it again when the log has room.
    AwaitBacklog,
    /// Forget it.
    Drop,
}

/// A client connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    session: Session,
    /// Input that is not done with: the start of a request, or requests that wait for a pause to
    /// end.
    inbox: Vec<u8>,
    outbox: Outbox,
    /// The socket may hold input: set by the kernel's edge, cleared when a read says otherwise.
    readable: bool,
    /// The kernel has announced the end of input: no shortcut may skip the read that sees it.
    end_announced: bool,
    /// The socket takes output.
    writable: bool,
    /// The client has sent its last byte.
    input_ended: bool,
    pause: Pause,
    /// It is in the reactor's list of those that wait for the log.
    awaits_backlog: bool,
    ending: Ending,
    /// When an unfinished request, or the wait for the client's end, began.
    pub unfinished_since: Option<Instant>,
    /// Whether it is in the reactor's queue.
    pub queued: bool,
    /// Whether it is in the reactor's list of those with fresh replies.
    pub dirty: bool,
    /// Bytes of buffers that the reactor has counted for it.
    pub counted_bytes: usize,
    /// It is beyond `--connections-max`, and only here to be told so.
    pub is_surplus: bool,
}

impl Connection {
    /// A connection that has sent nothing yet.
    pub fn new(stream: TcpStream, session: Session) -> Connection {
        Connection {
            stream,
            protocol: Protocol::Unknown,
            session,
            inbox: Vec::new(),
            outbox: Outbox::default(),
            readable: false,
            end_announced: false,
            writable: true,
            input_ended: false,
            pause: Pause::NeedMore { at_least: 1 },
            awaits_backlog: false,
            ending: Ending::No,
            unfinished_since: None,
            queued: false,
            dirty: false,
            counted_bytes: 0,
            is_surplus: false,
        }
    }

    /// A connection that there is no place for: it gets `reply` and is closed.
    pub fn refused(stream: TcpStream, session: Session, reply: &[u8]) -> Connection {
        let mut connection = Connection::new(stream, session);
        connection.outbox.buffer(&mut OutboxPool::default()).extend_from_slice(reply);
        connection.ending = Ending::AfterReplies;
        connection.is_surplus = true;
        connection
    }

    /// Its name.
    #[inline]
    pub fn id(&self) -> u64 {
        self.session.id
    }

    /// What all protocols keep of it.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Whether a request, or the end, has been unfinished for too long. A large request has time
    /// in proportion.
    pub fn is_overdue(&self, now: Instant) -> bool {
        let Some(since) = self.unfinished_since else { return false };
        let patience = match self.ending {
            Ending::No => {
                let large =
                    Duration::from_secs((self.inbox.len() / UNFINISHED_BYTES_A_SECOND) as u64);
                UNFINISHED_MAX + large
            }
            Ending::AfterReplies | Ending::Lingering => LINGER_MAX,
        };
        now.since(since) > patience
    }

    /// The socket, for registering it.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// The kernel says that something has changed.
    pub fn on_event(&mut self, readable: bool, ended: bool, writable: bool) {
        self.readable |= readable;
        self.end_announced |= ended;
        self.writable |= writable;
    }

    /// Bytes of memory that its buffers take.
    pub fn buffer_bytes(&self) -> usize {
        self.inbox.capacity() + self.outbox.capacity()
    }

    /// Reads once, serves what is there, sends what that produced.
    ///
    /// `shared` is the read buffer of all connections: input is parsed in place there, and only
    /// the unfinished rest is kept by the connection.
    pub fn serve(&mut self, turn: &mut Turn<'_>, shared: &mut [u8], pool: &mut OutboxPool) -> Next {
        if let Some(next) = self.send(pool) {
            return next;
        }
        if self.ending != Ending::No {
            return self.finish(turn.now.monotonic, shared);
        }
        if self.awaits_backlog || self.outbox.len() > turn.server.outbox_bytes_soft() {
            return Next::Wait;
        }
        let inbox_bytes_max = turn.server.inbox_bytes_max(self.inbox.len());
        match self.fill(shared, inbox_bytes_max) {
            Err(_) => return Next::Drop,
            Ok(Filled::Nothing) => {}
            Ok(Filled::Shared(length)) => {
                let served = self.dispatch(turn, &shared[..length], pool);
                self.note_progress(served.consumed);
                self.inbox.clear();
                self.inbox.extend_from_slice(&shared[served.consumed..length]);
                self.pause = served.pause;
            }
            Ok(Filled::Inbox) => {
                let mut input = std::mem::take(&mut self.inbox);
                let served = self.dispatch(turn, &input, pool);
                self.note_progress(served.consumed);
                input.drain(..served.consumed);
                self.inbox = input;
                self.pause = served.pause;
            }
        }
        if self.inbox.capacity() > 2 * self.inbox.len() + INBOX_SLACK_BYTES || self.inbox.is_empty()
        {
            self.inbox.shrink_to_fit();
        }
        self.after_serving(turn.now.monotonic, pool)
    }

    /// Brings input near: from the socket, or what a pause has left over.
    fn fill(&mut self, shared: &mut [u8], inbox_bytes_max: usize) -> io::Result<Filled> {
        let Pause::NeedMore { at_least } = self.pause else { return Ok(Filled::Inbox) };
        let had = self.inbox.len();
        if at_least <= shared.len() / 2 && had <= shared.len() / 2 {
            if !self.readable {
                return Ok(Filled::Nothing);
            }
            shared[..had].copy_from_slice(&self.inbox);
            let space = shared.len() - had;
            let count = self.read_into(space, |stream| stream.read(&mut shared[had..]))?;
            return Ok(if count == 0 { Filled::Nothing } else { Filled::Shared(had + count) });
        }
        // One large request: straight to where it stays. Memory follows what has arrived, not
        // what the client claims.
        while self.readable && self.inbox.len() < had + LARGE_READ_BYTES {
            if self.inbox.len() >= inbox_bytes_max {
                log::warn!("{}: closed: all connections together hold too much", self.session.peer);
                return Err(ErrorKind::OutOfMemory.into());
            }
            let space = (LARGE_READ_BYTES / 4).max(self.inbox.len() / 4);
            let mut inbox = std::mem::take(&mut self.inbox);
            inbox.reserve(space);
            let start = inbox.len();
            let read = self.read_into(space, |stream| {
                // What was read before an error is kept by `read_to_end`, and counts.
                match stream.take(space as u64).read_to_end(&mut inbox) {
                    Err(error) if inbox.len() == start => Err(error),
                    _ => Ok(inbox.len() - start),
                }
            });
            self.inbox = inbox;
            if read? == 0 {
                break;
            }
        }
        if self.inbox.len() < at_least { Ok(Filled::Nothing) } else { Ok(Filled::Inbox) }
    }

    /// Reads with `read`, which offers `space` bytes of room, and keeps the socket's flags. Zero
    /// when there is nothing now, or nothing more at all.
    fn read_into(
        &mut self,
        space: usize,
        read: impl FnOnce(&mut &TcpStream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        match read(&mut &self.stream) {
            Ok(0) => {
                self.readable = false;
                self.input_ended = true;
                Ok(0)
            }
            Ok(count) => {
                // A short read has emptied the socket, which saves the read that would say so;
                // but not the end of input, which the kernel does not announce twice.
                if count < space && !self.end_announced {
                    self.readable = false;
                }
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Hands input to the protocol that its first bytes have chosen.
    fn dispatch(&mut self, turn: &mut Turn<'_>, input: &[u8], pool: &mut OutboxPool) -> Served {
        let mut skipped = 0;
        if matches!(self.protocol, Protocol::Unknown) {
            match self.choose_protocol(turn, input, pool) {
                Ok(preface) => skipped = preface,
                Err(pause) => return Served { consumed: 0, pause },
            }
        }
        let input = &input[skipped..];
        turn.outbox_end = self.outbox.end(OUTBOX_BYTES_SOFT);
        let out = self.outbox.buffer(pool);
        let session = &mut self.session;
        let mut served = match &mut self.protocol {
            Protocol::Unknown => unreachable!("chosen above"),
            Protocol::Binary(binary) => binary.serve(session, turn, input, out),
            Protocol::Text(text) => text.serve(session, turn, input, out),
            Protocol::Resp(resp) => resp.serve(session, turn, input, out),
        };
        served.consumed += skipped;
        served
    }

    /// Looks at the first bytes; answers how many of them are a preface.
    fn choose_protocol(
        &mut self,
        turn: &mut Turn<'_>,
        input: &[u8],
        pool: &mut OutboxPool,
    ) -> Result<usize, Pause> {
        let first = *input.first().expect("only called with input");
        if first == PREFACE[0] {
            let preface = binary::decode_preface(input);
            if !matches!(preface, Ok(None)) {
                self.outbox.buffer(pool).extend_from_slice(&PREFACE);
            }
            return match preface {
                Ok(Some(length)) => {
                    self.protocol = Protocol::Binary(BinarySession::default());
                    Ok(length)
                }
                Ok(None) => Err(Pause::NeedMore { at_least: PREFACE.len() }),
                Err(_) => Err(Pause::Close),
            };
        }
        if input.starts_with(&TLS_HANDSHAKE) {
            let response = Response::Error { code: ErrorCode::BadRequest, message: NO_TLS };
            text::encode(self.outbox.buffer(pool), Acknowledgement::Ok, &response);
            return Err(Pause::Close);
        }
        let (peer, now) = (self.session.peer, turn.now.monotonic);
        let is_resp =
            first == b'*' || turn.server.redis_probe.is_inline_ping(input, peer.ip(), now);
        self.protocol = if is_resp {
            Protocol::Resp(Box::new(RespSession::new(peer, self.stream.local_addr().ok())))
        } else {
            Protocol::Text(TextSession::new())
        };
        Ok(0)
    }

    /// Decides what happens next, after input was served or answers have come.
    fn after_serving(&mut self, now: Instant, pool: &mut OutboxPool) -> Next {
        self.session.served_at = now;
        let waits_for_input = matches!(self.pause, Pause::NeedMore { .. });
        match self.pause {
            Pause::Abort => return Next::Drop,
            Pause::Close => self.ending = Ending::AfterReplies,
            _ if waits_for_input && self.input_ended => self.ending = Ending::AfterReplies,
            _ => {}
        }
        // Half a request at the end of input is nothing to wait for, and no reason to cut the
        // replies off that are still on their way.
        let unfinished = waits_for_input && self.ending == Ending::No && !self.inbox.is_empty();
        self.unfinished_since = unfinished.then(|| self.unfinished_since.unwrap_or(now));
        if let Some(next) = self.send(pool) {
            return next;
        }
        if self.ending != Ending::No {
            return Next::Again;
        }
        let resumes = match self.pause {
            Pause::NeedMore { .. } => self.readable,
            Pause::Output => self.outbox.len() <= OUTBOX_BYTES_SOFT,
            Pause::Answers => self.may_resume(),
            Pause::Backlog => {
                self.awaits_backlog = true;
                return Next::AwaitBacklog;
            }
            Pause::Close | Pause::Abort => false,
        };
        if resumes { Next::Again } else { Next::Wait }
    }

    /// Requests were served: whatever is unfinished now has begun just now.
    fn note_progress(&mut self, consumed: usize) {
        if consumed > 0 {
            self.unfinished_since = None;
        }
    }

    fn may_resume(&self) -> bool {
        if self.session.waits_for_much() {
            return false;
        }
        match &self.protocol {
            Protocol::Unknown => true,
            Protocol::Binary(binary) => binary.may_resume(),
            Protocol::Text(text) => text.is_settled(),
            Protocol::Resp(resp) => resp.is_settled(),
        }
    }

    fn is_settled(&self) -> bool {
        match &self.protocol {
            Protocol::Unknown => true,
            Protocol::Binary(binary) => binary.is_settled(),
            Protocol::Text(text) => text.is_settled(),
            Protocol::Resp(resp) => resp.is_settled(),
        }
    }

    /// The answer to one of its waiting requests.
    #[inline]
    pub fn complete(&mut self, tag: u32, response: &Response<'_>, pool: &mut OutboxPool) {
        let out = self.outbox.buffer(pool);
        match &mut self.protocol {
            Protocol::Unknown => unreachable!("it has sent a request"),
            Protocol::Binary(binary) => binary.complete(tag, response, out),
            Protocol::Text(text) => text.complete(tag, response, out),
            Protocol::Resp(resp) => resp.complete(tag, response, out),
        }
        if let Response::Error { code: ErrorCode::LeaderChanged, .. } = response {
            // Its last write may be gone, and then its index is not to be waited for.
            self.session.last_write = LogIndex(0);
        }
        if self.is_settled() {
            self.session.waiting_bytes = 0;
        }
    }

    /// The log has taken something: its next request may be tried again.
    pub fn end_backlog(&mut self) {
        self.awaits_backlog = false;
    }

    /// Sends the answers that [`complete`](Connection::complete) has brought.
    pub fn deliver(&mut self, pool: &mut OutboxPool) -> Next {
        if let Some(next) = self.send(pool) {
            return next;
        }
        if self.outbox.len() > OUTBOX_BYTES_HARD {
            log::warn!("{}: closed: it asks for more than it reads", self.session.peer);
            return Next::Drop;
        }
        let resumes = match self.pause {
            Pause::Answers => self.may_resume(),
            _ => self.ending != Ending::No,
        };
        if resumes { Next::Again } else { Next::Wait }
    }

    /// Sends what the socket takes; `Some` when that decides what happens next.
    fn send(&mut self, pool: &mut OutboxPool) -> Option<Next> {
        if self.outbox.len() > 0 && self.writable {
            match self.outbox.send(&mut self.stream, SEND_BUDGET_BYTES) {
                Ok(Sent::All) => {}
                Ok(Sent::Blocked) => self.writable = false,
                Ok(Sent::Budget) => return Some(Next::Again),
                Err(_) => return Some(Next::Drop),
            }
        }
        self.outbox.recycle(pool);
        None
    }

    /// Brings a connection that takes no more requests to its end.
    fn finish(&mut self, now: Instant, shared: &mut [u8]) -> Next {
        if self.ending == Ending::AfterReplies {
            if !self.is_settled() || self.outbox.len() > 0 {
                return Next::Wait;
            }
            if self.input_ended || self.stream.shutdown(Shutdown::Write).is_err() {
                return Next::Drop;
            }
            self.ending = Ending::Lingering;
            self.inbox = Vec::new();
            self.unfinished_since = Some(now);
        }
        if self.readable {
            let space = shared.len();
            if self.read_into(space, |stream| stream.read(shared)).is_err() {
                return Next::Drop;
            }
        }
        if self.input_ended {
            return Next::Drop;
        }
        if self.readable { Next::Again } else { Next::Wait }
    }

    /// Takes no more requests; what is owed is still answered.
    pub fn end(&mut self) {
        if self.ending == Ending::No {
            self.ending = Ending::AfterReplies;
            self.unfinished_since = None;
        }
    }

    /// Whether its client is still to get something.
    pub fn is_owed(&self) -> bool {
        self.ending != Ending::Lingering
    }

    /// Whether it holds much that its client does not read.
    pub fn is_unread(&self) -> bool {
        self.outbox.len() > OUTBOX_BYTES_SOFT
    }

    /// For CLIENT LIST: the RESP side, if it speaks RESP.
    pub fn resp(&self) -> Option<&RespSession> {
        match &self.protocol {
            Protocol::Resp(resp) => Some(resp),
            _ => None,
        }
    }
}

/// Where the input of this turn is.
enum Filled {
    /// There is none.
    Nothing,
    /// In the shared buffer, so many bytes.
    Shared(usize),
    /// In the connection's own inbox.
    Inbox,
}
