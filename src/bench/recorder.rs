//! What came back, and when: counts and latency histograms for each kind of operation.

use hdrhistogram::Histogram;

use super::in_flight::Sent;
use super::replies::{Failure, Outcome};
use super::requests::Requests;
use super::timeline::Timeline;
use super::workload::Kind;

/// The longest latency that is told from longer ones.
pub(crate) const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// Three significant digits: an error of at most 0.1 %.
pub(crate) const LATENCY_DIGITS: u8 = 3;

/// Everything that was measured of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct KindRecord {
    /// Time from sending to reply, in nanoseconds, of each request that did not fail.
    pub(crate) latency_ns: Histogram<u64>,
    /// Of these, how many were answered that there is no such key.
    pub(crate) absent: u64,
    /// How many requests failed.
    pub(crate) errors: u64,
    /// Of these, how many writes may have been applied, or may yet be.
    pub(crate) open: u64,
}

impl KindRecord {
    /// How many requests did not fail.
    pub(crate) fn count(&self) -> u64 {
        self.latency_ns.len()
    }
}

/// Collects replies. Only requests sent at or after a given time belong to the measurement.
///
/// The replies of one read share a time, and mostly also that of their requests: they reach the
/// histograms as one entry with a count.
#[derive(Debug)]
pub(crate) struct Recorder {
    from_ns: u64,
    kinds: [KindRecord; 3],
    first_error: Option<String>,
    timeline: Option<Timeline>,
    /// When the replies at hand were read.
    now_ns: u64,
    run: Run,
}

/// Replies of one read to requests of one time, not yet in the histograms.
#[derive(Debug, Default)]
struct Run {
    at_ns: u64,
    counts: [u64; 3],
}

impl Recorder {
    /// A recorder for the requests sent from this time on, with a timeline if it is told the length
    /// of an interval.
    pub(crate) fn new(from_ns: u64, interval_ns: Option<u64>) -> Recorder {
        let latency_ns = Histogram::new_with_max(LATENCY_NS_MAX, LATENCY_DIGITS)
            .expect("the bounds are constants");
        let record = KindRecord { latency_ns, absent: 0, errors: 0, open: 0 };
        Recorder {
            from_ns,
            kinds: [record.clone(), record.clone(), record],
            first_error: None,
            timeline: interval_ns.map(|interval_ns| Timeline::new(from_ns, interval_ns)),
            now_ns: 0,
            run: Run::default(),
        }
    }

    /// Says when the replies that follow were read.
    pub(crate) fn begin_read(&mut self, now_ns: u64) {
        self.flush();
        self.now_ns = now_ns;
    }

    /// Takes one reply. With `check`, a value must be the one that these requests store.
    #[inline]
    pub(crate) fn reply(&mut self, sent: Sent, outcome: Outcome<'_>, check: Option<&Requests>) {
        match (sent.kind, outcome) {
            (Kind::Get, Outcome::Value(value)) => {
                if check.is_some_and(|requests| !requests.is_value_of(sent.key, value)) {
                    return self.wrong_value(sent, value);
                }
            }
            (Kind::Set | Kind::Delete, Outcome::Done) | (Kind::Delete, Outcome::Count(1..)) => {}
            (Kind::Get | Kind::Delete, Outcome::Absent) | (Kind::Delete, Outcome::Count(0)) => {
                if sent.at_ns >= self.from_ns {
                    self.kinds[sent.kind as usize].absent += 1;
                }
            }
            (_, Outcome::Failed(failure)) => return self.failed(sent, failure),
            _ => return self.failed(sent, Failure::Unexpected),
        }
        if sent.at_ns != self.run.at_ns {
            self.flush();
            self.run.at_ns = sent.at_ns;
        }
        self.run.counts[sent.kind as usize] += 1;
    }

    /// Brings the histograms up to date.
    pub(crate) fn flush(&mut self) {
        let counts = std::mem::take(&mut self.run.counts);
        if self.run.at_ns < self.from_ns {
            return;
        }
        let latency_ns = self.now_ns.saturating_sub(self.run.at_ns);
        for (kind, count) in Kind::ALL.into_iter().zip(counts) {
            if count > 0 {
                self.kinds[kind as usize].latency_ns.saturating_record_n(latency_ns, count);
                if let Some(timeline) = &mut self.timeline {
                    timeline.answered(self.now_ns, kind == Kind::Get, count, latency_ns);
                }
            }
        }
    }

    /// What was recorded of `kind`, as of the last [`flush`](Recorder::flush).
    pub(crate) fn kind(&self, kind: Kind) -> &KindRecord {
        &self.kinds[kind as usize]
    }

    /// The message of the first failure, also when it came during the warm-up.
    pub(crate) fn first_error(&self) -> Option<&str> {
        self.first_error.as_deref()
    }

    /// The timeline, if there is one.
    pub(crate) fn timeline(&self) -> Option<&Timeline> {
        self.timeline.as_ref()
    }

    /// Ends the timeline.
    pub(crate) fn finish(&mut self, now_ns: u64) {
        self.flush();
        if let Some(timeline) = &mut self.timeline {
            timeline.finish(now_ns);
        }
    }

    /// Notes in the timeline what has happened.
    pub(crate) fn mark(&mut self, now_ns: u64, words: String) {
        if let Some(timeline) = &mut self.timeline {
            timeline.mark(now_ns, words);
        }
    }

    /// The connection of a request is gone, as of the last [`begin_read`](Recorder::begin_read).
    #[cold]
    pub(crate) fn lost(&mut self, sent: Sent) {
        self.count_error(sent, sent.kind != Kind::Get, || "the connection was lost".to_owned());
    }

    #[cold]
    fn failed(&mut self, sent: Sent, failure: Failure<'_>) {
        let is_open = sent.kind != Kind::Get && failure.is_open();
        self.count_error(sent, is_open, || failure.to_string());
    }

    #[cold]
    fn wrong_value(&mut self, sent: Sent, value: &[u8]) {
        self.count_error(sent, false, || {
            let start = value[..value.len().min(60)].escape_ascii();
            format!("key {} has a value that was never stored: '{start}'", sent.key)
        });
    }

    fn count_error(&mut self, sent: Sent, is_open: bool, message: impl FnOnce() -> String) {
        if sent.at_ns >= self.from_ns {
            let record = &mut self.kinds[sent.kind as usize];
            record.errors += 1;
            record.open += u64::from(is_open);
            if let Some(timeline) = &mut self.timeline {
                timeline.failed(self.now_ns);
            }
        }
        if self.first_error.is_none() {
            self.first_error = Some(format!("{}: {}", sent.kind.name(), message()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(kind: Kind, at_ns: u64) -> Sent {
        Sent { kind, key: 1, at_ns }
    }

    #[test]
    fn latency_runs_from_each_request_to_its_read() {
        let mut recorder = Recorder::new(0, None);
        recorder.begin_read(5_000);
        for _ in 0..3 {
            recorder.reply(sent(Kind::Get, 1_000), Outcome::Value(b"v"), None);
        }
        recorder.reply(sent(Kind::Set, 1_000), Outcome::Done, None);
        recorder.reply(sent(Kind::Get, 4_000), Outcome::Absent, None);
        recorder.begin_read(9_000);
        recorder.reply(sent(Kind::Get, 4_000), Outcome::Value(b"v"), None);
        recorder.flush();
        let get = recorder.kind(Kind::Get);
        assert_eq!((get.count(), get.absent, get.errors), (5, 1, 0));
        let latency = &get.latency_ns;
        let at = |ns| latency.count_at(ns);
        assert_eq!((at(1_000), at(4_000), at(5_000)), (1, 3, 1));
        assert_eq!(recorder.kind(Kind::Set).count(), 1);
        assert_eq!(recorder.kind(Kind::Delete).count(), 0);
    }

    #[test]
    fn requests_of_the_warm_up_are_left_out() {
        let mut recorder = Recorder::new(100, None);
        recorder.begin_read(150);
        recorder.reply(sent(Kind::Get, 99), Outcome::Absent, None);
        recorder.reply(sent(Kind::Set, 99), Outcome::Failed(Failure::Line(b"ERR early")), None);
        recorder.reply(sent(Kind::Get, 100), Outcome::Absent, None);
        recorder.flush();
        let get = recorder.kind(Kind::Get);
        assert_eq!((get.count(), get.absent), (1, 1));
        assert_eq!(recorder.kind(Kind::Set).errors, 0);
        assert_eq!(recorder.first_error(), Some("set: ERR early"));
    }

    #[test]
    fn failures_are_counted_apart_and_the_first_is_kept() {
        let mut recorder = Recorder::new(0, None);
        recorder.begin_read(10);
        recorder.reply(sent(Kind::Set, 1), Outcome::Failed(Failure::Line(b"ERR one")), None);
        recorder.reply(sent(Kind::Set, 1), Outcome::Failed(Failure::Line(b"ERR two")), None);
        recorder.reply(sent(Kind::Get, 1), Outcome::Done, None);
        recorder.flush();
        assert_eq!(recorder.kind(Kind::Set).errors, 2);
        assert_eq!(recorder.kind(Kind::Set).count(), 0);
        assert_eq!(recorder.kind(Kind::Get).errors, 1);
        assert_eq!(recorder.first_error(), Some("set: ERR one"));
    }

    #[test]
    fn the_timeline_has_what_the_totals_have() {
        let mut recorder = Recorder::new(0, Some(100));
        recorder.begin_read(50);
        recorder.reply(sent(Kind::Get, 10), Outcome::Absent, None);
        recorder.begin_read(150);
        recorder.reply(sent(Kind::Set, 120), Outcome::Done, None);
        recorder.lost(sent(Kind::Set, 130));
        recorder.lost(sent(Kind::Get, 130));
        recorder.finish(200);
        let points = recorder.timeline().unwrap().points();
        assert_eq!((points[0].reads, points[0].writes, points[0].errors), (1, 0, 0));
        assert_eq!((points[1].reads, points[1].writes, points[1].errors), (0, 1, 2));
        let (get, set) = (recorder.kind(Kind::Get), recorder.kind(Kind::Set));
        assert_eq!((set.errors, set.open, get.errors, get.open), (1, 1, 1, 0));
    }

    #[test]
    fn a_latency_beyond_the_range_is_kept_as_the_longest() {
        let mut recorder = Recorder::new(0, None);
        recorder.begin_read(u64::MAX);
        recorder.reply(sent(Kind::Get, 0), Outcome::Absent, None);
        recorder.flush();
        assert!(recorder.kind(Kind::Get).latency_ns.max() >= LATENCY_NS_MAX);
    }
}
