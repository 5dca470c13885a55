//! How a program talks to kvorum, over blocking sockets of the standard library.

mod connection;
mod reply;
pub mod route;

pub use connection::{Connection, ConnectionError, Reason, RequestId};
pub use reply::Reply;
