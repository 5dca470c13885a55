//! When a connection may send: as soon as it has its replies, or at times fixed beforehand.

use std::time::Duration;

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// For so long, in nanoseconds.
    Time(u64),
    /// So many requests.
    Requests(u64),
}

/// When the run began and which part of it is measured, in nanoseconds of the engine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first request.
    pub(crate) start_ns: u64,
    /// The warm-up ends here.
    pub(crate) measured_from_ns: u64,
    /// What is sent from then on.
    pub(crate) amount: Amount,
}

/// Decides how many requests a connection may send now, and which time they bear.
#[derive(Clone, Debug)]
pub(crate) enum Pacer {
    /// Closed loop: a connection sends when its replies are there.
    Closed(Closed),
    /// Open loop: each request has its time, whatever the server does.
    Open(Schedule),
}

/// The end of a closed loop.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    span: Span,
    sent_measured: u64,
}

impl Closed {
    /// Nothing sent yet.
    pub(crate) fn new(span: Span) -> Closed {
        Closed { span, sent_measured: 0 }
    }

    /// How many requests may still be sent.
    pub(crate) fn allowance(&self, now_ns: u64) -> u64 {
        match self.span.amount {
            _ if now_ns < self.span.measured_from_ns => u64::MAX,
            Amount::Time(ns) if now_ns >= self.span.measured_from_ns + ns => 0,
            Amount::Time(_) => u64::MAX,
            Amount::Requests(count) => count - self.sent_measured,
        }
    }

    /// Notes that so many requests, within the allowance, were sent.
    pub(crate) fn sent(&mut self, now_ns: u64, count: u64) {
        if now_ns >= self.span.measured_from_ns {
            self.sent_measured += count;
        }
    }
}

/// A fixed rate over all connections: request i of the run is due at `start + i / rate`, on
/// connection `i mod connections`. Its latency counts from then, also when the connection is still
/// busy: a stall of the server delays all requests that were due during it, as it would delay
/// independent clients (Tene, "How NOT to Measure Latency": coordinated omission).
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    start_ns: u64,
    per_second: u64,
    connections: u64,
    /// How many requests there are in all, those of the warm-up included.
    total: u64,
}

const NS_PER_S: u64 = 1_000_000_000;

impl Schedule {
    /// `per_second` requests a second over so many connections.
    ///
    /// # Panics
    /// When either is zero.
    pub(crate) fn new(span: Span, per_second: u32, connections: u64) -> Schedule {
        assert!(per_second > 0 && connections > 0);
        let per_second = u64::from(per_second);
        let mut schedule = Schedule { start_ns: span.start_ns, per_second, connections, total: 0 };
        schedule.total = match span.amount {
            Amount::Time(ns) => schedule.due_before(span.measured_from_ns + ns),
            Amount::Requests(count) => schedule.due_before(span.measured_from_ns) + count,
        };
        schedule
    }

    /// The time between two requests.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_nanos(NS_PER_S / self.per_second)
    }

    /// How many requests there are in all.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// How many requests of the run are due at `now_ns`.
    pub(crate) fn due(&self, now_ns: u64) -> u64 {
        self.due_before(now_ns + 1).min(self.total)
    }

    /// How many of the first `due` requests of the run belong to this connection.
    pub(crate) fn due_on(&self, connection: u64, due: u64) -> u64 {
        (due + self.connections - 1 - connection) / self.connections
    }

    /// When request `number` of a connection, counted from 0, is to be sent.
    pub(crate) fn time_of(&self, connection: u64, number: u64) -> u64 {
        let index = number * self.connections + connection;
        let (seconds, rest) = (index / self.per_second, index % self.per_second);
        self.start_ns + seconds * NS_PER_S + rest * NS_PER_S / self.per_second
    }

    /// How many requests are due before `ns`, leaving the total aside.
    fn due_before(&self, ns: u64) -> u64 {
        let elapsed = ns.saturating_sub(self.start_ns);
        let (seconds, rest) = (elapsed / NS_PER_S, elapsed % NS_PER_S);
        seconds * self.per_second + (rest * self.per_second).div_ceil(NS_PER_S)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(amount: Amount) -> Span {
        Span { start_ns: 1_000, measured_from_ns: 11_000, amount }
    }

    #[test]
    fn a_closed_loop_ends_with_its_time() {
        let mut closed = Closed::new(span(Amount::Time(5_000)));
        for (now_ns, allowance) in [(1_000, u64::MAX), (15_999, u64::MAX), (16_000, 0)] {
            assert_eq!(closed.allowance(now_ns), allowance);
            closed.sent(now_ns, 7);
        }
    }

    #[test]
    fn a_closed_loop_ends_with_its_requests_not_counting_the_warm_up() {
        let mut closed = Closed::new(span(Amount::Requests(10)));
        closed.sent(10_999, 100);
        assert_eq!(closed.allowance(11_000), 10);
        closed.sent(11_000, 6);
        assert_eq!(closed.allowance(99_000), 4);
        closed.sent(11_000, 4);
        assert_eq!(closed.allowance(99_000), 0);
    }

    #[test]
    fn a_schedule_spreads_its_requests_over_time_and_connections() {
        // One request a microsecond, 10 of them before the measurement, 25 in all.
        let schedule = Schedule::new(span(Amount::Time(15_000)), 1_000_000, 4);
        assert_eq!(schedule.total(), 25);
        for (now_ns, due) in [(1_000, 1), (1_999, 1), (2_000, 2), (25_999, 25), (90_000, 25)] {
            assert_eq!(schedule.due(now_ns), due, "at {now_ns}");
        }
        assert_eq!((0..4).map(|c| schedule.due_on(c, 25)).collect::<Vec<_>>(), [7, 6, 6, 6]);
        assert_eq!((0..4).map(|c| schedule.due_on(c, 2)).collect::<Vec<_>>(), [1, 1, 0, 0]);
        assert_eq!(schedule.time_of(0, 0), 1_000);
        assert_eq!(schedule.time_of(3, 0), 4_000);
        assert_eq!(schedule.time_of(1, 2), 10_000);
        let by_count = Schedule::new(span(Amount::Requests(3)), 1_000_000, 4);
        assert_eq!(by_count.total(), 13);
    }

    #[test]
    fn a_request_is_due_at_its_time_and_not_before_at_any_rate() {
        for per_second in [1, 3, 7, 999, 70_001, 3_333_333] {
            let amount = Amount::Time(u64::MAX / 4);
            let span = Span { start_ns: 17, measured_from_ns: 17, amount };
            let schedule = Schedule::new(span, per_second, 3);
            for index in (0..1000).chain(1_000_000..1_000_100) {
                let time = schedule.time_of(index % 3, index / 3);
                assert!(schedule.due(time) > index, "rate {per_second}, request {index}");
                assert!(schedule.due(time - 1) <= index, "rate {per_second}, request {index}");
            }
        }
    }
}
