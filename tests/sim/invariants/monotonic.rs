//! What only rises while a node lives.

use kvorum::core::NodeStatus;
use kvorum::core::raft::Role;
use kvorum_protocol::{LogIndex, Term};

use super::{Checked, ensure};
use crate::network::Place;

/// What a process has shown last.
#[derive(Clone, Copy, Default)]
pub struct Life {
    pub term: Term,
    pub committed: LogIndex,
    pub applied: LogIndex,
    is_leader: bool,
}

impl Life {
    /// Term, commit index and applied index never go back, and are in order: what is applied is
    /// decided, and what is decided is in the log.
    pub fn advance(&mut self, place: Place, status: &NodeStatus) -> Checked {
        let NodeStatus { role, term, committed, applied, last, durable, .. } = *status;
        let rises = term >= self.term && committed >= self.committed && applied >= self.applied;
        ensure(rises, "term, commit and applied index never go back", || {
            let before = (self.term, self.committed, self.applied);
            format!("n{}: from {before:?} to {status:?}", place + 1)
        })?;
        let ordered = applied <= committed && committed <= last && durable <= last;
        ensure(ordered, "applied <= committed <= last, durable <= last", || {
            format!("n{}: {status:?}", place + 1)
        })?;
        let is_leader = matches!(role, Role::Leader { .. });
        *self = Life { term, committed, applied, is_leader };
        Ok(())
    }

    /// Whether it led this term when it was last seen.
    pub fn leads(&self, term: Term) -> bool {
        self.is_leader && self.term == term
    }
}
