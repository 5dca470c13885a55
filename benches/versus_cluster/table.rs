//! The results, a few lines for each row as soon as they are there.

use std::process::Command;
use std::time::Duration;

use crate::Options;
use crate::rows::{Row, Work};
use crate::support::generators::Sample;
use crate::support::stats::{OTHERS_TOLERATED, median, ratio_range};

/// What was measured of a contender.
pub struct Results {
    /// Whose.
    pub name: String,
    /// One for each run.
    pub samples: Vec<Sample>,
}

/// A ratio of kvorum to somebody else, and what it is to be.
#[derive(Clone, Copy)]
enum Goal {
    /// Requests a second.
    FasterBy(f64),
    /// CPU time of the servers per request.
    NotDearerThan(f64),
}

/// The conditions, and the names of the columns.
pub fn print_header(options: &Options) {
    let common = &options.common;
    for program in [&options.etcd, &common.redis_server] {
        let output = Command::new(program).arg("--version").output();
        let output = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let version = output.unwrap_or_else(|error| error.to_string());
        println!("{}", version.lines().next().unwrap_or_default());
    }
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    println!(
        "{cores} cores for all nodes and the generator; keys of 16 B over 1 M, values of 100 B; \
         medians of {} runs of {} s, in turns; every write is synced on a majority, Redis: on the \
         primary, and received by a replica",
        common.runs(),
        common.seconds()
    );
    println!(
        "{:<22}{:>12}{:>12}{:>8}{:>14}{:>8}{:>5}{:>9}{:>9}{:>10}{:>10}",
        "per second against",
        "kvorum",
        "peer",
        "ratio",
        "least..most",
        "goal",
        "",
        "us/op k",
        "us/op p",
        "p50 us k",
        "p50 us p"
    );
}

/// kvorum, the first, against each of the others.
pub fn print_throughput(row: &Row, results: &[Results]) {
    let (Work::Throughput { against, p50_us, .. }, [kvorum, peers @ ..]) = (row.work, results)
    else {
        return;
    };
    println!("{}", row.title);
    let mut passes = true;
    for (peer, (_, at_least)) in peers.iter().zip(against) {
        passes &= print_line(kvorum, peer, Goal::FasterBy(*at_least));
    }
    if let Some(goal) = p50_us {
        let p50 = median(kvorum.samples.iter().map(|sample| sample.p50_us));
        passes &= p50 < goal;
        println!("  p50 of kvorum {p50:.0} us, goal below {goal:.0}: {}", yes(p50 < goal));
    }
    print_verdict(row, passes, results);
}

/// Three nodes, the first, against one: CPU time per request.
pub fn print_spread(row: &Row, results: &[Results]) {
    let (Work::Spread { at_most, .. }, [three, one]) = (row.work, results) else { return };
    println!("{} (ratio: CPU time per request, at most)", row.title);
    let passes = print_line(three, one, Goal::NotDearerThan(at_most));
    print_verdict(row, passes, results);
}

/// How long kvorum, the first, and etcd could not write.
pub fn print_failover(row: &Row, gaps: &[Vec<Duration>; 2]) {
    let Work::Failover { at_least, p50_ms } = row.work else { return };
    println!("{}, {} times", row.title, gaps[0].len());
    let milliseconds = gaps.each_ref().map(|gaps| gaps.iter().map(|gap| gap.as_secs_f64() * 1e3));
    let medians = milliseconds.clone().map(median);
    let worst = milliseconds.map(|gaps| gaps.fold(0.0, f64::max));
    for (name, (median, worst)) in ["kvorum", "etcd"].iter().zip(medians.iter().zip(worst)) {
        println!("  {name:<8} median {median:.0} ms, worst {worst:.0} ms");
    }
    let ratio = medians[1] / medians[0];
    let (is_faster, is_fast) = (ratio >= at_least, medians[0] < p50_ms);
    println!("  {ratio:.1} times faster, goal {at_least}: {}", yes(is_faster));
    println!("  median of kvorum, goal below {p50_ms:.0} ms: {}", yes(is_fast));
    print_verdict(row, is_faster && is_fast, &[]);
}

/// One comparison; whether the goal is reached.
fn print_line(kvorum: &Results, peer: &Results, goal: Goal) -> bool {
    let both = |figure: fn(&Sample) -> f64| {
        [kvorum, peer].map(|side| side.samples.iter().map(figure).collect::<Vec<_>>())
    };
    let [rates, costs, p50s] =
        [both(|one| one.per_second), both(|one| one.server_us), both(|one| one.p50_us)];
    let [rate, cost, p50] = [&rates, &costs, &p50s].map(|both| both.clone().map(median));
    let (ratio, [ours, theirs]) = match goal {
        Goal::FasterBy(_) => (rate[0] / rate[1], rates),
        Goal::NotDearerThan(_) => (cost[0] / cost[1], costs),
    };
    let (limit, is_reached) = match goal {
        Goal::FasterBy(least) => (least, ratio >= least),
        Goal::NotDearerThan(most) => (most, ratio <= most),
    };
    let (least, most) = ratio_range(ours, theirs);
    println!(
        "  {:<20}{:>12.0}{:>12.0}{ratio:>8.2}{:>14}{limit:>8.1}{:>5}{:>9.2}{:>9.2}{:>10.0}{:>10.0}",
        peer.name,
        rate[0],
        rate[1],
        format!("{least:.2}..{most:.2}"),
        yes(is_reached),
        cost[0],
        cost[1],
        p50[0],
        p50[1],
    );
    is_reached
}

/// The last line of a row.
fn print_verdict(row: &Row, passes: bool, results: &[Results]) {
    let samples = results.iter().flat_map(|one| &one.samples);
    let others = samples.map(|sample| sample.others).fold(0.0, f64::max);
    if others > OTHERS_TOLERATED {
        println!("  doubtful: in one run, others used up to {others:.2} cores");
    }
    println!("  {}: {}", row.name, if passes { "pass" } else { "short" });
}

fn yes(is_reached: bool) -> &'static str {
    if is_reached { "yes" } else { "NO" }
}
