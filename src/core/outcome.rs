//! What an entry did to the state.

use kvorum_protocol::LogIndex;

use super::output::{Answer, Refusal};

/// What an entry did, and which entry that was: a write that was sent twice takes effect by the
/// first of its entries that is applied, and that one's outcome is the answer to all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The entry that took effect.
    pub version: LogIndex,
    /// What it did.
    pub applied: Applied,
}

/// What an entry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing to answer: a no-op, or a change of members.
    Nothing,
    /// Values were stored, or a session was opened.
    Written,
    /// This many keys were removed.
    Deleted(u32),
    /// Nothing: its session is over, or never was.
    SessionExpired,
    /// Nothing: its session has moved on, and does not know whether it was applied before.
    SequenceTooOld,
}

impl Outcome {
    /// What whoever waits for it is told.
    #[must_use]
    pub fn answer(self) -> Answer {
        let version = self.version;
        match self.applied {
            Applied::Written | Applied::Nothing => Answer::Written { version },
            Applied::Deleted(count) => Answer::Deleted { version, count },
            Applied::SessionExpired => Answer::Refused(Refusal::SessionExpired),
            Applied::SequenceTooOld => Answer::Refused(Refusal::SequenceTooOld),
        }
    }
}
