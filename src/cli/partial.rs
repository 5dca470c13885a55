//! A file that gets its name when it is whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::backup::BackupError;
use crate::snapshot;

/// What the file is called until it is whole.
const PARTIAL_SUFFIX: &str = ".partial";

/// Nothing is overwritten.
pub(super) fn refuse_existing(path: &Path) -> Result<(), BackupError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(BackupError::Exists(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(fail("write", path, source)),
    }
}

/// A file that is being written beside its place. Dropped before it is whole, it is gone.
///
/// Invariant: the file of the name `partial` is this one, and locked, until it is published. So
/// whoever can lock a file of that name knows that its writer has died. Where there are no locks,
/// what a writer has left stays until somebody removes it.
pub(super) struct PartialFile {
    path: PathBuf,
    partial: PathBuf,
    file: File,
    is_published: bool,
}

impl PartialFile {
    /// Begins an empty file. What a writer that has died has left there is gone.
    pub(super) fn create(path: &Path) -> Result<PartialFile, BackupError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(PARTIAL_SUFFIX);
        let partial = PathBuf::from(partial);
        loop {
            if let Some(file) = take(&partial)? {
                return Ok(PartialFile {
                    path: path.to_owned(),
                    partial,
                    file,
                    is_published: false,
                });
            }
        }
    }

    /// Where it is, for now.
    pub(super) fn partial_path(&self) -> &Path {
        &self.partial
    }

    /// To be written to.
    pub(super) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Appends these bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.file.write_all(bytes).map_err(|source| self.fail("write", source))
    }

    /// Forgets what was written.
    pub(super) fn clear(&mut self) -> Result<(), BackupError> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
        cleared.map_err(|source| self.fail("write", source))
    }

    /// It is whole: makes it durable, and gives it its name, unless something has got that name
    /// meanwhile.
    pub(super) fn publish(mut self) -> Result<(), BackupError> {
        self.file.sync_all().map_err(|source| self.fail("sync", source))?;
        match rename_to_free(&self.partial, &self.path) {
            Ok(()) => self.is_published = true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(BackupError::Exists(self.path.clone()));
            }
            Err(source) => return Err(self.fail("rename", source)),
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        let synced = File::open(parent).and_then(|parent| parent.sync_all());
        synced.map_err(|source| fail("sync", parent, source))
    }

    /// What has gone wrong with it.
    pub(super) fn fail(&self, action: &'static str, source: io::Error) -> BackupError {
        fail(action, &self.partial, source)
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_published {
            // What is left of it is told apart by its name, and by being unlocked.
            let _ = fs::remove_file(&self.partial);
        }
    }
}

fn fail(action: &'static str, path: &Path, source: io::Error) -> BackupError {
    BackupError::File { action, path: path.to_owned(), source }
}

/// The file of this name, empty and locked; `None` when it was another one by then.
fn take(partial: &Path) -> Result<Option<File>, BackupError> {
    let io = |source| fail("create", partial, source);
    let mut options = OpenOptions::new();
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    options.read(true).write(true).mode(0o600).custom_flags(flags);
    let (file, is_new) = match options.clone().create_new(true).open(partial) {
        Ok(file) => (file, true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match options.open(partial) {
            Ok(file) => (file, false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(io(source)),
        },
        Err(source) => return Err(io(source)),
    };
    let found = file.metadata().map_err(io)?;
    // Somebody else's file would show them the data. Who made this one is known, whatever owner the
    // file system says that it has.
    let is_own = found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
    if !is_new && !is_own {
        return Err(BackupError::Exists(partial.to_owned()));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(BackupError::InUse(partial.to_owned())),
        // Then nobody takes over what another has begun: this one may still be writing.
        Err(TryLockError::Error(error)) if knows_no_locks(&error) => {
            return match is_new {
                true => Ok(Some(file)),
                false => Err(BackupError::Exists(partial.to_owned())),
            };
        }
        Err(TryLockError::Error(source)) => return Err(fail("lock", partial, source)),
    }
    // Its writer may have finished between the opening and the lock: then it is the whole file.
    let is_same = |named: fs::Metadata| (named.dev(), named.ino()) == (found.dev(), found.ino());
    if !fs::symlink_metadata(partial).is_ok_and(is_same) {
        return Ok(None);
    }
    if !begins_like_ours(&file).map_err(io)? {
        return Err(BackupError::Exists(partial.to_owned()));
    }
    // One that has another name, too, is not to be emptied.
    if file.metadata().map_err(io)?.nlink() > 1 {
        fs::remove_file(partial).map_err(io)?;
        return Ok(None);
    }
    file.set_len(0).map_err(io)?;
    Ok(Some(file))
}

/// Whether there are no locks where the file is.
fn knows_no_locks(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// Whether a file may be what a writer of snapshots or of JSON lines has left: other programs have
/// files of such names, too.
fn begins_like_ours(file: &File) -> io::Result<bool> {
    let mut first = [0; snapshot::MAGIC.len()];
    let read = file.read_at(&mut first, 0)?;
    Ok(snapshot::MAGIC.starts_with(&first[..read]) || first[0] == b'{')
}

/// Renames a file, unless the new name is taken: that is told as [`io::ErrorKind::AlreadyExists`].
fn rename_to_free(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system knows that.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        renamed => return Ok(renamed?),
    }
    match fs::hard_link(from, to) {
        // Nor that.
        Err(error) if knows_no_links(&error) => look_and_rename(from, to),
        Err(error) => Err(error),
        Ok(()) => fs::remove_file(from),
    }
}

fn knows_no_links(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::PERM | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MLINK))
}

/// The same as [`rename_to_free`], but what gets the name between the look and the renaming loses
/// it. The whole file is worth more.
fn look_and_rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::symlink_metadata(to) {
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(path: &Path) -> PartialFile {
        let mut file = PartialFile::create(path).unwrap();
        file.write(b"data").unwrap();
        file
    }

    #[test]
    fn what_a_dead_writer_has_left_is_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        for remains in ["KVS1, and longer than what comes", "{\"key\":\"k\"}\n", "KV", ""] {
            fs::write(directory.path().join("f.partial"), remains).unwrap();
            begin(&path).publish().unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"data");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_another_program_has_left_is_not_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let partial = directory.path().join("f.partial");
        for remains in ["half a download", "KVT1", "\0\0\0\0"].map(str::as_bytes) {
            fs::write(&partial, remains).unwrap();
            let created = PartialFile::create(&directory.path().join("f")).map(|_| ());
            let error = created.unwrap_err();
            assert!(matches!(&error, BackupError::Exists(path) if *path == partial), "{error}");
            assert_eq!(fs::read(&partial).unwrap(), remains);
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_given_where_there_are_no_links() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        fs::write(&from, "data").unwrap();
        fs::write(&to, "mine").unwrap();
        let error = look_and_rename(&from, &to).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&to).unwrap(), b"mine");
        fs::remove_file(&to).unwrap();
        look_and_rename(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"data");
        assert!(!from.exists());
    }

    #[test]
    fn what_another_writes_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let first = begin(&path);
        let second = PartialFile::create(&path).map(|_| ()).unwrap_err();
        assert!(matches!(second, BackupError::InUse(_)), "{second}");
        first.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn what_got_the_name_meanwhile_keeps_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let file = begin(&path);
        fs::write(&path, "mine").unwrap();
        let error = file.publish().unwrap_err();
        assert!(matches!(error, BackupError::Exists(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_has_another_name_too_is_not_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        fs::write(directory.path().join("whole"), "{mine}").unwrap();
        fs::hard_link(directory.path().join("whole"), directory.path().join("f.partial")).unwrap();
        begin(&path).publish().unwrap();
        assert_eq!(fs::read(directory.path().join("whole")).unwrap(), b"{mine}");
        assert_eq!(fs::read(&path).unwrap(), b"data");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let partial = directory.path().join("f.partial");
        std::os::unix::fs::symlink("elsewhere", &partial).unwrap();
        assert!(PartialFile::create(&path).is_err());
        assert!(!directory.path().join("elsewhere").exists());
        fs::remove_file(&partial).unwrap();
        fs::create_dir(&partial).unwrap();
        assert!(PartialFile::create(&path).is_err());
        assert!(partial.is_dir());
    }
}
