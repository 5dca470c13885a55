//! The thread that writes snapshots, and keeps those that a leader sends, so that the reactor waits
//! for neither disk nor checksums.
//!
//! What waits here is bounded: the reactor counts the chunks that it has handed over
//! ([`Done::Took`] gives them back), and a leader sends no more of its snapshot than it has been
//! told is kept, and a window.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use kvorum_protocol::peer::SnapshotChunk;
use kvorum_protocol::{ClusterId, LogIndex, NodeId};
use mio::Waker;

use crate::core::SessionBounds;
use crate::core::snapshot::SnapshotHead;
use crate::core::state::State;
use crate::core::store::WalkSlice;
use crate::disk::Disk;
use crate::snapshot::{self, Arrivals, SnapshotError, SnapshotInfo, SnapshotWriter};

/// Writing snapshots is less urgent than serving: as `nice(1)` counts.
const NICENESS: i32 = 5;

/// What is left free beside a snapshot. Little: it is the snapshot that lets the log shrink.
const LOG_SPACE_BYTES: u64 = 16 << 20;

/// A snapshot of a leader is loaded beside the serving: one core is left to that.
const THREADS: usize = 1;

/// What the thread is asked to do.
pub enum Job {
    /// Begin a snapshot of about so many bytes. What there is of another one is forgotten.
    Begin { head: Box<SnapshotHead>, bytes: u64 },
    /// So many sessions.
    Sessions(u32, Vec<u8>),
    /// Items of these shards.
    Items(WalkSlice, Vec<u8>),
    /// So many items of any shard.
    Strays(u32, Vec<u8>),
    /// All has come: make it durable.
    Finish,
    /// Forget the snapshot that is being written.
    GiveUp,
    /// A part of a leader's snapshot.
    Part(NodeId, SnapshotChunk),
    /// A snapshot that is not needed any more.
    Remove(SnapshotInfo),
    /// Something that is not needed any more, and takes long to drop.
    Drop(Box<dyn Send>),
}

/// What has become of it.
pub enum Done {
    /// Sessions, items or strays are written.
    Took,
    /// The node's own snapshot is durable.
    Written(SnapshotInfo),
    /// It is not, and what follows of it is ignored.
    Failed {
        /// The last entry that it was to cover.
        index: LogIndex,
        /// Why.
        error: SnapshotError,
    },
    /// A leader's snapshot is on the disk up to there.
    Kept {
        /// The last entry that it covers.
        index: LogIndex,
        /// Which file.
        file: u64,
        /// So many bytes of it.
        offset: u64,
    },
    /// A leader's snapshot is durable and sound, and this is what it holds.
    Installed(SnapshotInfo, Box<(SnapshotHead, State)>),
}

/// The reactor's handle of the thread, which ends by itself when this is dropped; nobody waits for
/// that, because the disk may be stuck.
pub struct SnapshotThread {
    jobs: Sender<Job>,
    results: Receiver<Done>,
}

impl SnapshotThread {
    /// Starts the thread. `waker` interrupts the reactor's poll when there are results.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        disk: Arc<dyn Disk>,
        cluster: ClusterId,
        waker: Arc<Waker>,
    ) -> io::Result<SnapshotThread> {
        let (jobs, waiting) = channel();
        let (done, results) = channel();
        let arrivals = Arrivals::new(Arc::clone(&disk));
        let mut work = Work { disk, cluster, writer: None, arrivals, done };
        let run = move || {
            // Of this thread only, on Linux. Where it is not allowed the work is done all the same.
            if let Err(error) = rustix::process::nice(NICENESS) {
                log::debug!("snapshots are written at the usual priority: {error}");
            }
            for job in waiting {
                work.handle(job);
                if let Err(error) = waker.wake() {
                    log::error!("can not wake the reactor: {error}");
                }
            }
        };
        thread::Builder::new().name("kvorum-snapshot".into()).spawn(run)?;
        Ok(SnapshotThread { jobs, results })
    }

    /// One that a test stands in for.
    #[cfg(test)]
    pub fn detached() -> (SnapshotThread, Receiver<Job>, Sender<Done>) {
        let (jobs, waiting) = channel();
        let (done, results) = channel();
        (SnapshotThread { jobs, results }, waiting, done)
    }

    /// Hands over a job; they are done in order.
    pub fn submit(&self, job: Job) {
        self.jobs.send(job).expect("the thread runs until this is dropped");
    }

    /// What was done since the last call.
    pub fn take_results(&self) -> impl Iterator<Item = Done> + '_ {
        self.results.try_iter()
    }
}

/// The thread's side.
struct Work {
    disk: Arc<dyn Disk>,
    cluster: ClusterId,
    /// What the node's own snapshot goes to, and its index.
    writer: Option<(LogIndex, SnapshotWriter)>,
    arrivals: Arrivals,
    done: Sender<Done>,
}

impl Work {
    fn handle(&mut self, job: Job) {
        match job {
            Job::Begin { head, bytes } => self.begin(&head, bytes),
            Job::Sessions(sessions, body) => {
                self.write(|writer| writer.sessions(sessions, &body));
                self.tell(Done::Took);
            }
            Job::Items(slice, body) => {
                self.write(|writer| {
                    writer.items(slice.first_shard, slice.last_shard, slice.items, &body)
                });
                self.tell(Done::Took);
            }
            Job::Strays(items, body) => {
                self.write(|writer| writer.strays(items, &body));
                self.tell(Done::Took);
            }
            Job::Finish => {
                if let Some((index, writer)) = self.writer.take() {
                    let failed = |error| Done::Failed { index, error };
                    self.tell(writer.finish().map_or_else(failed, Done::Written));
                }
            }
            Job::GiveUp => self.writer = None,
            Job::Part(from, chunk) => self.keep(from, &chunk),
            Job::Remove(snapshot) => self.remove(&snapshot),
            Job::Drop(surplus) => drop(surplus),
        }
    }

    fn tell(&self, done: Done) {
        // Nobody listens any more when the process ends.
        let _ = self.done.send(done);
    }

    // The node's own snapshot

    fn begin(&mut self, head: &SnapshotHead, bytes: u64) {
        self.writer = None;
        let index = head.end.index;
        let created = self
            .check_space(bytes)
            .and_then(|()| SnapshotWriter::create(Arc::clone(&self.disk), self.cluster, head));
        match created {
            Ok(writer) => self.writer = Some((index, writer)),
            Err(error) => self.tell(Done::Failed { index, error }),
        }
    }

    /// A snapshot that fills the disk would stop the writes, before it fails itself: the log needs
    /// its next segment. The file system may not tell, and others may take what is free now.
    fn check_space(&self, bytes: u64) -> Result<(), SnapshotError> {
        let needed = bytes + LOG_SPACE_BYTES;
        match self.disk.free_bytes() {
            Ok(free) if free < needed => {
                let text = format!("{free} bytes are free, {needed} are needed");
                let source = io::Error::new(io::ErrorKind::StorageFull, text);
                Err(SnapshotError::Io { action: "write", path: self.disk.path(""), source })
            }
            _ => Ok(()),
        }
    }

    fn write(&mut self, write: impl FnOnce(&mut SnapshotWriter) -> Result<(), SnapshotError>) {
        let Some((index, writer)) = &mut self.writer else { return };
        if let Err(error) = write(writer) {
            let index = *index;
            self.writer = None;
            self.tell(Done::Failed { index, error });
        }
    }

    fn remove(&self, snapshot: &SnapshotInfo) {
        if let Err(error) = snapshot::remove(&*self.disk, snapshot) {
            log::warn!("{error}");
        }
    }

    // A leader's

    fn keep(&mut self, from: NodeId, part: &SnapshotChunk) {
        match self.take_part(from, part) {
            Ok(None) => {}
            Ok(Some(offset)) => {
                self.tell(Done::Kept { index: part.index, file: part.file, offset });
                if self.arrivals.is_whole() {
                    self.install(from);
                }
            }
            Err(error) => log::error!("the snapshot of node {from} can not be kept: {error}"),
        }
    }

    fn take_part(
        &mut self,
        from: NodeId,
        part: &SnapshotChunk,
    ) -> Result<Option<u64>, SnapshotError> {
        if self.arrivals.is_beginning(part) {
            let mib = part.total_bytes >> 20;
            log::info!("node {from} sends its snapshot of index {}, {mib} MiB", part.index);
            // What has come of another one makes room for it.
            self.arrivals.give_up();
            self.check_space(part.total_bytes)?;
        }
        self.arrivals.take(part)
    }

    /// All parts are here.
    fn install(&mut self, from: NodeId) {
        log::info!(
            "the snapshot of node {from} is checked and loaded; it takes memory beside the state \
             that it takes the place of"
        );
        match self.arrivals.finish(self.cluster, THREADS, SessionBounds::default()) {
            Ok((info, loaded)) => self.tell(Done::Installed(info, Box::new(loaded))),
            Err(error) => {
                log::error!("the snapshot of node {from} can not be used: {error}");
            }
        }
    }
}
