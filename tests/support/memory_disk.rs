//! A disk in memory that remembers what was synced and what was not, and can lose, tear and
//! reorder the rest, as a power cut does; and that can fail any operation.
//!
//! Three images of everything: *live* is what the process reads back, *durable* is what certainly
//! survives, and the pending writes and directory operations between them survive a crash or not,
//! each by itself, in sectors of 512 bytes.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use kvorum::disk::{BLOCK_BYTES, Contents, Disk, DiskFile, ReadFile};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SECTOR_BYTES: usize = 512;

/// As Linux numbers it; the fuzz targets, which use this disk too, have no crate that knows it.
const EMFILE: i32 = 24;

/// What a power cut does to everything that was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All of it is gone.
    All,
    /// All of it is there.
    Nothing,
    /// Each write and each directory operation is there or not.
    Some,
    /// Each sector of each write, and each directory operation, is there or not.
    Torn,
}

impl Loss {
    pub const EACH: [Loss; 4] = [Loss::All, Loss::Nothing, Loss::Some, Loss::Torn];
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// EIO; a failed sync leaves the data readable and marks it clean, as Linux does.
    Io,
    /// ENOSPC.
    Full,
    /// Half of a write is done, then EIO.
    Short,
    /// EMFILE.
    Descriptors,
}

#[derive(Clone, Copy, Debug, Default)]
enum Plan {
    #[default]
    Run,
    /// The power goes at this operation, which may still be done in part.
    Crash {
        at: u64,
    },
    Fail {
        at: u64,
        how: Failure,
    },
}

/// The disk. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    files: Vec<File>,
    live: BTreeMap<String, usize>,
    durable: BTreeMap<String, usize>,
    pending: Vec<NameChange>,
    plan: Plan,
    operations: u64,
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
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String, usize),
    Remove(String),
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        put(&mut self.live, offset, bytes);
        self.pending.push((offset, bytes.to_vec()));
    }

    /// Only what is pending: after a failed sync, `live` holds bytes that no later sync will write.
    fn sync(&mut self) {
        for (offset, bytes) in self.pending.drain(..) {
            put(&mut self.durable, offset, &bytes);
        }
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
        let mut state = self.state();
        state.operations = 0;
        state.plan = Plan::Crash { at };
    }

    /// The operation with this number fails, counted from 1 and from now.
    pub fn fail_at(&self, at: u64, how: Failure) {
        let mut state = self.state();
        state.operations = 0;
        state.plan = Plan::Fail { at, how };
    }

    /// Everything works again.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.plan, state.crashed) = (Plan::Run, false);
    }

    /// Operations since the plan was made.
    pub fn operations(&self) -> u64 {
        self.state().operations
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
        let mut keep = || match loss {
            Loss::All => false,
            Loss::Nothing => true,
            Loss::Some | Loss::Torn => rng.random_bool(0.5),
        };
        let mut files = Vec::new();
        for file in &state.files {
            let mut left = file.durable.clone();
            for (offset, bytes) in &file.pending {
                if loss != Loss::Torn {
                    if keep() {
                        put(&mut left, *offset, bytes);
                    }
                    continue;
                }
                for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    if keep() {
                        put(&mut left, offset + number * SECTOR_BYTES, sector);
                    }
                }
            }
            files.push(File { live: left.clone(), durable: left, pending: Vec::new() });
        }
        let mut names = state.durable.clone();
        for change in &state.pending {
            if keep() {
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
    fn begin(&mut self) -> io::Result<Option<Failure>> {
        if self.crashed {
            return Err(io::Error::other("no power"));
        }
        self.operations += 1;
        match self.plan {
            Plan::Crash { at } if at == self.operations => {
                self.crashed = true;
                Ok(Some(Failure::Io))
            }
            Plan::Fail { at, how } if at == self.operations => Ok(Some(how)),
            _ => Ok(None),
        }
    }

    fn error(&self, how: Failure) -> io::Error {
        match how {
            Failure::Full => io::ErrorKind::StorageFull.into(),
            Failure::Io | Failure::Short => io::Error::other("EIO"),
            Failure::Descriptors => io::Error::from_raw_os_error(EMFILE),
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
        match self.begin()? {
            None => self.files[file].write(offset, bytes),
            Some(how) => {
                // In a power cut the write was under way.
                if self.crashed {
                    self.files[file].write(offset, bytes);
                } else if how == Failure::Short {
                    self.files[file].write(offset, &bytes[..bytes.len() / 2]);
                }
                return Err(self.error(how));
            }
        }
        Ok(())
    }

    fn sync(&mut self, file: usize) -> io::Result<()> {
        match self.begin()? {
            None => self.files[file].sync(),
            Some(how) => {
                if !self.crashed {
                    self.files[file].pending.clear();
                }
                return Err(self.error(how));
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
        let outcome = state.begin()?;
        if outcome.is_none() || state.crashed {
            state.change_name(NameChange::Rename(from.to_owned(), to.to_owned(), file));
        }
        outcome.map_or(Ok(()), |how| Err(state.error(how)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.file(name)?;
        let outcome = state.begin()?;
        if outcome.is_none() || state.crashed {
            state.change_name(NameChange::Remove(name.to_owned()));
        }
        outcome.map_or(Ok(()), |how| Err(state.error(how)))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.state();
        // As with a quota, which the file system does not tell.
        Ok(if state.hides_its_limit { u64::MAX } else { state.free_bytes() })
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.begin()? {
            None => {
                state.durable = state.live.clone();
                state.pending.clear();
                Ok(())
            }
            Some(how) => Err(state.error(how)),
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
}
