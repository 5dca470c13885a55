//! Time as the core sees it: an argument, never a call.

use std::time::Duration;

/// A point of monotonic time, in nanoseconds since a start that only the shell knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// A point that no run reaches: the deadline of what has none.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// The point `duration` after this one; saturates at [`Instant::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Instant {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }

    /// How long from `earlier` to here; zero when `earlier` is not earlier.
    #[must_use]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The two clocks of a turn, read once by the shell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timers: CLOCK_MONOTONIC, never set back.
    pub monotonic: Instant,
    /// For log time: milliseconds since the Unix epoch, may jump either way.
    pub wall_ms: u64,
}
