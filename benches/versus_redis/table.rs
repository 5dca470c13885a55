//! The results, a line for each row as soon as it is there.

use std::process::Command;

use crate::rows::{Row, Work};
use crate::support::generators::Sample;
use crate::support::stats::{self, OTHERS_TOLERATED, ratio_range};
use crate::{Comparison, Options};

/// A thread that is on a CPU for this share of the time can do no more.
const SATURATED: f64 = 0.95;

/// The conditions, and the names of the columns.
pub fn print_header(options: &Options) {
    let version = Command::new(&options.common.redis_server).arg("--version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!("{}; {cores} cores", version.unwrap_or_else(|error| error.to_string()));
    println!(
        "keys of 16 B over 1 M, values of 100 B, 50 connections unless said; medians of {} runs of \
         {} s, sides in turns; kvorum --fsync always in every row",
        options.common.runs(),
        options.common.seconds()
    );
    println!(
        "{:<29}{:>12}{:>12}{:>8}{:>14}{:>8}{:>5}{:>9}{:>9}  {:<24}Redis",
        "requests per second",
        "kvorum",
        "Redis",
        "ratio",
        "least..most",
        "target",
        "",
        "us/op k",
        "us/op R",
        "saturated k / R"
    );
}

/// One line, or two when there is something to object to.
pub fn print_row(row: &Row, comparison: &Comparison) {
    match row.work {
        Work::Throughput(_) | Work::RedisBenchmark(_) => print_throughput(row, comparison),
        Work::GetBesideSet => print_latency(row, comparison),
    }
    // Beside other work, that work would count as others.
    let samples = match row.work {
        Work::Throughput(_) | Work::RedisBenchmark(_) => {
            comparison.kvorum.iter().chain(&comparison.redis)
        }
        Work::GetBesideSet => comparison.kvorum_alone.iter().chain(&comparison.redis_alone),
    };
    let others = samples.map(|sample| sample.others).fold(0.0, f64::max);
    if others > OTHERS_TOLERATED {
        println!("  doubtful: in one run, others used up to {others:.2} cores");
    }
}

fn print_throughput(row: &Row, comparison: &Comparison) {
    let Comparison { kvorum, redis, .. } = comparison;
    let per_second = |samples: &[Sample]| median(samples, |sample| sample.per_second);
    let ratio = per_second(kvorum) / per_second(redis);
    let all =
        |samples: &[Sample]| samples.iter().map(|sample| sample.per_second).collect::<Vec<_>>();
    let (least, most) = ratio_range(all(kvorum), all(redis));
    println!(
        "{:<29}{:>12.0}{:>12.0}{:>8.2}{:>14}{:>8.2}{:>5}{:>9.3}{:>9.3}  {:<24}{}",
        row.title,
        per_second(kvorum),
        per_second(redis),
        ratio,
        format!("{least:.2}..{most:.2}"),
        row.target,
        if ratio >= row.target { "yes" } else { "NO" },
        median(kvorum, |sample| sample.server_us),
        median(redis, |sample| sample.server_us),
        format!("{} / {}", saturated(kvorum), saturated(redis)),
        row.redis.describe(),
    );
}

fn print_latency(row: &Row, comparison: &Comparison) {
    let p99 = |samples: &[Sample]| median(samples, |sample| sample.p99_us);
    let (beside, alone) = (p99(&comparison.kvorum), p99(&comparison.kvorum_alone));
    let (redis_beside, redis_alone) = (p99(&comparison.redis), p99(&comparison.redis_alone));
    println!("{}, us", row.title);
    println!(
        "  kvorum{beside:>9.0} beside, {alone:.0} alone: {:.2} times; target at most {}: {}",
        beside / alone,
        row.target,
        if beside / alone <= row.target { "yes" } else { "NO" }
    );
    println!(
        "  Redis {redis_beside:>9.0} beside, {redis_alone:.0} alone: {:.2} times ({})",
        redis_beside / redis_alone,
        row.redis.describe()
    );
}

/// The commands of each row, in the order in which they were started.
pub fn print_commands(rows: &[(&str, Vec<String>)]) {
    println!("\ncommands; keys were stored before by 'kvorum bench --preload --seconds 0'");
    for (name, commands) in rows {
        println!("{name}:");
        for command in commands {
            println!("  {command}");
        }
    }
}

fn saturated(samples: &[Sample]) -> &'static str {
    let server = median(samples, |sample| sample.server_busy) >= SATURATED;
    let generator = median(samples, |sample| sample.generator_busy) >= SATURATED;
    match (server, generator) {
        (true, true) => "both",
        (true, false) => "server",
        (false, true) => "generator",
        (false, false) => "neither",
    }
}

fn median(samples: &[Sample], figure: impl Fn(&Sample) -> f64) -> f64 {
    stats::median(samples.iter().map(figure))
}
