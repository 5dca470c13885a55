//! How a run went from interval to interval: how much was done, how long it took, what failed, and
//! who led.

use hdrhistogram::Histogram;

use super::recorder::{LATENCY_DIGITS, LATENCY_NS_MAX};

/// What came back in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// Reads that were answered.
    pub(crate) reads: u64,
    /// Writes that were done.
    pub(crate) writes: u64,
    /// Requests that failed, those with an open outcome included.
    pub(crate) errors: u64,
    /// Latencies of what did not fail, in nanoseconds; 0 when there was nothing.
    pub(crate) p50_ns: u64,
    /// As `p50_ns`.
    pub(crate) p99_ns: u64,
    /// As `p50_ns`.
    pub(crate) max_ns: u64,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Since the measurement began.
    pub(crate) at_ns: u64,
    /// For a person.
    pub(crate) words: String,
}

/// Points of equal length from the start of the measurement on, without gaps.
#[derive(Debug)]
pub(crate) struct Timeline {
    start_ns: u64,
    interval_ns: u64,
    points: Vec<Point>,
    marks: Vec<Mark>,
    /// The interval under way.
    current: Point,
    latency_ns: Histogram<u64>,
}

impl Timeline {
    /// A timeline that begins at `start_ns` of the engine's clock.
    ///
    /// # Panics
    /// When the interval is zero.
    pub(crate) fn new(start_ns: u64, interval_ns: u64) -> Timeline {
        assert!(interval_ns > 0);
        let latency_ns = Histogram::new_with_max(LATENCY_NS_MAX, LATENCY_DIGITS)
            .expect("the bounds are constants");
        let current = Point::default();
        Timeline {
            start_ns,
            interval_ns,
            points: Vec::new(),
            marks: Vec::new(),
            current,
            latency_ns,
        }
    }

    /// So many requests of a kind were answered at `now_ns`, after `latency_ns` each.
    pub(crate) fn answered(&mut self, now_ns: u64, is_read: bool, count: u64, latency_ns: u64) {
        self.advance(now_ns);
        let kind = if is_read { &mut self.current.reads } else { &mut self.current.writes };
        *kind += count;
        self.latency_ns.saturating_record_n(latency_ns, count);
    }

    /// A request has failed.
    pub(crate) fn failed(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.current.errors += 1;
    }

    /// Something has happened. What happens before the measurement is not told.
    pub(crate) fn mark(&mut self, now_ns: u64, words: String) {
        if let Some(at_ns) = now_ns.checked_sub(self.start_ns) {
            self.marks.push(Mark { at_ns, words });
        }
    }

    /// Ends the intervals that are over at `now_ns`.
    pub(crate) fn advance(&mut self, now_ns: u64) {
        while now_ns >= self.current_start_ns() + self.interval_ns {
            self.end_interval();
        }
    }

    /// Ends the timeline. The rate of an interval that has not come to its end would be too low: it
    /// is told only when there is no other.
    pub(crate) fn finish(&mut self, now_ns: u64) {
        self.advance(now_ns);
        if self.points.is_empty() && self.current != Point::default() {
            self.end_interval();
        }
    }

    fn current_start_ns(&self) -> u64 {
        self.start_ns + self.points.len() as u64 * self.interval_ns
    }

    fn end_interval(&mut self) {
        let latency = &self.latency_ns;
        if !latency.is_empty() {
            self.current.p50_ns = latency.value_at_percentile(50.0);
            self.current.p99_ns = latency.value_at_percentile(99.0);
            self.current.max_ns = latency.max();
        }
        self.latency_ns.reset();
        self.points.push(std::mem::take(&mut self.current));
    }

    /// The length of an interval.
    pub(crate) fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// The intervals, of which the first begins with the measurement.
    pub(crate) fn points(&self) -> &[Point] {
        &self.points
    }

    /// What happened, in its order.
    pub(crate) fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// `count` in one interval as a rate.
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        count as f64 * 1e9 / self.interval_ns as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_follow_each_other_without_a_gap() {
        let mut timeline = Timeline::new(1_000, 100);
        timeline.answered(1_010, true, 2, 5);
        timeline.answered(1_099, false, 1, 50);
        timeline.failed(1_350);
        timeline.mark(900, "early".to_owned());
        timeline.mark(1_360, "leader 2".to_owned());
        timeline.answered(1_420, true, 1, 70);
        timeline.finish(1_500);
        let points = timeline.points();
        assert_eq!(points.len(), 5);
        let [first, .., failed, last] = points else { panic!("five points") };
        assert_eq!((first.reads, first.writes, first.errors), (2, 1, 0));
        assert_eq!((first.p50_ns, first.p99_ns, first.max_ns), (5, 50, 50));
        assert_eq!(points[1..3], [Point::default(); 2]);
        assert_eq!((failed.reads + failed.writes, failed.errors, failed.max_ns), (0, 1, 0));
        assert_eq!((last.reads, last.max_ns), (1, 70), "latencies begin anew");
        assert_eq!(timeline.marks(), [Mark { at_ns: 360, words: "leader 2".to_owned() }]);
        assert!((timeline.per_second(3) - 3e7).abs() < 1.0);
    }

    #[test]
    fn the_part_of_an_interval_is_told_only_when_there_is_no_other() {
        for (at, points) in [(50, 1), (100, 1), (199, 1), (200, 2)] {
            let mut timeline = Timeline::new(0, 100);
            timeline.answered(10, true, 1, 5);
            timeline.answered(at, true, 1, 5);
            timeline.finish(at);
            assert_eq!(timeline.points().len(), points, "{at}");
        }
    }
}
