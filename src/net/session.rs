//! What every protocol shares while it serves one connection.

use std::net::SocketAddr;
use std::time::Duration;

use kvorum_protocol::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use kvorum_protocol::{
    Change, Command, Copies, LogIndex, Op, Quorum, Read, Response, SnapshotRead, resp,
};

use super::reactor::Connections;
use super::server::Server;
use super::snapshot_reads::Wish;
use crate::core::store::KeyHash;
use crate::core::{
    Asker, ChangeRefusal, Instant, Node, Now, Options, ReadOutcome, Refusal, ReplyTo, Wait,
    WriteOutcome,
};

/// A connection whose unsent replies hold more than this is not served until it reads.
pub const OUTBOX_BYTES_SOFT: usize = 1 << 20;

/// A connection waits with further requests when this many have no answer yet.
pub const WAITING_MAX: usize = 16_384;

/// Why serving a connection stopped before its input was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The rest is the start of a request, which has at least so many bytes in all.
    NeedMore {
        /// Bytes, counted from the request's start.
        at_least: usize,
    },
    /// Its client does not read its replies.
    Output,
    /// The core has too much waiting to take this request now.
    Backlog,
    /// The next request has to see everything before it answered, or too many wait.
    Answers,
    /// The stream has ended: answer what is owed, then close.
    Close,
    /// Close now, without another word.
    Abort,
}

/// What came of serving.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// Bytes of input that are done with.
    pub consumed: usize,
    /// Why it stopped.
    pub pause: Pause,
}

/// What the node and the server lend to a connection while they serve it.
pub struct Turn<'a> {
    /// The clocks of this turn.
    pub now: &'a Now,
    /// The core.
    pub node: &'a mut Node,
    /// Settings and counters.
    pub server: &'a mut Server,
    /// The other connections.
    pub clients: &'a Connections,
    /// A connection whose outbox reaches to here is not served until it reads.
    pub outbox_end: usize,
    /// What clients want of this node's snapshots.
    pub wishes: &'a mut Vec<Wish>,
    /// Room for answers and lists that are put together; no meaning from call to call.
    pub scratch: &'a mut Vec<u8>,
}

/// The state of a connection that all protocols have.
#[derive(Debug)]
pub struct Session {
    /// The connection's name: a generation and a slot. It comes again only after 2^32 connections.
    pub id: u64,
    /// Its number, counted from 1.
    pub number: u64,
    /// Where the client is.
    pub peer: SocketAddr,
    /// When it came.
    pub since: Instant,
    /// When its input was last served.
    pub served_at: Instant,
    /// Its last write: what its reads wait for.
    pub last_write: LogIndex,
    /// The largest value among its writes that are not applied, as far as that was looked at.
    value_bytes_under_way: usize,
    /// What the reads that wait may bring all at once, in bytes, about. Back at 0 when nothing
    /// waits.
    pub waiting_bytes: usize,
    /// Until when its next request may wait for the core to take it.
    later_until: Option<Instant>,
    /// W, where the connection has set it.
    pub write_quorum: Option<Quorum>,
    /// R, where the connection has set it.
    pub read_quorum: Option<Quorum>,
}

impl Session {
    /// A connection that has done nothing yet.
    pub fn new(id: u64, number: u64, peer: SocketAddr, now: Instant) -> Session {
        Session {
            id,
            number,
            peer,
            since: now,
            served_at: now,
            last_write: LogIndex(0),
            value_bytes_under_way: 0,
            waiting_bytes: 0,
            later_until: None,
            write_quorum: None,
            read_quorum: None,
        }
    }

    /// Admits a write, whose answer comes under `tag`; false when it has to be tried again later.
    ///
    /// # Errors
    /// A refusal: not applied.
    #[inline]
    pub fn write(
        &mut self,
        turn: &mut Turn<'_>,
        tag: u32,
        command: &Command<'_>,
        level: Option<Quorum>,
        timeout: Option<Duration>,
    ) -> Result<bool, Refusal> {
        let options = Options { quorum: level.or(self.write_quorum), timeout };
        let to = ReplyTo { connection: self.id, tag };
        match turn.node.write(turn.now, to, command, &options) {
            WriteOutcome::Waiting(index) => {
                self.later_until = None;
                self.last_write = index;
                self.value_bytes_under_way = self.value_bytes_under_way.max(match &command.op {
                    Op::Set { value, .. } => value.len(),
                    Op::SetMany(pairs) => pairs.as_bytes().len(),
                    _ => 0,
                });
                Ok(true)
            }
            WriteOutcome::Later => self.later(turn, timeout).map(|()| false),
            WriteOutcome::Refused(refusal) => Err(refusal),
        }
    }

    /// The core takes the next request later: the client waits as long for that as it would wait
    /// for a quorum.
    ///
    /// # Errors
    /// [`Refusal::Busy`] when it has waited so long.
    fn later(&mut self, turn: &Turn<'_>, timeout: Option<Duration>) -> Result<(), Refusal> {
        let now = turn.now.monotonic;
        let timeout = timeout.unwrap_or(turn.node.config().quorum_timeout);
        if now < *self.later_until.get_or_insert(now.after(timeout)) {
            return Ok(());
        }
        self.later_until = None;
        Err(Refusal::Busy)
    }

    /// Answers a read, or lets it wait under `tag`.
    ///
    /// # Errors
    /// A refusal.
    #[inline]
    pub fn read<'t>(
        &mut self,
        turn: &'t mut Turn<'_>,
        tag: u32,
        read: &Read<'_>,
        terms: &ReadTerms,
    ) -> Result<ReadOutcome<'t>, Refusal> {
        let asker = Asker {
            to: ReplyTo { connection: self.id, tag },
            after: self.last_write.max(terms.min_version),
            hash: terms.hash,
            options: Options { quorum: terms.level.or(self.read_quorum), timeout: terms.timeout },
        };
        if turn.node.applied() >= self.last_write {
            self.value_bytes_under_way = 0;
        }
        if turn.node.is_full_of_reads(asker.after) {
            return self.later(turn, terms.timeout).map(|()| ReadOutcome::Later);
        }
        let outcome = turn.node.read(turn.now, &asker, read, turn.scratch)?;
        if let ReadOutcome::Waiting { value_bytes } = outcome {
            let values = if let Read::GetMany(keys) = read { keys.len() } else { 1 };
            self.waiting_bytes += value_bytes + values * self.value_bytes_under_way;
        }
        Ok(outcome)
    }

    /// Begins a change of the members, whose answer comes under `tag`.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    pub fn change_members(
        &mut self,
        turn: &mut Turn<'_>,
        tag: u32,
        change: &Change,
        base: Option<LogIndex>,
        timeout: Option<Duration>,
    ) -> Result<(), ChangeRefusal> {
        let to = ReplyTo { connection: self.id, tag };
        let index = turn.node.change_members(turn.now, to, change, base, timeout)?;
        log::info!("the members change at index {index}: {change}");
        self.last_write = index;
        Ok(())
    }

    /// Tells who holds the last write of this connection, or lets it wait under `tag` (`None`).
    ///
    /// # Errors
    /// A refusal.
    pub fn wait(
        &mut self,
        turn: &mut Turn<'_>,
        tag: u32,
        wait: &resp::Wait,
    ) -> Result<Option<Copies>, Refusal> {
        let wait = Wait {
            // Whoever has written nothing asks who is there at all: nobody lacks the first entry.
            index: self.last_write.max(LogIndex(1)),
            here: wait.here,
            others: wait.others,
            timeout: wait.timeout_ms.map(Duration::from_millis),
        };
        let to = ReplyTo { connection: self.id, tag };
        turn.node.wait(turn.now, to, wait)
    }

    /// Has a snapshot taken; the answer comes under `tag`.
    pub fn take_snapshot(&self, turn: &mut Turn<'_>, tag: u32) {
        turn.wishes.push(Wish::Take(ReplyTo { connection: self.id, tag }));
    }

    /// Has a snapshot taken, for which nobody waits.
    pub fn save(&self, turn: &mut Turn<'_>) {
        turn.wishes.push(Wish::Save);
        // Also for who asks before the turn is over.
        turn.server.snapshots.in_progress = true;
    }

    /// Has a part of a snapshot read; the answer comes under `tag`.
    pub fn read_snapshot(&mut self, turn: &mut Turn<'_>, tag: u32, read: SnapshotRead) {
        let bytes_max = usize::try_from(read.bytes_max).unwrap_or(usize::MAX);
        self.waiting_bytes += bytes_max.min(SNAPSHOT_CHUNK_BYTES_MAX);
        turn.wishes.push(Wish::Read(ReplyTo { connection: self.id, tag }, read));
    }

    /// Whether so much waits that nothing should be added to it.
    #[inline]
    pub fn waits_for_much(&self) -> bool {
        self.waiting_bytes > OUTBOX_BYTES_SOFT
    }

    /// Sets W and R of this connection.
    pub fn set_quorum<'t>(
        &mut self,
        turn: &'t Turn<'_>,
        write: Option<Quorum>,
        read: Option<Quorum>,
    ) -> Response<'t> {
        if let Err(refusal) = turn.node.check_quorum(write).and(turn.node.check_quorum(read)) {
            return refusal.response(turn.node.members());
        }
        self.write_quorum = write.or(self.write_quorum);
        self.read_quorum = read.or(self.read_quorum);
        Response::Ok
    }
}

/// What a single read may say of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadTerms {
    /// R.
    pub level: Option<Quorum>,
    /// How long it may wait.
    pub timeout: Option<Duration>,
    /// The state must have applied this.
    pub min_version: LogIndex,
    /// The hash of its key, if that is known already.
    pub hash: Option<KeyHash>,
}
