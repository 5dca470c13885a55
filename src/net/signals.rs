//! SIGTERM and SIGINT as something that the loop can wait for.

use std::io::{self, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

/// A second signal this long after the first does not wait for the disk. Sooner it is most likely
/// the same wish, sent twice: by a terminal and by a supervisor.
const SECOND_AFTER: Duration = Duration::from_secs(1);

/// The receiving end of both signals.
#[derive(Debug)]
pub struct Signals {
    pipe: UnixStream,
    first: Option<Instant>,
}

impl Signals {
    /// From here on the signals do not end the process by themselves.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn register() -> io::Result<Signals> {
        let (pipe, theirs) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
        }
        Ok(Signals { pipe, first: None })
    }

    /// Readable when a signal has come.
    pub fn descriptor(&self) -> RawFd {
        self.pipe.as_raw_fd()
    }

    /// Waits so long for a signal; answers whether one has ever come.
    pub fn await_wish_to_stop(&mut self, patience: Duration) -> bool {
        let timeout = Timespec::try_from(patience).expect("it is short");
        let mut pipe = [PollFd::new(&self.pipe, PollFlags::IN)];
        // However the wait ends, the pipe tells.
        let _ = poll(&mut pipe, Some(&timeout));
        self.wish_to_stop()
    }

    /// Whether a signal has ever come. Ends the process at once when somebody insists.
    pub fn wish_to_stop(&mut self) -> bool {
        let count = self.pipe.read(&mut [0; 16]).unwrap_or(0);
        match self.first {
            None if count > 0 => self.first = Some(Instant::now()),
            Some(first) if count > 0 && first.elapsed() >= SECOND_AFTER => {
                log::warn!("stopped by a second signal, without waiting for the log");
                std::process::exit(1);
            }
            _ => {}
        }
        self.first.is_some()
    }
}
