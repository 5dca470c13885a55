//! One TCP connection, past the prefaces.

use std::io;
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use kvorum_protocol::ErrorCode;
use kvorum_protocol::binary::{PREFACE, PrefaceError, decode_preface};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::input::Input;
use crate::client::failure::Failure;

/// How long one server may take to accept a connection and to say what it speaks.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long [`Socket::receive`] waits at most. The system's own timeout of the socket, so that the
/// common wait costs one system call.
pub(super) const TICK: Duration = Duration::from_millis(500);

/// A server without room says so in one line of text, shorter than this.
const REFUSAL_BYTES_MAX: usize = 512;

/// A connected socket. Sending never waits; receiving waits for as long as it is told.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
}

/// What a wait was for, and what has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// There is something to receive; the end, perhaps.
    pub input: bool,
    /// There is room to send.
    pub output: bool,
}

impl Socket {
    /// Connects to `HOST:PORT` and exchanges prefaces. Tries each address of the host until one
    /// answers. CAVEAT: name resolution is the system's and knows no deadline.
    pub(super) fn open(address: &str, deadline: Instant) -> Result<(Socket, Input), Failure> {
        let deadline = deadline.min(Instant::now() + OPEN_TIMEOUT);
        let stream = connect(address, deadline)?;
        // A request is written whole, so there is nothing for Nagle's algorithm to gather.
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TICK))?;
        let socket = Socket { stream };
        if socket.send(&PREFACE)? != PREFACE.len() {
            return Err(Failure::Silent);
        }
        let mut input = Input::default();
        loop {
            match decode_preface(input.unread()) {
                Ok(Some(length)) => {
                    input.consume(length);
                    return Ok((socket, input));
                }
                Ok(None) => socket.receive_until(&mut input, deadline)?,
                Err(error) => return Err(socket.refusal(input, error, deadline)),
            }
        }
    }

    /// Hands bytes to the system, as many as it takes without waiting.
    pub(super) fn send(&self, bytes: &[u8]) -> Result<usize, Failure> {
        loop {
            match send(&self.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(count) => return Ok(count),
                Err(Errno::AGAIN) => return Ok(0),
                Err(Errno::INTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Receives what is there, or what comes within one [`TICK`]; 0 when nothing does.
    pub(super) fn receive(&self, input: &mut Input) -> Result<usize, Failure> {
        self.receive_with(input, RecvFlags::empty())
    }

    /// Receives what is there; 0 when that is nothing.
    pub(super) fn receive_now(&self, input: &mut Input) -> Result<usize, Failure> {
        self.receive_with(input, RecvFlags::DONTWAIT)
    }

    fn receive_with(&self, input: &mut Input, flags: RecvFlags) -> Result<usize, Failure> {
        match recv(&self.stream, input.room(), flags) {
            Ok((_, 0)) => Err(Failure::Closed),
            Ok((_, count)) => {
                input.filled(count);
                Ok(count)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Waits until there is something to receive, or else, if that is asked for, room to send; or
    /// until the time is over.
    pub(super) fn wait(&self, wanted: Ready, timeout: Duration) -> Result<Ready, Failure> {
        let mut events = PollFlags::empty();
        events.set(PollFlags::IN, wanted.input);
        events.set(PollFlags::OUT, wanted.output);
        let mut polled = [PollFd::new(&self.stream, events)];
        // One of more than centuries is none.
        let timeout = Timespec::try_from(timeout).ok();
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {
                // An error or the end shows in whatever is done next.
                let met = polled[0].revents();
                let is_over = met.intersects(PollFlags::ERR | PollFlags::HUP);
                Ok(Ready {
                    input: wanted.input && (is_over || met.contains(PollFlags::IN)),
                    output: wanted.output && (is_over || met.contains(PollFlags::OUT)),
                })
            }
            Err(Errno::INTR) => Ok(Ready::default()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Ends the connection, for all who wait for it, too.
    pub(super) fn shut_down(&self) {
        // One that has ended already is no error worth knowing.
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Whether there are bytes to receive; an error when the end is there.
    pub(super) fn has_input(&self) -> Result<bool, Failure> {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match recv(&self.stream, &mut [0; 1][..], flags) {
            Ok((_, 0)) => Err(Failure::Closed),
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    fn receive_until(&self, input: &mut Input, deadline: Instant) -> Result<(), Failure> {
        loop {
            let wanted = Ready { input: true, output: false };
            let is_ready = self.wait(wanted, remaining(deadline)?)?.input;
            if is_ready && self.receive_now(input)? > 0 {
                return Ok(());
            }
        }
    }

    /// A server that has no room says so in text, before it knows which protocol is spoken.
    fn refusal(&self, mut input: Input, error: PrefaceError, deadline: Instant) -> Failure {
        const MARK: &[u8] = b"ERROR ";
        loop {
            let said = input.unread();
            let is_whole = said.contains(&b'\n') || said.len() > REFUSAL_BYTES_MAX;
            let may_be_one = MARK.starts_with(&said[..said.len().min(MARK.len())]);
            if is_whole || !may_be_one || self.receive_until(&mut input, deadline).is_err() {
                break;
            }
        }
        let line = input.unread().split(|byte| *byte == b'\n').next().unwrap_or_default();
        let Some(words) = line.strip_prefix(MARK) else { return Failure::Preface(error) };
        let words = String::from_utf8_lossy(words);
        let (word, message) = words.trim_end().split_once(' ').unwrap_or((words.trim_end(), ""));
        match ErrorCode::ALL.into_iter().find(|code| code.word() == word) {
            Some(code) => Failure::Refused { code: Some(code), message: message.to_owned() },
            None => Failure::Refused { code: None, message: words.trim_end().to_owned() },
        }
    }
}

/// Tries each address of a host within the time that is left.
fn connect(address: &str, deadline: Instant) -> Result<TcpStream, Failure> {
    let mut last = Failure::Unresolved;
    let resolved = address.to_socket_addrs().map_err(|_| Failure::Unresolved)?;
    for address in resolved {
        match TcpStream::connect_timeout(&address, remaining(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// The time that is left, never zero.
fn remaining(deadline: Instant) -> Result<Duration, Failure> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Failure::Silent),
        remaining => Ok(remaining),
    }
}
