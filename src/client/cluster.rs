//! What all handles of a client share: what is known of the servers, and the connections to them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{ErrorCode, MembersLine, Request};

use super::error::Error;
use super::failure::Failure;
use super::options::Options;
use super::pool::{Answer, Call, Miss, Pool};
use super::reply::Reply;
use super::route::{Course, End, EndReason, Heard, NodeIndex, Router, Step, Verdict};
use super::session::Session;

/// How much earlier than the call a server is to give up, so that its word arrives in time: this
/// part of what is left, within these bounds.
const HEAD_START_PART: u32 = 8;
const HEAD_START_MIN: Duration = Duration::from_millis(1);
const HEAD_START_MAX: Duration = Duration::from_millis(100);

/// The servers of one cluster, for all threads.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) options: Options,
    pub(super) session: Session,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    router: Router,
    /// One for each server of the router, in its order, from when it is first used.
    pools: Vec<Option<Arc<Pool>>>,
}

/// What a call comes to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The server's answer.
    Reply(Reply),
    /// Nothing was applied, because the session is forgotten: number it in another.
    NewSession,
}

/// What has kept a call from its answer, for its error: the last of each sort.
#[derive(Debug, Default)]
struct Troubles {
    /// A sending whose outcome is open.
    open: Option<Trouble>,
    /// A refusal.
    refusal: Option<Trouble>,
    /// A server that could not be reached, which says less.
    absence: Option<Trouble>,
}

/// What a server has said or done, if it was not an answer.
#[derive(Debug)]
struct Trouble {
    at: Arc<Pool>,
    failure: Option<Failure>,
    message: Option<String>,
}

impl Cluster {
    /// Nothing is known but addresses, and nobody was asked.
    pub(super) fn new(servers: &[String], options: Options, seed: u64) -> Cluster {
        let router = Router::new(servers.iter().map(String::as_str), seed);
        let state = Mutex::new(State { router, pools: Vec::new() });
        Cluster { options, session: Session::new(), state }
    }

    /// A request's way through the cluster, from `now` on.
    ///
    /// # Errors
    /// How it has ended without an answer.
    pub(super) fn run(
        &self,
        course: &mut Course,
        mut head: RequestHead,
        request: &Request<'_>,
        mut now: Instant,
    ) -> Result<Outcome, Error> {
        let deadline = course.deadline();
        let mut troubles = Troubles::default();
        loop {
            let mut state = self.lock();
            let node = match course.next(&mut state.router, now) {
                Step::Send(node) => node,
                Step::Wait(until) => {
                    drop(state);
                    // Only time brings what a round of questions has not: nobody would tell.
                    thread::sleep(until.saturating_duration_since(Instant::now()));
                    now = Instant::now();
                    continue;
                }
                Step::Fail(end) => return Err(troubles.error(end)),
            };
            let pool = state.pool(node, &self.options);
            let asks_members = state.router.asks_members(node, now);
            drop(state);
            head.timeout_ms = timeout_ms(deadline.saturating_duration_since(now));
            let along = asks_members.then_some(&Request::Members);
            let missed = match ask(&pool, Call { head, request, along, deadline }, now) {
                Ok(Answer { reply, came_at, news }) => {
                    let is_read = matches!(request, Request::Read(_));
                    let round_trip = (is_read && !asks_members).then(|| came_at - now);
                    now = came_at;
                    let mut state = self.lock();
                    state.learn(node, news, now);
                    let heard = Heard::from(&reply);
                    let router = &mut state.router;
                    let verdict = course.heard(router, node, &heard, round_trip, now);
                    drop(state);
                    match verdict {
                        Verdict::Done => return Ok(Outcome::Reply(reply)),
                        Verdict::NewSession => return Ok(Outcome::NewSession),
                        Verdict::Again => troubles.said(pool, reply),
                        Verdict::Fail(end) => return Err(Trouble::said(pool, reply).error(end)),
                    }
                    continue;
                }
                Err(missed) => missed,
            };
            now = Instant::now();
            let mut state = self.lock();
            match missed {
                Miss::Late => {
                    let end = course.late(&mut state.router, node);
                    return Err(match end.reason {
                        EndReason::Late => Error::of(end, None).at(pool.address()),
                        _ => troubles.error(end),
                    });
                }
                Miss::Lost { failure, may_have_arrived } => {
                    let router = &mut state.router;
                    let verdict = course.lost(router, node, may_have_arrived, now);
                    drop(state);
                    let trouble = Trouble { at: pool, failure: Some(failure), message: None };
                    match verdict {
                        Verdict::Fail(end) => return Err(trouble.error(end)),
                        _ if may_have_arrived => troubles.open = Some(trouble),
                        _ => troubles.absence = Some(trouble),
                    }
                }
            }
        }
    }

    /// Asks this server and no other.
    ///
    /// # Errors
    /// Why it has not answered. As this is for requests that change nothing, nothing is open.
    pub(super) fn ask(
        &self,
        server: &str,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Reply, Error> {
        let pool = self.pool_of(server);
        let mut is_second = false;
        loop {
            let now = Instant::now();
            let left = deadline.saturating_duration_since(now);
            let head = RequestHead { timeout_ms: timeout_ms(left), ..Default::default() };
            let end = |reason| End { reason, is_open: false };
            match ask(&pool, Call { head, request, along: None, deadline }, now) {
                Ok(Answer { reply: Reply::Error { code, message }, .. }) => {
                    let end = end(EndReason::Refused(code));
                    return Err(Error::of(end, None).at(server).saying(message));
                }
                Ok(answer) => return Ok(answer.reply),
                // A connection may have broken that others had used: once more, with a new one.
                Err(Miss::Lost { may_have_arrived: true, .. }) if !is_second => is_second = true,
                Err(Miss::Lost { failure, .. }) => {
                    return Err(Error::of(end(EndReason::Unreachable), Some(failure)).at(server));
                }
                Err(Miss::Late) => return Err(Error::of(end(EndReason::Late), None).at(server)),
            }
        }
    }

    /// What only reads what is known, or notes what is learned.
    pub(super) fn with_router<T>(&self, act: impl FnOnce(&mut Router) -> T) -> T {
        act(&mut self.lock().router)
    }

    /// The connections to a server; those to one that is none of the cluster's are not kept.
    fn pool_of(&self, server: &str) -> Arc<Pool> {
        let mut state = self.lock();
        match state.router.find(server) {
            Some(node) => state.pool(node, &self.options),
            None => Arc::new(Pool::new(server, 1, self.options.idle_timeout)),
        }
    }

    /// What is known of the servers, for somebody who goes on alone.
    pub(super) fn fork_router(&self) -> Router {
        self.lock().router.fork()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread is its own: each step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pool(&mut self, node: NodeIndex, options: &Options) -> Arc<Pool> {
        if self.pools.len() <= node.0 {
            self.pools.resize(node.0 + 1, None);
        }
        let pool = self.pools[node.0].get_or_insert_with(|| {
            let address = self.router.address(node);
            Arc::new(Pool::new(address, options.connections_max, options.idle_timeout))
        });
        Arc::clone(pool)
    }

    /// The answer to a question for the members.
    fn learn(&mut self, node: NodeIndex, news: Option<Reply>, now: Instant) {
        match news {
            Some(Reply::Members(line)) => {
                if let Ok(line) = MembersLine::parse(&line) {
                    self.router.learn_members(&line, now);
                }
            }
            Some(Reply::Error { code: ErrorCode::UnknownCommand, .. }) => {
                self.router.knows_no_members(node);
            }
            _ => {}
        }
    }
}

fn ask(pool: &Pool, call: Call<'_>, now: Instant) -> Result<Answer, Miss> {
    let taken = pool.take(now, call.deadline);
    let taken = taken.map_err(|failure| Miss::Lost { failure, may_have_arrived: false })?;
    let result = taken.call(&call, now);
    let is_unfinished = match &result {
        Ok(Answer { reply: Reply::Error { code, .. }, .. }) => code.outcome_is_open(),
        Ok(_) | Err(Miss::Lost { .. }) => false,
        Err(Miss::Late) => true,
    };
    if is_unfinished && matches!(call.request, Request::Write(_)) {
        taken.retire();
    }
    result
}

/// What a request may wait for its quorum at the server, when so much of the call is left.
fn timeout_ms(left: Duration) -> u16 {
    let head_start = (left / HEAD_START_PART).clamp(HEAD_START_MIN, HEAD_START_MAX);
    // 0 would be the server's own timeout.
    let ms = left.saturating_sub(head_start).as_millis().max(1);
    u16::try_from(ms).unwrap_or(u16::MAX)
}

impl Troubles {
    fn said(&mut self, at: Arc<Pool>, reply: Reply) {
        let is_open = matches!(&reply, Reply::Error { code, .. } if code.outcome_is_open());
        let kept = if is_open { &mut self.open } else { &mut self.refusal };
        *kept = Some(Trouble::said(at, reply));
    }

    /// What the course has come to, with the words that belong to it.
    fn error(self, end: End) -> Error {
        let Troubles { open, refusal, absence } = self;
        let told = match end.reason {
            EndReason::Unreachable => absence,
            EndReason::Lost => open,
            EndReason::Refused(code) if code.outcome_is_open() => open,
            _ => refusal,
        };
        match told {
            Some(trouble) => trouble.error(end),
            None => Error::of(end, None),
        }
    }
}

impl Trouble {
    fn said(at: Arc<Pool>, reply: Reply) -> Trouble {
        let message = match reply {
            Reply::Error { message, .. } => Some(message),
            Reply::NotLeader { leader } => Some(format!("the last one named {leader}")),
            _ => None,
        };
        Trouble { at, failure: None, message }
    }

    fn error(self, end: End) -> Error {
        let Trouble { at, failure, message } = self;
        let error = Error::of(end, failure).at(at.address());
        match message {
            Some(message) => error.saying(message),
            None => error,
        }
    }
}
