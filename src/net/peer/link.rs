//! One connection with a peer, dialed or accepted.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::Shutdown;

use bytes::Bytes;
use kvorum_protocol::peer::frame::Phase;
use kvorum_protocol::peer::handshake::{Acceptor, Dialer};
use kvorum_protocol::peer::{Introduction, Lane, Refusal};
use kvorum_protocol::{DecodeError, NodeId};
use mio::event::Event;
use mio::net::TcpStream;

use super::inbox::{Filled, Inbox};
use super::outbox::Outbox;
use crate::core::{Instant, Violation};

/// Unsent bytes beyond which a connection is given up: the other side does not read. What it
/// misses is repeated when it is back. On the bulk lane the core keeps far below this.
const CONTROL_BYTES_MAX: usize = 4 << 20;
const BULK_BYTES_MAX: usize = 256 << 20;

/// How far a connection is.
#[derive(Debug)]
pub enum Stage {
    /// Dialed; the kernel is at it.
    Connecting,
    /// Dialed; the two sides get to know each other.
    Dialing(Dialer),
    /// Accepted; the same.
    Accepting(Acceptor),
    /// Messages.
    Open,
}

/// Who opened it.
#[derive(Clone, Debug)]
pub enum Origin {
    /// This node, to send on it.
    Dialed {
        /// Whom it called.
        member: NodeId,
        /// For which messages.
        lane: Lane,
        /// The other side's process, once it is known.
        boot: Option<u64>,
    },
    /// Another node, to be heard on it; who, once it is known.
    Accepted(Option<Caller>),
}

/// Who called.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// Which member.
    pub member: NodeId,
    /// For which messages.
    pub lane: Lane,
    /// Its process.
    pub boot: u64,
    /// Counts the connections of that process.
    pub epoch: u64,
}

/// Why a connection ends.
#[derive(Debug)]
pub enum End {
    /// It could not be made, or is broken.
    Broken(io::Error),
    /// The other side closed it.
    Closed,
    /// What came is not what peers say.
    Malformed(DecodeError),
    /// It is, but no correct node says it now.
    Violation(Violation),
    /// This node refuses the other.
    Refuses(Refusal),
    /// The other refuses this node.
    Refused {
        /// Why.
        refusal: Refusal,
        /// Whether it is known to come from a member.
        is_authentic: bool,
    },
    /// The other side took too long.
    Late,
    /// The other side does not read.
    Unread,
    /// A newer connection takes its place, or it leads to a process that is gone.
    Replaced,
    /// The other side is no member any more.
    Left,
    /// Too many strangers wait, and of those that have shown the least this one has waited longest.
    Crowded,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Broken(error)
    }
}

impl From<Violation> for End {
    fn from(violation: Violation) -> End {
        End::Violation(violation)
    }
}

impl From<DecodeError> for End {
    fn from(error: DecodeError) -> End {
        End::Malformed(error)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Broken(error) => error.fmt(f),
            End::Closed => f.write_str("closed by the other side"),
            End::Malformed(error) => write!(f, "not the peer protocol: {error}"),
            End::Violation(violation) => write!(f, "against the rules: {violation}"),
            End::Refuses(refusal) => write!(f, "refused: {refusal}"),
            End::Refused { refusal, .. } => write!(f, "refused by the other side: {refusal}"),
            End::Late => f.write_str("the handshake took too long"),
            End::Unread => f.write_str("the other side does not read"),
            End::Replaced => f.write_str("replaced by a newer connection"),
            End::Left => f.write_str("it is no member any more"),
            End::Crowded => f.write_str("too many connections are in their handshake"),
        }
    }
}

/// What an accepted connection has shown of being a member's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Credit {
    /// Nothing: it has not said HELLO.
    None,
    /// It has introduced itself as a member would.
    Introduced,
    /// It has proved who it is.
    Proved,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    /// Its token.
    pub id: u64,
    /// Where the other side is, for logs.
    pub address: String,
    /// Who opened it.
    pub origin: Origin,
    /// How far it is.
    pub stage: Stage,
    /// Who the other side has proved to be, while what it says of itself is on its way to the disk.
    pub judged: Option<Introduction>,
    /// When the stage must be over; `NEVER` once it is open.
    pub deadline: Instant,
    /// What is to be sent.
    pub outbox: Outbox,
    /// Whether it is in the list of those with something to do.
    pub queued: bool,
    /// Whether it is in the list of those with something to send.
    pub dirty: bool,
    stream: TcpStream,
    inbox: Inbox,
    /// The socket may hold input: set by the kernel's edge, cleared by a read that says otherwise.
    readable: bool,
    /// The kernel has announced the end of input: no shortcut may skip the read that sees it.
    end_announced: bool,
    writable: bool,
}

impl Link {
    /// A connection at its beginning.
    pub fn new(
        stream: TcpStream,
        id: u64,
        address: String,
        origin: Origin,
        stage: Stage,
        deadline: Instant,
    ) -> Link {
        Link {
            id,
            address,
            origin,
            // A socket that is not connected yet will say when it is.
            writable: !matches!(stage, Stage::Connecting),
            stage,
            judged: None,
            deadline,
            outbox: Outbox::default(),
            queued: false,
            dirty: false,
            stream,
            inbox: Inbox::new(),
            readable: false,
            end_announced: false,
        }
    }

    /// The socket, for registering it.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// What it has shown of being a member's.
    pub fn credit(&self) -> Credit {
        match &self.stage {
            _ if self.judged.is_some() => Credit::Proved,
            Stage::Accepting(acceptor) if acceptor.awaits_hello() => Credit::None,
            Stage::Accepting(_) => Credit::Introduced,
            Stage::Connecting | Stage::Dialing(_) | Stage::Open => Credit::Proved,
        }
    }

    /// The kernel says that something has changed.
    pub fn on_event(&mut self, event: &Event) {
        self.readable |= event.is_readable();
        self.end_announced |= event.is_read_closed() || event.is_error();
        // A broken connection is "writable": the write then says how it ended.
        self.writable |= event.is_writable() || event.is_error();
    }

    /// Whether the kernel has connected it.
    ///
    /// # Errors
    /// It could not.
    pub fn is_connected(&mut self) -> io::Result<bool> {
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        if !self.writable {
            return Ok(false);
        }
        match self.stream.peer_addr() {
            // Nobody listens there, and the kernel happened to choose that very port for this
            // side: TCP connects the socket with itself.
            Ok(peer) if self.stream.local_addr()? == peer => {
                Err(ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether a read may bring something.
    pub fn is_readable(&self) -> bool {
        self.readable
    }

    /// Whether the start of a message has come, and its end has not.
    pub fn is_unfinished(&self) -> bool {
        self.inbox.is_unfinished()
    }

    /// Reads once; answers how many bytes have come.
    ///
    /// # Errors
    /// The connection is over.
    pub fn fill(&mut self) -> Result<usize, End> {
        match self.inbox.fill(&mut self.stream) {
            Ok(Filled::End) => Err(End::Closed),
            Ok(Filled::Bytes { count, was_full }) => {
                // A short read has emptied the socket; but the end of input is not announced
                // twice.
                self.readable = was_full || self.end_announced;
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(End::Broken(error)),
        }
    }

    /// Takes the next whole frame.
    ///
    /// # Errors
    /// The connection is over.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, End> {
        let phase = match self.stage {
            Stage::Open => Phase::Open,
            _ => Phase::Handshake,
        };
        Ok(self.inbox.next(phase)?)
    }

    /// Sends what the kernel takes.
    ///
    /// # Errors
    /// The connection is over.
    pub fn send(&mut self) -> Result<(), End> {
        if self.writable && self.outbox.len() > 0 {
            self.writable = self.outbox.send(&mut self.stream)?;
        }
        let max = match self.origin {
            Origin::Dialed { lane: Lane::Bulk, .. } => BULK_BYTES_MAX,
            _ => CONTROL_BYTES_MAX,
        };
        if self.outbox.len() > max { Err(End::Unread) } else { Ok(()) }
    }

    /// Sends last words, if the kernel takes them now.
    pub fn take_leave(&mut self) {
        // Whoever misses them sees that the connection is closed.
        let _ = self.send();
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}
