//! The thread that writes and syncs the log, so that the reactor never waits for the disk longer
//! than it chooses to.
//!
//! It owns the [`Writer`] and nothing else. The reactor hands over the records of a turn
//! ([`LogThread::submit`]) and learns through [`LogThread::take_done`] what became of them. At
//! most one group of records is on its way: while it is, the next one grows, which makes the
//! batches as large as the disk is slow.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvorum_protocol::Lsn;
use mio::Waker;

use crate::config::Fsync;
use crate::core::Record;
use crate::wal::{WalError, Writer};

/// What became of a group of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// Every record up to here counts as durable.
    pub durable: Lsn,
    /// Bytes that the log takes with certainty from here on.
    pub room_bytes: u64,
}

/// The two sides' meeting point.
#[derive(Debug, Default)]
struct Mailbox {
    job: Option<Vec<(Lsn, Record)>>,
    done: Option<Result<Done, WalError>>,
    /// The reactor sleeps on `done_signal` and needs no wake-up through the poll.
    reactor_waits: bool,
    /// The thread sleeps on `job_signal`.
    thread_waits: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Shared {
    mailbox: Mutex<Mailbox>,
    job_signal: Condvar,
    done_signal: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().expect("neither side panics while it holds the mailbox")
    }
}

/// The reactor's handle of the thread.
#[derive(Debug)]
pub struct LogThread {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// A group was submitted and its `Done` not taken yet.
    busy: bool,
}

impl LogThread {
    /// Starts the thread. `waker` interrupts the reactor's poll when a group is done.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(writer: Writer, fsync: Fsync, waker: Arc<Waker>) -> std::io::Result<LogThread> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let run = move || LogLoop { writer, fsync, shared: theirs, waker }.run();
        let thread = thread::Builder::new().name("kvorum-log".into()).spawn(run)?;
        Ok(LogThread { shared, thread: Some(thread), busy: false })
    }

    /// Whether a group is on its way.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Hands over a group of records, with consecutive positions.
    pub fn submit(&mut self, records: Vec<(Lsn, Record)>) {
        assert!(!self.busy, "one group at a time");
        self.busy = true;
        let mut mailbox = self.shared.lock();
        mailbox.job = Some(records);
        if mailbox.thread_waits {
            drop(mailbox);
            self.shared.job_signal.notify_one();
        }
    }

    /// What became of the last group, if that is known.
    ///
    /// # Errors
    /// What makes the log unusable: the process has to stop.
    pub fn take_done(&mut self) -> Result<Option<Done>, WalError> {
        let done = self.shared.lock().done.take();
        self.finish(done)
    }

    /// The same, after waiting for it at most `timeout`.
    ///
    /// # Errors
    /// As [`take_done`](LogThread::take_done).
    pub fn wait_done(&mut self, timeout: Duration) -> Result<Option<Done>, WalError> {
        let deadline = Instant::now() + timeout;
        let mut mailbox = self.shared.lock();
        while mailbox.done.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            mailbox.reactor_waits = true;
            let waited = self.shared.done_signal.wait_timeout(mailbox, left);
            (mailbox, _) = waited.expect("neither side panics while it holds the mailbox");
            mailbox.reactor_waits = false;
        }
        let done = mailbox.done.take();
        drop(mailbox);
        self.finish(done)
    }

    fn finish(&mut self, done: Option<Result<Done, WalError>>) -> Result<Option<Done>, WalError> {
        let Some(done) = done else { return Ok(None) };
        self.busy = false;
        done.map(Some)
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.job_signal.notify_one();
        if let Some(thread) = self.thread.take() {
            // It has panicked only on a broken invariant, and then the process is gone.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct LogLoop {
    writer: Writer,
    fsync: Fsync,
    shared: Arc<Shared>,
    waker: Arc<Waker>,
}

impl LogLoop {
    fn run(mut self) {
        let mut synced_at = Instant::now();
        let mut dirty = false;
        loop {
            let sync_due = match self.fsync {
                Fsync::EveryMs(ms) if dirty => Some(synced_at + Duration::from_millis(ms)),
                _ => None,
            };
            let Some(job) = self.next_job(sync_due) else { break };
            let sync_is_due = sync_due.is_some_and(|due| Instant::now() >= due);
            let done = self.execute(&job, sync_is_due);
            dirty = !matches!(self.fsync, Fsync::Always) && (dirty || !job.is_empty());
            if sync_is_due {
                (dirty, synced_at) = (false, Instant::now());
            }
            let failed = done.is_err();
            if !job.is_empty() || failed {
                self.report(done);
            }
            // The records' bytes are freed here, not while the reactor waits for the report.
            drop(job);
            if failed {
                break;
            }
        }
    }

    /// The next group; an empty one when `sync_due` has come first; `None` to stop.
    fn next_job(&self, sync_due: Option<Instant>) -> Option<Vec<(Lsn, Record)>> {
        let mut mailbox = self.shared.lock();
        loop {
            if let Some(job) = mailbox.job.take() {
                return Some(job);
            }
            if mailbox.stop {
                return None;
            }
            mailbox.thread_waits = true;
            mailbox = match sync_due {
                None => self.shared.job_signal.wait(mailbox).expect("as in `lock`"),
                Some(due) => {
                    let left = due.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        mailbox.thread_waits = false;
                        return Some(Vec::new());
                    }
                    let waited = self.shared.job_signal.wait_timeout(mailbox, left);
                    waited.expect("as in `lock`").0
                }
            };
            mailbox.thread_waits = false;
        }
    }

    fn execute(&mut self, job: &[(Lsn, Record)], sync_is_due: bool) -> Result<Done, WalError> {
        for (lsn, record) in job {
            self.writer.stage(*lsn, record)?;
        }
        let written = self.writer.write()?;
        if self.fsync == Fsync::Always || sync_is_due {
            self.writer.sync()?;
        }
        Ok(Done { durable: written, room_bytes: self.writer.room() })
    }

    fn report(&self, done: Result<Done, WalError>) {
        let mut mailbox = self.shared.lock();
        mailbox.done = Some(done);
        let direct = mailbox.reactor_waits;
        drop(mailbox);
        if direct {
            self.shared.done_signal.notify_one();
        } else if let Err(error) = self.waker.wake() {
            log::error!("can not wake the reactor: {error}");
        }
    }
}
