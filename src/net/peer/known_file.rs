//! The table of voters on the disk: the file `peers`, written beside the reactor, which must not
//! wait for the disk.
//!
//! The file is made once, with room for two versions of the table, and they take turns in it. So
//! one version stands at any time, and writing the other takes no new space: a full disk must not
//! keep members out.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use kvorum_protocol::peer::Introduction;
use mio::Waker;

use super::known::Known;
use crate::disk::{AlignedBuffer, BLOCK_BYTES, Disk, DiskFile, advice};

const NAME: &str = "peers";

/// Where it is made before it gets its name.
const TMP_NAME: &str = "peers.tmp";

/// Room for one version, with as many voters as there may be.
const SLOT_BYTES: usize = 2 * BLOCK_BYTES;

const FILE_BYTES: usize = 2 * SLOT_BYTES;

/// Why the table can not be used. Displays as one line.
#[derive(Debug)]
pub struct KnownError {
    path: PathBuf,
    /// `None` when it holds something else.
    source: Option<io::Error>,
}

impl fmt::Display for KnownError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.source {
            Some(source) => write!(f, "{path}: can not read it: {source}: {}", advice(source)),
            None => write!(
                f,
                "{path}: the table of peers is damaged: remove the file; the node then takes the \
                 other members for what they say they are"
            ),
        }
    }
}

impl std::error::Error for KnownError {}

/// Reads the table; an empty one when there is no file.
///
/// # Errors
/// The file can not be read, or holds something else.
pub fn load(disk: &dyn Disk) -> Result<Known, KnownError> {
    match newest(disk) {
        Ok(newest) => Ok(newest.map(|(_, known)| known).unwrap_or_default()),
        Err(source) => {
            let is_damage = source.kind() == io::ErrorKind::InvalidData;
            Err(KnownError { path: disk.path(NAME), source: (!is_damage).then_some(source) })
        }
    }
}

/// The newest version in the file and its number; `None` when there is no file. A crash may have
/// torn the one that was being written, which did not count; never both.
fn newest(disk: &dyn Disk) -> io::Result<Option<(u64, Known)>> {
    let bytes = match disk.read(NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if bytes.len() != FILE_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.read_ahead()?;
    let versions = bytes.chunks(SLOT_BYTES).zip(0..).filter_map(|(slot, place)| {
        let end = slot.iter().rposition(|byte| *byte != 0)? + 1;
        Known::decode(&slot[..end]).filter(|(version, _)| version % 2 == place)
    });
    let newest = versions.max_by_key(|(version, _)| *version);
    newest.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Writes the table, on a thread of its own. The thread ends by itself when this is dropped; nobody
/// waits for it then, because the disk may be stuck, and what is half written does not count.
#[derive(Debug)]
pub struct KnownFile {
    versions: Sender<Known>,
    durable: Arc<Mutex<Known>>,
}

impl KnownFile {
    /// Starts the thread, which makes the file if there is none. `waker` interrupts the reactor's
    /// poll when something is written.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(disk: Arc<dyn Disk>, waker: Arc<Waker>) -> io::Result<KnownFile> {
        let (versions, waiting) = channel();
        // What a process before has written, it may not have synced.
        let durable = Arc::new(Mutex::new(Known::default()));
        let theirs = Arc::clone(&durable);
        let run = move || write_all(&*disk, &waiting, &theirs, &waker);
        thread::Builder::new().name("kvorum-peers".into()).spawn(run)?;
        Ok(KnownFile { versions, durable })
    }

    /// Has the table written.
    pub fn submit(&mut self, known: &Known) {
        let sent = self.versions.send(known.clone());
        sent.expect("the thread runs until this is dropped");
    }

    /// Whether what this voter says of itself is durable.
    pub fn holds(&self, theirs: &Introduction) -> bool {
        lock(&self.durable).holds(theirs)
    }
}

fn lock(durable: &Mutex<Known>) -> MutexGuard<'_, Known> {
    durable.lock().expect("neither side panics while it holds the table")
}

/// The thread: writes the newest version that waits, until there are no more.
fn write_all(disk: &dyn Disk, waiting: &Receiver<Known>, durable: &Mutex<Known>, waker: &Waker) {
    let complain = |error: &io::Error| {
        let path = disk.path(NAME);
        log::error!("{}: can not write it: {error}: {}", path.display(), advice(error));
    };
    // At once: when there is something to write, the disk may be full.
    let mut file = File::open(disk).inspect_err(complain).ok();
    while let Ok(known) = waiting.recv() {
        let known = waiting.try_iter().last().unwrap_or(known);
        let written = match &mut file {
            Some(file) => file.write(&known),
            None => File::open(disk).and_then(|opened| file.insert(opened).write(&known)),
        };
        if let Err(error) = written {
            // Whoever is to be let in has to wait; the next who comes has it tried again.
            complain(&error);
            continue;
        }
        *lock(durable) = known;
        if let Err(error) = waker.wake() {
            log::error!("can not wake the reactor: {error}");
        }
    }
}

/// The open file.
struct File {
    file: Box<dyn DiskFile>,
    /// The number of the newest version.
    version: u64,
}

impl File {
    /// Opens the file, and makes it if there is none.
    fn open(disk: &dyn Disk) -> io::Result<File> {
        if let Some((version, _)) = newest(disk)? {
            return Ok(File { file: disk.open(NAME)?, version });
        }
        let file = disk.create_zeroed(TMP_NAME, FILE_BYTES as u64)?;
        // One version must stand, or a torn first write would look like damage.
        let mut made = File { file, version: 0 };
        made.write_version(0, &Known::default())?;
        disk.rename(TMP_NAME, NAME)?;
        disk.sync_dir()?;
        Ok(made)
    }

    /// Writes the next version; when this returns it is durable.
    fn write(&mut self, known: &Known) -> io::Result<()> {
        self.write_version(self.version + 1, known)
    }

    fn write_version(&mut self, version: u64, known: &Known) -> io::Result<()> {
        let mut slot = AlignedBuffer::new();
        slot.extend_from_slice(known.encode(version).as_bytes());
        slot.pad_to(SLOT_BYTES);
        let place = version % 2 * SLOT_BYTES as u64;
        self.file.write_at(place, slot.as_slice())?;
        self.file.sync()?;
        self.version = version;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use kvorum_protocol::limits::VOTERS_MAX;
    use kvorum_protocol::{NodeId, Term};

    use super::*;
    use crate::disk::FileDisk;

    fn table(term: u64) -> Known {
        Known::of([(NodeId(2), 100, Term(term)), (NodeId(3), 300, Term(1))])
    }

    fn open(directory: &std::path::Path) -> Arc<dyn Disk> {
        Arc::new(FileDisk::open(directory, false).unwrap())
    }

    #[test]
    fn what_is_written_is_read_back_and_the_newest_counts() {
        let temp = tempfile::tempdir().unwrap();
        let disk = open(temp.path());
        assert_eq!(load(&*disk).unwrap(), Known::default());
        for start in 0..3 {
            // Each time a file that is there is gone on with.
            let mut file = File::open(&*disk).unwrap();
            for term in start * 10..start * 10 + 3 {
                file.write(&table(term)).unwrap();
                assert_eq!(load(&*disk).unwrap(), table(term));
            }
        }
        assert_eq!(fs::metadata(temp.path().join(NAME)).unwrap().len(), FILE_BYTES as u64);
    }

    #[test]
    fn a_write_that_a_crash_has_torn_leaves_the_version_before() {
        let temp = tempfile::tempdir().unwrap();
        let disk = open(temp.path());
        let mut file = File::open(&*disk).unwrap();
        for version in 1..=4 {
            let before = load(&*disk).unwrap();
            file.write(&table(version)).unwrap();
            let path = temp.path().join(NAME);
            let whole = fs::read(&path).unwrap();
            let place = usize::try_from(version % 2).unwrap() * SLOT_BYTES;
            let mut torn = whole.clone();
            torn[place + 30..place + SLOT_BYTES].fill(0);
            fs::write(&path, torn).unwrap();
            assert_eq!(load(&*disk).unwrap(), before);
            fs::write(&path, whole).unwrap();
        }
    }

    #[test]
    fn damage_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let disk = open(temp.path());
        File::open(&*disk).unwrap();
        let path = temp.path().join(NAME);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 1;
        for damaged in [&bytes[..], &bytes[..SLOT_BYTES], b""] {
            fs::write(&path, damaged).unwrap();
            let error = load(&*disk).unwrap_err().to_string();
            assert!(error.contains("/peers: the table of peers is damaged"), "{error}");
        }
    }

    #[test]
    fn all_voters_fit() {
        let ids = (1..=u16::from(VOTERS_MAX)).map(|n| NodeId(u16::MAX - n));
        let longest = Known::of(ids.map(|id| (id, u64::MAX, Term(u64::MAX))));
        assert!(longest.encode(u64::MAX).len() <= SLOT_BYTES);
    }
}
