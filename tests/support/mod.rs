//! Real processes for tests: a server in a directory of its own, clients for it, faults in its
//! system calls, and small disks that fill up.
//!
//! Every wait is for an event or a condition, never for time to pass, and ends in a panic at
//! [`PATIENCE`].

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod child;
pub mod client;
pub mod cluster;
pub mod disk;
pub mod history;
pub mod linearizable;
pub mod package;
pub mod register;
pub mod resources;
pub mod server;
pub mod strace;
pub mod terminal;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use self::child::Ends as _;

/// How long anything may take before the test gives up. Far above what it takes on a busy machine:
/// no test is about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The end of the patience that begins now.
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Looks again and again until there is something to see: what other processes do among themselves
/// they announce to nobody here.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = deadline();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Raises a flag when it is dropped, also in a panic: for threads that run until it is raised.
pub struct Raises<'a>(pub &'a AtomicBool);

impl Drop for Raises<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs a tool of the system to its end, and panics with what it said when it fails.
pub fn tool(program: &str, arguments: &[&str]) {
    try_tool(program, arguments).unwrap_or_else(|reason| panic!("{reason}"));
}

/// Runs a tool of the system to its end.
///
/// # Errors
/// What it said when it failed.
pub fn try_tool(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output_in_time()
        .unwrap_or_else(|error| panic!("{program}: {error}; `.ci/run` installs it"));
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {arguments:?} ({}): {}", output.status, said.trim()))
}
