//! The world: machines, network and clients, and what happens to them, one event after the other.
//!
//! Nothing in it is real but the code under test: [`kvorum::core::Node`] and [`kvorum::wal`]. All
//! that is left to chance comes from one seed, so the same seed is the same world.

use std::time::Instant;

use bytes::Bytes;
use kvorum::core::seeded::Bug;
use kvorum::core::snapshot::SnapshotHead;
use kvorum::core::state::State;
use kvorum::core::{Fetch, SnapshotFetch};
use kvorum_protocol::{Member, MemberList, NodeId, Role};

use crate::chance::Chance;
use crate::clients::{Clients, OpNumber, Told};
use crate::clock::Clock;
use crate::ending::Ending;
use crate::invariants::{Checked, Invariants, ensure};
use crate::nemesis::Fault;
use crate::network::{Network, Place};
use crate::node::{Input, Machine, id_of};
use crate::options::Options;
use crate::queue::{MICROSECOND, MILLISECOND, Queue, SECOND, Time};
use crate::sessions::CourseNumber;
use crate::trace::{self, Trace};

/// More than any sound world has: beyond it something chatters without end.
const EVENTS_MAX: u64 = 3_000_000;

/// How often the observer looks for answers that are overdue.
const LOOK_INTERVAL: Time = 100 * MILLISECOND;

/// How long after an event a process gets to it, at most.
const TURN_DELAY_MAX: Time = 100 * MICROSECOND;

pub enum Event {
    /// A process has a turn.
    Turn(Place),
    Deliver {
        from: Place,
        to: Place,
        connection: u32,
        frame: Bytes,
        /// Bits of it were flipped.
        was_changed: bool,
    },
    /// A sync of this life is through.
    Synced(Place, u32),
    /// The log of this life wants to be tended.
    Tend(Place, u32),
    /// A part of the log is read back by the process of this life.
    ReadBack {
        place: Place,
        life: u32,
        fetch: Fetch,
    },
    /// The same for a part of a snapshot.
    ReadSnapshot {
        place: Place,
        life: u32,
        fetch: SnapshotFetch,
    },
    /// The process of this life has loaded a leader's snapshot.
    Loaded {
        place: Place,
        life: u32,
        loaded: Box<(SnapshotHead, State)>,
    },
    /// Two nodes try to connect.
    Connect(Place, Place),
    /// A node finds that another is gone, if it still is.
    Refused {
        place: Place,
        gone: Place,
        life: u32,
    },
    Start(Place),
    Fault(Fault),
    /// The partition with this number is over.
    Mend(u32),
    /// A disk has space again.
    Space(Place),
    /// A client may ask.
    Ask(u32),
    /// A request reaches the process of this life.
    Request(OpNumber, u32),
    /// An answer reaches its client.
    Answer(OpNumber, Told),
    /// A client's connection broke under a request.
    Broken(OpNumber),
    GiveUp(OpNumber),
    /// A client sends a write of its session again.
    Resend(CourseNumber),
    /// The network has kept a copy of a sending until now.
    Twin(CourseNumber),
    LookForOverdue,
    /// All faults end.
    Heal,
    /// How far is the ending?
    Ending,
}

pub struct World {
    pub options: Options,
    pub chance: Chance,
    pub now: Time,
    /// When virtual time began, for code that takes the clock of the standard library as an
    /// argument. Another moment in every run, so that whoever looks at the real clock is found out.
    pub epoch: Instant,
    pub queue: Queue<Event>,
    pub machines: Vec<Machine>,
    pub network: Network,
    pub clients: Clients,
    pub checks: Invariants,
    pub trace: Trace,
    pub members: MemberList,
    pub ending: Ending,
    /// Counts the partitions.
    pub partitions: u32,
    pub tally: Tally,
    /// Every core has this one.
    pub bug: Option<Bug>,
}

/// What a world has been through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub events: u64,
    pub crashes: u64,
    /// Logs that were cut where they were damaged.
    pub repairs: u64,
    pub faults: u64,
    /// Answers that were checked.
    pub answers: u64,
    pub elections: u64,
    /// Histories of one key that were too long to decide.
    pub undecided: u64,
    pub time: Time,
}

impl World {
    pub fn new(seed: u64, bug: Option<Bug>, trace: Trace) -> World {
        let mut chance = Chance::new(seed);
        let options = Options::draw(&mut chance);
        let nodes = usize::from(options.machines());
        let first = usize::from(options.members());
        let machines = (0..nodes)
            .map(|place| {
                let drift = options.faults.drift;
                let pace = chance.between(1000 - drift, 1000 + drift);
                let mut machine = Machine::new(place, Clock { pace, wall_offset_ms: 0 });
                machine.is_out = place >= first;
                machine
            })
            .collect();
        World {
            now: 0,
            epoch: Instant::now(),
            queue: Queue::new(),
            machines,
            network: Network::new(nodes, options.network.clone()),
            clients: Clients::new(&options, &mut chance),
            checks: Invariants::new(nodes, options.sessions.bounds),
            trace,
            members: members(&options),
            ending: Ending::Trouble,
            partitions: 0,
            tally: Tally::default(),
            bug,
            chance,
            options,
        }
    }

    /// Lives through everything.
    pub fn run(&mut self) -> Checked<Tally> {
        for place in 0..self.machines.len() {
            let at = self.chance.between(0, SECOND / 10);
            self.queue.schedule(at, Event::Start(place));
        }
        self.begin_asking();
        self.begin_trouble();
        self.queue.schedule(LOOK_INTERVAL, Event::LookForOverdue);
        self.queue.schedule(self.options.trouble, Event::Heal);
        while self.ending != Ending::Over {
            let (at, event) = self.queue.pop().expect("somebody always looks");
            assert!(at >= self.now, "time goes on");
            self.now = at;
            self.tally.events += 1;
            ensure(self.tally.events < EVENTS_MAX, "no storm of messages", String::new)?;
            self.happen(event)?;
        }
        self.finish()
    }

    fn happen(&mut self, event: Event) -> Checked {
        match event {
            Event::Turn(place) => self.turn(place)?,
            Event::Deliver { from, to, connection, frame, was_changed } => {
                if self.network.arrive(from, to, connection) {
                    self.take_frame(from, to, &frame, was_changed)?;
                }
            }
            Event::Synced(place, life) => self.synced(place, life)?,
            Event::Tend(place, life) => self.tend(place, life)?,
            Event::ReadBack { place, life, fetch } => self.read_back(place, life, &fetch)?,
            Event::ReadSnapshot { place, life, fetch } => self.read_snapshot(place, life, fetch)?,
            Event::Loaded { place, life, loaded } => {
                if self.machines[place].life == life {
                    self.give(place, Input::Loaded(loaded));
                }
            }
            Event::Connect(one, other) => self.connect(one, other),
            Event::Refused { place, gone, life } => {
                if self.machines[place].life == life && !self.machines[gone].is_up() {
                    self.give(place, Input::Lost(id_of(gone)));
                }
            }
            Event::Start(place) => self.start(place)?,
            Event::Fault(fault) => self.strike(fault)?,
            Event::Mend(number) => {
                if number == self.partitions {
                    self.note("net", || "the partition is over".to_owned());
                    self.network.mend();
                }
            }
            Event::Space(place) => self.free_space(place),
            Event::Ask(client) => self.ask(client),
            Event::Request(op, life) => self.request(op, life),
            Event::Answer(op, told) => self.told(op, &told),
            Event::Broken(op) => self.broken(op),
            Event::GiveUp(op) => self.give_up(op),
            Event::Resend(course) => self.send_course(course),
            Event::Twin(course) => self.twin_comes(course),
            Event::LookForOverdue => {
                self.look_for_overdue()?;
                self.queue.schedule(self.now + LOOK_INTERVAL, Event::LookForOverdue);
            }
            Event::Heal => self.heal()?,
            Event::Ending => self.go_on_ending()?,
        }
        Ok(())
    }

    /// Something comes to a process; it gets to it soon, together with what else comes until then.
    pub fn give(&mut self, place: Place, input: Input) {
        if let Some(process) = &mut self.machines[place].process {
            process.inbox.push(input);
            self.wake(place);
        }
    }

    /// The process at a place shall have a turn soon.
    pub fn wake(&mut self, place: Place) {
        let delay = self.chance.between(1, TURN_DELAY_MAX);
        self.turn_by(place, self.now + delay);
    }

    /// The process at a place shall have a turn at this time, or before.
    pub fn turn_by(&mut self, place: Place, at: Time) {
        let machine = &mut self.machines[place];
        let at = at.max(machine.paused_until);
        if at < machine.turn_at {
            machine.turn_at = at;
            self.queue.schedule(at, Event::Turn(place));
        }
    }

    // Connections

    fn connect(&mut self, one: Place, other: Place) {
        let are_up = self.machines[one].is_up() && self.machines[other].is_up();
        if !are_up || self.network.connection(one, other).is_some() {
            return;
        }
        if !self.network.can_connect(one, other) {
            let again = self.now + self.chance.between(10, 500) * MILLISECOND;
            self.queue.schedule(again, Event::Connect(one, other));
            return;
        }
        for (one, other) in [(one, other), (other, one)] {
            if self.knows_removed(one, other) {
                return self.dismiss(other);
            }
        }
        self.network.connect(one, other);
        self.note("net", || format!("n{} and n{} are connected", one + 1, other + 1));
        self.give(one, Input::Joined(id_of(other)));
        self.give(other, Input::Joined(id_of(one)));
    }

    /// Two nodes shall connect, soon.
    pub fn connect_soon(&mut self, one: Place, other: Place) {
        let at = self.now + self.chance.between(100, 20_000) * MICROSECOND;
        self.queue.schedule(at, Event::Connect(one, other));
    }

    // For people

    /// Notes what happened to a node.
    pub fn note_node(&mut self, place: Place, what: impl FnOnce() -> String) {
        self.trace.line(self.now, trace::Node(id_of(place)), what);
    }

    pub fn note(&mut self, who: &str, what: impl FnOnce() -> String) {
        self.trace.line(self.now, who, what);
    }

    /// A leader, if there is one that is up.
    pub fn some_leader(&self) -> Option<Place> {
        let leads = |machine: &Machine| {
            machine.process.as_ref().is_some_and(|process| process.core.is_ready())
        };
        self.machines.iter().position(leads)
    }
}

fn members(options: &Options) -> MemberList {
    let member = |place: u16| {
        let role = if place < options.voters { Role::Voter } else { Role::Learner };
        let id = NodeId(place + 1);
        Member { id, role, client: format!("n:{id}"), peer: format!("n:{}", 1000 + id.0) }
    };
    if options.machines() == 1 {
        return MemberList::lone(NodeId(1), "n:1").expect("a good address");
    }
    MemberList::new((0..options.members()).map(member).collect()).expect("good addresses")
}
