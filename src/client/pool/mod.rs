//! Connections to one server, shared by all threads of a program.
//!
//! - A call takes a connection that nobody uses; opens one while there are fewer than the maximum;
//!   and else shares the one with the fewest calls. Requests carry numbers, so that any number of
//!   calls may be under way on one connection, and nobody ever waits for another's answer.
//! - A connection that has broken is never given out, nor one that the server has closed while
//!   nobody used it. One that was not used for long is closed.
//! - A server that owes an answer and gives no sign of life for a second is taken for dead: all who
//!   wait on that connection learn it at once.
//! - Where no more can be opened those that there are do: they are shared, and another is tried
//!   after a while. Who waits for a first one that can not be opened learns why, and does not try
//!   it again.
//! - Every wait ends at the deadline of its call.

mod input;
mod link;
mod socket;
mod waiting;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use link::{Answer, Call, Miss};

use super::failure::Failure;
use link::Link;

/// A connection that was used a moment ago is used again without a look whether it still stands.
const LOOK_AFTER: Duration = Duration::from_millis(5);

/// How often connections that nobody uses are looked through, in parts of their idle timeout.
const SWEEPS_PER_TIMEOUT: u32 = 4;

/// When no further connection could be opened, the next one is tried so much later.
const OPEN_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The connections to one server.
#[derive(Debug)]
pub struct Pool {
    address: String,
    connections_max: usize,
    idle_timeout: Duration,
    state: Mutex<State>,
    /// A connection was opened, or could not be.
    opened: Condvar,
}

#[derive(Debug, Default)]
struct State {
    links: Vec<Arc<Link>>,
    /// How many are being opened.
    opening: usize,
    /// How many could not be opened, and the last of these: when, and why.
    failures: u64,
    failed: Option<(Instant, Failure)>,
    swept_at: Option<Instant>,
}

impl Pool {
    /// No connection yet to `HOST:PORT`; never more to be given out than `connections_max`, at
    /// least one. CAVEAT: one that was [retired](Taken::retire) and is still in use is beyond
    /// that number.
    #[must_use]
    pub fn new(address: &str, connections_max: usize, idle_timeout: Duration) -> Pool {
        Pool {
            address: address.to_owned(),
            connections_max: connections_max.max(1),
            idle_timeout,
            state: Mutex::default(),
            opened: Condvar::new(),
        }
    }

    /// The server.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// How many connections there are.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.lock().links.iter().filter(|link| link.is_of_use()).count()
    }

    /// Takes a connection, which is given back when it is dropped. `now` is the time.
    ///
    /// # Errors
    /// Why none could be opened by the deadline.
    pub fn take(&self, now: Instant, deadline: Instant) -> Result<Taken, Failure> {
        let mut state = self.lock();
        let failures = state.failures;
        loop {
            state.links.retain(|link| link.is_of_use());
            self.sweep(&mut state, now);
            if let Some(taken) = take_idle(&mut state, now) {
                return Ok(taken);
            }
            if let Some((failed_at, failure)) = &state.failed {
                let is_recent = now < *failed_at + OPEN_AGAIN_AFTER;
                if let Some(taken) = share(&state).filter(|_| is_recent) {
                    return Ok(taken);
                }
                if state.failures > failures {
                    return Err(failure.clone());
                }
            }
            if state.links.len() + state.opening < self.connections_max {
                return self.open(state, deadline);
            }
            if let Some(taken) = share(&state) {
                return Ok(taken);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::Silent);
            }
            let waited = self.opened.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self, mut state: MutexGuard<'_, State>, deadline: Instant) -> Result<Taken, Failure> {
        state.opening += 1;
        drop(state);
        let opened = Link::open(&self.address, deadline);
        let mut state = self.lock();
        state.opening -= 1;
        let taken = match opened {
            Ok(link) => {
                let link = Arc::new(link);
                let taken = Taken::new(&link);
                state.links.push(link);
                Ok(taken)
            }
            Err(failure) => {
                let now = Instant::now();
                // That the caller had no more time says nothing of the server.
                if now < deadline {
                    state.failures += 1;
                    state.failed = Some((now, failure.clone()));
                }
                state.links.retain(|link| link.is_of_use());
                // The server may have no room for another, and serve those that there are.
                share(&state).ok_or(failure)
            }
        };
        // Those who wait share it, or learn why there is none.
        self.opened.notify_all();
        taken
    }

    /// Closes what nobody has used for long.
    fn sweep(&self, state: &mut State, now: Instant) {
        let interval = self.idle_timeout / SWEEPS_PER_TIMEOUT;
        let is_recent = |at| now.saturating_duration_since(at) < interval;
        if state.swept_at.is_some_and(is_recent) {
            return;
        }
        state.swept_at = Some(now);
        state.links.retain(|link| {
            link.users.load(Ordering::Relaxed) > 0 || link.idle_for(now) < self.idle_timeout
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread is its own: each step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one with the fewest calls.
fn share(state: &State) -> Option<Taken> {
    let users = |link: &&Arc<Link>| link.users.load(Ordering::Relaxed);
    state.links.iter().min_by_key(users).map(Taken::new)
}

/// The first of those that nobody uses, so that the others grow old when few are needed.
fn take_idle(state: &mut State, now: Instant) -> Option<Taken> {
    loop {
        let is_idle = |link: &Arc<Link>| link.users.load(Ordering::Relaxed) == 0;
        let at = state.links.iter().position(is_idle)?;
        let link = &state.links[at];
        if link.idle_for(now) < LOOK_AFTER || link.stands() {
            return Some(Taken::new(link));
        }
        state.links.remove(at);
    }
}

/// A connection for one call after the other, until it is dropped.
#[derive(Debug)]
pub struct Taken {
    link: Arc<Link>,
}

impl Taken {
    fn new(link: &Arc<Link>) -> Taken {
        link.users.fetch_add(1, Ordering::Relaxed);
        Taken { link: Arc::clone(link) }
    }

    /// Asks, and waits for the answer. `now` is the time.
    ///
    /// The request must be one that can be encoded: no key longer than a `u16` can say.
    ///
    /// # Errors
    /// Why there is no answer, and what is known of the request.
    pub fn call(&self, call: &Call<'_>, now: Instant) -> Result<Answer, Miss> {
        self.link.call(call, now)
    }

    /// Sees to it that nobody takes this connection again. Those who share it may go on.
    ///
    /// For one on which a write has no outcome yet: the server answers a read on the same
    /// connection only behind that write, which may be never.
    pub fn retire(&self) {
        self.link.retire();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.link.users.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
