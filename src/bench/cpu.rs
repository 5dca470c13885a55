//! How much CPU time processes use, from `/proc` (proc(5), Linux).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::{fs, io};

/// The CPU time of every thread of some processes at one moment.
#[derive(Clone, Debug, Default)]
pub struct CpuTimes {
    /// Nanoseconds, by thread id.
    threads: HashMap<u32, u64>,
}

/// How much CPU time was used between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// By all threads together, in nanoseconds.
    pub total_ns: u64,
    /// By the thread that used the most.
    pub busiest_thread_ns: u64,
}

impl CpuTimes {
    /// Reads the times of the processes with these ids. A process that is gone has none.
    #[must_use]
    pub fn read(pids: &[u32]) -> CpuTimes {
        let mut threads = HashMap::new();
        for pid in pids {
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
                continue;
            };
            for task in tasks.flatten() {
                let id = task.file_name().to_str().and_then(|name| name.parse().ok());
                if let (Some(id), Some(ns)) = (id, thread_ns(&task.path())) {
                    threads.insert(id, ns);
                }
            }
        }
        CpuTimes { threads }
    }

    /// What was used since `earlier`; `None` when there was nothing to read. Threads that ended
    /// in between are not seen.
    #[must_use]
    pub fn since(&self, earlier: &CpuTimes) -> Option<CpuUse> {
        let used = |(id, ns): (&u32, &u64)| {
            ns.saturating_sub(earlier.threads.get(id).copied().unwrap_or(0))
        };
        let busiest_thread_ns = self.threads.iter().map(used).max()?;
        Some(CpuUse { total_ns: self.threads.iter().map(used).sum(), busiest_thread_ns })
    }
}

/// Nanoseconds on a CPU: from `schedstat` where the kernel keeps it, else in ticks from `stat`.
fn thread_ns(task: &Path) -> Option<u64> {
    let schedstat = fs::read_to_string(task.join("schedstat")).ok();
    schedstat.as_deref().and_then(schedstat_ns).or_else(|| {
        let stat = fs::read_to_string(task.join("stat")).ok()?;
        Some(stat_ticks(&stat)? * 1_000_000_000 / rustix::param::clock_ticks_per_second())
    })
}

/// The first field; all are 0 in kernels that do not count.
fn schedstat_ns(schedstat: &str) -> Option<u64> {
    schedstat.split(' ').next()?.parse().ok().filter(|&ns| ns > 0)
}

/// utime and stime, the 14th and 15th field. The second is a name in parentheses that may hold
/// spaces and parentheses itself.
fn stat_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// The process that listens on this loopback address; `None` when the address is elsewhere, or
/// the process is another user's.
#[must_use]
pub fn find_listener(address: SocketAddr) -> Option<u32> {
    if !address.ip().is_loopback() {
        return None;
    }
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let link = tables.into_iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        Some(format!("socket:[{}]", listening_inode(&table, address.port())?))
    })?;
    processes().ok()?.find(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
        descriptors.into_iter().flatten().flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == link.as_str())
        })
    })
}

fn processes() -> io::Result<impl Iterator<Item = u32>> {
    let entries = fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The inode of the socket in state LISTEN (0A) with this local port.
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
        if listens { fields.get(9)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(find_listener(listener.local_addr().unwrap()), Some(std::process::id()));
        assert_eq!(find_listener("192.0.2.1:80".parse().unwrap()), None);
    }

    #[test]
    fn own_work_shows_in_the_times() {
        let pid = [std::process::id()];
        let before = CpuTimes::read(&pid);
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let used = CpuTimes::read(&pid).since(&before).expect("this process exists");
            if used.total_ns > 0 && used.busiest_thread_ns > 0 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "no CPU time in ten seconds of work");
        }
    }

    #[test]
    fn processes_that_are_not_there_have_no_times() {
        let none = CpuTimes::read(&[]);
        assert_eq!(none.since(&none), None);
    }

    #[test]
    fn the_fields_of_the_kernel_are_read() {
        assert_eq!(schedstat_ns("641381 0 1\n"), Some(641_381));
        assert_eq!(schedstat_ns("0 0 0\n"), None);
        let stat = "7 (a) b (c) S 1 1 1 0 -1 4194560 100 0 0 0 12 34 0 0 20 0 1 0 5 6 7";
        assert_eq!(stat_ticks(stat), Some(46));
        let table = concat!(
            "  sl  local_address rem_address   st tx_queue rx_queue ...\n",
            "   0: 0100007F:18EB 00000000:0000 01 0:0 00:0 0 0 0 111 1\n",
            "   1: 0100007F:18EB 00000000:0000 0A 0:0 00:0 0 0 0 222 1\n",
        );
        assert_eq!(listening_inode(table, 6379), Some(222));
        assert_eq!(listening_inode(table, 80), None);
    }
}
