//! One blocking connection that speaks the binary protocol (`protocol/SPEC.md`).
//!
//! Any number of requests may be in flight: [`send`](Connection::send) them, then
//! [`receive_for`](Connection::receive_for) each by the id that `send` returned, in any order; or
//! [`call`](Connection::call) for one at a time. Each function returns at its deadline at the
//! latest. After an error the connection is of no more use: drop it. The one exception is a
//! `receive` that has met its deadline: the answer may still come, and can be waited for again.
//!
//! CAVEATS. A node stops reading from a client that does not read its replies, and `send` does not
//! read: with more replies in flight than the sockets' buffers hold, it waits until its deadline.
//! Name resolution is the system's and knows no deadline.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use kvorum_protocol::binary::{
    CONNECTION_ID, FrameError, PREFACE, PrefaceError, RequestHead, decode_preface, decode_response,
    encode_request,
};
use kvorum_protocol::{DecodeError, Request, Response};

use super::check::check;
use super::reply::Reply;

/// The least that is asked of the socket at once.
const READ_BYTES: usize = 64 << 10;

/// Refusals of a server that is full come as one line of text, shorter than this.
const REFUSAL_BYTES_MAX: usize = 512;

/// Names a request among those in flight on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(u32);

/// A connection to one node.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    next_id: u32,
    /// Encoded requests; empty between calls.
    output: Vec<u8>,
    /// What was read; the bytes before `consumed` are dealt with.
    input: Vec<u8>,
    consumed: usize,
    /// Answers that came before somebody asked for them.
    early: HashMap<RequestId, Reply>,
}

/// Why there is no answer. The variants say what is known of a write's outcome.
#[derive(Debug)]
pub enum ConnectionError {
    /// The connection was never there: nothing was sent, **nothing was applied**.
    Unreachable {
        /// The node.
        address: String,
        /// What happened.
        reason: Reason,
    },
    /// The connection broke, or the deadline passed, with requests in flight: each of them
    /// **may or may not** have been applied, and may yet be.
    Lost {
        /// The node.
        address: String,
        /// What happened.
        reason: Reason,
    },
    /// The request is one that no server accepts. It was not sent, and the connection is still
    /// good.
    WrongUsage(DecodeError),
}

/// What happened to a connection.
#[derive(Debug)]
pub enum Reason {
    /// The operating system reported this.
    Io(io::Error),
    /// The other side closed it.
    Closed,
    /// The deadline passed.
    Deadline,
    /// The other side does not speak this protocol.
    Preface(PrefaceError),
    /// The other side sent something that can not be understood.
    Frame(FrameError),
    /// The server took its leave with these words.
    Refused(String),
}

impl Connection {
    /// Connects to `HOST:PORT` and exchanges prefaces. Tries each address of the host until one
    /// answers.
    ///
    /// # Errors
    /// [`ConnectionError::Unreachable`].
    pub fn open(address: &str, deadline: Instant) -> Result<Connection, ConnectionError> {
        Connection::try_open(address, deadline)
            .map_err(|reason| ConnectionError::Unreachable { address: address.to_owned(), reason })
    }

    fn try_open(address: &str, deadline: Instant) -> Result<Connection, Reason> {
        let stream = connect(address, deadline)?;
        // A request is written whole, so there is nothing for Nagle's algorithm to gather.
        stream.set_nodelay(true)?;
        let mut connection = Connection {
            address: address.to_owned(),
            stream,
            next_id: 0,
            output: PREFACE.to_vec(),
            input: Vec::new(),
            consumed: 0,
            early: HashMap::new(),
        };
        connection.flush(deadline)?;
        loop {
            match decode_preface(&connection.input) {
                Ok(Some(length)) => {
                    connection.consumed = length;
                    return Ok(connection);
                }
                Ok(None) => connection.fill(deadline)?,
                Err(error) => return Err(connection.refusal(deadline, error)),
            }
        }
    }

    /// The node, as it was given to [`open`](Connection::open).
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sends a request without waiting for the answer.
    ///
    /// `head.id` is ignored: the connection numbers its requests itself.
    ///
    /// # Errors
    /// [`ConnectionError::WrongUsage`] for a key or value that no server accepts, or
    /// [`ConnectionError::Lost`].
    pub fn send(
        &mut self,
        head: RequestHead,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<RequestId, ConnectionError> {
        check(request).map_err(ConnectionError::WrongUsage)?;
        let id = RequestId(self.next_id);
        // The reserved id is the last one.
        self.next_id = (self.next_id + 1) % CONNECTION_ID;
        encode_request(&mut self.output, &RequestHead { id: id.0, ..head }, request);
        self.flush(deadline).map_err(|reason| self.lost(reason))?;
        Ok(id)
    }

    /// The next answer to arrive, with the request that it belongs to.
    ///
    /// # Errors
    /// [`ConnectionError::Lost`].
    pub fn receive(&mut self, deadline: Instant) -> Result<(RequestId, Reply), ConnectionError> {
        let early = self.early.keys().next().copied();
        if let Some(early) = early.and_then(|id| self.early.remove_entry(&id)) {
            return Ok(early);
        }
        self.try_receive(deadline).map_err(|reason| self.lost(reason))
    }

    /// The answer to one request. Answers to others that arrive before it are kept.
    ///
    /// # Errors
    /// [`ConnectionError::Lost`].
    pub fn receive_for(
        &mut self,
        id: RequestId,
        deadline: Instant,
    ) -> Result<Reply, ConnectionError> {
        loop {
            if let Some(reply) = self.early.remove(&id) {
                return Ok(reply);
            }
            let (other, reply) = self.try_receive(deadline).map_err(|reason| self.lost(reason))?;
            self.early.insert(other, reply);
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// As [`send`](Connection::send) and [`receive_for`](Connection::receive_for).
    pub fn call(
        &mut self,
        head: RequestHead,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Reply, ConnectionError> {
        let id = self.send(head, request, deadline)?;
        self.receive_for(id, deadline)
    }

    fn lost(&self, reason: Reason) -> ConnectionError {
        ConnectionError::Lost { address: self.address.clone(), reason }
    }

    fn try_receive(&mut self, deadline: Instant) -> Result<(RequestId, Reply), Reason> {
        loop {
            let unread = &self.input[self.consumed..];
            if let Some((frame, length)) = decode_response(unread).map_err(Reason::Frame)? {
                if frame.id == CONNECTION_ID {
                    return Err(Reason::Refused(words(&frame.response)));
                }
                let answer = (RequestId(frame.id), Reply::from(frame.response));
                self.consumed += length;
                return Ok(answer);
            }
            self.fill(deadline)?;
        }
    }

    /// Writes all of the output.
    fn flush(&mut self, deadline: Instant) -> Result<(), Reason> {
        let mut written = 0;
        while written < self.output.len() {
            self.stream.set_write_timeout(Some(remaining(deadline)?))?;
            match self.stream.write(&self.output[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        Ok(())
    }

    /// Waits for at least one more byte of input.
    fn fill(&mut self, deadline: Instant) -> Result<(), Reason> {
        self.input.drain(..self.consumed);
        self.consumed = 0;
        let length = self.input.len();
        // Doubling keeps the work for a large reply in proportion to its size.
        self.input.resize(length + length.max(READ_BYTES), 0);
        let read = loop {
            let timeout = remaining(deadline);
            let read = timeout.and_then(|timeout| {
                self.stream.set_read_timeout(Some(timeout))?;
                Ok(self.stream.read(&mut self.input[length..]))
            });
            match read {
                Ok(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Ok(read) => break read.map_err(Reason::from),
                Err(reason) => break Err(reason),
            }
        };
        self.input.truncate(length + *read.as_ref().unwrap_or(&0));
        match read? {
            0 => Err(Reason::Closed),
            _ => Ok(()),
        }
    }

    /// A server that has no room says so in text, before it knows which protocol is spoken.
    fn refusal(&mut self, deadline: Instant, error: PrefaceError) -> Reason {
        let full = |input: &[u8]| input.contains(&b'\n') || input.len() > REFUSAL_BYTES_MAX;
        while b"ERROR ".starts_with(&self.input[..self.input.len().min(6)]) && !full(&self.input) {
            if self.fill(deadline).is_err() {
                break;
            }
        }
        let line = self.input.split(|byte| *byte == b'\n').next().unwrap_or_default();
        match line.strip_prefix(b"ERROR ") {
            Some(words) => Reason::Refused(String::from_utf8_lossy(words).trim_end().to_owned()),
            None => Reason::Preface(error),
        }
    }
}

/// Tries each address of a host within the time that is left.
fn connect(address: &str, deadline: Instant) -> Result<TcpStream, Reason> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for resolved in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&resolved, remaining(deadline)?) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// The time that is left, never zero: a socket takes zero for "no timeout".
fn remaining(deadline: Instant) -> Result<Duration, Reason> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(Reason::Deadline),
        remaining => Ok(remaining),
    }
}

fn words(response: &Response<'_>) -> String {
    match response {
        Response::Error { code, message } => format!("{} {message}", code.word()),
        other => format!("{other:?}"),
    }
}

impl ConnectionError {
    /// Whether the request may have been applied, or may yet be.
    #[must_use]
    pub fn outcome_is_open(&self) -> bool {
        matches!(self, ConnectionError::Lost { .. })
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Reason {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Reason::Deadline,
            ErrorKind::UnexpectedEof => Reason::Closed,
            _ => Reason::Io(error),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Io(error) => error.fmt(f),
            Reason::Closed => f.write_str("the server closed the connection"),
            Reason::Deadline => f.write_str("no answer in time"),
            Reason::Preface(error) => error.fmt(f),
            Reason::Frame(error) => error.fmt(f),
            Reason::Refused(words) => f.write_str(words),
        }
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectionError::Unreachable { address, reason } => write!(f, "{address}: {reason}"),
            ConnectionError::Lost { address, reason } => write!(f, "{address}: {reason}"),
            ConnectionError::WrongUsage(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ConnectionError {}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use kvorum_protocol::binary::{decode_request, encode_response};
    use kvorum_protocol::limits::KEY_BYTES_MAX;
    use kvorum_protocol::{Command, ErrorCode, Limits, LogIndex, Op, Read};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// A server that runs `script` on its first connection.
    fn server(script: impl FnOnce(TcpStream) + Send + 'static) -> (String, thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (address, thread::spawn(move || script(listener.accept().unwrap().0)))
    }

    fn take_preface(stream: &mut TcpStream) {
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).unwrap();
        assert_eq!(preface, PREFACE);
    }

    fn get(key: &[u8]) -> Request<'_> {
        Request::Read(Read::Get(key))
    }

    #[test]
    fn answers_may_overtake_each_other_and_come_in_pieces() {
        let (address, server) = server(|mut stream| {
            take_preface(&mut stream);
            stream.write_all(&PREFACE).unwrap();
            let mut input = Vec::new();
            let mut ids = Vec::new();
            while ids.len() < 2 {
                let mut chunk = [0; 64];
                let read = stream.read(&mut chunk).unwrap();
                input.extend_from_slice(&chunk[..read]);
                while let Some((frame, length)) = decode_request(&input, &Limits::MAX).unwrap() {
                    ids.push(frame.head.id);
                    input.drain(..length);
                }
            }
            let mut output = Vec::new();
            let value = Response::Value { version: LogIndex(7), value: &[b'x'; 300_000] };
            encode_response(&mut output, ids[1], &value);
            encode_response(&mut output, ids[0], &Response::NotFound);
            for piece in output.chunks(70_001) {
                stream.write_all(piece).unwrap();
            }
        });
        let mut connection = Connection::open(&address, soon()).unwrap();
        connection.next_id = CONNECTION_ID - 1;
        let first = connection.send(RequestHead::default(), &get(b"a"), soon()).unwrap();
        let second = connection.send(RequestHead::default(), &get(b"b"), soon()).unwrap();
        assert_eq!((first, second), (RequestId(CONNECTION_ID - 1), RequestId(0)));
        assert_eq!(connection.receive_for(first, soon()).unwrap(), Reply::NotFound);
        let (id, reply) = connection.receive(soon()).unwrap();
        assert_eq!(id, second);
        assert_eq!(reply, Reply::Value { version: LogIndex(7), value: vec![b'x'; 300_000] });
        let error = connection.receive(soon()).unwrap_err();
        assert!(matches!(error, ConnectionError::Lost { reason: Reason::Closed, .. }), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_silent_server_costs_the_deadline_and_leaves_the_outcome_open() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (address, server) = server(move |mut stream| {
            take_preface(&mut stream);
            stream.write_all(&PREFACE).unwrap();
            let _ = wait.recv();
        });
        let mut connection = Connection::open(&address, soon()).unwrap();
        let set = Request::Write(Command::new(Op::Set { key: b"k", value: b"v" }));
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = connection.call(RequestHead::default(), &set, deadline).unwrap_err();
        assert!(error.outcome_is_open());
        assert!(matches!(error, ConnectionError::Lost { reason: Reason::Deadline, .. }), "{error}");
        drop(done);
        server.join().unwrap();
    }

    #[test]
    fn a_server_that_is_full_or_no_kvorum_is_unreachable() {
        for (greeting, expected) in [
            (&b"ERROR BUSY too many connections\n"[..], "BUSY too many connections"),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n", "this is not the kvorum binary protocol"),
            (b"\x89KVORM\x02\x0a", "the other side speaks version 2"),
            (b"", "the server closed the connection"),
        ] {
            let (address, server) = server(move |mut stream| {
                take_preface(&mut stream);
                stream.write_all(greeting).unwrap();
            });
            let error = Connection::open(&address, soon()).unwrap_err();
            assert!(!error.outcome_is_open());
            assert!(error.to_string().contains(expected), "{error}");
            server.join().unwrap();
        }
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let error = Connection::open(&closed, soon()).unwrap_err();
        assert!(matches!(error, ConnectionError::Unreachable { reason: Reason::Io(_), .. }));
    }

    #[test]
    fn a_last_word_for_the_whole_connection_is_an_error() {
        let (address, server) = server(|mut stream| {
            take_preface(&mut stream);
            let mut output = PREFACE.to_vec();
            let code = ErrorCode::BadRequest;
            let response = Response::Error { code, message: "the checksum does not match" };
            encode_response(&mut output, CONNECTION_ID, &response);
            stream.write_all(&output).unwrap();
        });
        let mut connection = Connection::open(&address, soon()).unwrap();
        let error = connection.receive(soon()).unwrap_err();
        assert!(error.to_string().contains("BAD_REQUEST the checksum"), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn what_no_server_accepts_is_not_sent() {
        let (address, server) = server(|mut stream| {
            take_preface(&mut stream);
            stream.write_all(&PREFACE).unwrap();
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest, b"");
        });
        let mut connection = Connection::open(&address, soon()).unwrap();
        let key = vec![b'k'; KEY_BYTES_MAX + 1];
        let error = connection.send(RequestHead::default(), &get(&key), soon()).unwrap_err();
        assert!(matches!(error, ConnectionError::WrongUsage(_)), "{error}");
        drop(connection);
        server.join().unwrap();
    }
}
