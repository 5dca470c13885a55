//! The results, a few lines for each row as soon as they are there.

use std::process::Command;
use std::time::Duration;

use crate::Options;
use crate::rows::{Row, Work};
use crate::support::generators::Sample;
use crate::support::stats::{OTHERS_TOLERATED, median, ratio_range};

/// The samples of a contender, with its name.
type Results = (String, Vec<Sample>);

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
    let Work::Throughput { against, p50_us, .. } = row.work else { return };
    let [(_, kvorum), peers @ ..] = results else { return };
    println!("{}", row.title);
    let mut passes = true;
    for ((name, peer), (_, goal)) in peers.iter().zip(against) {
        let (ours, theirs) = (per_second(kvorum), per_second(peer));
        let ratio = median(ours.clone()) / median(theirs.clone());
        passes &= ratio >= *goal;
        print_line(name, [&ours, &theirs], (ratio, *goal, ratio >= *goal), [kvorum, peer]);
    }
    if let Some(goal) = p50_us {
        let p50 = median(kvorum.iter().map(|sample| sample.p50_us));
        passes &= p50 < goal;
        println!("  p50 of kvorum {p50:.0} us, goal below {goal:.0}: {}", yes(p50 < goal));
    }
    print_verdict(row, passes, results);
}

/// Three nodes, the first, against one: CPU time per request.
pub fn print_spread(row: &Row, results: &[Results]) {
    let (Work::Spread { at_most, .. }, [(_, three), (_, one)]) = (row.work, results) else {
        return;
    };
    println!("{} (ratio: of the CPU time per request, at most)", row.title);
    let cost = |samples: &[Sample]| median(samples.iter().map(|sample| sample.server_us));
    let ratio = cost(three) / cost(one);
    let goal = (ratio, at_most, ratio <= at_most);
    print_line("one node", [&per_second(three), &per_second(one)], goal, [three, one]);
    print_verdict(row, ratio <= at_most, results);
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

/// One comparison, the reached and the wanted ratio among it.
fn print_line(
    name: &str,
    per_second: [&Vec<f64>; 2],
    (ratio, goal, is_reached): (f64, f64, bool),
    samples: [&[Sample]; 2],
) {
    let [ours, theirs] = per_second.map(|figures| median(figures.iter().copied()));
    let (least, most) = ratio_range(per_second[0].iter().copied(), per_second[1].iter().copied());
    let both = |figure: fn(&Sample) -> f64| samples.map(|one| median(one.iter().map(figure)));
    let (cost, p50) = (both(|sample| sample.server_us), both(|sample| sample.p50_us));
    println!(
        "  {name:<20}{ours:>12.0}{theirs:>12.0}{ratio:>8.2}{:>14}{goal:>8.1}{:>5}{:>9.2}{:>9.2}\
         {:>10.0}{:>10.0}",
        format!("{least:.2}..{most:.2}"),
        yes(is_reached),
        cost[0],
        cost[1],
        p50[0],
        p50[1],
    );
}

/// The last line of a row.
fn print_verdict(row: &Row, passes: bool, results: &[Results]) {
    let samples = results.iter().flat_map(|(_, samples)| samples);
    let others = samples.map(|sample| sample.others).fold(0.0, f64::max);
    if others > OTHERS_TOLERATED {
        println!("  doubtful: in one run, others used up to {others:.2} cores");
    }
    println!("  {}: {}", row.name, if passes { "pass" } else { "short" });
}

fn per_second(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|sample| sample.per_second).collect()
}

fn yes(is_reached: bool) -> &'static str {
    if is_reached { "yes" } else { "NO" }
}
