//! The client's side of sessions: who has one numbers its writes, and sends each again, with its
//! number and to whomever, until it knows the outcome. However often it was sent, it is one
//! operation: from its first sending to its last answer.

use std::collections::BTreeSet;

use kvorum::core::{Refusal, SessionBounds};
use kvorum_protocol::{Quorum, SessionSequence};

use crate::chance::Chance;
use crate::clients::Told;
use crate::history::OperationId;
use crate::queue::{MILLISECOND, SECOND, Time};
use crate::register::Call;
use crate::turn::is_not_applied;
use crate::world::{Event, World};

/// Courses are numbered through.
pub type CourseNumber = usize;

/// How long a client waits before it sends a write again, in the mean.
const RETRY_DELAY: Time = 20 * MILLISECOND;

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

/// What a client knows of its session.
#[derive(Clone, Debug)]
pub struct ClientSession {
    window: u32,
    standing: Standing,
    /// Its last sequence.
    last: u64,
    /// The writes that may be sent again.
    unresolved: BTreeSet<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    None,
    /// It was asked for.
    Opening,
    Open(u64),
}

impl ClientSession {
    pub fn new(window: u32) -> ClientSession {
        ClientSession { window, standing: Standing::None, last: 0, unresolved: BTreeSet::new() }
    }

    /// The name of a new write; `None` while there is no session, or the window is full.
    fn begin(&mut self) -> Option<SessionSequence> {
        let Standing::Open(session) = self.standing else { return None };
        let sequence = self.last + 1;
        if let Some(oldest) = self.unresolved.first()
            && oldest + u64::from(self.window) <= sequence
        {
            return None;
        }
        self.last = sequence;
        self.unresolved.insert(sequence);
        Some(SessionSequence { session, sequence })
    }

    /// The write is never sent again.
    fn resolve(&mut self, name: SessionSequence) {
        if self.standing == Standing::Open(name.session) {
            self.unresolved.remove(&name.sequence);
        }
    }

    fn is_over(&mut self, session: u64) {
        if self.standing == Standing::Open(session) {
            *self = ClientSession::new(self.window);
        }
    }
}

/// A write on its way through the cluster.
#[derive(Clone, Debug)]
pub struct Course {
    pub client: u32,
    pub call: Call,
    pub quorum: Option<Quorum>,
    pub name: SessionSequence,
    /// Its place in the history of linearizable operations, if it belongs there.
    pub history: Option<OperationId>,
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
        let session = self.clients.clients[client as usize].session.as_mut();
        let session = session.expect("asked before");
        if session.standing == Standing::None {
            session.standing = Standing::Opening;
            let window = session.window;
            self.open_session(client, window);
            return;
        }
        let Some(name) = session.begin() else { return };
        let history = self.clients.note_call(client, &call);
        let (may_be_applied, is_over) = (false, false);
        let course = Course { client, call, quorum, name, history, may_be_applied, is_over };
        self.clients.courses.push(course);
        self.clients.clients[client as usize].in_flight += 1;
        self.send_course(self.clients.courses.len() - 1);
    }

    /// A write is sent, for the first time or again. In the end with a W that there is, also when
    /// a voter is down for good.
    pub fn send_course(&mut self, number: CourseNumber) {
        if self.clients.are_quiet {
            self.clients.courses[number].quorum = None;
        }
        self.send_write(number, true);
        if self.chance.happens(TWINS) {
            self.clients.courses[number].may_be_applied = true;
            let at = self.now + self.chance.wait(TWIN_DELAY);
            self.queue.schedule(at, Event::Twin(number));
        }
    }

    /// A twin of a sending comes out of the network. Nobody waits for its answer.
    pub fn twin_comes(&mut self, number: CourseNumber) {
        self.send_write(number, false);
    }

    /// What became of asking for a session: its name, or nothing.
    pub fn session_opened(&mut self, client: u32, told: Option<&Told>) {
        let session = self.clients.clients[client as usize].session.as_mut();
        session.expect("it asked for one").standing = match told {
            Some(Told::Written(version)) => Standing::Open(version.0),
            _ => Standing::None,
        };
    }

    /// A sending of a write was answered, or (`None`) was not.
    pub fn course_told(&mut self, number: CourseNumber, told: Option<&Told>) {
        let course = &mut self.clients.courses[number];
        match told {
            Some(Told::Refused(Refusal::SessionExpired)) => {
                let (client, name) = (course.client, course.name);
                self.end_course(number);
                let session = self.clients.clients[client as usize].session.as_mut();
                session.expect("it had one").is_over(name.session);
                return;
            }
            Some(Told::Refused(refusal)) => course.may_be_applied |= !is_not_applied(*refusal),
            None => course.may_be_applied = true,
            Some(_) => {
                course.may_be_applied = true;
                return self.end_course(number);
            }
        }
        if self.chance.happens(ABANDONS) {
            return self.end_course(number);
        }
        let at = self.now + self.chance.wait(RETRY_DELAY);
        self.queue.schedule(at, Event::Resend(number));
    }

    /// A write is sent no more. If every sending was refused, it has never happened.
    fn end_course(&mut self, number: CourseNumber) {
        let course = &mut self.clients.courses[number];
        course.is_over = true;
        let client = &mut self.clients.clients[course.client as usize];
        client.in_flight -= 1;
        client.session.as_mut().expect("it had one").resolve(course.name);
        if let (false, Some(id)) = (course.may_be_applied, course.history) {
            self.clients.history.not_applied(id);
        }
    }
}
