//! Which server a request goes to, when it is sent again, and what may be said of its outcome.
//!
//! Pure: no sockets, no threads, no clock. `now` is an argument and chance is seeded, so that the
//! simulator drives the same code that programs link.
//!
//! - [`Router`] knows the servers: who leads, who answers, how fast, who is better left alone.
//! - [`Course`] is one call's way among them. The shell asks it [`next`](Course::next), does what
//!   it says, and tells it what came of it, until it has an end.
//! - [`Search`] is what it finds them with, and [`Refusal`] what it makes of an error code; a
//!   pipeline keeps the same rules with these for thousands of requests at once.
//! - [`Sequences`] numbers the writes of one session, so that the cluster knows a second sending.

mod course;
mod refusal;
mod router;
mod search;
mod sequences;
mod tried;

pub use course::{Course, End, EndReason, Heard, Kind, Step, Verdict};
pub use refusal::Refusal;
pub use router::{NODES_MAX, NodeIndex, ReadFrom, Router};
pub use search::{Found, Search, Target};
pub use sequences::{Numbered, Sequences};
pub use tried::Tried;
