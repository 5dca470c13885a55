//! What a program may ask of a pipeline.

use kvorum_protocol::DecodeError;
use kvorum_protocol::limits::SESSION_WINDOW_MAX;

use super::plan::Terms;
use crate::client::check::{check_read_quorum, check_write_quorum};
use crate::client::options::{CallOptions, Options};

/// How a [`Pipeline`](super::Pipeline) works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipelineOptions {
    /// The most requests without an answer, at least 1; queueing one more waits. Writes are also
    /// bounded by the window of a session, 8192. Default: 1024.
    pub in_flight_max: usize,
    /// What holds for all its requests; what is `None` stays as the client's options have it.
    pub call: CallOptions,
}

impl Default for PipelineOptions {
    fn default() -> PipelineOptions {
        PipelineOptions { in_flight_max: 1024, call: CallOptions::default() }
    }
}

impl PipelineOptions {
    /// With what they leave open from the client's.
    pub(super) fn terms(&self, client: &Options) -> Result<Terms, DecodeError> {
        let window = u32::try_from(self.in_flight_max).unwrap_or(u32::MAX);
        let terms = Terms {
            timeout: self.call.timeout_with(client),
            read_from: self.call.read_from.unwrap_or(client.read_from),
            write_quorum: self.call.write_quorum.or(client.write_quorum),
            read_quorum: self.call.read_quorum.or(client.read_quorum),
            window: client.exactly_once.then_some(window.clamp(1, SESSION_WINDOW_MAX)),
        };
        check_read_quorum(terms.read_quorum)?;
        check_write_quorum(terms.write_quorum)?;
        Ok(terms)
    }
}
