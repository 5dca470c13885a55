//! One non-blocking connection to a server: bytes out, bytes in.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use kvorum_protocol::binary::{PREFACE, decode_preface};
use mio::net::TcpStream;

use super::cluster::Place;
use super::in_flight::{InFlight, Sent};
use super::replies::Failure;
use super::workload::Part;
use super::{BenchError, Protocol};

/// The most bytes of one reply. The limit of the servers is far below.
const REPLY_BYTES_MAX: usize = 256 << 20;

/// Whether a connection is to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It is.
    Up,
    /// Replies are taken and nothing is sent; nanoseconds of the engine's clock.
    Paused {
        /// When that began.
        since_ns: u64,
    },
    /// It is lost, and should be replaced.
    Down {
        /// Not before then.
        until_ns: u64,
    },
    /// Another one is on its way.
    Opening,
}

/// One connection. All of them share the buffers that they read into and write from; a connection
/// owns only what is left over, which is rare.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    server: SocketAddr,
    /// What it is for, where the servers are one cluster.
    pub(crate) place: Place,
    /// The number of its server, where the servers are one cluster.
    pub(crate) at: usize,
    /// Always [`State::Up`] where the servers are no cluster.
    pub(crate) state: State,
    /// The requests that were sent.
    pub(crate) in_flight: InFlight,
    /// How many requests were sent in this run.
    pub(crate) sent: u64,
    /// Whether a WAIT was sent and is not answered.
    pub(crate) is_waiting: bool,
    /// Writes that were answered and are done when the WAIT behind them is answered too.
    pub(crate) unconfirmed: Vec<Sent>,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
    /// The beginning of a reply whose end has not come yet.
    partial: Vec<u8>,
}

/// What [`Connection::receive`] has done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    /// How many bytes of the buffer are to be decoded.
    pub(crate) bytes: usize,
    /// Whether the kernel has no more for now: the next event will tell.
    pub(crate) drained: bool,
}

impl Connection {
    /// Connects, and exchanges the preface of the binary protocol; each may take so long.
    pub(crate) fn open(
        server: SocketAddr,
        protocol: Protocol,
        timeout: Duration,
    ) -> Result<Connection, BenchError> {
        let connect = || {
            let mut stream = std::net::TcpStream::connect_timeout(&server, timeout)?;
            stream.set_nodelay(true)?;
            if protocol == Protocol::Binary {
                stream.set_read_timeout(Some(timeout))?;
                greet(&mut stream)?;
            }
            stream.set_nonblocking(true)?;
            Ok(stream)
        };
        let stream = connect().map_err(|source| BenchError::Connect { server, source })?;
        Ok(Connection {
            stream: TcpStream::from_std(stream),
            server,
            place: Place { part: Part::All, home: 0 },
            at: 0,
            state: State::Up,
            in_flight: InFlight::new(1),
            sent: 0,
            is_waiting: false,
            unconfirmed: Vec::new(),
            unsent: Vec::new(),
            partial: Vec::new(),
        })
    }

    /// The same in a cluster: what it is for, and the number of its server.
    pub(crate) fn placed(self, place: Place, at: usize) -> Connection {
        Connection { place, at, ..self }
    }

    /// For registering with `mio`.
    pub(crate) fn stream_mut(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Where it leads.
    pub(crate) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Forgets the last run and makes room for `pipeline` requests.
    pub(crate) fn prepare(&mut self, pipeline: u32) {
        assert_eq!(self.in_flight.len(), 0, "a run ends when all its requests are answered");
        self.in_flight = InFlight::new(pipeline);
        self.sent = 0;
    }

    /// Goes on with another connection, to the server of this number. How much was sent before
    /// stays known.
    pub(crate) fn replace_by(&mut self, other: Connection, at: usize, pipeline: u32) {
        let in_flight = InFlight::new(pipeline);
        *self = Connection { sent: self.sent, in_flight, ..other.placed(self.place, at) };
    }

    /// In a cluster: takes a refusal that says more of the server than of the request.
    pub(crate) fn refused(&mut self, failure: &Failure<'_>, now_ns: u64) {
        if self.state == State::Up && failure.is_of_the_server() {
            self.state = State::Paused { since_ns: now_ns };
        }
    }

    /// Whether the last bytes to [`send`](Connection::send) are still waiting.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Sends bytes; what the kernel does not take at once follows with
    /// [`flush`](Connection::flush).
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(!self.is_blocked());
        let taken = write_some(&mut self.stream, bytes)?;
        self.unsent.extend_from_slice(&bytes[taken..]);
        Ok(())
    }

    /// Sends what is left over, when the kernel has room again.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.is_blocked() {
            let taken = write_some(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..taken);
        }
        Ok(())
    }

    /// Reads once into `buffer`, behind what was [kept](Connection::keep) of the last time.
    ///
    /// A read that does not fill the buffer has taken everything there was (epoll(7), Q9), unless
    /// the other side has closed: that would then go unnoticed, so `read_closed`, from the event,
    /// asks for one more read.
    pub(crate) fn receive(
        &mut self,
        buffer: &mut Vec<u8>,
        read_closed: bool,
    ) -> io::Result<Received> {
        let kept = self.partial.len();
        if kept * 2 > buffer.len() {
            if kept > REPLY_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply has no end"));
            }
            buffer.resize(kept * 2, 0);
        }
        buffer[..kept].copy_from_slice(&self.partial);
        loop {
            return match self.stream.read(&mut buffer[kept..]) {
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    let bytes = kept + read;
                    Ok(Received { bytes, drained: bytes < buffer.len() && !read_closed })
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Ok(Received { bytes: kept, drained: true })
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Keeps the beginning of a reply for the next [`receive`](Connection::receive).
    pub(crate) fn keep(&mut self, partial: &[u8]) {
        self.partial.clear();
        self.partial.extend_from_slice(partial);
    }
}

/// Writes until the kernel takes no more; returns how many bytes it took.
fn write_some(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() {
        match stream.write(&bytes[taken..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => taken += written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

fn greet(stream: &mut std::net::TcpStream) -> io::Result<()> {
    stream.write_all(&PREFACE)?;
    let mut theirs = [0; PREFACE.len()];
    stream.read_exact(&mut theirs)?;
    decode_preface(&theirs)
        .map(|_| ())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
