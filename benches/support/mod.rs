//! What the comparisons with other servers share: their options, starting and ending processes,
//! running the load generators, and medians.

#![allow(dead_code, reason = "each comparison uses its own part")]

pub mod generators;
pub mod options;
pub mod process;
pub mod servers;
pub mod stats;
