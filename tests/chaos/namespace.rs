//! Network namespaces without names: they end with the last process, thread or open file that has
//! them, whatever becomes of the test.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::support::child::Watchdog;

/// A network namespace.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// A new one, with nothing in it but a loopback interface that is down.
    ///
    /// # Errors
    /// What the kernel says when it gives none.
    pub fn new() -> Result<Namespace, String> {
        // A process that repeats a byte is in its new namespace. It ends with its input.
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let _watchdog = Watchdog::over(&child);
        let mut byte = [b'.'];
        // Without a namespace it has ended, which the read tells.
        let _ = child.stdin.as_mut().expect("piped").write_all(&byte);
        let echoed = child.stdout.as_mut().expect("piped").read_exact(&mut byte);
        let file = echoed.and_then(|()| File::open(format!("/proc/{}/ns/net", child.id())));
        let output = child.wait_with_output().map_err(|error| format!("unshare: {error}"))?;
        file.map(|file| Namespace { file })
            .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }

    /// Does this in the namespace: on a thread of its own, whose children stay there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let thread = || {
            move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("whoever has made it may enter it");
            work()
        };
        let result = std::thread::scope(|scope| scope.spawn(thread).join());
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Where other processes find it while this one lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }
}
