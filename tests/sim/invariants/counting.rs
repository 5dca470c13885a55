//! What a leader counts when it commits (Raft paper, section 5.3 and figure 2).

use std::collections::BTreeMap;

use kvorum::core::MemberProgress;
use kvorum_protocol::{LogIndex, Term};

use super::{Checked, ensure};
use crate::image::LogImage;
use crate::network::Place;

/// What every node has acknowledged in each term.
#[derive(Default)]
pub struct Counting {
    said: BTreeMap<(Place, Term), LogIndex>,
}

impl Counting {
    /// A node says that it holds entries durably.
    pub fn acknowledges(&mut self, place: Place, term: Term, durable: LogIndex) {
        let said = self.said.entry((place, term)).or_default();
        *said = durable.max(*said);
    }

    /// A leader counts no more than the member has said in this term: what it said before may be
    /// of entries that were replaced since.
    pub fn counts(&self, place: Place, term: Term, other: Place, counted: LogIndex) -> Checked {
        let said = self.said.get(&(other, term)).copied().unwrap_or_default();
        ensure(counted <= said, "a leader counts what its term has said", || {
            format!("n{} counts {counted} on n{}, which has said {said}", place + 1, other + 1)
        })
    }
}

/// And it is there, unless it was replaced in a later term.
pub fn is_there(
    place: Place,
    term: Term,
    member: &MemberProgress,
    leader: &LogImage,
    sealed: &LogImage,
    durable: &LogImage,
) -> Checked {
    let counted = leader.batch_at(member.durable).map(|batch| *batch.header());
    let Some(counted) = counted.filter(|_| sealed.term <= term) else { return Ok(()) };
    // What a repair has given up counts until the leader hears of it.
    ensure(durable.has_held(&counted), "what a leader counts is durable", || {
        format!("n{} counts {counted:?} on n{}", place + 1, member.id)
    })
}
