//! The server: sockets, the turn, and the thread that writes the log.
//!
//! Read [`reactor`] first: the server is its `turn`. A [`connection`] owns a socket and its
//! buffers and hands requests to its protocol ([`binary`], [`text`], [`resp`]), which asks the
//! core through a [`session`]; the [`log_thread`] makes the records of a turn durable.

pub mod binary;
pub mod clock;
pub mod connection;
pub mod facts;
pub mod listener;
pub mod log_thread;
pub mod outbox;
pub mod reactor;
pub mod resp;
pub mod serve;
pub mod server;
pub mod session;
pub mod slots;
pub mod text;
