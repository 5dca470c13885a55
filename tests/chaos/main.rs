//! Clusters of real processes under faults: nodes that are killed and stopped, networks that are
//! cut, links that delay and corrupt, disks that fail, freeze and fill up.
//!
//! Clients ask all the time and write down what they are told; at the end of each scenario that
//! must be linearizable, every node must hold the same, and every acknowledged write must stand in
//! every log ([`verdict`]). A scenario goes on when requests have been answered, not when time has
//! passed, so that a cluster that does nothing can not pass.
//!
//! Each scenario prints a line. What the machine does not allow (network namespaces, loop mounts)
//! is skipped, and said so: the count of skipped scenarios stands in each line.
//! `KVORUM_CHAOS_SECONDS=600 cargo test --test chaos` repeats each scenario for so long.

#[path = "../support/mod.rs"]
mod support;

mod anything;
mod crashes;
mod cuts;
mod disks;
mod learners;
mod links;
mod namespace;
mod network;
mod proxy;
mod stop;
mod traffic;
mod trial;
mod verdict;
