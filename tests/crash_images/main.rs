//! What the log makes of everything that can happen to a disk: power cuts, failing operations,
//! damage, a full disk. Each runs the real log on a disk in memory.

#[path = "../support/log_workload.rs"]
mod log_workload;
#[path = "../support/memory_disk.rs"]
mod memory_disk;

mod damage;
mod disk;
mod format;
mod model;
mod power;
mod space;
