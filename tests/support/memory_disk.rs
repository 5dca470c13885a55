//! A disk in memory that remembers what was synced and what was not, and can lose, tear and
//! reorder the rest, as a power cut does; and that can fail any operation.
//!
//! Three images of everything: *live* is what the process reads back, *durable* is what certainly
//! survives, and the pending writes and directory operations between them survive a crash or not,
//! each by itself, in sectors of 512 bytes. Nothing is left to chance but by a seed.
//!
//! What can be made to happen:
//! - a power cut, now ([`MemoryDisk::after_power_cut`]) or at some operation
//!   ([`MemoryDisk::crash_at`]), with each kind of [`Loss`];
//! - the failure of some operation ([`MemoryDisk::fail_at`]), or of some write or sync
//!   ([`MemoryDisk::fail_next`]): EIO, ENOSPC, half of a write; a full disk
//!   ([`MemoryDisk::set_space`]);
//! - damage to what stands there ([`MemoryDisk::corrupt_sector`], [`MemoryDisk::tamper`],
//!   [`MemoryDisk::lose`], [`MemoryDisk::make_unreadable`]);
//! - a sync that takes time, and covers only what was written before it began
//!   ([`MemoryDisk::begin_syncs`]).

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use kvorum::disk::{BLOCK_BYTES, Contents, Disk, DiskFile, ReadFile};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

#[path = "memory_disk/faults.rs"]
mod faults;
#[path = "memory_disk/loss.rs"]
mod loss;

pub use faults::{Failure, Operation};
use faults::{Faults, Outcome, Plan};
use loss::Keep;
pub use loss::Loss;

const SECTOR_BYTES: usize = 512;

/// A point in the order of all writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: Vec<File>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
    faults: Faults,
    /// Writes so far.
    writes: u64,
    /// Syncs cover the writes before this moment only.
    sync_began: Option<Moment>,
    crashed: bool,
    space_bytes: Option<usize>,
    hides_its_limit: bool,
    /// Files that were begun and did not fit.
    full_creations: u64,
    unreadable: Option<String>,
    /// What was read through [`ReadFile`].
    read_bytes: u64,
}

#[derive(Clone, Default)]
struct File {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Write>,
}

/// A write that was not synced.
#[derive(Clone)]
struct Write {
    at: Moment,
    offset: usize,
    bytes: Vec<u8>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl File {
    fn write(&mut self, at: Moment, offset: usize, bytes: &[u8]) {
        put(&mut self.live, offset, bytes);
        self.pending.push(Write { at, offset, bytes: bytes.to_vec() });
    }

    /// Only what is pending: after a failed sync, `live` holds bytes that no later sync will write.
    fn sync(&mut self, began: Option<Moment>) {
        for write in self.take_covered(began) {
            put(&mut self.durable, write.offset, &write.bytes);
        }
    }

    /// Takes the writes that came before a sync began.
    fn take_covered(&mut self, began: Option<Moment>) -> Vec<Write> {
        let (covered, later) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|write| began.is_none_or(|began| write.at < began));
        self.pending = later;
        covered
    }

    /// What is left of it after a power cut.
    fn after_power_cut(&self, loss: Loss, rng: &mut StdRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        let keep = Keep::new(loss, self.pending.len(), rng);
        for (number, write) in self.pending.iter().enumerate() {
            let is_torn = loss == Loss::Torn || keep.is_last(number);
            if !is_torn {
                if keep.keeps(number, rng) {
                    put(&mut left, write.offset, &write.bytes);
                }
                continue;
            }
            for (sector, bytes) in write.bytes.chunks(SECTOR_BYTES).enumerate() {
                if rng.random_bool(0.5) {
                    put(&mut left, write.offset + sector * SECTOR_BYTES, bytes);
                }
            }
        }
        left
    }
}

fn put(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[offset..end].copy_from_slice(bytes);
}

fn apply(names: &mut BTreeMap<String, usize>, change: &NameChange) {
    match change {
        NameChange::Create(name, file) => {
            names.insert(name.clone(), *file);
        }
        NameChange::Rename(from, to, file) => {
            names.remove(from);
            names.insert(to.clone(), *file);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

impl MemoryDisk {
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// As the log takes it.
    pub fn handle(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// The power goes at the operation with this number, counted from 1 and from now.
    pub fn crash_at(&self, at: u64) {
        self.state().faults.plan(Plan::Crash { at });
    }

    /// The operation with this number fails, counted from 1 and from now.
    pub fn fail_at(&self, at: u64, how: Failure) {
        self.state().faults.plan(Plan::Fail { at, how });
    }

    /// Of the operations of this kind so many go well from now on, and the next one fails. May be
    /// asked several times.
    pub fn fail_next(&self, operation: Operation, after: u64, how: Failure) {
        self.state().faults.set_trap(operation, after, how);
    }

    /// Everything works again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.heal();
        state.crashed = false;
    }

    /// Whether the power has gone, as planned.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Operations since the plan was made.
    pub fn operations(&self) -> u64 {
        self.state().faults.operations()
    }

    /// From now on every sync counts as begun now, and leaves later writes pending, until
    /// [`end_syncs`](MemoryDisk::end_syncs). For who lets a sync take time: it is begun when the
    /// slow thing begins, and the log's own sync is called when it is over.
    pub fn begin_syncs(&self) {
        let mut state = self.state();
        state.sync_began = Some(Moment(state.writes));
    }

    /// Syncs cover what was written before they are called again.
    pub fn end_syncs(&self) {
        self.state().sync_began = None;
    }

    /// How much all files together may have.
    pub fn set_space(&self, bytes: Option<usize>) {
        self.state().space_bytes = bytes;
    }

    /// `set_space` is noticed only by who goes over it.
    pub fn hide_limit(&self) {
        self.state().hides_its_limit = true;
    }

    /// How many files were begun that did not fit.
    pub fn full_creations(&self) -> u64 {
        self.state().full_creations
    }

    /// Reading this file is an error from now on.
    pub fn make_unreadable(&self, name: &str) {
        self.state().unreadable = Some(name.to_owned());
    }

    /// How many bytes were read from files that may be written meanwhile.
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    /// What the process would read.
    pub fn contents(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[state.live[name]].live.clone()
    }

    /// Changes a file behind the process's back, durably. Creates it if it is missing.
    pub fn tamper(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let file = File { live: bytes.clone(), durable: bytes, pending: Vec::new() };
        state.files.push(file);
        let number = state.files.len() - 1;
        state.live.insert(name.to_owned(), number);
        state.durable.insert(name.to_owned(), number);
    }

    /// Fills the sector at `offset` of a file with other bytes, drawn from the seed: on the medium
    /// and for who reads it, also through files that are open. A write makes it good again.
    pub fn corrupt_sector(&self, name: &str, offset: usize, seed: u64) {
        let mut state = self.state();
        let number = state.live[name];
        let mut rng = StdRng::seed_from_u64(seed);
        let garbage: [u8; SECTOR_BYTES] = std::array::from_fn(|_| rng.random());
        let start = offset - offset % SECTOR_BYTES;
        let file = &mut state.files[number];
        assert!(start < file.live.len(), "{name} is shorter");
        for image in [&mut file.live, &mut file.durable] {
            let end = image.len().min(start + SECTOR_BYTES);
            if let Some(sector) = image.get_mut(start..end) {
                sector.copy_from_slice(&garbage[..sector.len()]);
            }
        }
    }

    /// Removes a file behind the process's back.
    pub fn lose(&self, name: &str) {
        let mut state = self.state();
        assert!(state.live.remove(name).is_some(), "{name} is there to be lost");
        state.durable.remove(name);
    }

    /// The disk as the next process finds it after a power cut now.
    pub fn after_power_cut(&self, loss: Loss, seed: u64) -> MemoryDisk {
        let state = self.state();
        let mut rng = StdRng::seed_from_u64(seed);
        let files = state.files.iter().map(|file| {
            let left = file.after_power_cut(loss, &mut rng);
            File { live: left.clone(), durable: left, pending: Vec::new() }
        });
        let files = files.collect();
        let mut names = state.durable.clone();
        let keep = Keep::new(loss, state.pending.len(), &mut rng);
        for (number, change) in state.pending.iter().enumerate() {
            if keep.keeps(number, &mut rng) {
                apply(&mut names, change);
            }
        }
        let state = State { files, live: names.clone(), durable: names, ..State::default() };
        MemoryDisk(Arc::new(Mutex::new(state)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// What becomes of the next operation: `Ok(None)` goes well, `Ok(Some(_))` fails so,
    /// `Err` never even starts.
    fn begin(&mut self, operation: Operation) -> io::Result<Option<Failure>> {
        if self.crashed {
            return Err(io::Error::other("no power"));
        }
        match self.faults.next(operation) {
            Outcome::Good => Ok(None),
            Outcome::Fails(how) => Ok(Some(how)),
            Outcome::PowerCut => {
                self.crashed = true;
                Ok(Some(Failure::Io))
            }
        }
    }

    fn change_name(&mut self, change: NameChange) {
        apply(&mut self.live, &change);
        self.pending.push(change);
    }

    fn create(&mut self, name: &str) -> usize {
        self.files.push(File::default());
        let number = self.files.len() - 1;
        self.change_name(NameChange::Create(name.to_owned(), number));
        number
    }

    fn write(&mut self, file: usize, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let outcome = self.begin(Operation::Write)?;
        let at = Moment(self.writes);
        self.writes += 1;
        match outcome {
            None => self.files[file].write(at, offset, bytes),
            Some(how) => {
                // In a power cut the write was under way.
                if self.crashed {
                    self.files[file].write(at, offset, bytes);
                } else if how == Failure::Short {
                    self.files[file].write(at, offset, &bytes[..bytes.len() / 2]);
                }
                return Err(how.error());
            }
        }
        Ok(())
    }

    fn sync(&mut self, file: usize) -> io::Result<()> {
        let outcome = self.begin(Operation::Sync)?;
        let began = self.sync_began;
        match outcome {
            None => self.files[file].sync(began),
            Some(how) => {
                if !self.crashed {
                    self.files[file].take_covered(began);
                }
                return Err(how.error());
            }
        }
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        let used: usize = self.live.values().map(|file| self.files[*file].live.len()).sum();
        self.space_bytes.map_or(u64::MAX, |space| space.saturating_sub(used) as u64)
    }

    fn check_readable(&self, name: &str) -> io::Result<()> {
        if self.unreadable.as_deref() == Some(name) {
            return Err(io::Error::other("EIO"));
        }
        Ok(())
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.live.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("memory").join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().live.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Contents> {
        let state = self.state();
        state.check_readable(name)?;
        let file = state.file(name)?;
        Ok(Contents::from(state.files[file].live.clone()))
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let file = state.create(name);
        state.write(file, 0, bytes)?;
        state.sync(file)
    }

    fn create_zeroed(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let bytes = usize::try_from(bytes).unwrap();
        let mut state = self.state();
        if bytes as u64 > state.free_bytes() {
            state.full_creations += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = state.create(name);
        state.write(file, 0, &vec![0; bytes])?;
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.state().file(name)?;
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn open_to_read(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        let state = self.state();
        state.check_readable(name)?;
        let file = state.file(name)?;
        Ok(Box::new(OpenFile { disk: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.file(from)?;
        let outcome = state.begin(Operation::Name)?;
        if outcome.is_none() || state.crashed {
            state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        }
        outcome.map_or(Ok(()), |how| Err(how.error()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.file(name)?;
        let outcome = state.begin(Operation::Name)?;
        if outcome.is_none() || state.crashed {
            state.change_name(NameChange::Remove(name.to_owned()));
        }
        outcome.map_or(Ok(()), |how| Err(how.error()))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        // As with a quota, which the file system does not tell.
        Ok(if state.hides_its_limit { u64::MAX } else { state.free_bytes() })
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.begin(Operation::SyncDirectory)? {
            None => {
                state.durable = state.live.clone();
                state.pending.clear();
                Ok(())
            }
            Some(how) => Err(how.error()),
        }
    }
}

struct OpenFile {
    disk: MemoryDisk,
    file: usize,
}

impl DiskFile for OpenFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        // What direct I/O would refuse is refused here.
        assert!(offset.is_multiple_of(BLOCK_BYTES) && bytes.len().is_multiple_of(BLOCK_BYTES));
        assert_eq!(bytes.as_ptr().align_offset(BLOCK_BYTES), 0, "unaligned buffer");
        self.disk.state().write(self.file, offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.state().sync(self.file)
    }
}

impl ReadFile for OpenFile {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let offset = usize::try_from(offset).unwrap();
        assert!(offset.is_multiple_of(BLOCK_BYTES) && bytes.len().is_multiple_of(BLOCK_BYTES));
        assert_eq!(bytes.as_ptr().align_offset(BLOCK_BYTES), 0, "unaligned buffer");
        let mut state = self.disk.state();
        let file = &state.files[self.file].live;
        let rest = file.get(offset..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        bytes[..count].copy_from_slice(&rest[..count]);
        state.read_bytes += count as u64;
        Ok(count)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.disk.state().files[self.file].live.len() as u64)
    }
}
