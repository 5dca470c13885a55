//! Clients of a cluster: each asks one thing at a time, of the node that it takes for the leader or
//! of any, gives up after a while, follows what it is told, and writes everything down.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kvorum::client::{Connection, ConnectionError, Reply, RequestId};
use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{Command, ErrorCode, Op, Read, Request};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::stop::Stop;
use crate::support::history::{OperationId, Outcome};
use crate::support::register::{Action, Answer, Call, StoreHistory};
use crate::support::{PATIENCE, deadline};

/// Few, so that clients meet.
pub const KEYS: u32 = 10;

const CLIENTS: u32 = 8;

/// How long a client waits for an answer. Then it no longer knows what has become of its request.
const DEADLINE: Duration = Duration::from_millis(400);

/// Between two requests of a client: enough of them to find faults, and few enough to leave the
/// machine to the nodes.
const PAUSE: Duration = Duration::from_millis(2);

/// After a request that nobody could serve.
const PAUSE_IN_VAIN: Duration = Duration::from_millis(10);

/// What all clients have seen.
#[derive(Default)]
pub struct Recorder {
    seen: Mutex<Seen>,
    changed: Condvar,
    stop: Stop,
}

#[derive(Default)]
struct Seen {
    history: StoreHistory,
    /// Acknowledged writes, in the order of their answers.
    writes: Vec<Write>,
}

#[derive(Clone, Copy)]
struct Write {
    called: Instant,
    returned: Instant,
}

impl Recorder {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics while holding it")
    }

    pub fn with_history<T>(&self, look: impl FnOnce(&StoreHistory) -> T) -> T {
        look(&self.seen().history)
    }

    fn call(&self, client: u32, call: &Call) -> OperationId {
        self.seen().history.call(client, call.clone())
    }

    fn settle(&self, id: OperationId, call: &Call, called: Instant, told: &Told) {
        let mut seen = self.seen();
        match told {
            Told::Answer(answer) => {
                seen.history.returned(id, *answer);
                if call.action != Action::Get {
                    seen.writes.push(Write { called, returned: Instant::now() });
                }
            }
            Told::NotApplied => seen.history.not_applied(id),
            Told::Nothing => return,
        }
        drop(seen);
        self.changed.notify_all();
    }

    /// Waits until there is something to see.
    fn until<T>(&self, what: &str, mut look: impl FnMut(&Seen) -> Option<T>) -> T {
        let deadline = deadline();
        let mut seen = self.seen();
        loop {
            if let Some(found) = look(&seen) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the clients are stuck: {what}");
            let waited = self.changed.wait_timeout(seen, left);
            (seen, _) = waited.expect("nobody panics while holding it");
        }
    }
}

/// What clients did, in figures.
pub struct Figures {
    pub answered: usize,
    pub refused: usize,
    pub open: usize,
    /// The longest time without an acknowledged write.
    pub longest_outage: Duration,
}

/// All clients of a cluster, until they are told to stop.
pub struct Traffic {
    pub recorder: Arc<Recorder>,
    /// Where the nodes serve clients.
    addresses: Arc<[String]>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Clients of these nodes begin to ask.
    pub fn start(addresses: Vec<String>) -> Traffic {
        let recorder = Arc::new(Recorder::default());
        let addresses: Arc<[String]> = addresses.into();
        let begin = |number| {
            let mut client = Client::new(number, Arc::clone(&addresses));
            let recorder = Arc::clone(&recorder);
            std::thread::spawn(move || client.ask_on(&recorder))
        };
        let threads = (1..=CLIENTS).map(begin).collect();
        Traffic { recorder, addresses, threads }
    }

    /// Waits until so many more requests have been answered.
    pub fn answers(&self, more: usize) {
        let wished = self.recorder.seen().history.returned_count() + more;
        self.recorder
            .until("no answers", |seen| (seen.history.returned_count() >= wished).then_some(()));
    }

    /// Waits until so many more writes, called from now on, have been acknowledged; answers how
    /// long it took.
    pub fn writes(&self, more: usize) -> Duration {
        let now = Instant::now();
        let mut looked_at = self.recorder.seen().writes.len();
        let mut found = 0;
        self.recorder.until("no acknowledged writes", |seen| {
            let new = &seen.writes[looked_at..];
            looked_at = seen.writes.len();
            let mut later = new.iter().filter(|write| write.called >= now);
            later.find_map(|write| {
                found += 1;
                (found == more).then(|| write.returned - now)
            })
        })
    }

    /// Lets clients ask for so long.
    pub fn last(&self, time: Duration) {
        self.recorder.stop.is_not_said_within(time);
    }

    /// A client for reads at one node that are asked now and answered whenever.
    pub fn witness(&self, node: usize) -> Witness {
        Witness {
            number: 50 + u32::try_from(node).expect("nodes are few"),
            connection: Connection::open(&self.addresses[node - 1], deadline()).expect("it serves"),
            in_flight: HashMap::new(),
        }
    }

    /// Tells the clients to stop, and what they did.
    pub fn stop(&mut self) -> Figures {
        self.recorder.stop.say();
        for thread in self.threads.drain(..) {
            thread.join().expect("a client failed");
        }
        let seen = self.recorder.seen();
        let outcomes = seen.history.operations().iter().map(|operation| &operation.outcome);
        let count =
            |what: fn(&Outcome<Answer>) -> bool| outcomes.clone().filter(|o| what(o)).count();
        let gaps = seen.writes.windows(2).map(|pair| pair[1].returned - pair[0].returned);
        Figures {
            answered: seen.history.returned_count(),
            refused: count(|outcome| matches!(outcome, Outcome::NotApplied)),
            open: count(|outcome| matches!(outcome, Outcome::Open)),
            longest_outage: gaps.max().unwrap_or(PATIENCE),
        }
    }

    /// Reads every key once at a node that serves.
    pub fn look(&self, node: usize) {
        let mut witness = self.witness(node);
        witness.ask(&self.recorder);
        witness.hear(&self.recorder);
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.recorder.stop.say();
        for thread in self.threads.drain(..) {
            // A scenario that has failed says why.
            let _ = thread.join();
        }
    }
}

/// Reads that wait at a node for as long as it takes.
pub struct Witness {
    number: u32,
    connection: Connection,
    in_flight: HashMap<RequestId, (OperationId, Call)>,
}

impl Witness {
    /// Asks for every key.
    pub fn ask(&mut self, recorder: &Recorder) {
        for key in 0..KEYS {
            let call = Call { key, action: Action::Get };
            let id = recorder.call(self.number, &call);
            let sent = send(&mut self.connection, &call, deadline()).expect("it has an open door");
            self.in_flight.insert(sent, (id, call));
        }
    }

    /// Waits for the answers; a node may refuse to give some.
    pub fn hear(&mut self, recorder: &Recorder) {
        while !self.in_flight.is_empty() {
            let (request, reply) = self.connection.receive(deadline()).expect("it answers");
            let (id, call) = self.in_flight.remove(&request).expect("an answer to a request");
            let told = Told::from(&call, &reply);
            recorder.settle(id, &call, Instant::now(), &told);
        }
    }
}

/// What a client knows of its request in the end.
enum Told {
    Answer(Answer),
    /// It was refused, or never sent.
    NotApplied,
    /// It may have been applied, or may yet be.
    Nothing,
}

impl Told {
    /// By the contract: only these two errors leave the outcome of a write open.
    fn from(call: &Call, reply: &Reply) -> Told {
        Told::Answer(match (call.action, reply) {
            (Action::Set(_), Reply::Written { version }) => {
                Answer::Written { version: Some(version.0) }
            }
            (Action::Delete, Reply::Deleted { version, count }) => {
                Answer::Deleted { existed: *count == 1, version: Some(version.0) }
            }
            (Action::Get, Reply::Value { version, value }) => {
                Answer::Value { value: number(value), version: Some(version.0) }
            }
            (Action::Get, Reply::NotFound) => Answer::NotFound,
            (_, Reply::Error { code: ErrorCode::QuorumTimeout | ErrorCode::LeaderChanged, .. }) => {
                return Told::Nothing;
            }
            (_, Reply::NotLeader { .. }) => return Told::NotApplied,
            (
                _,
                Reply::Error {
                    code: ErrorCode::NoLeader | ErrorCode::Busy | ErrorCode::DiskFull,
                    ..
                },
            ) => return Told::NotApplied,
            (_, other) => panic!("{call} was answered with {other:?}"),
        })
    }
}

struct Client {
    number: u32,
    rng: StdRng,
    values: u64,
    addresses: Arc<[String]>,
    /// By node.
    connections: Vec<Option<Connection>>,
    /// Whom it takes for the leader.
    leader: usize,
}

impl Client {
    fn new(number: u32, addresses: Arc<[String]>) -> Client {
        let leader = number as usize % addresses.len();
        let connections = addresses.iter().map(|_| None).collect();
        let rng = StdRng::seed_from_u64(rand::random());
        Client { number, rng, values: 0, addresses, connections, leader }
    }

    fn ask_on(&mut self, recorder: &Recorder) {
        let mut pause = PAUSE;
        while recorder.stop.is_not_said_within(pause) {
            let call = self.choose();
            let roams = if call.action == Action::Get { 0.5 } else { 0.05 };
            let node = match self.rng.random_bool(roams) {
                true => self.rng.random_range(0..self.addresses.len()),
                false => self.leader,
            };
            let called = Instant::now();
            let id = recorder.call(self.number, &call);
            let told = self.ask(node, &call);
            recorder.settle(id, &call, called, &told);
            pause = if matches!(told, Told::Answer(_)) { PAUSE } else { PAUSE_IN_VAIN };
        }
    }

    /// Asks this node, and draws conclusions about who leads.
    fn ask(&mut self, node: usize, call: &Call) -> Told {
        let deadline = Instant::now() + DEADLINE;
        let reply = match self.try_ask(node, call, deadline) {
            Ok(reply) => reply,
            Err(error) => {
                self.connections[node] = None;
                self.try_another_than(node);
                return if error.outcome_is_open() { Told::Nothing } else { Told::NotApplied };
            }
        };
        match &reply {
            Reply::NotLeader { leader } => {
                let place = self.addresses.iter().position(|address| address == leader);
                self.leader = place.unwrap_or_else(|| panic!("{leader} is no member"));
            }
            Reply::Error { .. } => self.try_another_than(node),
            _ => {}
        }
        Told::from(call, &reply)
    }

    fn try_ask(
        &mut self,
        node: usize,
        call: &Call,
        deadline: Instant,
    ) -> Result<Reply, ConnectionError> {
        let connection = match &mut self.connections[node] {
            Some(connection) => connection,
            place => place.insert(Connection::open(&self.addresses[node], deadline)?),
        };
        let id = send(connection, call, deadline)?;
        connection.receive_for(id, deadline)
    }

    fn try_another_than(&mut self, node: usize) {
        if self.leader == node {
            self.leader = self.rng.random_range(0..self.addresses.len());
        }
    }

    fn choose(&mut self) -> Call {
        let key = self.rng.random_range(0..KEYS);
        let action = match self.rng.random_range(0..100) {
            0..50 => Action::Get,
            50..92 => {
                self.values += 1;
                Action::Set(u64::from(self.number) * 10_000_000 + self.values)
            }
            _ => Action::Delete,
        };
        Call { key, action }
    }
}

fn send(
    connection: &mut Connection,
    call: &Call,
    deadline: Instant,
) -> Result<RequestId, ConnectionError> {
    let (key, value) = (key_name(call.key), value_text(call));
    let request = match call.action {
        Action::Get => Request::Read(Read::Get(key.as_bytes())),
        Action::Set(_) => {
            let op = Op::Set { key: key.as_bytes(), value: value.as_bytes() };
            Request::Write(Command::new(op))
        }
        Action::Delete => Request::Write(Command::new(Op::Delete { key: key.as_bytes() })),
    };
    connection.send(RequestHead::default(), &request, deadline)
}

pub fn key_name(key: u32) -> String {
    format!("k{key}")
}

/// A number, and itself again and again: as many bytes as make values of many sizes, none of which
/// may be changed.
fn value_text(call: &Call) -> String {
    let Action::Set(value) = call.action else { return String::new() };
    let copies = usize::try_from(value % 20).expect("small");
    format!("{value}") + &format!(":{value}").repeat(copies)
}

fn number(value: &[u8]) -> u64 {
    let words = || value.split(|byte| *byte == b':');
    let first = words().next().unwrap_or_default();
    let number = std::str::from_utf8(first).ok().and_then(|text| text.parse::<u64>().ok());
    let is_whole = words().all(|word| word == first)
        && number.is_some_and(|number| words().count() as u64 == number % 20 + 1);
    assert!(is_whole, "nobody wrote {}", value.escape_ascii());
    number.expect("just seen")
}
