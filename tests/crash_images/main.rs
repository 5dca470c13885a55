//! What the log and the snapshots make of everything that can happen to a disk: power cuts, failing
//! operations, damage, a full disk. Each runs the real thing on a disk in memory.

#[path = "../support/log_workload.rs"]
mod log_workload;
#[path = "../support/memory_disk.rs"]
mod memory_disk;
#[path = "../support/snapshot_workload.rs"]
mod snapshot_workload;

mod damage;
mod disk;
mod format;
mod model;
mod power;
mod repair;
mod snapshot;
mod space;
