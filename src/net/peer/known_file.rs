//! The table of voters on the disk: the file `peers`, written whole beside the reactor, which must
//! not wait for the disk.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::thread;

use mio::Waker;

use super::known::Known;
use crate::disk::{Disk, advice};

const NAME: &str = "peers";

/// Where it is written before it gets its name.
const TMP_NAME: &str = "peers.tmp";

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
    let error = |source| KnownError { path: disk.path(NAME), source };
    match disk.read(NAME) {
        Ok(bytes) => Known::decode(&bytes).ok_or_else(|| error(None)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(Known::default()),
        Err(source) => Err(error(Some(source))),
    }
}

/// One state of the table, and its number.
type Version = (u64, String);

/// Writes the table, on a thread of its own. The thread ends by itself when this is dropped; nobody
/// waits for it then, because the disk may be stuck, and what is half written does not count.
#[derive(Debug)]
pub struct KnownFile {
    versions: Sender<Version>,
    submitted: u64,
    written: Arc<AtomicU64>,
}

impl KnownFile {
    /// Starts the thread. `waker` interrupts the reactor's poll when something is written.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(disk: Arc<dyn Disk>, waker: Arc<Waker>) -> io::Result<KnownFile> {
        let (versions, waiting) = channel();
        let written = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&written);
        let run = move || write_all(&*disk, &waiting, &theirs, &waker);
        thread::Builder::new().name("kvorum-peers".into()).spawn(run)?;
        Ok(KnownFile { versions, submitted: 0, written })
    }

    /// Has the table written.
    pub fn submit(&mut self, known: &Known) {
        self.submitted += 1;
        let sent = self.versions.send((self.submitted, known.encode()));
        sent.expect("the thread runs until this is dropped");
    }

    /// Whether all that was submitted is durable.
    pub fn is_written(&self) -> bool {
        self.written.load(Ordering::Acquire) == self.submitted
    }
}

/// The thread: writes the newest version that waits, until there are no more.
fn write_all(disk: &dyn Disk, waiting: &Receiver<Version>, written: &AtomicU64, waker: &Waker) {
    while let Ok(version) = waiting.recv() {
        let (number, text) = waiting.try_iter().last().unwrap_or(version);
        if let Err(error) = write(disk, &text) {
            // Whoever is to be let in has to wait; the next who comes has it tried again.
            let path = disk.path(NAME);
            log::error!("{}: can not write it: {error}: {}", path.display(), advice(&error));
            continue;
        }
        written.store(number, Ordering::Release);
        if let Err(error) = waker.wake() {
            log::error!("can not wake the reactor: {error}");
        }
    }
}

fn write(disk: &dyn Disk, text: &str) -> io::Result<()> {
    disk.write_file(TMP_NAME, text.as_bytes())?;
    disk.rename(TMP_NAME, NAME)?;
    disk.sync_dir()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;
    use crate::disk::FileDisk;

    #[test]
    fn what_is_written_is_read_back_and_damage_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(temp.path(), false).unwrap());
        let known = load(&*disk).unwrap();
        assert_eq!(known, Known::default());
        let mut poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let mut file = KnownFile::start(Arc::clone(&disk), waker).unwrap();
        assert!(file.is_written());
        file.submit(&known);
        while !file.is_written() {
            poll.poll(&mut Events::with_capacity(4), Some(Duration::from_secs(60))).unwrap();
        }
        assert_eq!(&*disk.read(NAME).unwrap(), known.encode().as_bytes());
        assert_eq!(load(&*disk).unwrap(), known);
        drop(file);
        disk.write_file(NAME, b"kvorum peers 1\n").unwrap();
        let error = load(&*disk).unwrap_err().to_string();
        assert!(error.contains("/peers: the table of peers is damaged"), "{error}");
    }
}
