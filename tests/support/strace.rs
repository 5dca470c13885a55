//! Faults in the system calls of a running process, by strace's syscall tampering (strace(1),
//! "Tampering").

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::child::{Watchdog, end_of, try_end_of};

/// The calls that write to files. Sockets are written to with others.
pub const DISK_WRITES: &str = "pwrite64,pwritev,pwritev2";

/// The calls that wait for the disk.
pub const DISK_SYNCS: &str = "fdatasync,fsync,sync_file_range";

/// A strace that has attached itself to a process; detaches when it is dropped.
pub struct Strace {
    child: Child,
}

impl Strace {
    /// Tampers with calls as in `inject(server.pid(), "fdatasync", "error=EIO:when=3+")`. The
    /// counting begins now, and is by thread.
    pub fn inject(pid: u32, calls: &str, what: &str) -> Strace {
        let inject = format!("inject={calls}:{what}");
        Strace::attach(pid, &["-e", &format!("trace={calls}"), "-e", &inject, "-o", "/dev/null"])
    }

    /// Writes each of these calls as a line into a file, for [`count`].
    pub fn record(pid: u32, calls: &str, file: &Path) -> Strace {
        let file = file.to_str().expect("UTF-8");
        Strace::attach(pid, &["-e", &format!("trace={calls}"), "-o", file])
    }

    fn attach(pid: u32, arguments: &[&str]) -> Strace {
        let mut child = Command::new("strace")
            .args(["-f", "-p", &pid.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error}; `.ci/run` installs it"));
        let watchdog = Watchdog::over(&child);
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("strace says something");
        drop(watchdog);
        assert!(
            line.contains("attached"),
            "strace can not attach ({}): these tests need root or CAP_SYS_PTRACE",
            line.trim()
        );
        // Dropping the pipe would kill strace at its next word.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Strace { child }
    }

    /// Lets the process go on by itself. A call that was being delayed is executed now.
    pub fn detach(mut self) {
        self.stop();
    }

    /// Ends strace without a word to the process, which has been killed. Asked to detach from
    /// threads that are dying, it may wait for them forever.
    pub fn kill(mut self) {
        self.child.kill().expect("strace is ours");
        end_of(&mut self.child);
    }

    fn stop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        if try_end_of(&mut self.child).is_none() {
            let _ = self.child.kill();
        }
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

/// How many calls a [`Strace::record`] file has; it must have been detached.
pub fn count(file: &Path) -> usize {
    let text = std::fs::read_to_string(file).expect("strace has written it");
    let is_call = |line: &&str| line.contains('(') && !line.contains("resumed>");
    text.lines().filter(is_call).count()
}
