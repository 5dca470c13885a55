//! The client's side of sessions: who has one numbers its writes, and sends each again, with its
//! number and to whomever, until it knows the outcome. However often it was sent, it is one
//! operation: from its first sending to its last answer.
//!
//! The numbers, whom a write is sent to, when it is sent again, and whether it may have been
//! applied when it is given up, are what the client library says, by its own code.

use std::time::{Duration, Instant};

use kvorum::client::route::{
    self, End, Heard, Kind, NodeIndex, Numbered, Router, Sequences, Step, Verdict,
};
use kvorum::core::{Refusal, SessionBounds};
use kvorum_protocol::{Quorum, SessionSequence};

use crate::chance::Chance;
use crate::clients::Told;
use crate::history::OperationId;
use crate::network::Place;
use crate::node::place_of;
use crate::queue::{SECOND, Time};
use crate::register::Call;
use crate::turn::is_not_applied;
use crate::world::{Event, World};

/// Courses are numbered through.
pub type CourseNumber = usize;

/// How long a call may take in all, in patiences with one sending.
const CALL_PATIENCE: u32 = 8;

/// How often a sending has a twin that comes long after, by a way that its client has forgotten.
const TWINS: f64 = 0.05;

/// How long after, in the mean.
const TWIN_DELAY: Time = SECOND;

/// How often a client loses interest instead.
const ABANDONS: f64 = 0.03;

/// What a world's sessions are like.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// How often a client has one.
    pub share: f64,
    pub window: u32,
    /// What all nodes are told.
    pub bounds: SessionBounds,
}

impl SessionOptions {
    pub fn draw(chance: &mut Chance) -> SessionOptions {
        let default = SessionBounds::default();
        SessionOptions {
            share: chance.one_of(&[0.0, 0.5, 1.0]),
            window: chance.one_of(&[1, 2, 8, 8]),
            bounds: SessionBounds {
                sessions: chance.weighted(&[(6, default.sessions), (1, 2), (1, 4)]),
                slots: chance.weighted(&[(6, default.slots), (1, 12)]),
                idle_ms: chance.weighted(&[(3, default.idle_ms), (1, 500), (1, 5000)]),
            },
        }
    }
}

/// What a client knows of its session, and of the nodes.
#[derive(Debug)]
pub struct ClientSession {
    window: u32,
    /// It was asked for.
    is_opening: bool,
    sequences: Sequences,
    /// Knows the node at each place by that index.
    router: Router,
    /// The beginning of the world on the clock of the router, which is never read.
    epoch: Instant,
}

impl ClientSession {
    pub fn new(window: u32, nodes: usize, seed: u32) -> ClientSession {
        let addresses: Vec<String> = (0..nodes).map(address).collect();
        ClientSession {
            window,
            is_opening: false,
            sequences: Sequences::new(window),
            router: Router::new(addresses.iter().map(String::as_str), seed.into()),
            epoch: Instant::now(),
        }
    }

    fn instant(&self, now: Time) -> Instant {
        self.epoch + Duration::from_nanos(now)
    }

    fn time(&self, instant: Instant) -> Time {
        let nanoseconds = (instant - self.epoch).as_nanos();
        Time::try_from(nanoseconds).expect("worlds are short")
    }
}

/// How a client calls the node at a place.
fn address(place: Place) -> String {
    format!("n{}:6379", place + 1)
}

/// A write on its way through the cluster.
#[derive(Debug)]
pub struct Course {
    pub client: u32,
    pub call: Call,
    pub quorum: Option<Quorum>,
    pub name: SessionSequence,
    /// Its place in the history of linearizable operations, if it belongs there.
    pub history: Option<OperationId>,
    way: route::Course,
    /// Where it was sent last.
    node: NodeIndex,
    /// A sending of it has a twin, of which its client does not know.
    has_twin: bool,
    /// A sending of it was not refused.
    may_be_applied: bool,
    /// Its client sends it no more.
    pub is_over: bool,
}

impl World {
    /// Whether the client's writes are in a session.
    pub fn has_session(&self, client: u32) -> bool {
        self.clients.clients[client as usize].session.is_some()
    }

    /// A write begins, if its session allows; or the session is asked for.
    pub fn begin_course(&mut self, client: u32, call: Call, quorum: Option<Quorum>) {
        let patience = self.options.clients.patience;
        let session = self.session_of(client);
        let name = match session.sequences.number() {
            Numbered::As(name) => name,
            Numbered::Full => return,
            Numbered::NoSession => {
                if !std::mem::replace(&mut session.is_opening, true) {
                    let window = session.window;
                    self.open_session(client, window);
                }
                return;
            }
        };
        let deadline = Duration::from_nanos(patience) * CALL_PATIENCE;
        let deadline = self.instant_of(client) + deadline;
        let way = route::Course::new(Kind::Write { may_repeat: true }, deadline);
        let history = self.clients.note_call(client, &call);
        self.clients.courses.push(Course {
            client,
            call,
            quorum,
            name,
            history,
            way,
            node: NodeIndex(0),
            has_twin: false,
            may_be_applied: false,
            is_over: false,
        });
        self.clients.clients[client as usize].in_flight += 1;
        self.send_course(self.clients.courses.len() - 1);
    }

    fn session_of(&mut self, client: u32) -> &mut ClientSession {
        self.clients.clients[client as usize].session.as_mut().expect("asked before")
    }

    fn instant_of(&mut self, client: u32) -> Instant {
        let now = self.now;
        self.session_of(client).instant(now)
    }

    /// A write is sent, for the first time or again. In the end with a W that there is, also when
    /// a voter is down for good.
    pub fn send_course(&mut self, number: CourseNumber) {
        if self.clients.are_quiet {
            self.clients.courses[number].quorum = None;
        }
        let course = &mut self.clients.courses[number];
        let client = &mut self.clients.clients[course.client as usize];
        let session = client.session.as_mut().expect("it has one");
        let now = session.instant(self.now);
        match course.way.next(&mut session.router, now) {
            Step::Send(node) => course.node = node,
            Step::Wait(until) => {
                let at = session.time(until);
                return self.queue.schedule(at, Event::Resend(number));
            }
            Step::Fail(end) => return self.course_failed(number, end),
        }
        let place = course.node.0;
        self.send_write(number, Some(place));
        if self.chance.happens(TWINS) {
            self.clients.courses[number].has_twin = true;
            let at = self.now + self.chance.wait(TWIN_DELAY);
            self.queue.schedule(at, Event::Twin(number));
        }
    }

    /// A twin of a sending comes out of the network. Nobody waits for its answer.
    pub fn twin_comes(&mut self, number: CourseNumber) {
        self.send_write(number, None);
    }

    /// What became of asking for a session: its name, or nothing.
    pub fn session_opened(&mut self, client: u32, told: Option<&Told>) {
        let session = self.session_of(client);
        session.is_opening = false;
        if let Some(Told::Written(version)) = told {
            session.sequences.opened(version.0);
        }
    }

    /// A sending of a write was answered, or (`None`) was not.
    pub fn course_told(&mut self, number: CourseNumber, told: Option<&Told>) {
        let course = &mut self.clients.courses[number];
        let client = &mut self.clients.clients[course.client as usize];
        let session = client.session.as_mut().expect("it has one");
        let (way, node, router) = (&mut course.way, course.node, &mut session.router);
        let now = session.epoch + Duration::from_nanos(self.now);
        let leader;
        let heard = match told {
            None => None,
            Some(Told::Refused(Refusal::NotLeader { leader: id })) => {
                leader = address(place_of(*id));
                Some(Heard::NotLeader(&leader))
            }
            Some(Told::Refused(refusal)) => Some(Heard::Refused(refusal.code())),
            Some(_) => Some(Heard::Answer),
        };
        course.may_be_applied |= match told {
            Some(Told::Refused(refusal)) => !is_not_applied(*refusal),
            _ => true,
        };
        let verdict = match heard {
            None => way.lost(router, node, true, now),
            Some(heard) => way.heard(router, node, &heard, None, now),
        };
        match verdict {
            Verdict::Done => self.end_course(number),
            Verdict::Fail(end) => self.course_failed(number, end),
            Verdict::NewSession => self.end_course(number),
            Verdict::Again if self.chance.happens(ABANDONS) => self.end_course(number),
            Verdict::Again => self.send_course(number),
        }
        if let Some(Told::Refused(Refusal::SessionExpired)) = told {
            let Course { client, name, .. } = self.clients.courses[number];
            self.session_of(client).sequences.expired(name.session);
        }
    }

    /// The client library gives a write up. What it says of the outcome is taken at its word, so
    /// that the history shows if it is wrong.
    fn course_failed(&mut self, number: CourseNumber, end: End) {
        self.clients.courses[number].may_be_applied = end.is_open;
        self.end_course(number);
    }

    /// A write is sent no more. If every sending was refused, it has never happened.
    fn end_course(&mut self, number: CourseNumber) {
        let course = &mut self.clients.courses[number];
        course.is_over = true;
        let client = &mut self.clients.clients[course.client as usize];
        client.in_flight -= 1;
        client.session.as_mut().expect("it had one").sequences.resolve(course.name);
        let is_open = course.may_be_applied || course.has_twin;
        if let (false, Some(id)) = (is_open, course.history) {
            self.clients.history.not_applied(id);
        }
    }
}
