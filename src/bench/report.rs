//! The results for people and for programs.

use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::Args;
use super::cpu::CpuUse;
use super::engine::{Measurement, Progress};
use super::recorder::KindRecord;
use super::svg;
use super::timeline::{Mark, Point, Timeline};
use super::workload::Kind;

/// What the reports call the percentiles, and which they are.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// A thread that is on a CPU for this share of the time can do no more.
const SATURATED: f64 = 0.95;

/// The results of one measurement, with what was asked for.
#[derive(Debug)]
pub(crate) struct Report<'a> {
    args: &'a Args,
    measurement: &'a Measurement,
}

impl<'a> Report<'a> {
    /// A report of `measurement`, which `args` asked for.
    pub(crate) fn new(args: &'a Args, measurement: &'a Measurement) -> Report<'a> {
        Report { args, measurement }
    }

    fn kinds(&self) -> impl Iterator<Item = (Kind, &'a KindRecord)> {
        let recorder = &self.measurement.recorder;
        Kind::ALL
            .into_iter()
            .map(|kind| (kind, recorder.kind(kind)))
            .filter(|(_, record)| record.count() + record.errors > 0)
    }

    fn requests(&self) -> u64 {
        self.kinds().map(|(_, record)| record.count()).sum()
    }

    fn errors(&self) -> u64 {
        self.kinds().map(|(_, record)| record.errors).sum()
    }

    fn open(&self) -> u64 {
        self.kinds().map(|(_, record)| record.open).sum()
    }

    fn timeline(&self) -> Option<&'a Timeline> {
        self.measurement.recorder.timeline()
    }

    /// The timeline as a picture, if there is one.
    pub(crate) fn to_svg(&self) -> Option<String> {
        let title = format!("kvorum bench: {}", self.args.servers.join(", "));
        let subtitle = format!(
            "{} requests in {:.1} s, {} failed ({} of them open); {}",
            thousands(self.requests() as f64),
            self.measurement.elapsed.as_secs_f64(),
            thousands(self.errors() as f64),
            thousands(self.open() as f64),
            self.load(),
        );
        Some(svg::render(self.timeline()?, &title, &subtitle))
    }

    /// What was asked for, in one line.
    fn load(&self) -> String {
        let args = self.args;
        let pace = match (args.rate, args.refill, args.wait) {
            (Some(rate), ..) => format!("open loop at {rate} a second"),
            (None, false, None) => "closed loop".to_owned(),
            (None, false, Some(replicas)) => format!("closed loop with WAIT {replicas}"),
            (None, true, _) => "closed loop, refilled".to_owned(),
        };
        format!(
            "{}, {} connections, pipeline {}, {pace}",
            args.protocol.name(),
            args.connections,
            args.pipeline
        )
    }

    /// Whether the run was too short for a single request, as after a mere `--preload`.
    fn is_empty(&self) -> bool {
        self.requests() + self.errors() == 0
    }

    fn server_cpu(&self) -> Option<CpuUse> {
        self.measurement.server_cpu.filter(|_| !self.is_empty())
    }

    fn generator_cpu(&self) -> Option<CpuUse> {
        self.measurement.generator_cpu.filter(|_| !self.is_empty())
    }

    fn per_second(&self, count: u64) -> f64 {
        ratio(count as f64, self.measurement.elapsed.as_secs_f64())
    }

    /// Microseconds of CPU time per request, failed ones included.
    fn us_per_request(&self, used: CpuUse) -> f64 {
        ratio(used.total_ns as f64 / 1e3, (self.requests() + self.errors()) as f64)
    }

    /// Which share of the time the busiest thread was on a CPU.
    fn busiest_thread(&self, used: CpuUse) -> f64 {
        ratio(used.busiest_thread_ns as f64 / 1e9, self.measurement.elapsed.as_secs_f64())
    }

    /// Which side could do no more; `None` when not both of them are known.
    fn saturated(&self) -> Option<&'static str> {
        let is_saturated = |used: CpuUse| self.busiest_thread(used) >= SATURATED;
        let generator = is_saturated(self.generator_cpu()?);
        let server = is_saturated(self.server_cpu()?);
        Some(match (server, generator) {
            (true, true) => "both",
            (true, false) => "server",
            (false, true) => "generator",
            (false, false) => "neither",
        })
    }

    /// One JSON object. Times are in the unit that their names end with.
    pub(crate) fn to_json(&self) -> Value {
        let args = self.args;
        let mut operations = Map::new();
        for (kind, record) in self.kinds() {
            operations.insert(kind.name().to_owned(), self.operation_json(record));
        }
        let cpu = |used: Option<CpuUse>| {
            used.map(|used| {
                json!({
                    "us_per_request": self.us_per_request(used),
                    "busiest_thread": self.busiest_thread(used),
                })
            })
        };
        json!({
            "protocol": args.protocol.name(),
            "servers": args.servers,
            "connections": args.connections,
            "pipeline": args.pipeline,
            "refill": args.refill,
            "wait": args.wait,
            "rate_per_s": args.rate,
            "distribution": args.distribution.name(),
            "key_space": args.key_space,
            "key_bytes": args.key_bytes,
            "value_bytes": args.value_bytes,
            "seed": args.seed,
            "elapsed_s": self.measurement.elapsed.as_secs_f64(),
            "requests": self.requests(),
            "requests_per_s": self.per_second(self.requests()),
            "errors": self.errors(),
            "open": self.open(),
            "first_error": self.measurement.recorder.first_error(),
            "operations": operations,
            "server_cpu": cpu(self.server_cpu()),
            "generator_cpu": cpu(self.generator_cpu()),
            "saturated": self.saturated(),
            "timeline": self.timeline().map(timeline_json),
        })
    }

    fn operation_json(&self, record: &KindRecord) -> Value {
        let mut latency = Map::new();
        latency.insert("mean".into(), (record.latency_ns.mean() / 1e3).into());
        for (name, percentile) in PERCENTILES {
            let ns = record.latency_ns.value_at_percentile(percentile);
            latency.insert(name.into(), microseconds(ns).into());
        }
        latency.insert("max".into(), microseconds(record.latency_ns.max()).into());
        json!({
            "requests": record.count(),
            "requests_per_s": self.per_second(record.count()),
            "absent": record.absent,
            "errors": record.errors,
            "latency_us": latency,
        })
    }

    fn write_latencies(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8}{:>14}{:>12}{:>10}", "", "requests", "per s", "mean us")?;
        for (name, _) in PERCENTILES {
            write!(f, "{name:>10}")?;
        }
        writeln!(f, "{:>10}", "max")?;
        for (kind, record) in self.kinds() {
            let latency = &record.latency_ns;
            let per_second = self.per_second(record.count());
            write!(f, "{:<8}{:>14}", kind.name(), thousands(record.count() as f64))?;
            write!(f, "{:>12}{:>10.1}", thousands(per_second), latency.mean() / 1e3)?;
            for (_, percentile) in PERCENTILES {
                write!(f, "{:>10.1}", microseconds(latency.value_at_percentile(percentile)))?;
            }
            writeln!(f, "{:>10.1}", microseconds(latency.max()))?;
        }
        Ok(())
    }

    fn write_cpu(
        &self,
        f: &mut fmt::Formatter<'_>,
        name: &str,
        used: Option<CpuUse>,
    ) -> fmt::Result {
        match used {
            None => writeln!(f, "{name:<10} CPU time unknown"),
            Some(used) => writeln!(
                f,
                "{name:<10}{:>8.3} us of CPU per request, busiest thread {:.0} % of a core",
                self.us_per_request(used),
                self.busiest_thread(used) * 100.0
            ),
        }
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let args = self.args;
        writeln!(
            f,
            "{}; {} keys, {}, {} B; values {} B; seed {}",
            self.load(),
            args.key_space,
            args.distribution.name(),
            args.key_bytes,
            args.value_bytes,
            args.seed,
        )?;
        writeln!(
            f,
            "{} requests in {:.2} s: {} per second, {} errors",
            thousands(self.requests() as f64),
            self.measurement.elapsed.as_secs_f64(),
            thousands(self.per_second(self.requests())),
            self.errors(),
        )?;
        if self.is_empty() {
            return Ok(());
        }
        self.write_latencies(f)?;
        for (kind, record) in self.kinds().filter(|(_, record)| record.absent > 0) {
            let share = ratio(record.absent as f64, record.count() as f64) * 100.0;
            writeln!(f, "{}: {share:.1} % of the keys were absent", kind.name())?;
        }
        self.write_cpu(f, "server", self.server_cpu())?;
        self.write_cpu(f, "generator", self.generator_cpu())?;
        if let Some(side) = self.saturated() {
            writeln!(f, "saturated: {side}")?;
        }
        if self.open() > 0 {
            let open = thousands(self.open() as f64);
            writeln!(f, "{open} of the errors are writes that may have been applied")?;
        }
        if let Some(error) = self.measurement.recorder.first_error() {
            writeln!(f, "first error: {error}")?;
        }
        self.timeline().map_or(Ok(()), |timeline| write_timeline(f, timeline))
    }
}

fn timeline_json(timeline: &Timeline) -> Value {
    let point = |point: &Point| {
        json!({
            "reads": point.reads,
            "writes": point.writes,
            "errors": point.errors,
            "p50_us": microseconds(point.p50_ns),
            "p99_us": microseconds(point.p99_ns),
            "max_us": microseconds(point.max_ns),
        })
    };
    let seconds = |ns| Duration::from_nanos(ns).as_secs_f64();
    let mark = |mark: &Mark| json!({ "at_s": seconds(mark.at_ns), "words": mark.words });
    json!({
        "interval_s": seconds(timeline.interval_ns()),
        "points": timeline.points().iter().map(point).collect::<Vec<_>>(),
        "marks": timeline.marks().iter().map(mark).collect::<Vec<_>>(),
    })
}

/// One line for each interval, with what happened in it.
fn write_timeline(f: &mut fmt::Formatter<'_>, timeline: &Timeline) -> fmt::Result {
    writeln!(
        f,
        "{:>9}{:>12}{:>12}{:>10}{:>10}{:>10}{:>10}",
        "time s", "reads/s", "writes/s", "p50 us", "p99 us", "max us", "errors"
    )?;
    let mut marks = timeline.marks().iter().peekable();
    for (number, point) in (1..).zip(timeline.points()) {
        let end_ns = number * timeline.interval_ns();
        write!(
            f,
            "{:>9.3}{:>12}{:>12}{:>10.0}{:>10.0}{:>10.0}{:>10}",
            Duration::from_nanos(end_ns - timeline.interval_ns()).as_secs_f64(),
            thousands(timeline.per_second(point.reads)),
            thousands(timeline.per_second(point.writes)),
            microseconds(point.p50_ns),
            microseconds(point.p99_ns),
            microseconds(point.max_ns),
            point.errors,
        )?;
        while let Some(mark) = marks.next_if(|mark| mark.at_ns < end_ns) {
            write!(f, "  {}", mark.words)?;
        }
        writeln!(f)?;
    }
    Ok(())
}

/// One line for the last second.
pub(crate) fn progress_line(name: &str, progress: &Progress<'_>) -> String {
    let mut line = format!("{:>6.1} s {name}", progress.elapsed.as_secs_f64());
    let per_second = thousands(progress.per_second);
    write!(line, "  {per_second:>11} per s").expect("a String takes everything");
    if progress.is_warmup {
        line.push_str("  (warm-up)");
        return line;
    }
    for kind in Kind::ALL {
        let record = progress.recorder.kind(kind);
        if record.count() > 0 {
            let p50 = microseconds(record.latency_ns.value_at_percentile(50.0));
            let p99 = microseconds(record.latency_ns.value_at_percentile(99.0));
            let name = kind.name();
            write!(line, "  {name} p50 {p50:.0} p99 {p99:.0} us").expect("as above");
        }
    }
    let errors: u64 = Kind::ALL.map(|kind| progress.recorder.kind(kind).errors).iter().sum();
    if errors > 0 {
        write!(line, "  {errors} errors").expect("as above");
    }
    line
}

fn microseconds(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}

/// 0 instead of a division by zero: nothing was done in no time.
fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator == 0.0 { 0.0 } else { numerator / denominator }
}

/// A number without a fraction, in groups of three digits.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three() {
        for (number, text) in
            [(0.0, "0"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
    }
}
