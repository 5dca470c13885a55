//! The real disk: a locked directory.

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, OFlags, fadvise};

use super::{AlignedBuffer, Contents, Disk, DiskFile, ReadFile, advice};

/// Zeros are written in pieces of this size: large enough for full speed with direct I/O, small
/// enough that the log's own writes get between them.
const ZERO_PIECE_BYTES: usize = 1 << 20;

/// A directory that this process has for itself, or only looks at.
pub struct FileDisk {
    directory: PathBuf,
    access: Access,
}

enum Access {
    /// The lock is held as long as the file is open.
    Exclusive {
        _lock: File,
        direct_io: bool,
    },
    ReadOnly,
}

/// Why a data directory can not be used.
#[derive(Debug)]
pub enum DiskError {
    /// Another process has it.
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// It can not be made, opened or locked.
    Io {
        /// What was tried, as `"open"`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::Locked { directory } => write!(
                f,
                "data directory {} is in use by another process: stop it, or give this node \
                 another directory with --data",
                directory.display()
            ),
            DiskError::Io { action, path, source } => {
                write!(f, "can not {action} {}: {source}: {}", path.display(), advice(source))
            }
        }
    }
}

impl std::error::Error for DiskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            DiskError::Locked { .. } => None,
            DiskError::Io { source, .. } => Some(source),
        }
    }
}

impl FileDisk {
    /// The file whose lock is the directory's.
    pub const LOCK_NAME: &str = "LOCK";

    /// Makes the directory if it is missing (mode 0700) and locks it for this process. With
    /// `direct_io`, files opened for writing bypass the page cache where the file system can.
    ///
    /// # Errors
    /// [`DiskError::Locked`] when another process has the directory.
    pub fn open(directory: &Path, direct_io: bool) -> Result<FileDisk, DiskError> {
        let fail = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DiskError::Io { action, path, source }
        };
        let missing =
            directory.ancestors().take_while(|path| !path.exists() && !path.as_os_str().is_empty());
        let missing: Vec<&Path> = missing.collect();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(fail("create directory", directory))?;
        // The new names must not vanish in a power cut, and the log with them.
        for parent in missing.into_iter().filter_map(Path::parent) {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let synced = File::open(parent).and_then(|parent| parent.sync_all());
            synced.map_err(fail("sync directory", parent))?;
        }
        let path = directory.join(FileDisk::LOCK_NAME);
        let lock = options().create(true).truncate(false).open(&path);
        let lock = lock.map_err(fail("open", &path))?;
        let locked = || DiskError::Locked { directory: directory.to_owned() };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked()),
            Err(TryLockError::Error(source)) => return Err(fail("lock", &path)(source)),
        }
        // Whoever had the directory may have given it up just now, and have taken the file away
        // that they had made: then the lock keeps nobody out.
        let own = lock.metadata().map_err(fail("lock", &path))?;
        let is_own = |named: Metadata| (named.dev(), named.ino()) == (own.dev(), own.ino());
        if !fs::symlink_metadata(&path).is_ok_and(is_own) {
            return Err(locked());
        }
        let access = Access::Exclusive { _lock: lock, direct_io };
        Ok(FileDisk { directory: directory.to_owned(), access })
    }

    /// Looks at a directory, perhaps one in use, without locking it. Nothing can be written, and
    /// files are read instead of mapped, because another process may be writing them.
    #[must_use]
    pub fn open_read_only(directory: &Path) -> FileDisk {
        FileDisk { directory: directory.to_owned(), access: Access::ReadOnly }
    }

    fn direct_io(&self) -> io::Result<bool> {
        match self.access {
            Access::Exclusive { direct_io, .. } => Ok(direct_io),
            Access::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }
}

impl Disk for FileDisk {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // A name that is no UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Contents> {
        match self.access {
            Access::Exclusive { .. } => {
                Contents::map(&options().write(false).open(self.path(name))?)
            }
            Access::ReadOnly => fs::read(self.path(name)).map(Contents::from),
        }
    }

    fn write_file(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.direct_io()?;
        let file = options().create(true).truncate(true).open(self.path(name))?;
        file.write_all_at(bytes, 0)?;
        file.sync_all()
    }

    fn create_zeroed(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let direct_io = self.direct_io()?;
        let path = self.path(name);
        let file = options().create(true).truncate(true).open(&path)?;
        // Through the page cache this costs ten times the CPU time, so direct I/O is tried here
        // even when the log itself is buffered. tmpfs and others know no O_DIRECT.
        let filled = match open_direct(&path, &mut options())? {
            Some(direct) => zero_fill(&direct, bytes),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        match filled {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => zero_fill(&file, bytes)?,
            other => other?,
        }
        writable(&path, file, direct_io)
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let direct_io = self.direct_io()?;
        let path = self.path(name);
        let file = options().open(&path)?;
        writable(&path, file, direct_io)
    }

    fn open_to_read(&self, name: &str) -> io::Result<Box<dyn ReadFile>> {
        let path = self.path(name);
        // As the writer does: the two kinds of I/O would make each other flush the page cache.
        if matches!(self.access, Access::Exclusive { direct_io: true, .. })
            && let Some(direct) = open_direct(&path, options().write(false))?
        {
            return Ok(Box::new(direct));
        }
        let file = options().write(false).open(&path)?;
        for advice in [Advice::Sequential, Advice::NoReuse] {
            // Advice, and nothing is lost where it is not taken.
            let _ = fadvise(&file, 0, None, advice);
        }
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.direct_io()?;
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.direct_io()?;
        fs::remove_file(self.path(name))
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let space = rustix::fs::statvfs(&self.directory)?;
        // Not the blocks that are reserved for root, who may be running this.
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.direct_io()?;
        File::open(&self.directory)?.sync_all()
    }
}

impl DiskFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

impl ReadFile for File {
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < bytes.len() {
            match FileExt::read_at(self, &mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

fn writable(path: &Path, file: File, direct_io: bool) -> io::Result<Box<dyn DiskFile>> {
    let direct = if direct_io { open_direct(path, &mut options())? } else { None };
    Ok(Box::new(direct.unwrap_or(file)))
}

/// Files are for this user only, and a symbolic link in the place of one is a trick.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(flags(OFlags::NOFOLLOW));
    options
}

/// `None` where the file system has no direct I/O.
fn open_direct(path: &Path, options: &mut OpenOptions) -> io::Result<Option<File>> {
    match options.custom_flags(flags(OFlags::NOFOLLOW | OFlags::DIRECT)).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(None),
        Err(error) => Err(error),
    }
}

fn flags(flags: OFlags) -> i32 {
    flags.bits().cast_signed()
}

fn zero_fill(file: &File, bytes: u64) -> io::Result<()> {
    let mut zeros = AlignedBuffer::new();
    zeros.extend_zeros(ZERO_PIECE_BYTES);
    let mut offset = 0;
    while offset < bytes {
        let rest = usize::try_from(bytes - offset).unwrap_or(usize::MAX);
        let piece = &zeros.as_slice()[..rest.min(ZERO_PIECE_BYTES)];
        file.write_all_at(piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn block(byte: u8) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::new();
        buffer.extend_from_slice(&[byte; 4096]);
        buffer
    }

    #[test]
    fn a_directory_belongs_to_one_disk_at_a_time() {
        let temp = tempfile::tempdir().unwrap();
        let directory = temp.path().join("a/b");
        let first = FileDisk::open(&directory, false).unwrap();
        let mode = fs::metadata(&directory).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let Err(refused) = FileDisk::open(&directory, false) else { panic!("locked twice") };
        assert!(matches!(refused, DiskError::Locked { .. }));
        assert!(refused.to_string().contains(directory.to_str().unwrap()), "{refused}");
        drop(first);
        FileDisk::open(&directory, true).unwrap();
    }

    #[test]
    fn files_are_private_zeroed_and_keep_what_was_written_with_and_without_direct_io() {
        for direct_io in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let disk = FileDisk::open(temp.path(), direct_io).unwrap();
            let length = ZERO_PIECE_BYTES as u64 + 8192;
            let file = disk.create_zeroed("s.tmp", length).unwrap();
            file.write_at(4096, block(7).as_slice()).unwrap();
            file.sync().unwrap();
            disk.rename("s.tmp", "s").unwrap();
            disk.sync_dir().unwrap();
            let contents = disk.read("s").unwrap();
            assert_eq!(contents.len() as u64, length);
            assert!(contents[..4096].iter().all(|byte| *byte == 0));
            assert!(contents[4096..8192].iter().all(|byte| *byte == 7));
            assert!(contents[8192..].iter().all(|byte| *byte == 0));
            let mode = fs::metadata(disk.path("s")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            drop(contents);
            disk.open("s").unwrap().write_at(0, block(9).as_slice()).unwrap();
            assert_eq!(disk.read("s").unwrap()[0], 9);
            disk.remove("s").unwrap();
            assert_eq!(disk.list().unwrap(), ["LOCK"]);
        }
    }

    #[test]
    fn a_file_is_read_while_it_is_written_with_and_without_direct_io() {
        for direct_io in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let disk = FileDisk::open(temp.path(), direct_io).unwrap();
            assert!(disk.open_to_read("s").is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
            let writing = disk.create_zeroed("s", 12288).unwrap();
            let reading = disk.open_to_read("s").unwrap();
            let mut buffer = block(1);
            buffer.extend_zeros(4096);
            let mut read = |offset| {
                let count = reading.read_at(offset, buffer.as_mut_slice()).unwrap();
                buffer.as_slice()[..count].to_vec()
            };
            assert_eq!(read(0), [0; 8192]);
            writing.write_at(4096, block(7).as_slice()).unwrap();
            assert_eq!(read(4096), [[7; 4096], [0; 4096]].concat());
            assert_eq!(read(8192), [0; 4096], "up to the end of the file");
            assert!(read(12288).is_empty());
        }
    }

    #[test]
    fn a_read_only_disk_writes_nothing_and_takes_no_lock() {
        let temp = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(temp.path(), false).unwrap();
        disk.write_file("f", b"abc").unwrap();
        let looking = FileDisk::open_read_only(temp.path());
        assert_eq!(&*looking.read("f").unwrap(), b"abc");
        assert!(looking.write_file("f", b"x").is_err());
        assert!(looking.remove("f").is_err());
        assert!(looking.create_zeroed("g", 4096).is_err());
        assert!(looking.rename("f", "g").is_err());
        assert!(looking.free_bytes().unwrap() > 0);
        assert_eq!(looking.list().unwrap().len(), 2);
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let disk = FileDisk::open(temp.path(), false).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", disk.path("identity")).unwrap();
        assert!(disk.read("identity").is_err());
        assert!(disk.write_file("identity", b"x").is_err());
    }
}
