//! Clients: each sends a few requests at once, gives up after a while, and writes down what it
//! asked and was told.
//!
//! There are two kinds of keys. Operations on the first kind ask for no less than the defaults, and
//! must be linearizable. Operations on the second say their own W and R, and are checked against
//! what the contract promises for these.

use kvorum::core::Refusal;
use kvorum_protocol::{LogIndex, NodeId, Quorum, Response};

use crate::chance::Chance;
use crate::history::OperationId;
use crate::invariants::{Checked, Write, ensure};
use crate::linearizable::STEPS_MAX;
use crate::network::Place;
use crate::node::{Input, place_of};
use crate::options::{ClientOptions, Options};
use crate::queue::{MICROSECOND, Time};
use crate::register::{self, Action, Call, Failure, StoreHistory, check_store};
use crate::sessions::{ClientSession, Course, CourseNumber};
use crate::trace;
use crate::turn::is_not_applied;
use crate::world::{Event, World};

/// Operations are numbered through; the number is also the tag of the request.
pub type OpNumber = u32;

/// What a client hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    Written(LogIndex),
    /// And whether the key was there.
    Deleted(LogIndex, bool),
    Value(LogIndex, String),
    NotFound,
    Refused(Refusal),
}

impl From<&Response<'_>> for Told {
    fn from(response: &Response<'_>) -> Told {
        match response {
            Response::Written { version } => Told::Written(*version),
            Response::Deleted { version, count } => Told::Deleted(*version, *count > 0),
            Response::Value { version, value } => {
                Told::Value(*version, String::from_utf8_lossy(value).into_owned())
            }
            Response::NotFound => Told::NotFound,
            other => panic!("nobody asked for {other:?}"),
        }
    }
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub enum Wish {
    /// Something of a key.
    Key(Call),
    /// A session with this window.
    Session(u32),
}

/// One request. A write of a session is sent in as many as it takes.
#[derive(Clone, Debug)]
pub struct Op {
    client: u32,
    pub wish: Wish,
    /// W or R, if the client says it.
    pub quorum: Option<Quorum>,
    /// Its place in the history of linearizable operations, if it belongs there.
    history: Option<OperationId>,
    /// The write of a session that it sends.
    course: Option<CourseNumber>,
    place: Place,
    /// The connection that carries it: of one client, to one process.
    pub connection: u64,
    is_done: bool,
    /// What was decided when it was called.
    pub decided: LogIndex,
    /// How many writes of its key were acknowledged when it was called.
    acknowledged: usize,
    /// The members that its node went by when it took the request, counted as
    /// [`kvorum::core::Node::members_version`] does.
    pub members_version: u64,
    /// The voters when it was answered; none if they have changed while a read waited.
    pub voters: Vec<NodeId>,
}

impl Op {
    /// What it asks of a key; `None` if it asks for a session.
    pub fn call(&self) -> Option<&Call> {
        match &self.wish {
            Wish::Key(call) => Some(call),
            Wish::Session(_) => None,
        }
    }

    fn is_read(&self) -> bool {
        self.call().is_some_and(|call| call.action == Action::Get)
    }

    /// Whether it has to be linearizable.
    pub fn is_strict(&self) -> bool {
        self.history.is_some()
    }
}

/// The bytes that go over the wire.
pub fn key_bytes(call: &Call) -> Vec<u8> {
    format!("k{}", call.key).into_bytes()
}

pub struct Client {
    place: Place,
    pub in_flight: usize,
    /// For those whose writes are in one.
    pub session: Option<ClientSession>,
}

/// An acknowledged write on a key of the second kind.
struct Kept {
    version: LogIndex,
    op: OpNumber,
    /// W.
    copies: usize,
    /// Those among whom so many held it.
    voters: Vec<NodeId>,
}

impl Kept {
    /// Whether a read that asks `r` of these voters, or more, asks one that held the write.
    fn is_met_by(&self, r: usize, voters: &[NodeId]) -> bool {
        let gone = self.voters.iter().filter(|id| !voters.contains(id)).count();
        r >= 2 && self.copies + r > voters.len() + gone
    }
}

/// What a read with R = k told, and the last write that it had to see.
struct Seen {
    read: OpNumber,
    told: Option<LogIndex>,
    must_see: (LogIndex, OpNumber),
}

pub struct Clients {
    options: ClientOptions,
    pub clients: Vec<Client>,
    ops: Vec<Op>,
    /// The writes of sessions.
    pub courses: Vec<Course>,
    pub history: StoreHistory,
    /// By key.
    relaxed: Vec<Vec<Kept>>,
    seen: Vec<Seen>,
    /// How many values were set.
    values: u64,
    /// Clients ask nothing of their own any more.
    pub are_quiet: bool,
    /// How many of the last operations are not answered.
    pub fresh_open: usize,
    fresh_from: OpNumber,
}

impl Clients {
    pub fn new(options: &Options, chance: &mut Chance) -> Clients {
        let nodes = usize::from(options.machines());
        let count = options.clients.count;
        let clients = (0..count).map(|seed| {
            let place = chance.below(nodes);
            let has_session = chance.happens(options.sessions.share);
            let session =
                has_session.then(|| ClientSession::new(options.sessions.window, nodes, seed));
            Client { place, in_flight: 0, session }
        });
        let clients = clients.collect();
        Clients {
            options: options.clients.clone(),
            clients,
            ops: Vec::new(),
            courses: Vec::new(),
            history: StoreHistory::default(),
            relaxed: (0..options.clients.keys).map(|_| Vec::new()).collect(),
            seen: Vec::new(),
            values: 0,
            are_quiet: false,
            fresh_open: 0,
            fresh_from: OpNumber::MAX,
        }
    }

    pub fn op(&self, number: OpNumber) -> &Op {
        &self.ops[number as usize]
    }

    pub fn op_mut(&mut self, number: OpNumber) -> &mut Op {
        &mut self.ops[number as usize]
    }

    /// The write of a session that a request sends.
    pub fn course(&self, op: &Op) -> Option<&Course> {
        op.course.map(|number| &self.courses[number])
    }

    /// A call begins; its place in the history, if it belongs there.
    pub fn note_call(&mut self, client: u32, call: &Call) -> Option<OperationId> {
        let is_strict = call.key < self.options.keys;
        is_strict.then(|| self.history.call(client, call.clone()))
    }

    /// What is to be stored, if anything is, as it goes over the wire.
    pub fn value_bytes(&self, call: &Call) -> Option<Vec<u8>> {
        let Action::Set(value) = call.action else { return None };
        let digits = if value % 2 == 0 { self.options.large_bytes } else { 0 };
        Some(format!("{value:0digits$}").into_bytes())
    }

    /// The write that a request is, if it is one, in a cluster of so many voters.
    pub fn write(&self, op: &Op, voters: usize) -> Option<Write> {
        let call = op.call().filter(|call| call.action != Action::Get)?;
        let copies = op.quorum.map_or(0, |quorum| size(quorum, voters));
        let at_least = match op.quorum.is_none() || op.course.is_some() {
            true => size(Quorum::Majority, voters),
            false => 0,
        };
        let copies = copies.max(at_least);
        Some(Write { key: key_bytes(call), value: self.value_bytes(call), copies })
    }

    /// A value that nobody has set.
    fn new_value(&mut self) -> u64 {
        self.values += 1;
        self.values
    }

    /// How long a request or an answer takes.
    pub fn delay(&self, chance: &mut Chance) -> Time {
        50 * MICROSECOND + chance.wait(300 * MICROSECOND)
    }

    /// Whether any client waits for an answer.
    pub fn wait(&self) -> bool {
        self.clients.iter().any(|client| client.in_flight > 0)
    }

    /// The acknowledged writes on a key, if it is of the second kind.
    fn kept(&self, key: u32) -> &[Kept] {
        let at = key.checked_sub(self.options.keys);
        at.map_or(&[], |at| &self.relaxed[at as usize])
    }

    /// The last write that a read on a key of the second kind had to see: acknowledged before it was
    /// called, and held by one of those that it has asked.
    fn must_see(&self, read: &Op) -> Option<(LogIndex, OpNumber)> {
        let key = read.call().expect("a read").key;
        let r = size(read.quorum.unwrap_or(Quorum::Majority), read.voters.len());
        let writes = self.kept(key)[..read.acknowledged].iter();
        let met = writes.filter(|write| write.is_met_by(r, &read.voters));
        met.map(|write| (write.version, write.op)).max()
    }
}

/// How many of so many voters are asked for, also when it is more than there are.
fn size(quorum: Quorum, voters: usize) -> usize {
    match quorum {
        Quorum::Count(count) => usize::from(count),
        Quorum::Majority | Quorum::All => quorum.size(voters).unwrap_or_default(),
    }
}

impl World {
    pub fn begin_asking(&mut self) {
        for client in 0..self.options.clients.count {
            let at = self.chance.wait(self.options.clients.think);
            self.queue.schedule(at, Event::Ask(client));
        }
    }

    /// A client has its moment.
    pub fn ask(&mut self, client: u32) {
        if self.clients.are_quiet {
            return;
        }
        let again = self.now + self.chance.wait(self.options.clients.think);
        self.queue.schedule(again, Event::Ask(client));
        let ClientOptions { keys, relaxed, depth, reads_percent, .. } = self.options.clients;
        if self.clients.clients[client as usize].in_flight >= depth {
            return;
        }
        let is_read = self.chance.between(1, 100) <= reads_percent;
        let is_relaxed = relaxed && self.chance.happens(0.5);
        let key = u32::try_from(self.chance.below(keys as usize)).expect("keys are few");
        let key = key + if is_relaxed { keys } else { 0 };
        let action = match is_read {
            true => Action::Get,
            // Not on the second kind: an absent key tells no version.
            false if !is_relaxed && self.chance.happens(0.1) => Action::Delete,
            false => Action::Set(self.clients.new_value()),
        };
        let quorum = if is_relaxed { self.any_quorum() } else { self.strict_quorum(is_read) };
        let call = Call { key, action };
        if !is_read && self.has_session(client) {
            return self.begin_course(client, call, quorum);
        }
        self.call(client, call, quorum);
    }

    /// Where members change, also more than there are voters.
    fn any_quorum(&mut self) -> Option<Quorum> {
        let count = self.chance.between(1, u64::from(self.options.voters_max()));
        Some(Quorum::Count(u8::try_from(count).expect("voters are few")))
    }

    /// A quorum that keeps operations linearizable. R = 1 never does, not even with one voter: a
    /// learner too answers it at once. Nor does any number where members change: whoever is asked
    /// may go by voters that are none any more.
    fn strict_quorum(&mut self, is_read: bool) -> Option<Quorum> {
        let voters = u64::from(self.options.voters_max());
        if is_read && (voters == 1 || self.options.faults.members.is_some()) {
            return self.chance.one_of(&[None, Some(Quorum::Majority)]);
        }
        let count = self.chance.between(voters / 2 + 1, voters);
        let count = Quorum::Count(u8::try_from(count).expect("voters are few"));
        let count = if !is_read && self.chance.happens(0.3) { Quorum::All } else { count };
        self.chance.weighted(&[(12, None), (2, Some(Quorum::Majority)), (1, Some(count))])
    }

    fn call(&mut self, client: u32, call: Call, quorum: Option<Quorum>) {
        let history = self.clients.note_call(client, &call);
        self.clients.clients[client as usize].in_flight += 1;
        self.send_request(client, Wish::Key(call), quorum, history, None, None);
    }

    /// Asks for a session with this window.
    pub fn open_session(&mut self, client: u32, window: u32) {
        self.clients.clients[client as usize].in_flight += 1;
        let quorum = self.any_quorum();
        self.send_request(client, Wish::Session(window), quorum, None, None, None);
    }

    /// Sends a write of a session to a node of the client's choice, which waits for the answer; or
    /// anywhere, and nobody does.
    pub fn send_write(&mut self, number: CourseNumber, to: Option<Place>) {
        let course = &self.clients.courses[number];
        let (client, call) = (course.client, course.call.clone());
        let (quorum, history) = (course.quorum, course.history);
        let op = self.send_request(client, Wish::Key(call), quorum, history, Some(number), to);
        self.clients.ops[op as usize].is_done = to.is_none();
    }

    fn send_request(
        &mut self,
        client: u32,
        wish: Wish,
        quorum: Option<Quorum>,
        history: Option<OperationId>,
        course: Option<CourseNumber>,
        to: Option<Place>,
    ) -> OpNumber {
        let number = OpNumber::try_from(self.clients.ops.len()).expect("worlds are short");
        let read = match &wish {
            Wish::Key(call) if call.action == Action::Get => Some(call),
            _ => None,
        };
        let options = &self.options.clients;
        let roaming = if read.is_some() { options.roaming_reads } else { options.roaming_writes };
        let roams = self.chance.happens(roaming) && !self.clients.are_quiet;
        let leader = self.clients.clients[client as usize].place;
        let place = if roams { self.chance.below(self.machines.len()) } else { leader };
        let place = to.unwrap_or(place);
        let acknowledged = read.map_or(0, |read| self.clients.kept(read.key).len());
        let who = trace::Client(client);
        let name = course.map(|course| self.clients.courses[course].name);
        self.trace.line(self.now, who, || {
            let what = match &wish {
                Wish::Key(call) => call.to_string(),
                Wish::Session(window) => format!("OPEN_SESSION {window}"),
            };
            let name = name.map_or(String::new(), |name| {
                format!(" session={} sequence={}", name.session, name.sequence)
            });
            format!("asks n{} {what}{name} quorum={quorum:?} (request {number})", place + 1)
        });
        let life = self.machines[place].life;
        let connection = u64::from(client) << 40 | (place as u64) << 32 | u64::from(life);
        self.clients.ops.push(Op {
            client,
            wish,
            quorum,
            history,
            course,
            place,
            connection,
            is_done: false,
            decided: self.checks.ledger().end(),
            acknowledged,
            members_version: 0,
            voters: Vec::new(),
        });
        let arrives = self.now + self.clients.delay(&mut self.chance);
        self.queue.schedule(arrives, Event::Request(number, life));
        if !self.clients.are_quiet {
            let patience = self.now + self.options.clients.patience;
            self.queue.schedule(patience, Event::GiveUp(number));
        }
        number
    }

    /// A request comes to its node, which may be gone.
    pub fn request(&mut self, number: OpNumber, life: u32) {
        let place = self.clients.op(number).place;
        let machine = &mut self.machines[place];
        match &mut machine.process {
            Some(process) if machine.life == life => {
                process.requests.push_back(number);
                self.wake(place);
            }
            _ => {
                let at = self.now + self.clients.delay(&mut self.chance);
                self.queue.schedule(at, Event::Broken(number));
            }
        }
    }

    // What a client hears of its request

    pub fn told(&mut self, number: OpNumber, told: &Told) {
        let is_fresh = number >= self.clients.fresh_from;
        let Some(op) = self.finish_op(number) else { return };
        if let Told::Refused(refusal) = told {
            let somewhere = self.chance.below(self.machines.len());
            self.clients.clients[op.client as usize].place = match refusal {
                Refusal::NotLeader { leader } => place_of(*leader),
                _ => somewhere,
            };
            let is_void = op.is_read() || is_not_applied(*refusal);
            match (op.course, op.history) {
                (None, Some(id)) if is_void => self.clients.history.not_applied(id),
                _ => {}
            }
            return self.go_on(&op, Some(told));
        }
        self.go_on(&op, Some(told));
        let Some(call) = op.call() else { return };
        // What clients go on to retry is never the last that they are asked for.
        self.clients.fresh_open -= usize::from(is_fresh && op.course.is_none());
        if let Some(id) = op.history {
            self.clients.history.returned(id, answer(told));
            return;
        }
        let version = match told {
            Told::Written(version) | Told::Value(version, _) => Some(*version),
            _ => None,
        };
        match (call.action, version) {
            (Action::Get, told) => {
                let must_see = self.clients.must_see(&op);
                let seen = must_see.map(|must_see| Seen { read: number, told, must_see });
                self.clients.seen.extend(seen);
            }
            (Action::Set(_), Some(version)) => {
                let write = self.clients.write(&op, op.voters.len());
                let copies = write.expect("a set is one").copies;
                let key = call.key - self.options.clients.keys;
                let kept = Kept { version, op: number, copies, voters: op.voters.clone() };
                self.clients.relaxed[key as usize].push(kept);
            }
            _ => {}
        }
    }

    /// What the end of a request means for the session that it is about.
    fn go_on(&mut self, op: &Op, told: Option<&Told>) {
        match (&op.wish, op.course) {
            (Wish::Session(_), _) => self.session_opened(op.client, told),
            (Wish::Key(_), Some(course)) => self.course_told(course, told),
            (Wish::Key(_), None) => {}
        }
    }

    pub fn broken(&mut self, number: OpNumber) {
        let Some(op) = self.finish_op(number) else { return };
        let somewhere = self.chance.below(self.machines.len());
        self.clients.clients[op.client as usize].place = somewhere;
        self.go_on(&op, None);
    }

    pub fn give_up(&mut self, number: OpNumber) {
        self.broken(number);
    }

    /// The operation, unless its client has finished with it before.
    fn finish_op(&mut self, number: OpNumber) -> Option<Op> {
        let op = &mut self.clients.ops[number as usize];
        if std::mem::replace(&mut op.is_done, true) {
            return None;
        }
        if op.course.is_none() {
            self.clients.clients[op.client as usize].in_flight -= 1;
        }
        Some(op.clone())
    }

    // At the end

    /// Every client writes and reads once more, the one at the leader, the other anywhere.
    pub fn ask_afresh(&mut self, leader: Place) {
        self.clients.fresh_open = 0;
        self.clients.fresh_from = OpNumber::try_from(self.clients.ops.len()).expect("short");
        for client in 0..self.options.clients.count {
            self.clients.clients[client as usize].place = leader;
            let key = client % self.options.clients.keys;
            let value = self.clients.new_value();
            for action in [Action::Set(value), Action::Get] {
                self.call(client, Call { key, action }, None);
                self.clients.fresh_open += 1;
            }
        }
    }

    /// What all clients saw together is what the contract allows.
    pub fn judge_clients(&mut self) -> Checked {
        match check_store(&self.clients.history, STEPS_MAX / 4) {
            Ok(_) => {}
            Err(Failure::OutOfSteps(..)) => self.tally.undecided += 1,
            Err(failure) => ensure(false, "linearizability", || failure.to_string())?,
        }
        for Seen { read, told, must_see: (version, write) } in &self.clients.seen {
            let write = self.clients.op(*write);
            let write = self.clients.write(write, write.voters.len());
            let write = write.expect("it was a write");
            let is_excused =
                self.checks.promises.may_be_lost(*version, &write, self.checks.ledger());
            let has_seen = told.is_some_and(|told| told >= *version);
            ensure(has_seen || is_excused, "with W + R > N a read sees every write", || {
                format!("request {read} was told {told:?} after {write:?} had version {version}")
            })?;
        }
        Ok(())
    }

    /// An operator asks a node to hand over.
    pub fn ask_for_transfer(&mut self, place: Place) {
        let to = self.chance.below(self.machines.len());
        let to = self.chance.happens(0.5).then(|| crate::node::id_of(to));
        self.give(place, Input::Transfer(to));
    }
}

fn answer(told: &Told) -> register::Answer {
    match told {
        Told::Written(version) => register::Answer::Written { version: Some(version.0) },
        Told::Deleted(version, existed) => {
            register::Answer::Deleted { existed: *existed, version: Some(version.0) }
        }
        Told::Value(version, value) => {
            let value = value.parse().expect("values are numbers");
            register::Answer::Value { value, version: Some(version.0) }
        }
        Told::NotFound => register::Answer::NotFound,
        Told::Refused(refusal) => unreachable!("{refusal:?} is no answer"),
    }
}
