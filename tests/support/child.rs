//! Programs that tests start. Each ends in time, or the test ends it: no test waits for ever.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{PATIENCE, deadline};

/// How long a program may run that a test waits for. It may do several things one after the other,
/// and has its own patience with each.
const LIFE_MAX: Duration = Duration::from_secs(3 * PATIENCE.as_secs());

/// Kills a program that runs for too long, unless it is dropped before. Whoever waits for the
/// program's end or for its words then sees an end that no test takes for a good one.
pub struct Watchdog {
    /// Hangs up when it is dropped.
    _leash: Sender<()>,
}

impl Watchdog {
    pub fn over(child: &Child) -> Watchdog {
        // Not by its number: that may be another's by then.
        let program: OwnedFd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
            .expect("the child is ours and was not waited for");
        let (leash, hung_up) = channel();
        thread::spawn(move || {
            if hung_up.recv_timeout(LIFE_MAX) == Err(RecvTimeoutError::Timeout) {
                eprintln!("a program does not end in {LIFE_MAX:?} and is killed");
                let _ = pidfd_send_signal(program, Signal::KILL);
            }
        });
        Watchdog { _leash: leash }
    }
}

/// What [`Command::output`] and [`Child::wait_with_output`] do, with an end.
pub trait Ends {
    /// All that the program says until its end.
    ///
    /// # Errors
    /// When it can not be started, or not be read.
    fn output_in_time(self) -> io::Result<Output>;
}

impl Ends for &mut Command {
    fn output_in_time(self) -> io::Result<Output> {
        self.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?.output_in_time()
    }
}

impl Ends for Child {
    fn output_in_time(self) -> io::Result<Output> {
        let _watchdog = Watchdog::over(&self);
        self.wait_with_output()
    }
}

/// Waits for the end of a program that has been told to end, or has said so.
///
/// # Panics
/// When it does not end.
pub fn end_of(child: &mut Child) -> ExitStatus {
    try_end_of(child).unwrap_or_else(|| panic!("process {} does not end", child.id()))
}

/// The same where a panic would hide what has gone wrong before; `None` when it does not end.
pub fn try_end_of(child: &mut Child) -> Option<ExitStatus> {
    if let Some(ended) = child.try_wait().expect("the child is ours") {
        return Some(ended);
    }
    let program = pidfd_open(Pid::from_child(child), PidfdFlags::empty())
        .expect("the child is ours and was not waited for");
    let left = deadline().saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).expect("patience is short");
    // It is readable when the program has ended (pidfd_open(2)).
    let mut watched = [PollFd::new(&program, PollFlags::IN)];
    if poll(&mut watched, Some(&left)).expect("it is a valid descriptor") == 0 {
        return None;
    }
    // Not `try_wait`: a tracer learns of the end first, and until it has let go of the process
    // there is nothing for its parent to collect (ptrace(2), "Death under ptrace").
    Some(child.wait().expect("the child is ours"))
}
