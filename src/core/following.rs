//! What a node that does not lead knows of its leader, in the current term.

use kvorum_protocol::LogIndex;

use super::time::Instant;

/// A follower's or learner's side of replication. New in every term.
#[derive(Debug, Default)]
pub struct Following {
    /// Up to here this log is known to be the leader's: the end of a batch. Acknowledgements never
    /// go beyond.
    pub matched: LogIndex,
    /// The highest round that the leader has asked for.
    pub round: u64,
    /// When the leader was heard last.
    pub heard_at: Option<Instant>,
    /// When the leader's process was found to be gone.
    pub lost_at: Option<Instant>,
    /// The leader waits for an answer.
    pub owes_ack: bool,
    /// What was durable in the last acknowledgement.
    pub acked_durable: LogIndex,
}
