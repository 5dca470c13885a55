//! A connection of a pipeline to one server: nothing here waits.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::ToSocketAddrs as _;

use kvorum_protocol::ErrorCode;
use kvorum_protocol::binary::{
    CONNECTION_ID, PREFACE, PrefaceError, ResponseFrame, decode_preface, decode_response,
    frame_bytes,
};
use kvorum_protocol::{Request, Response, binary::RequestHead, binary::encode_request};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::plan::Taken;
use crate::client::failure::Failure;

/// A whole window of answers comes with one read while it is below this.
const INPUT_BYTES: usize = 256 << 10;

/// A server without room says so in one line of text, shorter than this.
const REFUSAL_BYTES_MAX: usize = 512;

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// There is none.
    Closed,
    /// The system is at it.
    Connecting,
    /// The server has not sent its preface yet. Requests may be sent.
    Greeting,
    /// Answers may come.
    Open,
}

/// A connection, or the place for one.
#[derive(Debug)]
pub(super) struct Link {
    stage: Stage,
    stream: Option<TcpStream>,
    /// How often it was tried to connect: a name with several addresses is tried at each in turn.
    tries: usize,
    /// Bytes to send; those before `sent` are.
    output: Vec<u8>,
    sent: usize,
    /// The system takes no more for now; an event will tell.
    is_full: bool,
    /// Bytes received: those from `begin` to `end` are not dealt with.
    input: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Link {
    pub(super) fn new() -> Link {
        Link {
            stage: Stage::Closed,
            stream: None,
            tries: 0,
            output: Vec::new(),
            sent: 0,
            is_full: false,
            input: Vec::new(),
            begin: 0,
            end: 0,
        }
    }

    /// Adds a request to what will be sent, be there a connection or not.
    #[inline]
    pub(super) fn append(&mut self, head: &RequestHead, request: &Request<'_>) {
        if self.stage == Stage::Closed && self.output.is_empty() {
            self.output.extend_from_slice(&PREFACE);
        }
        encode_request(&mut self.output, head, request);
    }

    /// Sends as much as the system takes, over a new connection if there is none.
    #[inline]
    pub(super) fn flush(
        &mut self,
        address: &str,
        registry: &Registry,
        token: Token,
    ) -> Result<Taken, Failure> {
        match self.stage {
            _ if self.output.is_empty() => Ok(Taken::default()),
            Stage::Closed => {
                self.connect(address, registry, token)?;
                Ok(Taken::default())
            }
            Stage::Connecting => Ok(Taken::default()),
            Stage::Greeting | Stage::Open => self.write(),
        }
    }

    /// CAVEAT: name resolution is the system's, and waits.
    fn connect(&mut self, address: &str, registry: &Registry, token: Token) -> Result<(), Failure> {
        let addresses = address.to_socket_addrs().map_err(|_| Failure::Unresolved)?;
        let addresses: Vec<_> = addresses.collect();
        let at = self.tries.checked_rem(addresses.len()).ok_or(Failure::Unresolved)?;
        self.tries += 1;
        let mut stream = TcpStream::connect(addresses[at])?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.stage = Stage::Connecting;
        Ok(())
    }

    /// The system says that it takes bytes, or that connecting has come to an end.
    pub(super) fn writable(&mut self) -> Result<Taken, Failure> {
        let Some(stream) = &self.stream else { return Ok(Taken::default()) };
        let was_full = std::mem::take(&mut self.is_full);
        if self.stage == Stage::Connecting {
            if let Some(error) = stream.take_error()? {
                return Err(error.into());
            }
            match stream.peer_addr() {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotConnected => {
                    return Ok(Taken::default());
                }
                Err(error) => return Err(error.into()),
            }
            // Requests are gathered here: there is nothing for Nagle's algorithm to do.
            stream.set_nodelay(true)?;
            self.stage = Stage::Greeting;
        }
        Ok(Taken { was_full, ..self.write()? })
    }

    fn write(&mut self) -> Result<Taken, Failure> {
        let Some(stream) = &mut self.stream else { return Ok(Taken::default()) };
        let before = self.sent;
        while !self.is_full && self.sent < self.output.len() {
            match stream.write(&self.output[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_full = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        let taken = Taken { bytes: self.sent - before, was_full: false };
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        } else if self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
        Ok(taken)
    }

    /// Whether a request may have arrived at a server that takes requests.
    pub(super) fn may_have_arrived(&self) -> bool {
        // With the preface, requests leave at once.
        matches!(self.stage, Stage::Greeting | Stage::Open)
    }

    /// Receives once; whether there may be more. A read that does not fill the buffer has taken
    /// everything there was (epoll(7), Q9), unless the other side has closed.
    #[inline]
    pub(super) fn receive(&mut self, is_closed: bool) -> Result<bool, Failure> {
        let Some(stream) = self.stream.as_mut().filter(|_| self.stage != Stage::Connecting) else {
            return Ok(false);
        };
        if self.begin > 0 {
            self.input.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        let wanted = INPUT_BYTES.max(frame_bytes(&self.input[..self.end]));
        if self.end == self.input.len() || self.input.len() < INPUT_BYTES {
            // The length is the server's claim: the buffer grows with what has come.
            self.input.resize(wanted.min((self.end * 2).max(INPUT_BYTES)), 0);
        }
        loop {
            match stream.read(&mut self.input[self.end..]) {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => {
                    self.end += count;
                    return Ok(self.end == self.input.len() || is_closed);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next answer in what was received.
    #[inline]
    pub(super) fn next_answer(&mut self) -> Result<Option<ResponseFrame<'_>>, Failure> {
        if self.stage != Stage::Open && !self.is_greeted()? {
            return Ok(None);
        }
        let decoded = decode_response(&self.input[self.begin..self.end]).map_err(Failure::Frame)?;
        let Some((frame, length)) = decoded else { return Ok(None) };
        self.begin += length;
        match frame.response {
            Response::Error { code, message } if frame.id == CONNECTION_ID => {
                Err(Failure::Refused { code: Some(code), message: message.to_owned() })
            }
            _ if frame.id == CONNECTION_ID => Err(Failure::Unasked),
            _ => Ok(Some(frame)),
        }
    }

    /// Takes the server's preface, if it is there.
    fn is_greeted(&mut self) -> Result<bool, Failure> {
        let unread = &self.input[self.begin..self.end];
        match decode_preface(unread) {
            Ok(Some(length)) => {
                self.begin += length;
                self.stage = Stage::Open;
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(error) => match refusal(unread, error) {
                Some(failure) => {
                    // Whoever says this has read no request.
                    self.stage = Stage::Connecting;
                    Err(failure)
                }
                None => Ok(false),
            },
        }
    }

    /// Forgets the connection and what was to be sent.
    pub(super) fn close(&mut self) {
        // The system takes a closed socket off its list of events by itself.
        self.stream = None;
        self.stage = Stage::Closed;
        self.output.clear();
        (self.sent, self.begin, self.end) = (0, 0, 0);
        self.is_full = false;
    }
}

/// What a server says in text when it has no room, before it knows which protocol is spoken;
/// `None` when the line is not whole yet.
fn refusal(said: &[u8], error: PrefaceError) -> Option<Failure> {
    const MARK: &[u8] = b"ERROR ";
    if !said.starts_with(&MARK[..said.len().min(MARK.len())]) || said.len() > REFUSAL_BYTES_MAX {
        return Some(Failure::Preface(error));
    }
    let line = &said[..said.iter().position(|byte| *byte == b'\n')?];
    let line = String::from_utf8_lossy(line.strip_prefix(MARK)?);
    let (word, message) = line.trim_end().split_once(' ').unwrap_or((line.trim_end(), ""));
    let code = ErrorCode::ALL.into_iter().find(|code| code.word() == word);
    Some(Failure::Refused { code, message: message.to_owned() })
}

/// For errors of the system that no server has caused.
pub(super) fn no_server(error: io::Error) -> crate::client::Error {
    use crate::client::{Cause, Error, ErrorKind};
    Error::new(ErrorKind::NotApplied, Cause::NoServer(error.into()))
}
