//! Loading a snapshot into an empty state, on several threads: each fills some neighbouring shards
//! of the store, from the chunks that have them.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kvorum_protocol::ClusterId;

use super::SnapshotInfo;
use super::error::SnapshotError;
use super::layout::{CHUNK_HEADER_BYTES, Fault, Kind, snapshot_name};
use super::reader::{corrupt, read_head};
use super::sequence::{Place, Sequence};
use crate::core::state::State;
use crate::core::store::{Loaded, SHARDS, ShardLoader};
use crate::core::{SessionBounds, SnapshotHead};
use crate::disk::{Contents, Disk};

/// An item takes at least so many bytes of a file.
const ITEM_BYTES_MIN: u64 = 12;

/// Reads a snapshot, checks every byte of it, and builds the state that it holds, on so many
/// threads. `bounds` are those of the cluster's sessions.
///
/// # Errors
/// The first thing that is wrong with the file. With `cluster`, a snapshot of any other is wrong.
pub fn load(
    disk: &dyn Disk,
    info: &SnapshotInfo,
    cluster: Option<ClusterId>,
    threads: usize,
    bounds: SessionBounds,
) -> Result<(SnapshotHead, State), SnapshotError> {
    let name = snapshot_name(info.index);
    let io = |source| SnapshotError::Io { action: "read", path: disk.path(&name), source };
    let contents = disk.read(&name).map_err(io)?;
    let source = Source { disk, name: &name, contents: &contents };
    let Outline { head, places, last } = source.outline(cluster)?;
    if head.end.index != info.index {
        let (found, expected) = (head.end.index, info.index);
        return Err(SnapshotError::OtherIndex { path: disk.path(&name), found, expected });
    }
    let mut state = State::new(head.hash_seed, bounds);
    source.load_sessions(&head, &places, &mut state)?;
    source.load_items(&head, &places, threads, &mut state)?;
    if state.hash() != head.state_hash {
        return Err(corrupt(disk, &name, &last, Fault::StateHash));
    }
    Ok((head, state))
}

/// What the headers of a file tell.
struct Outline {
    head: SnapshotHead,
    /// The chunks between the first and the last.
    places: Vec<Place>,
    last: Place,
}

struct Source<'a> {
    disk: &'a dyn Disk,
    name: &'a str,
    contents: &'a Contents,
}

/// Where and why a thread has stopped.
type Stop = (Place, SnapshotError);

impl<'a> Source<'a> {
    /// Reads all headers, and the first and the last chunk.
    fn outline(&self, cluster: Option<ClusterId>) -> Result<Outline, SnapshotError> {
        let mut sequence = Sequence::new(self.contents.len() as u64);
        let first = self.next_place(&mut sequence)?;
        let (_, head) = read_head(self.disk, self.name, &first, self.bytes(&first)?, cluster)?;
        let mut places = Vec::new();
        while !sequence.has_ended() {
            places.push(self.next_place(&mut sequence)?);
        }
        let last = places.pop().expect("the sequence has ended with a chunk");
        let body = self.body(&last)?;
        let totals = sequence.check_totals(body, head.keys);
        totals.map_err(|fault| corrupt(self.disk, self.name, &last, fault))?;
        // A table is made for so many keys before they are looked at.
        if head.keys > sequence.totals().bytes / ITEM_BYTES_MIN {
            return Err(corrupt(self.disk, self.name, &first, Fault::Count("keys")));
        }
        Ok(Outline { head, places, last })
    }

    fn next_place(&self, sequence: &mut Sequence) -> Result<Place, SnapshotError> {
        let (chunk, offset) = (sequence.chunk(), sequence.offset());
        let fault = |fault| match fault {
            Fault::NoChunk | Fault::Cut if offset == 0 => {
                SnapshotError::NotSnapshot { path: self.disk.path(self.name) }
            }
            fault => {
                let path = self.disk.path(self.name);
                SnapshotError::Corrupt { path, chunk, offset, fault }
            }
        };
        sequence.expect_header().map_err(fault)?;
        let start = usize::try_from(offset).expect("within what is in memory");
        self.read_ahead(start, CHUNK_HEADER_BYTES)?;
        let header = self.contents[start..].first_chunk().expect("it is there as a whole");
        sequence.next(header).map_err(fault)
    }

    /// All bytes of a chunk.
    fn bytes(&self, place: &Place) -> Result<&'a [u8], SnapshotError> {
        let start = usize::try_from(place.offset).expect("within what is in memory");
        self.read_ahead(start, place.bytes())?;
        Ok(&self.contents[start..start + place.bytes()])
    }

    /// The body of a chunk, checked.
    fn body(&self, place: &Place) -> Result<&'a [u8], SnapshotError> {
        let bytes = self.bytes(place)?;
        place.body(bytes).map_err(|fault| corrupt(self.disk, self.name, place, fault))
    }

    fn read_ahead(&self, start: usize, bytes: usize) -> Result<(), SnapshotError> {
        let read = self.contents.read_ahead_of(start..start + bytes);
        let path = || self.disk.path(self.name);
        read.map_err(|source| SnapshotError::Io { action: "read", path: path(), source })
    }

    fn load_sessions(
        &self,
        head: &SnapshotHead,
        places: &[Place],
        state: &mut State,
    ) -> Result<(), SnapshotError> {
        let mut ids = HashSet::new();
        for place in places.iter().filter(|place| place.header.kind == Kind::Sessions) {
            let loaded = place.sessions(self.body(place)?, head.end.index, |id, session| {
                if !ids.insert(id) {
                    return Err(Fault::Twice);
                }
                state.sessions.load(id, session);
                Ok(())
            });
            loaded.map_err(|fault| corrupt(self.disk, self.name, place, fault))?;
        }
        Ok(())
    }

    fn load_items(
        &self,
        head: &SnapshotHead,
        places: &[Place],
        threads: usize,
        state: &mut State,
    ) -> Result<(), SnapshotError> {
        let keys = usize::try_from(head.keys).unwrap_or(usize::MAX);
        let loaders = state.store.loaders(&starts(places, threads), keys);
        // Who finds a fault lets the others stop: there is no state to be had.
        let stopped = AtomicBool::new(false);
        let results: Vec<Result<Loaded, Stop>> = thread::scope(|scope| {
            let load = |loader| self.load_shards(loader, head, places, &stopped);
            let running: Vec<_> =
                loaders.into_iter().map(|loader| scope.spawn(move || load(loader))).collect();
            let joined = running.into_iter().map(thread::ScopedJoinHandle::join);
            joined
                .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut first: Option<Stop> = None;
        for result in results {
            match result {
                Ok(loaded) => state.store.take_in(&loaded),
                Err(stop) => {
                    let is_first = first.as_ref().is_none_or(|(at, _)| stop.0.chunk < at.chunk);
                    first = if is_first { Some(stop) } else { first };
                }
            }
        }
        first.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Fills the shards of one loader from all chunks that may have items of them.
    fn load_shards(
        &self,
        mut loader: ShardLoader<'_>,
        head: &SnapshotHead,
        places: &[Place],
        stopped: &AtomicBool,
    ) -> Result<Loaded, Stop> {
        let shards = loader.shards();
        for place in places {
            let header = &place.header;
            let is_needed = match header.kind {
                Kind::Items => {
                    header.first_shard <= *shards.end() && header.last_shard >= *shards.start()
                }
                Kind::Strays => true,
                Kind::Head | Kind::Sessions | Kind::End => false,
            };
            if !is_needed {
                continue;
            }
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            let loaded = self.load_chunk(place, &mut loader, head);
            loaded.map_err(|error| {
                stopped.store(true, Ordering::Relaxed);
                (*place, error)
            })?;
        }
        Ok(loader.finish())
    }

    fn load_chunk(
        &self,
        place: &Place,
        loader: &mut ShardLoader<'_>,
        head: &SnapshotHead,
    ) -> Result<(), SnapshotError> {
        let body = self.body(place)?;
        let loaded = place.items(body, head.end.index, |item| {
            let (hash, shard) = loader.hash(item.key);
            if !place.may_hold(shard) {
                return Err(Fault::ForeignItem);
            }
            if loader.shards().contains(&shard) && !loader.insert(hash, &item) {
                return Err(Fault::Twice);
            }
            Ok(())
        });
        loaded.map_err(|fault| corrupt(self.disk, self.name, place, fault))
    }
}

/// Divides the shards among so many threads, so that each has about as many bytes to read: the
/// first shard of each.
fn starts(places: &[Place], threads: usize) -> Vec<u16> {
    let items = places.iter().filter(|place| place.header.kind == Kind::Items);
    let all: usize = items.clone().map(Place::bytes).sum();
    let threads = threads.clamp(1, SHARDS);
    let mut starts = vec![0];
    let mut bytes = 0;
    for place in items {
        let share = all / threads * starts.len();
        if bytes >= share && starts.len() < threads {
            let first = place.header.first_shard;
            if starts.last().is_some_and(|last| first > *last) {
                starts.push(first);
            }
        }
        bytes += place.bytes();
    }
    starts
}
