//! How far a long command is, on standard error, about once a second.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_secs(1);

/// Nothing is said about what is done within a second.
pub(super) struct Progress {
    what: &'static str,
    unit: &'static str,
    start: Instant,
    told: Instant,
    last: (u64, Option<u64>),
    was_told: bool,
}

impl Progress {
    /// `backup: 12 of 340 MiB` is of `what` "backup" and of `unit` "MiB".
    pub(super) fn new(what: &'static str, unit: &'static str) -> Progress {
        let now = Instant::now();
        Progress { what, unit, start: now, told: now, last: (0, None), was_told: false }
    }

    /// So much is done, of so much as far as that is known.
    pub(super) fn at(&mut self, done: u64, of: Option<u64>) {
        self.last = (done, of);
        if self.told.elapsed() >= INTERVAL {
            (self.told, self.was_told) = (Instant::now(), true);
            self.tell("");
        }
    }

    /// It is done.
    pub(super) fn end(&self) {
        if self.was_told {
            self.tell(&format!(" in {:.1} s", self.start.elapsed().as_secs_f64()));
        }
    }

    fn tell(&self, behind: &str) {
        let (what, unit, (done, of)) = (self.what, self.unit, self.last);
        let of = of.map_or_else(String::new, |of| format!(" of {of}"));
        // With standard error gone there is nobody left to tell.
        let _ = writeln!(io::stderr(), "{what}: {done}{of} {unit}{behind}");
    }
}
