//! The two clocks of a node: one that drifts, and one that also jumps.

use kvorum::core::{Instant, Now};

use crate::queue::{MILLISECOND, Time};

/// When every world begins, on the wall: some day in 2026.
const WALL_START_MS: u64 = 1_790_000_000_000;

/// How a node sees time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Nanoseconds of the monotonic clock per 1000 of the world: 800 to 1200.
    pub pace: u64,
    /// How far the wall clock is off.
    pub wall_offset_ms: i64,
}

impl Clock {
    /// What the node reads at `time`.
    pub fn now(&self, time: Time) -> Now {
        let wall_ms =
            (WALL_START_MS + time / MILLISECOND).saturating_add_signed(self.wall_offset_ms);
        Now { monotonic: Instant(time / 1000 * self.pace), wall_ms }
    }

    /// The first time at which the node's monotonic clock shows `instant`.
    pub fn time_of(&self, instant: Instant) -> Option<Time> {
        (instant != Instant::NEVER).then(|| instant.0.div_ceil(self.pace).saturating_mul(1000))
    }
}
