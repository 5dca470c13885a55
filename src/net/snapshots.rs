//! When snapshots are taken, step by step in the turns of the reactor, and what may go afterwards:
//! older snapshots, and the log that the newest ones cover.
//!
//! A snapshot begins when the log has grown as much as the keys weigh, or when somebody asks for
//! one. Then each turn copies a slice, of the sessions at first and then of the table, and the
//! snapshot thread writes it. While requests come, that takes a fixed share of the time; while
//! nobody asks anything, all of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kvorum_protocol::limits::{
    LOG_BYTES_BETWEEN_SNAPSHOTS_MAX, OLDER_SNAPSHOT_BYTES_MAX, STRAY_BYTES_MAX,
};
use kvorum_protocol::peer::SnapshotChunk;
use kvorum_protocol::resp::SnapshotFacts;
use kvorum_protocol::{ClusterId, LogIndex, NodeId};
use mio::Waker;

use super::clock::Clock;
use super::snapshot_thread::{Done, Job, SnapshotThread};
use crate::core::store::WalkSlice;
use crate::core::{Answer, Instant, Node, Now, Refusal, Reply, ReplyTo};
use crate::disk::Disk;
use crate::snapshot::SnapshotInfo;

/// Places of a table that a slice looks at, and about how many bytes it copies: some ten
/// microseconds, so that nobody's request waits long for it.
const SLICE_SESSIONS: usize = 256;
const SLICE_BUCKETS: usize = 512;
const SLICE_BYTES: usize = 128 << 10;

/// How much the snapshot thread gets at once.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks on their way to the disk.
const CHUNKS_MAX: usize = 4;

/// While requests come, a slice is followed by a pause of so many times what it took.
const PAUSE_FACTOR: u32 = 5;

/// After a failure it is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(20);

/// How often to look whether members have come so far that the log may go.
const COMPACTION_INTERVAL: Duration = Duration::from_secs(1);

/// When to take a snapshot.
#[derive(Clone, Copy, Debug)]
pub struct Trigger {
    /// When the log has grown by so many percent of what the keys weigh.
    pub log_percent: u64,
    /// But not by less than this.
    pub log_bytes_min: u64,
}

/// What there is at the start.
pub struct SnapshotsConfig {
    /// Where snapshots are written.
    pub disk: Arc<dyn Disk>,
    /// When.
    pub trigger: Trigger,
    /// Those that are there, newest first.
    pub kept: Vec<SnapshotInfo>,
    /// Bytes of the log behind the newest one.
    pub log_bytes: u64,
}

/// How far the making of a snapshot is.
enum Phase {
    /// None is being made.
    Idle,
    /// The sessions or the table are being walked.
    Walking(Walking),
    /// The thread has everything of the snapshot of this index, and makes it durable.
    Finishing(LogIndex),
}

/// A walk of the state.
struct Walking {
    /// Where it was cut.
    index: LogIndex,
    /// What the thread has not got yet.
    body: Vec<u8>,
    part: Part,
    /// While requests come, the next slice is not due before this.
    slice_at: Instant,
}

/// What is being walked, and what of it has not been handed over.
#[derive(Clone, Copy)]
enum Part {
    /// The sessions: so many.
    Sessions(u32),
    /// The table: items of these shards.
    Table(Option<WalkSlice>),
    /// All was walked.
    Nothing,
}

/// The reactor's side of snapshots.
pub struct Snapshots {
    thread: SnapshotThread,
    trigger: Trigger,
    phase: Phase,
    /// Those on the disk, newest first.
    kept: Vec<SnapshotInfo>,
    /// Chunks that the thread has not written yet.
    chunks: usize,
    /// Who waits for the snapshot that is being made, and who came too late for it.
    waiting: Vec<ReplyTo>,
    wanted: Vec<ReplyTo>,
    /// Whether one is wanted for which nobody waits.
    is_wanted: bool,
    /// When the last one was finished, in seconds since 1970, and whether the last attempt failed.
    saved_at_s: u64,
    has_failed: bool,
    /// Bytes of the log behind the newest snapshot, in two parts: what was there when the process
    /// began, and what it has written since a snapshot was begun.
    recovered_bytes: u64,
    begun_at_bytes: u64,
    appended_bytes: u64,
    /// Length of the whole log, covered or not.
    log_bytes: u64,
    retry_at: Instant,
    compact_at: Instant,
    /// Up to where the log was given up.
    released: LogIndex,
}

impl Snapshots {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(
        config: SnapshotsConfig,
        cluster: ClusterId,
        now: &Now,
        waker: Arc<Waker>,
    ) -> io::Result<Snapshots> {
        let thread = SnapshotThread::start(Arc::clone(&config.disk), cluster, waker)?;
        Ok(Snapshots::with_thread(thread, config, now))
    }

    fn with_thread(thread: SnapshotThread, config: SnapshotsConfig, now: &Now) -> Snapshots {
        let SnapshotsConfig { trigger, kept, log_bytes, .. } = config;
        Snapshots {
            thread,
            trigger,
            phase: Phase::Idle,
            kept,
            chunks: 0,
            waiting: Vec::new(),
            wanted: Vec::new(),
            is_wanted: false,
            saved_at_s: now.wall_ms / 1000,
            has_failed: false,
            recovered_bytes: log_bytes,
            begun_at_bytes: 0,
            appended_bytes: 0,
            log_bytes,
            retry_at: Instant::default(),
            compact_at: Instant::default(),
            released: LogIndex(0),
        }
    }

    fn newest(&self) -> LogIndex {
        self.kept.first().map_or(LogIndex(0), |newest| newest.index)
    }

    /// What a node tells about its snapshots.
    pub fn facts(&self) -> SnapshotFacts {
        SnapshotFacts {
            index: self.newest(),
            in_progress: self.is_taking() || self.is_asked_for(),
            saved_at_s: self.saved_at_s,
            has_failed: self.has_failed,
        }
    }

    /// Whether one is being made.
    pub fn is_taking(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// Whether the one that is being made is of this index. The thread may be done, or have failed,
    /// with one that was given up before it heard so.
    fn is_making(&self, index: LogIndex) -> bool {
        match &self.phase {
            Phase::Idle => false,
            Phase::Walking(walking) => walking.index == index,
            Phase::Finishing(finishing) => *finishing == index,
        }
    }

    /// The log thread has written so many bytes since the process began, and the log is so long.
    pub fn note_log(&mut self, appended_bytes: u64, log_bytes: u64) {
        (self.appended_bytes, self.log_bytes) = (appended_bytes, log_bytes);
    }

    /// Somebody wants a snapshot of at least the present state, and is told its index when it is
    /// durable.
    pub fn demand(&mut self, to: ReplyTo) {
        self.wanted.push(to);
    }

    /// The same, and nobody is told.
    pub fn save(&mut self) {
        self.is_wanted = true;
    }

    fn is_asked_for(&self) -> bool {
        self.is_wanted || !self.wanted.is_empty()
    }

    /// A part of a leader's snapshot has come.
    pub fn keep_part(&self, from: NodeId, chunk: SnapshotChunk) {
        self.thread.submit(Job::Part(from, chunk));
    }

    /// Whether the next turn should come without a sleep, to go on with the table.
    pub fn has_work(&self) -> bool {
        matches!(self.phase, Phase::Walking(_)) && self.chunks < CHUNKS_MAX
    }

    /// When there is something to do without any news.
    pub fn deadline(&self) -> Instant {
        let is_wanted = matches!(self.phase, Phase::Idle) && self.is_asked_for();
        let retry = if is_wanted { self.retry_at } else { Instant::NEVER };
        let oldest = self.kept.last().map_or(LogIndex(0), |oldest| oldest.index);
        let compact = if self.released < oldest { self.compact_at } else { Instant::NEVER };
        retry.min(compact)
    }

    /// A turn's share of all this. `is_idle`: nobody has asked anything in this turn. Answers up to
    /// where the log may be given up, if that is new.
    pub fn step(
        &mut self,
        now: &Now,
        clock: &Clock,
        is_idle: bool,
        node: &mut Node,
        replies: &mut Vec<Reply>,
    ) -> Option<LogIndex> {
        if matches!(self.phase, Phase::Idle) && self.is_due(now, node) {
            self.begin(now, node, replies);
        }
        self.walk(now, clock, is_idle, node, replies);
        self.compact(now, node)
    }

    /// What the thread has done: to be told to the core before it speaks.
    pub fn take_results(&mut self, now: &Now, node: &mut Node, replies: &mut Vec<Reply>) {
        let results: Vec<Done> = self.thread.take_results().collect();
        for done in results {
            match done {
                Done::Took => self.chunks -= 1,
                Done::Written(snapshot) => {
                    log::info!("snapshot of index {}: {} bytes", snapshot.index, snapshot.bytes);
                    if self.is_making(snapshot.index) {
                        let answer = Answer::Number(snapshot.index.0);
                        replies.extend(self.waiting.drain(..).map(|to| Reply { to, answer }));
                        self.phase = Phase::Idle;
                        self.recovered_bytes = 0;
                    }
                    self.succeed(now);
                    self.add(snapshot, node);
                    self.compact_at = now.monotonic;
                }
                Done::Failed { index, error } if self.is_making(index) => {
                    log::error!("no snapshot, the log grows on: {error}");
                    self.fail(now, node, replies);
                }
                Done::Failed { index, error } => {
                    log::debug!("the snapshot of index {index} was given up before: {error}");
                }
                Done::Kept { index, file, offset } => node.snapshot_kept(index, file, offset),
                Done::Installed(snapshot, loaded) => {
                    self.begin_again(now, node);
                    let (head, state) = *loaded;
                    self.succeed(now);
                    let surplus = node.install(now, head, state);
                    self.thread.submit(Job::Drop(Box::new(surplus)));
                    self.add(snapshot, node);
                    (self.recovered_bytes, self.begun_at_bytes) = (0, self.appended_bytes);
                    self.compact_at = now.monotonic;
                }
            }
        }
    }

    /// The state of this moment, or of one not long ago, is on the disk.
    fn succeed(&mut self, now: &Now) {
        (self.saved_at_s, self.has_failed) = (now.wall_ms / 1000, false);
    }

    /// A new snapshot is durable. Of the older ones one stays, if it is small: with the log behind
    /// it, it is what a node can start from should the newest one be damaged.
    fn add(&mut self, snapshot: SnapshotInfo, node: &Node) {
        self.kept.retain(|kept| kept.index != snapshot.index);
        self.kept.push(snapshot);
        self.kept.sort_by_key(|kept| std::cmp::Reverse(kept.index));
        let log_bytes = self.log_bytes_max(node);
        let keeps = |older: &SnapshotInfo| {
            older.index >= node.log_floor() && older.bytes + log_bytes <= OLDER_SNAPSHOT_BYTES_MAX
        };
        let count = if self.kept.get(1).is_some_and(keeps) { 2 } else { 1 };
        for older in self.kept.drain(count..) {
            self.thread.submit(Job::Remove(older));
        }
    }

    /// How much the log may grow before the next snapshot.
    fn log_bytes_max(&self, node: &Node) -> u64 {
        let live = node.status().memory_bytes as u64;
        let grown = live.saturating_mul(self.trigger.log_percent) / 100;
        grown.min(LOG_BYTES_BETWEEN_SNAPSHOTS_MAX).max(self.trigger.log_bytes_min)
    }

    fn is_due(&self, now: &Now, node: &Node) -> bool {
        if now.monotonic < self.retry_at {
            return false;
        }
        let log_bytes = self.recovered_bytes + self.appended_bytes - self.begun_at_bytes;
        self.is_asked_for() || log_bytes > self.log_bytes_max(node)
    }

    fn begin(&mut self, now: &Now, node: &mut Node, replies: &mut Vec<Reply>) {
        if node.applied() == LogIndex(0) || node.applied() == self.newest() {
            let answer = Answer::Number(node.applied().0);
            replies.extend(self.wanted.drain(..).map(|to| Reply { to, answer }));
            self.is_wanted = false;
            self.succeed(now);
            return;
        }
        let Some(head) = node.begin_snapshot() else { return };
        let bytes = node.status().memory_bytes as u64;
        let index = head.end.index;
        self.thread.submit(Job::Begin { head: Box::new(head), bytes });
        self.waiting = std::mem::take(&mut self.wanted);
        self.is_wanted = false;
        self.begun_at_bytes = self.appended_bytes;
        self.phase = Phase::Walking(Walking {
            index,
            body: new_body(),
            part: Part::Sessions(0),
            slice_at: now.monotonic,
        });
    }

    fn walk(
        &mut self,
        now: &Now,
        clock: &Clock,
        is_idle: bool,
        node: &mut Node,
        replies: &mut Vec<Reply>,
    ) {
        let Phase::Walking(walking) = &mut self.phase else { return };
        if self.chunks >= CHUNKS_MAX {
            if node.stray_bytes() > STRAY_BYTES_MAX {
                log::error!("no snapshot, the log grows on: the disk is too slow for it");
                self.fail(now, node, replies);
            }
            return;
        }
        if node.stray_bytes() >= CHUNK_BYTES {
            self.chunks += send_strays(&self.thread, node);
        }
        if !is_idle && now.monotonic < walking.slice_at {
            return;
        }
        let begun = clock.monotonic();
        if let Some(job) = walking.slice(node) {
            self.chunks += 1;
            self.thread.submit(job);
        }
        let ended = clock.monotonic();
        walking.slice_at = ended.after(ended.since(begun) * PAUSE_FACTOR);
        if matches!(walking.part, Part::Nothing) {
            self.chunks += send_strays(&self.thread, node);
            let index = walking.index;
            self.thread.submit(Job::Finish);
            self.thread.submit(Job::Drop(Box::new(node.end_snapshot())));
            self.phase = Phase::Finishing(index);
        }
    }

    /// No snapshot comes of the one that is being made, if any. Who waits for it does so still.
    fn give_up(&mut self, node: &mut Node) {
        if self.is_taking() {
            self.thread.submit(Job::GiveUp);
        }
        if matches!(self.phase, Phase::Walking(_)) {
            self.thread.submit(Job::Drop(Box::new(node.end_snapshot())));
        }
        self.phase = Phase::Idle;
    }

    /// A leader's snapshot takes the place of the state. Nothing has failed: the next one of its
    /// own need not wait, and is for all who wait now.
    fn begin_again(&mut self, now: &Now, node: &mut Node) {
        self.give_up(node);
        self.wanted.append(&mut self.waiting);
        self.retry_at = now.monotonic;
    }

    /// The snapshot that is being made has failed. Who waits for one is told so.
    fn fail(&mut self, now: &Now, node: &mut Node, replies: &mut Vec<Reply>) {
        self.give_up(node);
        self.has_failed = true;
        self.is_wanted = false;
        self.retry_at = now.monotonic.after(RETRY_PAUSE);
        let answer = Answer::Refused(Refusal::SnapshotFailed);
        let waiting = self.waiting.drain(..).chain(self.wanted.drain(..));
        replies.extend(waiting.map(|to| Reply { to, answer }));
    }

    fn compact(&mut self, now: &Now, node: &mut Node) -> Option<LogIndex> {
        let oldest = self.kept.last()?.index;
        if oldest <= self.released || now.monotonic < self.compact_at {
            return None;
        }
        self.compact_at = now.monotonic.after(COMPACTION_INTERVAL);
        // A member may be heard and yet take nothing, for as long as its disk is full.
        let has_room = self.log_bytes <= OLDER_SNAPSHOT_BYTES_MAX.max(2 * self.log_bytes_max(node));
        let upto = node.compact(oldest, has_room);
        if upto <= self.released {
            return None;
        }
        self.released = upto;
        Some(upto)
    }
}

impl Walking {
    /// Copies the next slice. Answers what the thread is to write, when enough has come together.
    fn slice(&mut self, node: &mut Node) -> Option<Job> {
        let body = &mut self.body;
        match self.part {
            Part::Sessions(before) => {
                let slice = node.walk_snapshot_sessions(SLICE_SESSIONS, SLICE_BYTES, body);
                let count = before + slice.sessions;
                if body.len() < CHUNK_BYTES && !slice.is_last {
                    self.part = Part::Sessions(count);
                    return None;
                }
                self.part = if slice.is_last { Part::Table(None) } else { Part::Sessions(0) };
                Some(Job::Sessions(count, std::mem::replace(body, new_body())))
            }
            Part::Table(before) => {
                let mut slice = node.walk_snapshot(SLICE_BUCKETS, SLICE_BYTES, body);
                if let Some(before) = before {
                    slice.first_shard = before.first_shard;
                    slice.items += before.items;
                }
                if body.len() < CHUNK_BYTES && !slice.is_last {
                    self.part = Part::Table(Some(slice));
                    return None;
                }
                self.part = if slice.is_last { Part::Nothing } else { Part::Table(None) };
                Some(Job::Items(slice, std::mem::replace(body, new_body())))
            }
            Part::Nothing => None,
        }
    }
}

fn new_body() -> Vec<u8> {
    Vec::with_capacity(CHUNK_BYTES + SLICE_BYTES)
}

/// Hands over the items that were changed before the walk came to them; answers in how many chunks.
fn send_strays(thread: &SnapshotThread, node: &mut Node) -> usize {
    let mut chunks = 0;
    while let Some((items, strays)) = node.take_strays() {
        thread.submit(Job::Strays(items, strays));
        chunks += 1;
    }
    chunks
}

#[cfg(test)]
mod tests;
