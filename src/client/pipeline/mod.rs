//! Thousands of requests in flight from one thread.
//!
//! ```no_run
//! # use kvorum::client::{Client, Options, Outcome, PipelineOptions};
//! # fn main() -> Result<(), kvorum::client::Error> {
//! let client = Client::connect(["127.0.0.1:6381", "127.0.0.1:6382"], Options::default())?;
//! let mut pipeline = client.pipeline(PipelineOptions::default())?;
//! for n in 0..100_000_u32 {
//!     pipeline.set(format!("user:{n}").as_bytes(), b"Ada")?;
//!     while let Some((ticket, result)) = pipeline.try_next() {
//!         println!("{ticket:?}: {:?}", result?);
//!     }
//! }
//! let ticket = pipeline.get(b"user:7")?;
//! assert!(matches!(pipeline.wait(ticket)?, Outcome::Value { value: b"Ada", .. }));
//! while let Some((ticket, result)) = pipeline.next() {
//!     println!("{ticket:?}: {:?}", result?);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Everything happens on the thread that calls: there is no other. `set`, `get` and `delete`
//! queue a request and return a [`Ticket`]; the requests leave many at a time, when enough are
//! queued, or as soon as an answer is asked for. Answers are taken one by one, in the order in
//! which they come ([`next`](Pipeline::next)) or by ticket ([`wait`](Pipeline::wait)), and borrow
//! from the pipeline. In the long run nothing is allocated for a request.
//!
//! # What is promised
//! The same as for a single call of a [`Client`](crate::client::Client), for each request:
//!
//! - Writes find the leader, reads go where [`Options::read_from`] says, and what fails for want of
//!   a server is sent again to another, until the request's own deadline. Its time begins when it
//!   may first be sent, not when it is queued.
//! - Writes are numbered in a session of the pipeline's own ([`Options::exactly_once`]), so that
//!   one that is sent again is applied once. Without, a write whose answer is lost fails with
//!   [`OutcomeUnknown`](crate::client::ErrorKind::OutcomeUnknown).
//! - The order of two requests that are in flight at the same time is not promised; to have one
//!   after the other, wait for the first. In practice writes, and reads of the leader, are applied
//!   in the order of queueing, also across a change of leaders, unless a server refuses one of
//!   them and takes the next.
//!
//! The rules, and why they are the same, are in [`plan`].
//!
//! # What to keep in mind
//! - A request counts as in flight until it is answered, and its answer is kept until it is taken:
//!   whoever never takes answers keeps them all in memory.
//! - A pipeline that is not called neither sends nor receives. A server waits for a client that
//!   does not read, but it may close a connection whose client leaves too much unread.

mod link;
mod options;
pub mod plan;

use std::time::{Duration, Instant};

use kvorum_protocol::command::{check_key, check_value};
use kvorum_protocol::{DecodeError, Limits, LogIndex};
use mio::{Events, Poll, Token};

use super::error::Error;
use super::failure::Failure;
use super::options::Options;
use super::route::{End, NodeIndex, Router};
use link::{Link, no_server};
use plan::{Asked, Plan};

pub use options::PipelineOptions;
pub use plan::{Outcome, Ticket};

/// Keys and values in flight are at most so many bytes, whatever their number; a single request may
/// be larger.
const BYTES_IN_FLIGHT_MAX: usize = 64 << 20;

/// So many queued requests are sent without waiting for more. Not fewer: what arrives together is
/// made durable together.
const QUEUED_MAX: usize = 1024;

/// A request with so large a value is not held back.
const LARGE_VALUE_BYTES: usize = 64 << 10;

const EVENTS_PER_POLL: usize = 64;

/// A stream of requests with many in flight; see the [module](self).
#[derive(Debug)]
pub struct Pipeline {
    plan: Plan,
    /// By their [`NodeIndex`].
    links: Vec<Link>,
    poll: Poll,
    events: Events,
    in_flight_max: usize,
    min_version: LogIndex,
    /// Lent to the caller until the next call.
    lent: Option<Ticket>,
    /// The last failure of a connection.
    failure: Option<Failure>,
}

impl Pipeline {
    /// A pipeline to the cluster that these servers are in, or know of. It connects when there is
    /// something to send.
    ///
    /// # Errors
    /// Options that make no sense, or the system refuses what it takes to wait for events.
    pub fn connect<'a>(
        servers: impl IntoIterator<Item = &'a str>,
        client: &Options,
        options: PipelineOptions,
    ) -> Result<Pipeline, Error> {
        let router = Router::new(servers, rand::random());
        Pipeline::with_router(router, client, options)
    }

    /// A pipeline that begins with what a client knows of the servers.
    pub(super) fn with_router(
        router: Router,
        client: &Options,
        options: PipelineOptions,
    ) -> Result<Pipeline, Error> {
        let terms = options.terms(client)?;
        Ok(Pipeline {
            plan: Plan::new(terms, router),
            links: Vec::new(),
            poll: Poll::new().map_err(no_server)?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            in_flight_max: options.in_flight_max.max(1),
            min_version: options.call.min_version,
            lent: None,
            failure: None,
        })
    }

    /// Queues a write: stores `value` under `key`. Waits while too much is in flight.
    ///
    /// # Errors
    /// A key or value that no server accepts. Nothing is queued then.
    #[inline]
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<Ticket, Error> {
        self.queue(Asked::Set, key, value, LogIndex(0))
    }

    /// Queues a write: removes `key`. Waits while too much is in flight.
    ///
    /// # Errors
    /// A key that no server accepts. Nothing is queued then.
    #[inline]
    pub fn delete(&mut self, key: &[u8]) -> Result<Ticket, Error> {
        self.queue(Asked::Delete, key, &[], LogIndex(0))
    }

    /// Queues a read of `key`. Waits while too much is in flight.
    ///
    /// # Errors
    /// A key that no server accepts. Nothing is queued then.
    #[inline]
    pub fn get(&mut self, key: &[u8]) -> Result<Ticket, Error> {
        self.queue(Asked::Get, key, &[], self.min_version)
    }

    /// Queues a read of `key` from a state that has at least this index, whoever answers it: the
    /// version of one's own last write makes one read it on any replica.
    ///
    /// # Errors
    /// A key that no server accepts. Nothing is queued then.
    pub fn get_at_least(&mut self, key: &[u8], min_version: LogIndex) -> Result<Ticket, Error> {
        self.queue(Asked::Get, key, &[], min_version.max(self.min_version))
    }

    #[inline]
    fn queue(
        &mut self,
        asked: Asked,
        key: &[u8],
        value: &[u8],
        min_version: LogIndex,
    ) -> Result<Ticket, Error> {
        check(key, value)?;
        self.release();
        while self.is_full(key.len() + value.len()) {
            self.turn(Wait::ForAnswers);
        }
        let ticket = self.plan.add(asked, key, value, min_version);
        if self.plan.fresh() >= QUEUED_MAX || value.len() >= LARGE_VALUE_BYTES {
            self.send(Instant::now());
        }
        Ok(ticket)
    }

    fn is_full(&self, bytes: usize) -> bool {
        let under_way = self.plan.under_way();
        under_way >= self.in_flight_max
            || (under_way > 0 && self.plan.bytes_under_way() + bytes > BYTES_IN_FLIGHT_MAX)
    }

    /// How many requests are queued or in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.plan.under_way()
    }

    /// How many answers are here and not taken.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.plan.ready()
    }

    /// Sends what is queued, as much as the servers take without waiting.
    pub fn flush(&mut self) {
        self.send(Instant::now());
    }

    /// The next answer of those that were not taken, in the order in which they come. Waits for it;
    /// `None` when nothing is in flight.
    #[inline]
    #[expect(clippy::should_implement_trait, reason = "what it yields borrows from it")]
    pub fn next(&mut self) -> Option<(Ticket, Result<Outcome<'_>, Error>)> {
        self.release();
        loop {
            if let Some(ticket) = self.plan.first_ready() {
                return Some((ticket, self.lend(ticket)));
            }
            if self.plan.under_way() == 0 {
                return None;
            }
            self.turn(Wait::ForAnswers);
        }
    }

    /// The next answer that is here, without waiting for one. Sends what is queued when none is.
    #[inline]
    pub fn try_next(&mut self) -> Option<(Ticket, Result<Outcome<'_>, Error>)> {
        self.release();
        if self.plan.first_ready().is_none() && self.plan.under_way() > 0 {
            self.turn(Wait::No);
        }
        let ticket = self.plan.first_ready()?;
        Some((ticket, self.lend(ticket)))
    }

    /// The answer to one request. Waits for it; answers to others that come meanwhile are kept.
    ///
    /// # Errors
    /// How the request has failed, and what is known of its effect.
    ///
    /// # Panics
    /// When the answer was taken already.
    pub fn wait(&mut self, ticket: Ticket) -> Result<Outcome<'_>, Error> {
        self.release();
        while !self.plan.is_ready(ticket) {
            self.turn(Wait::ForAnswers);
        }
        self.lend(ticket)
    }

    #[inline]
    fn lend(&mut self, ticket: Ticket) -> Result<Outcome<'_>, Error> {
        self.plan.take(ticket);
        self.lent = Some(ticket);
        self.plan.outcome(ticket).map_err(|end| failed(end, self.failure.as_ref()))
    }

    #[inline]
    fn release(&mut self) {
        if let Some(ticket) = self.lent.take() {
            self.plan.release(ticket);
        }
    }

    /// Sends what can be sent, waits if that is wanted, takes what has come, and ends what is over.
    fn turn(&mut self, wait: Wait) {
        let before = Instant::now();
        let is_calm = self.send(before);
        let timeout = match wait {
            Wait::ForAnswers if is_calm => {
                self.plan.wakes_at(before).map(|at| at.saturating_duration_since(before))
            }
            Wait::ForAnswers | Wait::No => Some(Duration::ZERO),
        };
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => self.events.clear(),
            polled => polled.expect("the system waits for the events of open sockets"),
        }
        let now = Instant::now();
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            let node = NodeIndex(event.token().0);
            if event.is_writable() {
                match self.links[node.0].writable() {
                    Ok(taken) => self.plan.taken(node, taken, now),
                    Err(failure) => {
                        self.lose(node, failure, now);
                        continue;
                    }
                }
            }
            let has_more = event.is_readable() || event.is_read_closed() || event.is_error();
            if has_more && let Err(failure) = self.receive(node, event.is_read_closed(), now) {
                self.lose(node, failure, now);
            }
        }
        self.events = events;
        self.plan.expire(now);
        while let Some(node) = self.plan.silent(now) {
            self.lose(node, Failure::Silent, now);
        }
        while let Some((node, head, request)) = self.plan.next_inquiry(now) {
            self.links[node.0].append(&head, &request);
        }
    }

    /// Sends what can be sent; whether no connection was lost over it.
    fn send(&mut self, now: Instant) -> bool {
        self.plan.begin_turn(now);
        while let Some((node, head, request)) = self.plan.next_sending(now) {
            if node.0 >= self.links.len() {
                self.links.resize_with(node.0 + 1, Link::new);
            }
            self.links[node.0].append(&head, &request);
        }
        let mut is_calm = true;
        for at in 0..self.links.len() {
            let node = NodeIndex(at);
            let address = self.plan.router().address(node);
            let registry = self.poll.registry();
            match self.links[at].flush(address, registry, Token(at)) {
                Ok(taken) => self.plan.taken(node, taken, now),
                Err(failure) => {
                    self.lose(node, failure, now);
                    is_calm = false;
                }
            }
        }
        is_calm
    }

    /// Takes what has come from a server.
    fn receive(&mut self, node: NodeIndex, is_closed: bool, now: Instant) -> Result<(), Failure> {
        let link = &mut self.links[node.0];
        loop {
            let received = link.receive(is_closed);
            self.plan.is_there(node, now);
            while let Some(answer) = link.next_answer()? {
                self.plan
                    .heard(node, answer.id, &answer.response, now)
                    .map_err(|_| Failure::Unasked)?;
            }
            if !received? {
                return Ok(());
            }
        }
    }

    /// A connection is of no more use.
    #[cold]
    fn lose(&mut self, node: NodeIndex, failure: Failure, now: Instant) {
        let link = &mut self.links[node.0];
        let was_sent = link.may_have_arrived();
        link.close();
        self.failure = Some(failure);
        self.plan.lost(node, was_sent, now);
    }
}

/// Whether a turn waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    No,
    ForAnswers,
}

#[inline]
fn check(key: &[u8], value: &[u8]) -> Result<(), DecodeError> {
    check_key(key, &Limits::MAX).and(check_value(value, &Limits::MAX))
}

#[cold]
fn failed(end: End, failure: Option<&Failure>) -> Error {
    Error::of(end, failure.cloned())
}
