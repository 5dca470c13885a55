//! What the server knows of itself beside the core: settings, counters, and who may be about to
//! send an inline PING.

use std::net::IpAddr;
use std::time::Duration;

use kvorum_protocol::resp::{Args, SnapshotFacts};
use kvorum_protocol::{ClusterId, Limits};

use super::connection::Connection;
use super::session::OUTBOX_BYTES_SOFT;
use crate::config::Config;
use crate::core::Instant;

/// When the buffers of all connections together hold more than this, nobody is served who has not
/// read all of their replies.
const BUFFERS_BYTES_SOFT: usize = 1 << 30;

/// Beyond this, unfinished large requests are given up.
const BUFFERS_BYTES_HARD: usize = 2 << 30;

/// Settings and counters.
#[derive(Debug)]
pub struct Server {
    /// This node's client address, the real port filled in.
    pub address: String,
    /// The cluster, as the data directory knows it.
    pub cluster_id: ClusterId,
    /// The settings that INFO and CONFIG GET show.
    pub config: Config,
    /// 40 hexadecimal digits, drawn at start.
    pub run_id: String,
    /// How many connections are served at once.
    pub connections_max: usize,
    /// What there is of snapshots, and whether one is being made.
    pub snapshots: SnapshotFacts,
    /// Connections accepted since the start.
    pub connections_total: u64,
    /// Connections refused because there were too many.
    pub connections_rejected: u64,
    /// Requests served since the start.
    pub requests_total: u64,
    /// Bytes of all connections' buffers.
    pub buffer_bytes: usize,
    /// Room for the arguments of a RESP command; no meaning from call to call.
    pub args: Args,
    /// Room for the key lists of RESP commands; no meaning from call to call.
    pub lists: Vec<u8>,
    /// Room for the replies of RESP commands; no meaning from call to call.
    pub reply: Vec<u8>,
    /// See [`RedisProbe`].
    pub redis_probe: RedisProbe,
}

impl Server {
    /// A server that has served nobody yet.
    pub fn new(
        config: Config,
        cluster_id: ClusterId,
        address: String,
        connections_max: usize,
    ) -> Server {
        let run_id: [u8; 20] = rand::random();
        Server {
            address,
            cluster_id,
            config,
            run_id: run_id.iter().map(|byte| format!("{byte:02x}")).collect(),
            connections_max,
            snapshots: SnapshotFacts::default(),
            connections_total: 0,
            connections_rejected: 0,
            requests_total: 0,
            buffer_bytes: 0,
            args: Args::new(),
            lists: Vec::new(),
            reply: Vec::new(),
            redis_probe: RedisProbe::default(),
        }
    }

    /// With more unsent replies than this a connection is not served. When all of them together
    /// hold much, everybody has to read what they asked for first.
    #[inline]
    pub fn outbox_bytes_soft(&self) -> usize {
        if self.buffer_bytes > BUFFERS_BYTES_SOFT { 0 } else { OUTBOX_BYTES_SOFT }
    }

    /// Whether connections that do not read have to go.
    pub fn buffers_are_full(&self) -> bool {
        self.buffer_bytes > BUFFERS_BYTES_HARD
    }

    /// How much of an unfinished request a connection that holds `inbox_bytes` may take in.
    pub fn inbox_bytes_max(&self, inbox_bytes: usize) -> usize {
        inbox_bytes + BUFFERS_BYTES_HARD.saturating_sub(self.buffer_bytes)
    }

    /// Counts the memory that a connection's buffers take now.
    #[inline]
    pub fn count_buffers(&mut self, connection: &mut Connection) {
        let bytes = connection.buffer_bytes();
        self.buffer_bytes += bytes;
        self.buffer_bytes -= std::mem::replace(&mut connection.counted_bytes, bytes);
    }

    /// Configured limits.
    #[inline]
    pub fn limits(&self) -> Limits {
        self.config.limits
    }
}

/// Recognises the inline `PING` of redis-benchmark.
///
/// Its first test sends `PING\r\n` on fresh connections and wants RESP's `+PONG`; the same bytes
/// from a person with netcat are the text protocol, whose answer is `PONG`. What tells them apart
/// is that redis-benchmark asks `CONFIG GET appendonly` on a RESP connection just before.
#[derive(Debug, Default)]
pub struct RedisProbe {
    last: Option<(IpAddr, Instant)>,
}

/// Between the question and the connections of the test.
const PROBE_WINDOW: Duration = Duration::from_secs(2);

const INLINE_PING: &[u8] = b"PING\r\n";

impl RedisProbe {
    /// `CONFIG GET appendonly` came from here.
    pub fn note(&mut self, peer: IpAddr, now: Instant) {
        self.last = Some((peer, now));
    }

    /// Whether a connection that begins with `input` speaks RESP inline.
    pub fn is_inline_ping(&self, input: &[u8], peer: IpAddr, now: Instant) -> bool {
        let Some((probe, at)) = self.last else { return false };
        probe == peer && now.since(at) < PROBE_WINDOW && input.starts_with(INLINE_PING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_inline_ping_right_after_the_question_is_resp() {
        let here: IpAddr = "127.0.0.1".parse().unwrap();
        let there: IpAddr = "127.0.0.2".parse().unwrap();
        let at = |ms| Instant::default().after(Duration::from_millis(ms));
        let mut probe = RedisProbe::default();
        assert!(!probe.is_inline_ping(INLINE_PING, here, at(0)));
        probe.note(here, at(0));
        assert!(!probe.is_inline_ping(INLINE_PING, there, at(1)));
        assert!(!probe.is_inline_ping(b"PING\n", here, at(1)));
        assert!(probe.is_inline_ping(b"PING\r\nPING\r\n", here, at(1500)));
        assert!(!probe.is_inline_ping(INLINE_PING, here, at(2500)));
    }
}
