//! Which server a request goes to, when it is sent again, and what may be said of its outcome.
//!
//! Pure: no sockets, no threads, no clock. `now` is an argument and chance is seeded, so that the
//! simulator drives the same code that programs link.
//!
//! - [`Router`] knows the servers: who leads, who answers, how fast, who is better left alone.
//! - [`Course`] is one call's way among them. The shell asks it [`next`](Course::next), does what
//!   it says, and tells it what came of it, until it has an end.
//! - [`Sequences`] numbers the writes of one session, so that the cluster knows a second sending.

mod course;
mod router;
mod sequences;
mod tried;

pub use course::{Course, End, EndReason, Heard, Kind, Step, Verdict};
pub use router::{NODES_MAX, NodeIndex, ReadFrom, Router};
pub use sequences::{Numbered, Sequences};
pub use tried::Tried;
