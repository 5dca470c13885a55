//! From nothing to many keys, each insert timed: no growth of the table may stop the world.
//!
//! The slowest inserts are not the table's. They are the first to touch fresh memory, which the
//! kernel hands out, zeroed, in pages of 2 MiB where it can: some 0.2 ms each, and several on a
//! virtual machine whose host has to find the memory first. `MIMALLOC_ALLOW_THP=0` in the
//! environment shows the same in pages of 4 KiB, at a price for every lookup.

use std::time::Instant;

use hdrhistogram::Histogram;
use kvorum::core::store::Store;
use kvorum_protocol::LogIndex;
use rustix::time::{ClockId, clock_gettime};

use super::{VALUE, numbered};

/// Inserts `keys` keys of 16 bytes with values of 100, and prints what that took.
pub fn run(keys: u64) {
    let resident_before = resident_bytes();
    let mut store = Store::new(1);
    let mut wall = histogram();
    let mut cpu = histogram();
    let (mut wall_at, mut cpu_at) = (Instant::now(), thread_cpu_ns());
    for number in 0..keys {
        store.set(LogIndex(number + 1), &numbered(number), &VALUE);
        let (wall_now, cpu_now) = (Instant::now(), thread_cpu_ns());
        let wall_ns = wall_now.duration_since(wall_at).as_nanos();
        wall.saturating_record(u64::try_from(wall_ns).unwrap_or(u64::MAX));
        cpu.saturating_record(cpu_now - cpu_at);
        (wall_at, cpu_at) = (wall_now, cpu_now);
    }
    println!("{keys} inserts of 16 + 100 bytes, each with the reading of two clocks");
    print("elapsed, with what else the machine did", &wall);
    print("of this thread's processor time", &cpu);
    let keys = store.len().max(1);
    println!(
        "{} resident and {} counted bytes a key",
        (resident_bytes() - resident_before) / keys,
        store.bytes() / keys
    );
}

/// Of nanoseconds, up to ten seconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("good bounds")
}

fn print(what: &str, histogram: &Histogram<u64>) {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "  p50 {:.2}  p99 {:.2}  p99.99 {:.1}  p99.9999 {:.1}  max {:.1} us {what}",
        at(0.5),
        at(0.99),
        at(0.9999),
        at(0.999_999),
        at(1.0),
    );
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    seconds * 1_000_000_000 + nanos
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).expect("the second figure is the resident set");
    pages.parse::<usize>().expect("a number") * rustix::param::page_size()
}
