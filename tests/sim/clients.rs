//! Clients: each sends a few requests at once, gives up after a while, and writes down what it
//! asked and was told.
//!
//! There are two kinds of keys. Operations on the first kind ask for no less than the defaults, and
//! must be linearizable. Operations on the second say their own W and R, and are checked against
//! what the contract promises for these.

use kvorum::core::Refusal;
use kvorum_protocol::{LogIndex, Quorum, Response};

use crate::chance::Chance;
use crate::history::OperationId;
use crate::invariants::{Checked, Write, ensure};
use crate::linearizable::STEPS_MAX;
use crate::network::Place;
use crate::node::{Input, place_of};
use crate::options::{ClientOptions, Options};
use crate::queue::{MICROSECOND, Time};
use crate::register::{self, Action, Call, Failure, StoreHistory, check_store};
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

#[derive(Clone, Debug)]
pub struct Op {
    client: u32,
    pub call: Call,
    /// W or R, if the client says it.
    pub quorum: Option<Quorum>,
    /// Its place in the history of linearizable operations, if it belongs there.
    history: Option<OperationId>,
    place: Place,
    /// How long the value is at least.
    value_bytes: usize,
    /// The connection that carries it: of one client, to one process.
    pub connection: u64,
    is_done: bool,
    /// What was decided when it was called.
    pub decided: LogIndex,
    /// The acknowledged writes of its key when it was called, of those that a read with this R
    /// must see.
    must_see: Option<(LogIndex, OpNumber)>,
}

impl Op {
    pub fn key_bytes(&self) -> Vec<u8> {
        format!("k{}", self.call.key).into_bytes()
    }

    pub fn value_bytes(&self) -> Option<Vec<u8>> {
        match self.call.action {
            Action::Set(value) => {
                Some(format!("{value:0bytes$}", bytes = self.value_bytes).into_bytes())
            }
            Action::Get | Action::Delete => None,
        }
    }

    /// Whether it has to be linearizable.
    pub fn is_strict(&self) -> bool {
        self.history.is_some()
    }

    /// The write that this is, in a cluster of so many voters.
    pub fn write(&self, voters: usize) -> Write {
        let copies = self.quorum.unwrap_or(Quorum::Majority).size(voters);
        let copies = copies.expect("clients ask for what there is");
        Write { key: self.key_bytes(), value: self.value_bytes(), copies }
    }
}

struct Client {
    place: Place,
    in_flight: usize,
}

/// What a read with R = k told, and the last write that it had to see.
struct Seen {
    read: OpNumber,
    told: Option<LogIndex>,
    must_see: (LogIndex, OpNumber),
}

pub struct Clients {
    options: ClientOptions,
    clients: Vec<Client>,
    ops: Vec<Op>,
    history: StoreHistory,
    /// Acknowledged writes on keys of the second kind, by key: version, operation, W.
    relaxed: Vec<Vec<(LogIndex, OpNumber, usize)>>,
    seen: Vec<Seen>,
    /// Clients ask nothing of their own any more.
    pub are_quiet: bool,
    /// How many of the last operations are not answered.
    pub fresh_open: usize,
    fresh_from: OpNumber,
}

impl Clients {
    pub fn new(options: &Options, chance: &mut Chance) -> Clients {
        let nodes = usize::from(options.members());
        let count = options.clients.count;
        let clients =
            (0..count).map(|_| Client { place: chance.below(nodes), in_flight: 0 }).collect();
        Clients {
            options: options.clients.clone(),
            clients,
            ops: Vec::new(),
            history: StoreHistory::default(),
            relaxed: vec![Vec::new(); options.clients.keys as usize],
            seen: Vec::new(),
            are_quiet: false,
            fresh_open: 0,
            fresh_from: OpNumber::MAX,
        }
    }

    pub fn op(&self, number: OpNumber) -> &Op {
        &self.ops[number as usize]
    }

    /// How long a request or an answer takes.
    pub fn delay(&self, chance: &mut Chance) -> Time {
        50 * MICROSECOND + chance.wait(300 * MICROSECOND)
    }

    /// Whether any client waits for an answer.
    pub fn wait(&self) -> bool {
        self.clients.iter().any(|client| client.in_flight > 0)
    }

    /// The last acknowledged write on a key of the second kind that a read from `r` voters sees.
    fn must_see(&self, key: u32, r: usize, voters: usize) -> Option<(LogIndex, OpNumber)> {
        let writes = &self.relaxed[(key - self.options.keys) as usize];
        let meeting = writes.iter().filter(|(_, _, w)| r >= 2 && w + r > voters);
        meeting.map(|(version, op, _)| (*version, *op)).max()
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
            false => Action::Set(self.clients.ops.len() as u64 + 1),
        };
        let quorum = if is_relaxed { self.any_quorum() } else { self.strict_quorum() };
        self.call(client, Call { key, action }, quorum);
    }

    fn any_quorum(&mut self) -> Option<Quorum> {
        let count = self.chance.between(1, u64::from(self.options.voters));
        Some(Quorum::Count(u8::try_from(count).expect("voters are few")))
    }

    /// A quorum that keeps operations linearizable. R = 1 never does, not even with one voter: a
    /// learner too answers it at once.
    fn strict_quorum(&mut self) -> Option<Quorum> {
        let voters = u64::from(self.options.voters);
        if voters == 1 {
            return self.chance.one_of(&[None, Some(Quorum::Majority)]);
        }
        let count = self.chance.between(voters / 2 + 1, voters);
        let count = Quorum::Count(u8::try_from(count).expect("voters are few"));
        self.chance.weighted(&[(12, None), (2, Some(Quorum::Majority)), (1, Some(count))])
    }

    fn call(&mut self, client: u32, call: Call, quorum: Option<Quorum>) {
        let voters = usize::from(self.options.voters);
        let number = OpNumber::try_from(self.clients.ops.len()).expect("worlds are short");
        let is_strict = call.key < self.options.clients.keys;
        let roams = self.chance.happens(match call.action {
            Action::Get => self.options.clients.roaming_reads,
            Action::Set(_) | Action::Delete => self.options.clients.roaming_writes,
        });
        let roams = roams && !self.clients.are_quiet;
        let leader = self.clients.clients[client as usize].place;
        let place = if roams { self.chance.below(self.machines.len()) } else { leader };
        let r = quorum.unwrap_or(Quorum::Majority).size(voters).expect("asked for what there is");
        let must_see = match call.action {
            Action::Get if !is_strict => self.clients.must_see(call.key, r, voters),
            _ => None,
        };
        let who = trace::Client(client);
        self.trace.line(self.now, who, || {
            format!("asks n{} {call} quorum={quorum:?} (request {number})", place + 1)
        });
        let history = is_strict.then(|| self.clients.history.call(client, call.clone()));
        let life = self.machines[place].life;
        let connection = u64::from(client) << 40 | (place as u64) << 32 | u64::from(life);
        let decided = self.checks.ledger().end();
        let value_bytes = match number % 2 {
            0 => self.options.clients.large_bytes,
            _ => 0,
        };
        self.clients.ops.push(Op {
            client,
            call,
            quorum,
            history,
            place,
            value_bytes,
            connection,
            is_done: false,
            decided,
            must_see,
        });
        self.clients.clients[client as usize].in_flight += 1;
        let arrives = self.now + self.clients.delay(&mut self.chance);
        self.queue.schedule(arrives, Event::Request(number, life));
        if !self.clients.are_quiet {
            let patience = self.now + self.options.clients.patience;
            self.queue.schedule(patience, Event::GiveUp(number));
        }
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
            if let (true, Some(id)) =
                (op.call.action == Action::Get || is_not_applied(*refusal), op.history)
            {
                self.clients.history.not_applied(id);
            }
            let somewhere = self.chance.below(self.machines.len());
            let client = &mut self.clients.clients[op.client as usize];
            client.place = match refusal {
                Refusal::NotLeader { leader } => place_of(*leader),
                _ => somewhere,
            };
            return;
        }
        self.clients.fresh_open -= usize::from(is_fresh);
        if let Some(id) = op.history {
            self.clients.history.returned(id, answer(told));
            return;
        }
        let version = match told {
            Told::Written(version) | Told::Value(version, _) => Some(*version),
            _ => None,
        };
        match (op.call.action, version, op.must_see) {
            (Action::Get, told, Some(must_see)) => {
                self.clients.seen.push(Seen { read: number, told, must_see });
            }
            (Action::Set(_), Some(version), _) => {
                let copies = op.write(usize::from(self.options.voters)).copies;
                let key = op.call.key - self.options.clients.keys;
                self.clients.relaxed[key as usize].push((version, number, copies));
            }
            _ => {}
        }
    }

    pub fn broken(&mut self, number: OpNumber) {
        let Some(op) = self.finish_op(number) else { return };
        let somewhere = self.chance.below(self.machines.len());
        self.clients.clients[op.client as usize].place = somewhere;
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
        self.clients.clients[op.client as usize].in_flight -= 1;
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
            let value = self.clients.ops.len() as u64 + 1;
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
        let voters = usize::from(self.options.voters);
        for Seen { read, told, must_see: (version, write) } in &self.clients.seen {
            let write = self.clients.op(*write).write(voters);
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
        let to = self.chance.below(usize::from(self.options.members()));
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
