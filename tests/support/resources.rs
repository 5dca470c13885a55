//! What a process takes from the machine, as proc(5) tells it.

use std::time::Duration;

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> usize {
    status(pid, "VmRSS:")
}

/// The most resident memory that there ever was, in bytes.
pub fn resident_bytes_max(pid: u32) -> usize {
    status(pid, "VmHWM:")
}

fn status(pid: u32, name: &str) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it has the line");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") << 10
}

/// CPU time of all threads since the start, in the kernel and out of it.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    // The name of the program may hold anything, but the last parenthesis closes it.
    let (_, fields) = stat.rsplit_once(") ").expect("it has a name");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
}

/// How many files it has open, sockets included.
pub fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count()
}
