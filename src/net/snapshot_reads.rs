//! The thread that reads snapshots for clients, so that the reactor never waits for it.
//!
//! Clients ask for parts, and nothing is kept between two of their requests but the open file. At
//! most [`READS_MAX`] parts are in memory at once on their way from the disk to a connection; what
//! else is asked for waits here as the few bytes of its request.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use kvorum_protocol::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use kvorum_protocol::{ErrorCode, LogIndex, Response, SnapshotRead};
use mio::Waker;

use crate::core::{ReplyTo, SnapshotPart};
use crate::disk::Disk;
use crate::snapshot::{PartReader, SnapshotError};

/// Parts on their way.
const READS_MAX: usize = 4;

/// As `nice(1)` counts: a backup is less urgent than serving.
const NICENESS: i32 = 5;

/// After so long without a request, the snapshots that were kept open for the next one are closed.
const REST_AFTER: Duration = Duration::from_secs(60);

/// What a client wants of the snapshots of this node.
#[derive(Clone, Copy, Debug)]
pub enum Wish {
    /// One of at least the present state.
    Take(ReplyTo),
    /// The same, and nobody waits for it.
    Save,
    /// A part of one.
    Read(ReplyTo, SnapshotRead),
}

/// What has become of a read.
#[derive(Debug)]
pub enum Found {
    /// The part, not longer than asked for.
    Part(SnapshotPart),
    /// No such snapshot is there.
    Gone,
    /// It can not be read.
    Failed {
        /// What is known of it.
        code: ErrorCode,
        /// In words.
        message: String,
    },
}

impl Found {
    /// What the client is told.
    pub fn response(&self) -> Response<'_> {
        match self {
            Found::Part(part) => Response::SnapshotPart {
                index: part.index,
                total_bytes: part.total_bytes,
                bytes: &part.bytes,
            },
            Found::Gone => Response::NotFound,
            Found::Failed { code, message } => Response::Error { code: *code, message },
        }
    }
}

type Job = (ReplyTo, SnapshotRead);
type Done = (ReplyTo, Found);

/// The reactor's handle. The thread starts with the first request: most nodes are never asked.
pub struct SnapshotReads {
    disk: Arc<dyn Disk>,
    waker: Arc<Waker>,
    thread: Option<(Sender<Job>, Receiver<Done>)>,
    waiting: VecDeque<Job>,
    running: usize,
}

impl SnapshotReads {
    /// Reads from this disk; `waker` interrupts the reactor's poll when there are results.
    pub fn new(disk: Arc<dyn Disk>, waker: Arc<Waker>) -> SnapshotReads {
        SnapshotReads { disk, waker, thread: None, waiting: VecDeque::new(), running: 0 }
    }

    /// Has a part read, which is told under `to`.
    pub fn submit(&mut self, to: ReplyTo, read: SnapshotRead) {
        self.waiting.push_back((to, read));
    }

    /// What was read since the last call. Hands the next requests to the thread.
    pub fn take_results(&mut self) -> Vec<Done> {
        let mut done: Vec<Done> = match &self.thread {
            Some((_, results)) => results.try_iter().collect(),
            None => Vec::new(),
        };
        self.running -= done.len();
        while self.running < READS_MAX
            && let Some(job) = self.waiting.pop_front()
        {
            match self.jobs() {
                Ok(jobs) => {
                    jobs.send(job).expect("the thread runs until this is dropped");
                    self.running += 1;
                }
                Err(error) => {
                    let message = format!("no thread to read it: {error}; try again later");
                    done.push((job.0, Found::Failed { code: ErrorCode::Busy, message }));
                }
            }
        }
        done
    }

    fn jobs(&mut self) -> io::Result<&Sender<Job>> {
        if self.thread.is_none() {
            self.thread = Some(start(Arc::clone(&self.disk), Arc::clone(&self.waker))?);
        }
        let (jobs, _) = self.thread.as_ref().expect("just started");
        Ok(jobs)
    }
}

fn start(disk: Arc<dyn Disk>, waker: Arc<Waker>) -> io::Result<(Sender<Job>, Receiver<Done>)> {
    let (jobs, waiting) = channel::<Job>();
    let (done, results) = channel();
    let run = move || {
        // Of this thread only, on Linux. Where it is not allowed the work is done all the same.
        if let Err(error) = rustix::process::nice(NICENESS) {
            log::debug!("snapshots are read at the usual priority: {error}");
        }
        let mut reader = PartReader::new(disk, SNAPSHOT_CHUNK_BYTES_MAX);
        loop {
            let (to, read) = match waiting.recv_timeout(REST_AFTER) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => {
                    reader.rest();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if done.send((to, find(&mut reader, read))).is_err() {
                break;
            }
            if let Err(error) = waker.wake() {
                log::error!("can not wake the reactor: {error}");
            }
        }
    };
    thread::Builder::new().name("kvorum-backup".into()).spawn(run)?;
    Ok((jobs, results))
}

fn find(reader: &mut PartReader, read: SnapshotRead) -> Found {
    let index = (read.index > LogIndex(0)).then_some(read.index);
    match reader.read(index, read.offset) {
        Ok(mut part) => {
            let bytes_max = usize::try_from(read.bytes_max).unwrap_or(usize::MAX);
            part.bytes.truncate(bytes_max);
            Found::Part(part)
        }
        Err(SnapshotError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Found::Gone
        }
        Err(SnapshotError::Io { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => {
            let message = "the snapshot ends before this offset".to_owned();
            Found::Failed { code: ErrorCode::BadRequest, message }
        }
        Err(error) => {
            log::error!("a snapshot can not be read for a client: {error}");
            let message = format!("{error}; ask another node");
            Found::Failed { code: ErrorCode::Busy, message }
        }
    }
}
