//! The directory that a restore fills: locked before anything is made in it, and as it was before
//! when the restore fails.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::RestoreError;
use crate::disk::{Contents, Disk, DiskFile, FileDisk, ReadFile};
use crate::snapshot;

/// A data directory that this process has for itself. Dropped before [`keep`](Target::keep), it
/// takes everything back that was made by way of its [`disk`](Target::disk), and nothing else.
pub(super) struct Target {
    disk: Arc<Recorded>,
    /// The directories that are made, outermost last.
    made: Vec<PathBuf>,
    /// Whether the file of the lock is this process's, too.
    makes_lock: bool,
    is_kept: bool,
}

impl Target {
    /// Locks a directory that is missing or empty, and makes it if it is missing.
    pub(super) fn lock(path: &Path) -> Result<Target, RestoreError> {
        // Nothing is put into a directory that is somebody's.
        refuse_used(path)?;
        Target::lock_unused(path)
    }

    fn lock_unused(path: &Path) -> Result<Target, RestoreError> {
        let missing = path.ancestors().filter(|path| !path.as_os_str().is_empty());
        let made: Vec<PathBuf> =
            missing.take_while(|path| !path.exists()).map(Path::to_owned).collect();
        let makes_lock = !path.join(FileDisk::LOCK_NAME).exists();
        let disk = FileDisk::open(path, true).map_err(|error| {
            remove_empty(&made);
            RestoreError::Disk(error)
        })?;
        // A node may have come, and gone, between the look and the lock.
        let names = disk.list().map_err(|source| failed(path, source))?;
        if names.iter().any(|name| name != FileDisk::LOCK_NAME) {
            return Err(RestoreError::NotEmpty(path.to_owned()));
        }
        let disk = Arc::new(Recorded { disk, names: Mutex::default() });
        Ok(Target { disk, made, makes_lock, is_kept: false })
    }

    /// To be written to.
    pub(super) fn disk(&self) -> Arc<dyn Disk> {
        Arc::<Recorded>::clone(&self.disk)
    }

    /// The restore has succeeded.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        let mut names = std::mem::take(&mut *self.disk.names());
        // The last one: until then nobody else comes.
        let lock = self.makes_lock.then(|| FileDisk::LOCK_NAME.to_owned());
        names.remove(FileDisk::LOCK_NAME);
        for name in names.into_iter().chain(lock) {
            match self.disk.remove(&name) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let path = self.disk.path(&name);
                    log::warn!("{}: {error}: remove it before you try again", path.display());
                }
                _ => {}
            }
        }
        remove_empty(&self.made);
    }
}

fn remove_empty(directories: &[PathBuf]) {
    for directory in directories {
        // One that holds something by now is not this process's alone.
        let _ = fs::remove_dir(directory);
    }
}

fn failed(path: &Path, source: io::Error) -> RestoreError {
    RestoreError::Directory { path: path.to_owned(), source }
}

/// A directory that is there must be empty.
fn refuse_used(path: &Path) -> Result<(), RestoreError> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed(path, source)),
        Ok(entries) => entries,
    };
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let names = names.map_err(|source| failed(path, source))?;
    if names.is_empty() {
        return Ok(());
    }
    // The snapshot comes first: until there is an identity, and a log, it is no node's directory.
    let is_lock = |name: &OsString| name == FileDisk::LOCK_NAME;
    let is_snapshot = |name: &OsString| name.to_str().is_some_and(snapshot::is_named);
    let is_remains = names.iter().any(is_lock)
        && names.iter().any(is_snapshot)
        && names.iter().all(|name| is_lock(name) || is_snapshot(name));
    if !is_remains {
        return Err(RestoreError::NotEmpty(path.to_owned()));
    }
    // Unless it goes on.
    FileDisk::open(path, true).map_err(RestoreError::Disk)?;
    Err(RestoreError::Interrupted(path.to_owned()))
}

/// A disk that remembers what was made on it.
struct Recorded {
    disk: FileDisk,
    names: Mutex<BTreeSet<String>>,
}

impl Recorded {
    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Also when making it fails: it may be there in part.
    fn record(&self, name: &str) {
        self.names().insert(name.to_owned());
    }
}

impl Disk for Recorded {
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }

    fn read(&self, name: &str) -> io::Result<Contents> {
        self.disk.read(name)
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.record(name);
        self.disk.write_file(name, bytes)
    }

    fn create_zeroed(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        self.record(name);
        self.disk.create_zeroed(name, bytes)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        self.disk.open(name)
    }

    fn open_to_read(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        self.disk.open_to_read(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.record(to);
        self.disk.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.disk.sync_dir()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskError;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn make_some(target: &Target) {
        let disk = target.disk();
        disk.write_file("identity", b"x").unwrap();
        disk.create_zeroed("a.tmp", 4096).unwrap();
        disk.rename("a.tmp", "a").unwrap();
    }

    #[test]
    fn a_failed_restore_leaves_what_was_there_before() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("new/data");
        let target = Target::lock(&directory).unwrap();
        make_some(&target);
        drop(target);
        assert!(names(temp.path()).is_empty());

        fs::create_dir_all(&directory).unwrap();
        let target = Target::lock(&directory).unwrap();
        make_some(&target);
        fs::write(directory.join("mine"), "").unwrap();
        drop(target);
        assert_eq!(names(&directory), ["mine"]);
        fs::remove_file(directory.join("mine")).unwrap();

        let target = Target::lock(&directory).unwrap();
        make_some(&target);
        target.keep();
        assert_eq!(names(&directory), ["LOCK", "a", "identity"]);
        assert!(matches!(Target::lock(&directory), Err(RestoreError::NotEmpty(_))));
    }

    #[test]
    fn what_a_killed_restore_has_left_is_called_so() {
        let temp = tempfile::tempdir().unwrap();
        let snapshot = snapshot::snapshot_name(kvorum_protocol::LogIndex(7));
        let lock = || Target::lock(temp.path()).map(|_| ());
        let running = FileDisk::open(temp.path(), false).unwrap();
        running.write_file("snapshot.tmp", b"x").unwrap();
        assert!(matches!(lock(), Err(RestoreError::Disk(DiskError::Locked { .. }))));
        drop(running);
        assert!(matches!(lock(), Err(RestoreError::Interrupted(_))));
        fs::rename(temp.path().join("snapshot.tmp"), temp.path().join(&snapshot)).unwrap();
        assert!(matches!(lock(), Err(RestoreError::Interrupted(_))));
        fs::write(temp.path().join("identity"), "theirs").unwrap();
        assert!(matches!(lock(), Err(RestoreError::NotEmpty(_))));
        assert_eq!(names(temp.path()), ["LOCK", "identity", &snapshot]);
    }

    /// The directory was empty when it was looked at, and then a server has started in it.
    #[test]
    fn what_a_server_makes_meanwhile_is_not_touched() {
        let temp = tempfile::tempdir().unwrap();
        let server = FileDisk::open(temp.path(), false).unwrap();
        server.write_file("identity", b"theirs").unwrap();
        let refused = Target::lock_unused(temp.path()).map(|_| ());
        assert!(matches!(refused, Err(RestoreError::Disk(DiskError::Locked { .. }))));
        assert_eq!(names(temp.path()), ["LOCK", "identity"]);
        // And has ended.
        drop(server);
        let refused = Target::lock_unused(temp.path()).map(|_| ());
        assert!(matches!(refused, Err(RestoreError::NotEmpty(_))));
        assert_eq!(names(temp.path()), ["LOCK", "identity"]);
    }
}
