//! Real processes for tests: a server in a directory of its own, clients for it, faults in its
//! system calls, and small disks that fill up.
//!
//! Nothing sleeps: every wait is for an event, and ends in a panic at [`PATIENCE`].

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod client;
pub mod disk;
pub mod history;
pub mod linearizable;
pub mod register;
pub mod resources;
pub mod server;
pub mod strace;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the test gives up. Far above what it takes on a busy machine:
/// no test is about speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The end of the patience that begins now.
pub fn deadline() -> Instant {
    Instant::now() + PATIENCE
}

/// Runs a tool of the system to its end, and panics with what it said when it fails.
pub fn tool(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `.ci/run` installs it"));
    assert!(
        output.status.success(),
        "{program} {arguments:?} ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
