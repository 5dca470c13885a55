//! The session in which a client numbers its writes.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvorum_protocol::SessionSequence;

use super::error::{Cause, Error, ErrorKind};
use super::route::{Numbered, Sequences};

/// How many writes of one client may be under way at once; threads beyond it wait.
const WINDOW: u32 = 64;

/// Gives numbers to the writes of many threads; opened with the first of them.
#[derive(Debug)]
pub(super) struct Session {
    state: Mutex<State>,
    /// A number was resolved, or a session opened, or that has failed.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    sequences: Sequences,
    /// One thread does it for all.
    is_opening: bool,
}

impl Session {
    pub(super) fn new() -> Session {
        let state = State { sequences: Sequences::new(WINDOW), is_opening: false };
        Session { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Lets only so many writes be under way at once, in sessions that are yet to be opened: the
    /// cluster keeps that many answers of each.
    pub(super) fn narrow(&self, window: u32) {
        self.lock().sequences = Sequences::new(window);
    }

    /// The window that a session is to be opened with.
    pub(super) fn window(&self) -> u32 {
        self.lock().sequences.window()
    }

    /// A number for one write; `open` opens a session if there is none, and names it.
    ///
    /// # Errors
    /// That of `open`, or that the deadline has come first. Nothing was applied then.
    pub(super) fn number(
        &self,
        deadline: Instant,
        open: impl Fn() -> Result<u64, Error>,
    ) -> Result<Number<'_>, Error> {
        let mut state = self.lock();
        loop {
            match state.sequences.number() {
                Numbered::As(sequence) => return Ok(Number { session: self, sequence }),
                Numbered::NoSession if !state.is_opening => {
                    state.is_opening = true;
                    drop(state);
                    let opened = open();
                    state = self.lock();
                    state.is_opening = false;
                    self.changed.notify_all();
                    state.sequences.opened(opened?);
                }
                Numbered::NoSession | Numbered::Full => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(Error::new(ErrorKind::NotApplied, Cause::Timeout));
                    }
                    let waited = self.changed.wait_timeout(state, left);
                    (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of another thread is its own: each step leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number of a write that is under way. Resolved when it is dropped: the write is not sent
/// again then.
#[derive(Debug)]
pub(super) struct Number<'a> {
    session: &'a Session,
    sequence: SessionSequence,
}

impl Number<'_> {
    /// How the cluster knows the write.
    pub(super) fn sequence(&self) -> SessionSequence {
        self.sequence
    }

    /// The cluster has forgotten the session.
    pub(super) fn expired(self) {
        self.session.lock().sequences.expired(self.sequence.session);
    }
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        self.session.lock().sequences.resolve(self.sequence);
        self.session.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn many_threads_open_one_session_and_share_its_window() {
        let session = Session::new();
        let opened = AtomicU64::new(0);
        let most = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let open = || Ok(opened.fetch_add(1, Ordering::Relaxed) + 1);
                        let number = session.number(later(), open).unwrap();
                        most.fetch_max(number.sequence().sequence, Ordering::Relaxed);
                        assert_eq!(number.sequence().session, 1);
                    }
                });
            }
        });
        assert_eq!(opened.into_inner(), 1);
        assert_eq!(most.into_inner(), 16 * 500);
    }

    #[test]
    fn the_wait_for_a_number_ends_at_the_deadline() {
        let session = Session::new();
        let open = || Ok(7);
        let held: Vec<Number<'_>> =
            (0..WINDOW).map(|_| session.number(later(), open).unwrap()).collect();
        let error = session.number(Instant::now(), open).unwrap_err();
        assert_eq!((error.kind(), error.cause()), (ErrorKind::NotApplied, &Cause::Timeout));
        drop(held);
        assert!(session.number(Instant::now(), open).is_ok());
    }

    #[test]
    fn a_narrow_session_numbers_one_write_at_a_time() {
        let session = Session::new();
        session.narrow(1);
        assert_eq!(session.window(), 1);
        let held = session.number(later(), || Ok(7)).unwrap();
        assert!(session.number(Instant::now(), || Ok(8)).is_err());
        drop(held);
        assert_eq!(session.number(later(), || Ok(8)).unwrap().sequence().sequence, 2);
    }

    #[test]
    fn who_can_not_open_a_session_says_so_and_the_next_one_tries_again() {
        let session = Session::new();
        let failed = || Err(Error::new(ErrorKind::NotApplied, Cause::NoLeader));
        assert_eq!(session.number(later(), failed).unwrap_err().cause(), &Cause::NoLeader);
        let number = session.number(later(), || Ok(3)).unwrap();
        assert_eq!(number.sequence(), SessionSequence { session: 3, sequence: 1 });
        number.expired();
        let number = session.number(later(), || Ok(5)).unwrap();
        assert_eq!(number.sequence(), SessionSequence { session: 5, sequence: 1 });
    }
}
