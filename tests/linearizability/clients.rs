//! Clients that note what they ask and are told. They speak all three protocols, one request at a
//! time or several, and choose their requests by a seed.

use std::collections::{HashMap, VecDeque};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kvorum::client::{Connection, ConnectionError, Reason, Reply, RequestId};
use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{Command, Op, Read, Request};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::support::history::OperationId;
use crate::support::register::{Action, Answer, Call, StoreHistory};
use crate::support::{PATIENCE, deadline};

/// Few, so that clients meet.
pub const KEYS: u32 = 4;

/// How long a client that has been told to stop waits for answers that are on their way.
const LAST_CALL: Duration = Duration::from_millis(50);

/// The history, shared by the clients that write it.
#[derive(Default)]
pub struct Recorder {
    history: Mutex<StoreHistory>,
    changed: Condvar,
}

impl Recorder {
    pub fn history(&self) -> MutexGuard<'_, StoreHistory> {
        self.history.lock().expect("nobody panics while holding it")
    }

    /// Waits until the history is as wished.
    pub fn wait_until(&self, wished: impl Fn(&StoreHistory) -> bool) {
        let deadline = deadline();
        let mut history = self.history();
        while !wished(&history) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the clients are stuck: {}", history.returned_count());
            let waited = self.changed.wait_timeout(history, left);
            (history, _) = waited.expect("nobody panics while holding it");
        }
    }

    fn call(&self, client: u32, call: Call) -> OperationId {
        let id = self.history().call(client, call);
        self.changed.notify_all();
        id
    }

    fn returned(&self, id: OperationId, answer: Answer) {
        self.history().returned(id, answer);
        self.changed.notify_all();
    }
}

/// A protocol, as a client chooses it.
#[derive(Clone, Copy, Debug)]
pub enum Protocol {
    Binary,
    Text,
    Resp,
}

/// Who asks for what.
pub struct Client {
    number: u32,
    protocol: Protocol,
    /// How many requests it has in flight.
    pub depth: usize,
    rng: StdRng,
    values: u64,
}

impl Client {
    pub fn new(number: u32, protocol: Protocol, depth: usize) -> Client {
        let rng = StdRng::seed_from_u64(u64::from(number));
        Client { number, protocol, depth, rng, values: 0 }
    }

    pub fn connect(&self, address: &str) -> Link {
        match self.protocol {
            Protocol::Binary => {
                let connection = Connection::open(address, deadline()).expect("it accepts");
                Link::Binary(connection, HashMap::new())
            }
            Protocol::Text => Link::Lines(Lines::connect(address, Dialect::Text)),
            Protocol::Resp => Link::Lines(Lines::connect(address, Dialect::Resp)),
        }
    }

    /// Asks so many things, or until the server is gone, or until `stop` and no more answers come.
    pub fn ask(&mut self, mut link: Link, recorder: &Recorder, requests: usize, stop: &AtomicBool) {
        let mut asked = 0;
        loop {
            while asked < requests && link.in_flight() < self.depth && !stop.load(Relaxed) {
                let call = self.choose();
                let id = recorder.call(self.number, call.clone());
                asked += 1;
                if link.send(id, &call).is_err() {
                    return;
                }
            }
            if link.in_flight() == 0 {
                return;
            }
            match link.receive() {
                Ok(Some((id, answer))) => recorder.returned(id, answer),
                Ok(None) if stop.load(Relaxed) => return,
                Ok(None) => {}
                Err(Gone) => return,
            }
        }
    }

    /// Reads every key once.
    pub fn look(&self, address: &str, recorder: &Recorder) {
        let mut link = self.connect(address);
        for key in 0..KEYS {
            let call = Call { key, action: Action::Get };
            let id = recorder.call(self.number, call.clone());
            link.send(id, &call).expect("the server serves");
        }
        let deadline = deadline();
        while link.in_flight() > 0 {
            if let Some((id, answer)) = link.receive().expect("the server serves") {
                recorder.returned(id, answer);
            }
            assert!(Instant::now() < deadline, "a read is not answered");
        }
    }

    fn choose(&mut self) -> Call {
        let key = self.rng.random_range(0..KEYS);
        let action = match self.rng.random_range(0..100) {
            0..60 => Action::Get,
            60..92 => {
                self.values += 1;
                Action::Set(u64::from(self.number) * 1_000_000 + self.values)
            }
            _ => Action::Delete,
        };
        Call { key, action }
    }
}

/// The connection is lost.
#[derive(Debug)]
pub struct Gone;

/// A connection, and what is in flight on it.
pub enum Link {
    Binary(Connection, HashMap<RequestId, OperationId>),
    Lines(Lines),
}

impl Link {
    pub fn in_flight(&self) -> usize {
        match self {
            Link::Binary(_, in_flight) => in_flight.len(),
            Link::Lines(lines) => lines.in_flight.len(),
        }
    }

    fn send(&mut self, id: OperationId, call: &Call) -> Result<(), Gone> {
        match self {
            Link::Binary(connection, in_flight) => {
                let (key, value) = (key(call), value(call));
                let request = match call.action {
                    Action::Get => Request::Read(Read::Get(key.as_bytes())),
                    Action::Set(_) => {
                        let op = Op::Set { key: key.as_bytes(), value: value.as_bytes() };
                        Request::Write(Command::new(op))
                    }
                    Action::Delete => {
                        Request::Write(Command::new(Op::Delete { key: key.as_bytes() }))
                    }
                };
                let sent = connection.send(RequestHead::default(), &request, deadline());
                in_flight.insert(sent.map_err(gone)?, id);
                Ok(())
            }
            Link::Lines(lines) => lines.send(id, call),
        }
    }

    /// The next answer; `None` when none comes for a while.
    fn receive(&mut self) -> Result<Option<(OperationId, Answer)>, Gone> {
        match self {
            Link::Binary(connection, in_flight) => {
                let (request, reply) = match connection.receive(Instant::now() + LAST_CALL) {
                    Ok(answer) => answer,
                    Err(ConnectionError::Lost { reason: Reason::Deadline, .. }) => return Ok(None),
                    Err(error) => return Err(gone(error)),
                };
                let id = in_flight.remove(&request).expect("an answer to a request");
                Ok(Some((id, binary_answer(reply))))
            }
            Link::Lines(lines) => lines.receive(),
        }
    }
}

/// A server that dies does nothing else to its clients.
fn gone(error: ConnectionError) -> Gone {
    match error {
        ConnectionError::Lost { reason: Reason::Io(_) | Reason::Closed, .. } => Gone,
        error => panic!("{error}"),
    }
}

fn binary_answer(reply: Reply) -> Answer {
    match reply {
        Reply::Written { version } => Answer::Written { version: Some(version.0) },
        Reply::Deleted { version, count } => {
            Answer::Deleted { existed: count == 1, version: Some(version.0) }
        }
        Reply::Value { version, value } => {
            Answer::Value { value: number(&value), version: Some(version.0) }
        }
        Reply::NotFound => Answer::NotFound,
        other => panic!("answered with {other:?}"),
    }
}

fn key(call: &Call) -> String {
    format!("k{}", call.key)
}

/// A number in as many digits as make values of many sizes.
fn value(call: &Call) -> String {
    match call.action {
        Action::Set(value) => {
            let width = 8 + usize::try_from(value % 50).expect("small") * 10;
            format!("{value:0width$}")
        }
        Action::Get | Action::Delete => String::new(),
    }
}

fn number(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("nobody wrote {}", value.escape_ascii()))
}

#[derive(Clone, Copy)]
enum Dialect {
    Text,
    Resp,
}

/// A connection that answers in the order of the requests.
pub struct Lines {
    stream: TcpStream,
    dialect: Dialect,
    input: Vec<u8>,
    in_flight: VecDeque<(OperationId, Action)>,
}

impl Lines {
    fn connect(address: &str, dialect: Dialect) -> Lines {
        let stream = TcpStream::connect(address).expect("the server accepts connections");
        stream.set_nodelay(true).expect("an option can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_read_timeout(Some(LAST_CALL)).expect("a timeout can be set");
        Lines { stream, dialect, input: Vec::new(), in_flight: VecDeque::new() }
    }

    fn send(&mut self, id: OperationId, call: &Call) -> Result<(), Gone> {
        let (key, value) = (key(call), value(call));
        let verb = match (self.dialect, call.action) {
            (_, Action::Get) => "GET",
            (_, Action::Set(_)) => "SET",
            (Dialect::Text, Action::Delete) => "DELETE",
            (Dialect::Resp, Action::Delete) => "DEL",
        };
        let words: Vec<&str> =
            [verb, &key, &value].into_iter().filter(|word| !word.is_empty()).collect();
        let request = match self.dialect {
            Dialect::Text => words.join(" ") + "\n",
            Dialect::Resp => {
                let bulk = |word: &&str| format!("${}\r\n{word}\r\n", word.len());
                let bulks: String = words.iter().map(bulk).collect();
                format!("*{}\r\n{bulks}", words.len())
            }
        };
        self.in_flight.push_back((id, call.action));
        self.stream.write_all(request.as_bytes()).map_err(|_| Gone)
    }

    fn receive(&mut self) -> Result<Option<(OperationId, Answer)>, Gone> {
        loop {
            if let Some((reply, length)) = self.reply() {
                let (id, action) = self.in_flight.pop_front().expect("an answer to a request");
                let answer = self.answer(action, &reply);
                self.input.drain(..length);
                return Ok(Some((id, answer)));
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Gone),
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Err(Gone),
            }
        }
    }

    /// The reply at the start of the input, without its line ends, and how long it is with them.
    fn reply(&self) -> Option<(String, usize)> {
        let text = String::from_utf8_lossy(&self.input);
        let (line, rest) = text.split_once('\n')?;
        let length = line.len() + 1;
        let line = line.trim_end_matches('\r');
        let is_bulk = matches!(self.dialect, Dialect::Resp) && line.starts_with('$');
        if !is_bulk || line == "$-1" {
            return Some((line.to_owned(), length));
        }
        let (bulk, _) = rest.split_once("\r\n")?;
        assert_eq!(line, format!("${}", bulk.len()), "{bulk}");
        Some((format!("${bulk}"), length + bulk.len() + 2))
    }

    fn answer(&self, action: Action, reply: &str) -> Answer {
        let deleted = |existed| Answer::Deleted { existed, version: None };
        let value = |text: &str| Answer::Value { value: number(text.as_bytes()), version: None };
        match (self.dialect, action, reply) {
            (Dialect::Text, Action::Set(_), "OK") => Answer::Written { version: None },
            (Dialect::Text, Action::Delete, "OK") => deleted(true),
            (Dialect::Text, Action::Delete, "NOT_FOUND") => deleted(false),
            (Dialect::Text, Action::Get, "NOT_FOUND") => Answer::NotFound,
            (Dialect::Resp, Action::Set(_), "+OK") => Answer::Written { version: None },
            (Dialect::Resp, Action::Delete, ":1") => deleted(true),
            (Dialect::Resp, Action::Delete, ":0") => deleted(false),
            (Dialect::Resp, Action::Get, "$-1") => Answer::NotFound,
            (dialect, Action::Get, reply) => {
                let prefix = if matches!(dialect, Dialect::Text) { "VALUE " } else { "$" };
                let text = reply.strip_prefix(prefix);
                value(text.unwrap_or_else(|| panic!("a GET was answered with {reply}")))
            }
            (_, action, reply) => panic!("{action:?} was answered with {reply}"),
        }
    }
}
