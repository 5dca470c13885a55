//! The segment after the next roll, made ahead of time: filled with zeros, or recycled from a
//! segment that is no longer needed, and already under its final name. So a roll costs two syncs
//! of one block, and a full disk is known a whole segment early.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::layout::{SEGMENT_HEADER_BYTES, segment_name};
use crate::disk::{AlignedBuffer, Disk, DiskFile, is_out_of_descriptors};

/// Where a segment is made before it gets its name.
pub(super) const SPARE_TMP_NAME: &str = "spare.tmp";

/// How long to wait after a failure before the next attempt. Twice as long each time, because it
/// may write a whole segment before it fails; but to ask a full file system for its free space
/// costs nothing, and is done as often as this.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// How soon to look again for a segment that is being made.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// A segment that waits for its first record. Its header block is zero.
pub(super) struct Spare {
    pub sequence: u64,
    pub bytes: u64,
    pub file: Box<dyn DiskFile>,
}

/// A segment that is no longer needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Released {
    pub sequence: u64,
    pub bytes: u64,
}

enum Job {
    Prepare { sequence: u64, bytes: u64, recycle: Option<Released> },
    Remove(Released),
}

/// Less is free than a segment takes, and nothing was tried.
#[derive(Debug)]
struct TooLittleSpace {
    free_bytes: u64,
    needed_bytes: u64,
}

impl fmt::Display for TooLittleSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooLittleSpace { free_bytes, needed_bytes } = self;
        write!(f, "{free_bytes} bytes are free, {needed_bytes} are needed")
    }
}

impl std::error::Error for TooLittleSpace {}

/// The last attempt failed.
struct Failure {
    reason: io::ErrorKind,
    is_out_of_descriptors: bool,
    pause: Duration,
    /// `None` when no time was known.
    retry_at: Option<Instant>,
}

type Outcome = (Job, io::Result<Option<Spare>>);

/// Makes spares, in the background or on the spot, one job at a time.
pub(super) struct Spares {
    disk: Arc<dyn Disk>,
    worker: Option<Worker>,
    job_in_flight: bool,
    ready: Option<Spare>,
    /// Oldest first, and handled in this order: after a crash the segments that are left must
    /// have no gap.
    released: VecDeque<Released>,
    /// How many bytes of them are kept to be recycled.
    kept_bytes_max: u64,
    failure: Option<Failure>,
    /// The time of the last [`tend`](Spares::tend): what fails between two of them failed then. The
    /// clock is the caller's, so that a simulated one can take its place.
    tended_at: Option<Instant>,
}

struct Worker {
    /// `None` only while it is being dropped.
    jobs: Option<Sender<Job>>,
    outcomes: Receiver<Outcome>,
    thread: Option<JoinHandle<()>>,
}

impl Spares {
    pub fn new(
        disk: Arc<dyn Disk>,
        ready: Option<Spare>,
        kept_bytes_max: u64,
        in_background: bool,
    ) -> Spares {
        let worker = if in_background { Worker::spawn(Arc::clone(&disk)) } else { None };
        let released = VecDeque::new();
        Spares {
            disk,
            worker,
            job_in_flight: false,
            ready,
            released,
            kept_bytes_max,
            failure: None,
            tended_at: None,
        }
    }

    /// The spare, if there is one of at least `bytes`. A shorter one is none: it was made before
    /// the configured limits were raised, and is replaced.
    pub fn ready(&self, bytes: u64) -> Option<&Spare> {
        self.ready.as_ref().filter(|spare| spare.bytes >= bytes)
    }

    /// Whether the last attempt failed.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// Whether it failed for want of file descriptors, so that it is not about the disk.
    pub fn is_out_of_descriptors(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.is_out_of_descriptors)
    }

    /// This segment is no longer needed. Segments come in order.
    pub fn release(&mut self, released: Released) {
        // There is something to make a spare of, whatever has failed before.
        if let Some(failure) = &mut self.failure {
            failure.retry_at = None;
        }
        self.released.push_back(released);
    }

    /// Collects what is done and starts what is due; `sequence` and `bytes` are those of the next
    /// segment. Returns when to call again, at the latest.
    pub fn tend(&mut self, now: Instant, sequence: u64, bytes: u64) -> Option<Instant> {
        self.tended_at = Some(now);
        self.collect();
        loop {
            if self.job_in_flight {
                return Some(now + POLL_INTERVAL);
            }
            let retry_at = self.failure.as_ref().and_then(|failure| failure.retry_at);
            if let Some(retry_at) = retry_at.filter(|retry_at| now < *retry_at) {
                return Some(retry_at);
            }
            let job = self.next_job(sequence, bytes)?;
            self.start(job);
            self.collect();
        }
    }

    fn next_job(&mut self, sequence: u64, bytes: u64) -> Option<Job> {
        let wants_spare = self.ready(bytes).is_none();
        match self.released.front() {
            Some(oldest) if wants_spare && oldest.bytes >= bytes => {
                Some(self.preparation(sequence, bytes))
            }
            // The others are kept for the next times, if they are long enough: as many as have once
            // been in use will be again before the next snapshot.
            Some(oldest) if oldest.bytes < bytes || self.released_bytes() > self.kept_bytes_max => {
                self.released.pop_front().map(Job::Remove)
            }
            _ if wants_spare => Some(self.preparation(sequence, bytes)),
            _ => None,
        }
    }

    /// Makes a spare from the oldest segment that was released, if that is long enough.
    fn preparation(&mut self, sequence: u64, bytes: u64) -> Job {
        let recycle = self.released.pop_front_if(|oldest| oldest.bytes >= bytes);
        let bytes = recycle.map_or(bytes, |released| released.bytes);
        Job::Prepare { sequence, bytes, recycle }
    }

    fn released_bytes(&self) -> u64 {
        self.released.iter().map(|released| released.bytes).sum()
    }

    fn start(&mut self, job: Job) {
        self.job_in_flight = true;
        if let Job::Prepare { .. } = job {
            // Too short, if there is one. Another file takes its name, so it is never to be used.
            self.ready = None;
        }
        if let Some(worker) = &self.worker {
            worker.start(job);
        } else {
            let outcome = execute(&*self.disk, &job);
            self.finish((job, outcome));
        }
    }

    fn collect(&mut self) {
        if !self.job_in_flight {
            return;
        }
        let Some(worker) = &self.worker else { return };
        match worker.outcomes.try_recv() {
            Ok(outcome) => self.finish(outcome),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => panic!("the thread that prepares segments died"),
        }
    }

    fn finish(&mut self, (job, outcome): Outcome) {
        self.job_in_flight = false;
        match outcome {
            Ok(spare) => {
                if spare.is_some() {
                    self.ready = spare;
                }
                self.failure = None;
            }
            Err(error) => self.take_back(job, &error),
        }
    }

    /// The job has failed.
    fn take_back(&mut self, job: Job, error: &io::Error) {
        let (Job::Prepare { sequence, .. } | Job::Remove(Released { sequence, .. })) = &job;
        self.fail(*sequence, error);
        // Back in its place, so that the order stays.
        if let Job::Prepare { recycle: Some(released), .. } | Job::Remove(released) = job {
            self.released.push_front(released);
        }
    }

    fn fail(&mut self, sequence: u64, error: &io::Error) {
        let reason = error.kind();
        let is_out_of_descriptors = is_out_of_descriptors(error);
        let before = self.failure.as_ref();
        let is_news = before.is_none_or(|before| {
            (before.reason, before.is_out_of_descriptors) != (reason, is_out_of_descriptors)
        });
        if is_news {
            let path = self.disk.path(&segment_name(sequence));
            log::warn!("can not prepare {}: {error}; trying again", path.display());
        }
        let was_cheap = error.get_ref().is_some_and(|inner| inner.is::<TooLittleSpace>());
        let pause = match before {
            Some(before) if !was_cheap => (before.pause * 2).min(RETRY_PAUSE_MAX),
            _ => RETRY_PAUSE_MIN,
        };
        let retry_at = self.tended_at.map(|now| now + pause);
        self.failure = Some(Failure { reason, is_out_of_descriptors, pause, retry_at });
    }

    /// The spare, with at least `bytes`: waits for it, or makes it on the spot. How often to try
    /// that is the caller's to decide.
    pub fn take(&mut self, sequence: u64, bytes: u64) -> io::Result<Spare> {
        while self.job_in_flight {
            let worker = self.worker.as_ref().expect("only a worker leaves a job in flight");
            let outcome =
                worker.outcomes.recv().expect("the thread that prepares segments runs on");
            self.finish(outcome);
        }
        if let Some(spare) = self.ready.take_if(|spare| spare.bytes >= bytes) {
            return Ok(spare);
        }
        // Nobody has tended since the last one was taken, or it has failed, or is too short.
        let job = self.preparation(sequence, bytes);
        // As in `start`.
        self.ready = None;
        match execute(&*self.disk, &job) {
            Ok(spare) => {
                self.failure = None;
                Ok(spare.expect("a preparation makes a spare"))
            }
            Err(error) => {
                self.take_back(job, &error);
                Err(error)
            }
        }
    }
}

impl Worker {
    /// `None` when no thread can be had: the work is then done on the spot.
    fn spawn(disk: Arc<dyn Disk>) -> Option<Worker> {
        let (jobs, waiting) = channel::<Job>();
        let (done, outcomes) = channel();
        let work = move || {
            for job in waiting {
                let outcome = execute(&*disk, &job);
                if done.send((job, outcome)).is_err() {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("kvorum-segments".into()).spawn(work);
        let thread = thread.ok()?;
        Some(Worker { jobs: Some(jobs), outcomes, thread: Some(thread) })
    }

    fn start(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("the worker is not being dropped");
        jobs.send(job).expect("the thread that prepares segments runs on");
    }
}

impl Drop for Worker {
    /// Waits for the job in flight: the directory's lock is given back when all its users are
    /// gone.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

fn execute(disk: &dyn Disk, job: &Job) -> io::Result<Option<Spare>> {
    match job {
        Job::Prepare { sequence, bytes, recycle } => {
            prepare(disk, *sequence, *bytes, *recycle).map(Some)
        }
        Job::Remove(released) => {
            remove_if_there(disk, &segment_name(released.sequence))?;
            // Each removal by itself, so that a crash can not leave a gap.
            disk.sync_dir()?;
            Ok(None)
        }
    }
}

fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes a segment whose header block is zero, durably, under the name for `sequence`.
pub(super) fn prepare(
    disk: &dyn Disk,
    sequence: u64,
    bytes: u64,
    recycle: Option<Released>,
) -> io::Result<Spare> {
    let made = make(disk, sequence, bytes, recycle);
    if made.is_err() {
        // Half a segment would take the space that is missing; recovery removes it too.
        let _ = disk.remove(SPARE_TMP_NAME);
    }
    made
}

fn make(
    disk: &dyn Disk,
    sequence: u64,
    bytes: u64,
    recycle: Option<Released>,
) -> io::Result<Spare> {
    let recycled = match recycle {
        Some(released) => reopen(disk, released)?,
        None => None,
    };
    let file = match recycled {
        Some(file) => file,
        None => {
            // A spare that was too short gives its space to the one that takes its place.
            remove_if_there(disk, &segment_name(sequence))?;
            check_space(disk, bytes)?;
            disk.create_zeroed(SPARE_TMP_NAME, bytes)?
        }
    };
    file.sync()?;
    disk.rename(SPARE_TMP_NAME, &segment_name(sequence))?;
    disk.sync_dir()?;
    Ok(Spare { sequence, bytes, file })
}

/// To fill a disk to the brim, only to learn that it is full, would hurt everyone on it.
fn check_space(disk: &dyn Disk, bytes: u64) -> io::Result<()> {
    // Something is to be left for metadata, and for others.
    let needed_bytes = bytes + bytes / 16;
    match disk.free_bytes() {
        Ok(free_bytes) if free_bytes < needed_bytes => {
            let error = TooLittleSpace { free_bytes, needed_bytes };
            Err(io::Error::new(io::ErrorKind::StorageFull, error))
        }
        // Who does not tell is tried.
        _ => Ok(()),
    }
}

/// Takes the name and the header from a segment. Its records stay, and are none in the next
/// segment: they name the old one. `None` when an earlier attempt got past its name.
fn reopen(disk: &dyn Disk, released: Released) -> io::Result<Option<Box<dyn DiskFile>>> {
    match disk.rename(&segment_name(released.sequence), SPARE_TMP_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    }
    // Before the header goes, or a crash could leave a segment of the log without one.
    disk.sync_dir()?;
    let file = disk.open(SPARE_TMP_NAME)?;
    let mut zeros = AlignedBuffer::new();
    zeros.extend_zeros(SEGMENT_HEADER_BYTES);
    file.write_at(0, zeros.as_slice())?;
    Ok(Some(file))
}
