//! What clients of a real server see while it is killed, restarted and stalled is linearizable.
//!
//! The judge of that, `tests/support/linearizable.rs`, is judged here first: by small histories
//! with a known verdict, by trying all orders of random ones, and by histories of etcd that others
//! have judged.

#[path = "../support/mod.rs"]
mod support;

mod all_orders;
mod clients;
mod jepsen_etcd;
mod judge;
mod single_node;
