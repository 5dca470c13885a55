//! A file system of a few megabytes, for running out of space.

use std::path::Path;
use std::process::Command;

use super::child::Ends as _;
use super::{tool, try_tool};

/// A mounted ext4 of its own; unmounted when it is dropped.
pub struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    pub fn new(mebibytes: u64) -> SmallDisk {
        SmallDisk::try_new(mebibytes).unwrap_or_else(|reason| panic!("{reason}"))
    }

    /// The same where the machine may forbid it.
    ///
    /// # Errors
    /// What mount(8) says.
    pub fn try_new(mebibytes: u64) -> Result<SmallDisk, String> {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let disk = SmallDisk { directory };
        let image = disk.directory.path().join("image");
        let file = std::fs::File::create(&image).expect("an image can be made");
        file.set_len(mebibytes << 20).expect("an image can be made");
        let image = image.to_str().expect("UTF-8");
        std::fs::create_dir(disk.path()).expect("a mount point can be made");
        // No journal and no reserved blocks: nearly all of it is for files.
        tool("mkfs.ext4", &["-q", "-m", "0", "-O", "^has_journal", image]);
        try_tool("mount", &["-o", "loop", image, disk.path().to_str().expect("UTF-8")])?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("mount")
    }

    /// Holds up every write to it until the result is dropped.
    pub fn freeze(&self) -> Frozen {
        let path = self.path();
        tool("fsfreeze", &["-f", path.to_str().expect("UTF-8")]);
        Frozen { path }
    }

    /// Takes all free space, but for less than a megabyte, with a file that is removed when the
    /// ballast is dropped. Others may be taking space at the same time.
    pub fn fill(&self) -> Ballast {
        self.fill_in_pieces(&[1 << 20])
    }

    /// The same to the last block.
    pub fn fill_to_the_brim(&self) -> Ballast {
        self.fill_in_pieces(&[1 << 20, 4096])
    }

    fn fill_in_pieces(&self, sizes: &[u64]) -> Ballast {
        use rustix::fs::{FallocateFlags, fallocate};
        let path = self.path().join("ballast");
        let file = std::fs::File::create(&path).expect("a file can be made");
        let mut end = 0;
        for bytes in sizes {
            loop {
                match fallocate(&file, FallocateFlags::empty(), end, *bytes) {
                    Ok(()) => end += bytes,
                    Err(rustix::io::Errno::NOSPC) => break,
                    Err(error) => panic!("{}: {error}", path.display()),
                }
            }
        }
        Ballast { path }
    }
}

/// A file system that takes no writes: they wait.
pub struct Frozen {
    path: std::path::PathBuf,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("-u").arg(&self.path).output_in_time();
    }
}

/// A file that takes space.
pub struct Ballast {
    path: std::path::PathBuf,
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

fn unmount(path: &Path) {
    // Lazily: a test that has failed may still have files open there.
    let _ = Command::new("umount").arg("-l").arg(path).output_in_time();
}
