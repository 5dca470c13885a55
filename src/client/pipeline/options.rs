//! What a program may ask of a pipeline.

use crate::client::options::CallOptions;

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
