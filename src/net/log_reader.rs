//! The thread that reads the log back for members that lag, so that neither the reactor nor the
//! thread that writes the log ever waits for it.
//!
//! The core asks for one [`Fetch`] per member at a time, and each is bounded in bytes; so what is
//! on its way here is bounded too.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use kvorum_protocol::{Batch, LogIndex, NodeId};
use mio::Waker;

use crate::core::Fetch;
use crate::disk::Disk;
use crate::wal::Fetcher;

/// Copying old entries is less urgent than serving new ones: as `nice(1)` counts. Low enough that
/// the reactor and the log go first on a busy machine, not so low that a member never catches up.
const NICENESS: i32 = 5;

/// The answer to a [`Fetch`].
#[derive(Debug)]
pub struct Fetched {
    /// Whose fetch it was.
    pub member: NodeId,
    /// Where it began.
    pub from: LogIndex,
    /// What was found; nothing when the log can not be read, which was logged.
    pub batches: Vec<Batch>,
}

/// The reactor's handle of the thread. Dropping it stops the thread, after the fetch that it is at.
#[derive(Debug)]
pub struct LogReader {
    /// `None` only while it is being dropped.
    fetches: Option<Sender<Fetch>>,
    results: Receiver<Fetched>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LogReader {
    /// Starts the thread. `disk` is the one that the log was opened on; `waker` interrupts the
    /// reactor's poll when there are results.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(disk: Arc<dyn Disk>, waker: Arc<Waker>) -> std::io::Result<LogReader> {
        let (fetches, waiting) = channel();
        let (done, results) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let reader = ReadLoop {
            fetcher: Fetcher::new(disk),
            done,
            waker,
            stop: Arc::clone(&stop),
            in_trouble: HashSet::new(),
        };
        let thread = thread::Builder::new()
            .name("kvorum-reader".into())
            .spawn(move || reader.run(&waiting))?;
        Ok(LogReader { fetches: Some(fetches), results, stop, thread: Some(thread) })
    }

    /// Has a part of the log read. Answered in order, each by one of
    /// [`take_results`](LogReader::take_results).
    pub fn submit(&mut self, fetch: Fetch) {
        let fetches = self.fetches.as_ref().expect("it is not being dropped");
        fetches.send(fetch).expect("the thread runs until it is dropped");
    }

    /// What was read since the last call.
    pub fn take_results(&mut self) -> impl Iterator<Item = Fetched> + '_ {
        self.results.try_iter()
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.fetches = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct ReadLoop {
    fetcher: Fetcher,
    done: Sender<Fetched>,
    waker: Arc<Waker>,
    stop: Arc<AtomicBool>,
    /// Members whose last fetch failed. They will ask again, and the log says it once.
    in_trouble: HashSet<NodeId>,
}

impl ReadLoop {
    fn run(mut self, fetches: &Receiver<Fetch>) {
        // Of this thread only, on Linux. Where it is not allowed the work is done all the same.
        if let Err(error) = rustix::process::nice(NICENESS) {
            log::debug!("the log is read back at the usual priority: {error}");
        }
        for fetch in fetches {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let batches = self.read(&fetch);
            let fetched = Fetched { member: fetch.member, from: fetch.from, batches };
            if self.done.send(fetched).is_err() {
                break;
            }
            if let Err(error) = self.waker.wake() {
                log::error!("can not wake the reactor: {error}");
            }
        }
    }

    fn read(&mut self, fetch: &Fetch) -> Vec<Batch> {
        match self.fetcher.fetch(fetch) {
            Ok(batches) => {
                self.in_trouble.remove(&fetch.member);
                batches
            }
            Err(error) => {
                if self.in_trouble.insert(fetch.member) {
                    let Fetch { member, from, .. } = fetch;
                    log::error!("node {member} can not get the entries from {from} on: {error}");
                }
                Vec::new()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvorum_protocol::{BatchBuilder, Command, LogTimeMs, Lsn, Op, Term};
    use mio::{Events, Poll, Token};

    use super::*;
    use crate::core::{Record, Recovery};
    use crate::disk::FileDisk;
    use crate::wal::{self, Identity, WalConfig};

    fn wait(poll: &mut Poll) {
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::from_secs(60))).unwrap();
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
        let mut reader = LogReader::start(disk, Arc::new(waker)).unwrap();
        for (from, found) in [(1, vec![batch.clone()]), (2, vec![]), (1, vec![batch])] {
            reader.submit(Fetch {
                member: NodeId(3),
                from: LogIndex(from),
                end: LogIndex(from + 1),
                bytes_max: 1000,
                terms: vec![(LogIndex(1), Term(1))],
            });
            let mut results = Vec::new();
            while results.is_empty() {
                wait(&mut poll);
                results.extend(reader.take_results());
            }
            let [Fetched { member, from: answered, batches }] = &results[..] else { panic!() };
            assert_eq!((*member, *answered, batches), (NodeId(3), LogIndex(from), &found));
        }
        drop(reader);
        drop(writer);
        FileDisk::open(temp.path(), true).expect("the directory is free again");
    }
}
