//! Snapshots of simulated processes: the real table walk, the real files on the simulated disk, in
//! the order of `src/net/snapshots.rs` and `src/net/snapshot_thread.rs`. What is on the disk is
//! loaded again at once, and has to be what the decided commands add up to.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use kvorum::core::snapshot::SnapshotHead;
use kvorum::core::state::State;
use kvorum::core::store::WalkSlice;
use kvorum::core::{Now, SessionBounds, SnapshotFetch};
use kvorum::disk::Disk;
use kvorum::snapshot::{self, Arrivals, PartReader, SnapshotError, SnapshotInfo, SnapshotWriter};
use kvorum_protocol::peer::SnapshotChunk;
use kvorum_protocol::{ClusterId, LogIndex};

use crate::chance::Chance;
use crate::invariants::{Checked, Violation};
use crate::network::Place;
use crate::node::{Input, Process};
use crate::queue::{MICROSECOND, MILLISECOND, Time};
use crate::world::{Event, World};

/// The cluster of all simulated nodes.
pub const CLUSTER: ClusterId = ClusterId(0xc1);

/// Between two slices of the sessions.
const SESSION_PAUSE: Time = 5 * MILLISECOND;

/// How nodes take and use snapshots.
#[derive(Clone, Debug)]
pub struct SnapshotOptions {
    /// Entries between two of them.
    pub every: u64,
    /// Places of the table that a turn walks.
    pub buckets: usize,
    /// How many are kept.
    pub kept: usize,
    /// How often the log is given up although members need it.
    pub spares_nobody: f64,
    /// How much of one a message carries.
    pub part_bytes: usize,
}

impl SnapshotOptions {
    pub fn draw(chance: &mut Chance) -> Option<SnapshotOptions> {
        chance.happens(0.7).then(|| SnapshotOptions {
            every: chance.one_of(&[10, 30, 100, 300]),
            buckets: chance.one_of(&[4, 30, 4096]),
            kept: chance.one_of(&[1, 2]),
            spares_nobody: chance.one_of(&[0.0, 0.5, 1.0]),
            part_bytes: chance.one_of(&[4 << 10, 16 << 10, 256 << 10]),
        })
    }
}

/// What a snapshot holds.
type Loaded = (SnapshotHead, State);

/// What a process has to do with snapshots.
pub struct Snapshots {
    disk: Arc<dyn Disk>,
    reader: PartReader,
    /// Those on the disk, newest first.
    kept: Vec<SnapshotInfo>,
    making: Option<Making>,
    arrivals: Arrivals,
    released: LogIndex,
}

/// A snapshot that is being written.
struct Making {
    head: SnapshotHead,
    writer: ManuallyDrop<SnapshotWriter>,
    /// The walk over them has ended.
    has_sessions: bool,
    /// The next slice is not due before this.
    slice_at: Time,
}

/// A process that dies does not tidy up after itself.
impl Drop for Snapshots {
    fn drop(&mut self) {
        if self.arrivals.is_arriving() {
            let empty = Arrivals::new(Arc::clone(&self.disk));
            std::mem::forget(std::mem::replace(&mut self.arrivals, empty));
        }
    }
}

impl Snapshots {
    pub fn new(disk: Arc<dyn Disk>, kept: Vec<SnapshotInfo>, part_bytes: usize) -> Snapshots {
        let arrivals = Arrivals::new(Arc::clone(&disk));
        Snapshots {
            reader: PartReader::new(Arc::clone(&disk), part_bytes),
            disk,
            kept,
            making: None,
            arrivals,
            released: LogIndex(0),
        }
    }

    fn newest(&self) -> LogIndex {
        self.kept.first().map_or(LogIndex(0), |newest| newest.index)
    }

    /// A new one is durable.
    fn add(&mut self, snapshot: SnapshotInfo, kept: usize) -> Result<(), SnapshotError> {
        self.kept.retain(|known| known.index != snapshot.index);
        self.kept.push(snapshot);
        self.kept.sort_by_key(|known| std::cmp::Reverse(known.index));
        for old in self.kept.drain(kept.min(self.kept.len())..) {
            snapshot::remove(&*self.disk, &old)?;
        }
        Ok(())
    }
}

impl World {
    /// Loads the newest snapshot of a disk.
    pub fn load_snapshot(
        &mut self,
        place: Place,
        disk: &dyn Disk,
    ) -> Result<(Vec<SnapshotInfo>, Option<Loaded>), SnapshotError> {
        snapshot::remove_strays(disk)?;
        let mut kept = snapshot::list(disk)?;
        while let Some(newest) = kept.first() {
            match self.load(disk, newest) {
                Ok(loaded) => return Ok((kept, Some(loaded))),
                Err(error) if self.machines[place].is_damaged => {
                    self.note_node(place, || format!("passes a snapshot over: {error}"));
                    kept.remove(0);
                }
                Err(error) => return Err(error),
            }
        }
        Ok((kept, None))
    }

    fn load(&self, disk: &dyn Disk, info: &SnapshotInfo) -> Result<Loaded, SnapshotError> {
        let bounds: SessionBounds = self.options.sessions.bounds;
        snapshot::load(disk, info, Some(CLUSTER), 1, bounds)
    }

    // The process's own

    /// A turn's share of snapshots.
    pub fn step_snapshots(&mut self, place: Place, process: &mut Process) -> Checked {
        let Some(options) = self.options.snapshots.clone() else { return Ok(()) };
        if process.snapshots.making.is_none() {
            let applied = process.core.applied();
            if applied.0 < process.snapshots.newest().0 + options.every {
                return self.compact(place, process, &options);
            }
            let Some(head) = process.core.begin_snapshot() else { return Ok(()) };
            if let Err(error) = self.begin(process, head) {
                process.core.end_snapshot();
                return self.snapshot_fails(place, &error);
            }
        }
        let making = process.snapshots.making.as_ref().expect("it was begun");
        if self.now < making.slice_at {
            self.turn_by(place, making.slice_at);
            return Ok(());
        }
        self.turn_by(place, self.now + 50 * MICROSECOND);
        if let Err(error) = self.walk(place, process, &options)? {
            process.core.end_snapshot();
            drop_making(process);
            return self.snapshot_fails(place, &error);
        }
        Ok(())
    }

    fn begin(&mut self, process: &mut Process, head: SnapshotHead) -> Result<(), SnapshotError> {
        let disk = Arc::clone(&process.snapshots.disk);
        let writer = ManuallyDrop::new(SnapshotWriter::create(disk, CLUSTER, &head)?);
        process.snapshots.making =
            Some(Making { head, writer, has_sessions: false, slice_at: self.now });
        Ok(())
    }

    fn walk(
        &mut self,
        place: Place,
        process: &mut Process,
        options: &SnapshotOptions,
    ) -> Checked<Result<(), SnapshotError>> {
        let making = process.snapshots.making.as_mut().expect("it was begun");
        let mut body = Vec::new();
        if !making.has_sessions {
            // There are few of them: so that they are used meanwhile, it goes slowly.
            let places = options.buckets.div_ceil(100);
            let slice = process.core.walk_snapshot_sessions(places, 1 << 10, &mut body);
            making.has_sessions = slice.is_last;
            making.slice_at = self.now + SESSION_PAUSE;
            return Ok(making.writer.sessions(slice.sessions, &body));
        }
        let slice = process.core.walk_snapshot(options.buckets, 64 << 10, &mut body);
        let WalkSlice { first_shard, last_shard, items, is_last } = slice;
        if let Err(error) = making.writer.items(first_shard, last_shard, items, &body) {
            return Ok(Err(error));
        }
        if is_last || self.chance.happens(0.2) {
            while let Some((items, strays)) = process.core.take_strays() {
                if let Err(error) = making.writer.strays(items, &strays) {
                    return Ok(Err(error));
                }
            }
        }
        if items > 0 {
            self.note_node(place, || format!("snapshot: {items} items"));
        }
        if !is_last {
            return Ok(Ok(()));
        }
        process.core.end_snapshot();
        let Making { head, writer, .. } = process.snapshots.making.take().expect("it was begun");
        let finished = ManuallyDrop::into_inner(writer).finish();
        let info = match finished {
            Ok(info) => info,
            Err(error) => return Ok(Err(error)),
        };
        self.note_node(place, || format!("snapshot of index {} is durable", info.index));
        let loaded = match self.load(&*process.snapshots.disk, &info) {
            Ok(loaded) => loaded,
            Err(error) if self.machines[place].is_doomed => return Ok(Err(error)),
            Err(error) => {
                let what = format!("n{}: {error}", place + 1);
                return Err(Violation { rule: "a snapshot can be loaded", what });
            }
        };
        assert_eq!(loaded.0, head, "the head is read as it was written");
        self.checks.is_state_at(place, &loaded.0, &loaded.1)?;
        Ok(process.snapshots.add(info, options.kept))
    }

    /// A snapshot can not be written. That is right only while the disk fails or is full.
    fn snapshot_fails(&mut self, place: Place, error: &SnapshotError) -> Checked {
        self.note_node(place, || format!("no snapshot: {error}"));
        let machine = &self.machines[place];
        if machine.is_doomed || machine.is_full {
            self.turn_by(place, self.now + 100 * MILLISECOND);
            return Ok(());
        }
        let what = format!("n{}: {error}", place + 1);
        Err(Violation { rule: "a sound disk is enough", what })
    }

    /// Gives up what the oldest snapshot covers.
    fn compact(
        &mut self,
        place: Place,
        process: &mut Process,
        options: &SnapshotOptions,
    ) -> Checked {
        let Some(oldest) = process.snapshots.kept.last().map(|oldest| oldest.index) else {
            return Ok(());
        };
        if oldest <= process.snapshots.released {
            return Ok(());
        }
        let spares_members = !self.chance.happens(options.spares_nobody);
        let upto = process.core.compact(oldest, spares_members);
        if upto > process.snapshots.released {
            process.snapshots.released = upto;
            process.log.release(upto);
            self.note_node(place, || format!("gives the log up to {upto} up"));
        }
        Ok(())
    }

    // A leader's

    /// A part is read for a member, beside everything else.
    pub fn read_snapshot(&mut self, place: Place, life: u32, fetch: SnapshotFetch) -> Checked {
        let machine = &mut self.machines[place];
        if machine.life != life {
            return Ok(());
        }
        let process = machine.process.as_mut().expect("this life goes on");
        let read = process.snapshots.reader.read(fetch.index, fetch.offset);
        self.note_node(place, || match &read {
            Ok(part) => format!(
                "reads {} bytes of snapshot {} at {} of {} for n{}",
                part.bytes.len(),
                part.index,
                part.offset,
                part.total_bytes,
                fetch.member
            ),
            Err(error) => format!("reads no snapshot for n{}: {error}", fetch.member),
        });
        // It may have been removed in favour of a newer one.
        self.give(place, Input::SnapshotFetched(fetch.member, read.ok()));
        Ok(())
    }

    /// A part has come.
    pub fn keep_part(
        &mut self,
        place: Place,
        process: &mut Process,
        chunk: &SnapshotChunk,
    ) -> Checked {
        match process.snapshots.arrivals.take(chunk) {
            Ok(None) => Ok(()),
            Ok(Some(offset)) => {
                process.inbox.push(Input::SnapshotKept(chunk.index, chunk.file, offset));
                self.wake(place);
                match process.snapshots.arrivals.is_whole() {
                    true => self.take_whole(place, process),
                    false => Ok(()),
                }
            }
            Err(error) => self.snapshot_fails(place, &error),
        }
    }

    /// All parts are here: checked, made durable and loaded.
    fn take_whole(&mut self, place: Place, process: &mut Process) -> Checked {
        let bounds = self.options.sessions.bounds;
        let finished = process.snapshots.arrivals.finish(CLUSTER, 1, bounds);
        let (info, (head, state)) = match finished {
            Ok(finished) => finished,
            Err(error) => return self.snapshot_fails(place, &error),
        };
        self.checks.is_state_at(place, &head, &state)?;
        let kept = self.options.snapshots.as_ref().map_or(1, |options| options.kept);
        if let Err(error) = process.snapshots.add(info, kept) {
            self.snapshot_fails(place, &error)?;
        }
        let takes = self.chance.one_of(&[5, 50, 1000]) * MILLISECOND;
        let at = self.now + self.chance.wait(takes);
        let life = self.machines[place].life;
        let loaded = Box::new((head, state));
        self.queue.schedule(at, Event::Loaded { place, life, loaded });
        Ok(())
    }

    /// A leader's snapshot is loaded.
    pub fn install(
        &mut self,
        place: Place,
        process: &mut Process,
        now: &Now,
        loaded: (SnapshotHead, State),
    ) -> Checked {
        let (head, state) = loaded;
        if process.snapshots.making.is_some() {
            process.core.end_snapshot();
            drop_making(process);
        }
        let before = process.core.status().committed;
        let end = head.end;
        process.core.install(now, head, state);
        let is_new = before < end.index && process.core.applied() == end.index;
        self.note_node(place, || match is_new {
            true => format!("goes on from snapshot {}", end.index),
            false => format!("does not need snapshot {}", end.index),
        });
        if is_new { self.checks.installs(place, &end) } else { Ok(()) }
    }
}

/// The living tidy up.
fn drop_making(process: &mut Process) {
    if let Some(making) = process.snapshots.making.take() {
        drop(ManuallyDrop::into_inner(making.writer));
    }
}
