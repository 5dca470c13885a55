//! The only place where the server reads a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::core::Now;
use crate::core::time;

/// Both clocks, relative to its own start for the monotonic one.
#[derive(Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts at zero.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Reads the monotonic clock.
    pub fn monotonic(&self) -> time::Instant {
        time::Instant::default().after(self.start.elapsed())
    }

    /// Reads both clocks: once a turn.
    pub fn now(&self) -> Now {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            monotonic: self.monotonic(),
            wall_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
