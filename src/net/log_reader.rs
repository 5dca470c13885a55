//! The thread that reads the log back for members that lag, and snapshots for those that the log
//! can not help any more, so that neither the reactor nor the thread that writes the log ever waits
//! for it.
//!
//! The core asks for one [`Fetch`] and one [`SnapshotFetch`] per member at a time, and each is
//! bounded in bytes; so what is on its way here is bounded too.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use kvorum_protocol::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use kvorum_protocol::{Batch, LogIndex, NodeId};
use mio::Waker;

use crate::core::{Fetch, SnapshotFetch, SnapshotPart};
use crate::disk::Disk;
use crate::snapshot::PartReader;
use crate::wal::Fetcher;

/// Copying old entries is less urgent than serving new ones: as `nice(1)` counts. Low enough that
/// the reactor and the log go first on a busy machine, not so low that a member never catches up.
const NICENESS: i32 = 5;

/// After so long without a request, what was kept open for the next one is closed.
const REST_AFTER: Duration = Duration::from_secs(60);

/// What the thread is asked for.
#[derive(Debug)]
enum Request {
    Log(Fetch),
    Snapshot(SnapshotFetch),
}

/// What it has found.
#[derive(Debug)]
pub enum Fetched {
    /// The answer to a [`Fetch`].
    Log {
        /// Whose fetch it was.
        member: NodeId,
        /// Where it began.
        from: LogIndex,
        /// What was found; nothing when the log can not be read, which was logged.
        batches: Vec<Batch>,
    },
    /// The answer to a [`SnapshotFetch`].
    Snapshot {
        /// Whose fetch it was.
        member: NodeId,
        /// What was found; `None` when the snapshot can not be read, which was logged.
        part: Option<SnapshotPart>,
    },
}

/// The reactor's handle of the thread. When it is dropped the thread ends by itself, after the
/// fetch that it is at; nobody waits for that, because the disk may be stuck.
#[derive(Debug)]
pub struct LogReader {
    requests: Sender<Request>,
    results: Receiver<Fetched>,
    stop: Arc<AtomicBool>,
}

impl LogReader {
    /// Starts the thread. `disk` is the one that the log was opened on; `waker` interrupts the
    /// reactor's poll when there are results.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(disk: Arc<dyn Disk>, waker: Arc<Waker>) -> std::io::Result<LogReader> {
        let mut files = Files {
            fetcher: Fetcher::new(Arc::clone(&disk)),
            snapshots: PartReader::new(disk, SNAPSHOT_CHUNK_BYTES_MAX),
            in_trouble: HashSet::new(),
        };
        LogReader::spawn(waker, move |request| files.read(request))
    }

    /// The same, whatever it is that is read.
    fn spawn(
        waker: Arc<Waker>,
        read: impl FnMut(Option<&Request>) -> Option<Fetched> + Send + 'static,
    ) -> std::io::Result<LogReader> {
        let (requests, waiting) = channel();
        let (done, results) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let reader = ReadLoop { read, done, waker, stop: Arc::clone(&stop) };
        let run = move || reader.run(&waiting);
        thread::Builder::new().name("kvorum-reader".into()).spawn(run)?;
        Ok(LogReader { requests, results, stop })
    }

    /// Has a part of the log read. Answered in order, each by one of
    /// [`take_results`](LogReader::take_results).
    pub fn submit(&mut self, fetch: Fetch) {
        self.send(Request::Log(fetch));
    }

    /// The same for a part of a snapshot.
    pub fn submit_snapshot(&mut self, fetch: SnapshotFetch) {
        self.send(Request::Snapshot(fetch));
    }

    fn send(&mut self, request: Request) {
        self.requests.send(request).expect("the thread runs until this is dropped");
    }

    /// What was read since the last call.
    pub fn take_results(&mut self) -> impl Iterator<Item = Fetched> + '_ {
        self.results.try_iter()
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        // What waits is not read any more.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The thread's side.
struct ReadLoop<R> {
    read: R,
    done: Sender<Fetched>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
}

impl<R: FnMut(Option<&Request>) -> Option<Fetched>> ReadLoop<R> {
    fn run(mut self, requests: &Receiver<Request>) {
        // Of this thread only, on Linux. Where it is not allowed the work is done all the same.
        if let Err(error) = rustix::process::nice(NICENESS) {
            log::debug!("the log is read back at the usual priority: {error}");
        }
        loop {
            let request = match requests.recv_timeout(REST_AFTER) {
                Ok(request) => Some(request),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let Some(fetched) = (self.read)(request.as_ref()) else { continue };
            if self.done.send(fetched).is_err() {
                break;
            }
            if let Err(error) = self.waker.wake() {
                log::error!("can not wake the reactor: {error}");
            }
        }
    }
}

/// What the thread reads.
struct Files {
    fetcher: Fetcher,
    snapshots: PartReader,
    /// Members whose last fetch failed. They will ask again, and the log says it once.
    in_trouble: HashSet<NodeId>,
}

impl Files {
    /// `None`: nothing was asked for in a while.
    fn read(&mut self, request: Option<&Request>) -> Option<Fetched> {
        match request {
            None => {
                self.snapshots.rest();
                None
            }
            Some(Request::Log(fetch)) => Some(self.read_log(fetch)),
            Some(Request::Snapshot(fetch)) => Some(self.read_snapshot(fetch)),
        }
    }

    fn read_log(&mut self, fetch: &Fetch) -> Fetched {
        let Fetch { member, from, .. } = *fetch;
        let batches = self.fetcher.fetch(fetch).unwrap_or_else(|error| {
            self.note_trouble(member, &|| format!("the entries from {from} on: {error}"));
            Vec::new()
        });
        if !batches.is_empty() {
            self.in_trouble.remove(&member);
        }
        Fetched::Log { member, from, batches }
    }

    fn read_snapshot(&mut self, fetch: &SnapshotFetch) -> Fetched {
        let SnapshotFetch { member, index, offset } = *fetch;
        let part = match self.snapshots.read(index, offset) {
            Ok(part) => {
                self.in_trouble.remove(&member);
                Some(part)
            }
            Err(error) => {
                self.note_trouble(member, &|| format!("a snapshot: {error}"));
                None
            }
        };
        Fetched::Snapshot { member, part }
    }

    fn note_trouble(&mut self, member: NodeId, what: &dyn Fn() -> String) {
        if self.in_trouble.insert(member) {
            log::error!("node {member} can not get {}", what());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use kvorum_protocol::{BatchBuilder, Command, LogTimeMs, Lsn, Op, Term};
    use mio::{Events, Poll, Token};

    use super::*;
    use crate::core::{Record, Recovery};
    use crate::disk::FileDisk;
    use crate::wal::{self, Identity, WalConfig};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn fetch(from: u64) -> Fetch {
        Fetch {
            member: NodeId(3),
            from: LogIndex(from),
            end: LogIndex(from + 1),
            bytes_max: 1000,
            terms: vec![(LogIndex(1), Term(1))],
        }
    }

    fn wait(poll: &mut Poll) {
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert!(!events.is_empty(), "the reader answers");
    }

    #[test]
    fn a_fetch_is_answered_and_wakes_the_poll_also_when_it_fails() {
        let temp = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(temp.path(), true).unwrap());
        let config = WalConfig::new(Identity::random(NodeId(1), None));
        let (mut writer, _) = wal::open(Arc::clone(&disk), config, &mut Recovery::new(1)).unwrap();
        let mut builder = BatchBuilder::new(LogIndex(1));
        builder.push(&Command::new(Op::Noop));
        let batch = builder.seal(Term(1), LogTimeMs(1), 0).unwrap();
        writer.stage(Lsn(1), &Record::TermVote { term: Term(1), voted_for: None });
        writer.stage(Lsn(2), &Record::Batch(batch.clone()));
        writer.write().unwrap();
        writer.sync().unwrap();

        let mut poll = Poll::new().unwrap();
        let waker = Waker::new(poll.registry(), Token(0)).unwrap();
        let users = Arc::downgrade(&disk);
        let mut reader = LogReader::start(disk, Arc::new(waker)).unwrap();
        for (from, found) in [(1, vec![batch.clone()]), (2, vec![]), (1, vec![batch])] {
            reader.submit(fetch(from));
            let mut results = Vec::new();
            while results.is_empty() {
                wait(&mut poll);
                results.extend(reader.take_results());
            }
            let [Fetched::Log { member, from: answered, batches }] = &results[..] else { panic!() };
            assert_eq!((*member, *answered, batches), (NodeId(3), LogIndex(from), &found));
        }
        drop(reader);
        drop(writer);
        let deadline = Instant::now() + PATIENCE;
        while users.strong_count() > 0 {
            assert!(Instant::now() < deadline, "the thread does not end");
            thread::yield_now();
        }
    }

    #[test]
    fn nobody_waits_for_a_disk_that_is_stuck() {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (begun, begins) = channel();
        let (release, released) = channel::<()>();
        let mut reader = LogReader::spawn(waker, move |_| {
            begun.send(()).unwrap();
            let _ = released.recv_timeout(PATIENCE);
            Some(Fetched::Snapshot { member: NodeId(3), part: None })
        })
        .unwrap();
        reader.submit(fetch(1));
        reader.submit(fetch(2));
        begins.recv_timeout(PATIENCE).unwrap();
        drop(reader);
        release.send(()).expect("the disk is still stuck");
        let rest = begins.recv_timeout(PATIENCE);
        assert_eq!(rest, Err(RecvTimeoutError::Disconnected), "the second is not begun");
    }
}
