//! Who leads and who votes (Raft paper, section 5.2 and figure 3).

use std::collections::BTreeMap;

use kvorum_protocol::Term;
use kvorum_protocol::peer::Message;

use super::{Checked, ensure};
use crate::network::Place;

#[derive(Default)]
pub struct Elections {
    leaders: BTreeMap<Term, Place>,
    /// Who got whose vote in a term, as seen on the wire.
    votes: BTreeMap<(Place, Term), Place>,
    /// The highest term that each node has spoken in.
    spoken: BTreeMap<Place, Term>,
}

impl Elections {
    /// Election safety: at most one leader in a term.
    pub fn elects(&mut self, place: Place, term: Term) -> Checked {
        let leader = *self.leaders.entry(term).or_insert(place);
        ensure(leader == place, "one leader in a term", || {
            format!("n{} and n{} both lead term {term}", leader + 1, place + 1)
        })
    }

    /// One vote in a term: whatever leaves a node names the same candidate. A candidate's request
    /// is its vote for itself.
    pub fn speaks(&mut self, from: Place, to: Place, message: &Message) -> Checked {
        let vote = match message {
            Message::VoteRequest { term, .. } => Some((*term, from)),
            Message::VoteReply { term, granted: true } => Some((*term, to)),
            _ => None,
        };
        if let Some((term, candidate)) = vote {
            let voted = *self.votes.entry((from, term)).or_insert(candidate);
            ensure(voted == candidate, "one vote in a term", || {
                let (first, second) = (voted + 1, candidate + 1);
                format!("n{} votes in term {term} for n{first} and for n{second}", from + 1)
            })?;
        }
        if !is_of_no_term(message) {
            let spoken = self.spoken.entry(from).or_default();
            *spoken = message.term().max(*spoken);
        }
        Ok(())
    }

    /// A node never goes back behind a term that it has spoken in (Raft paper, figure 2: the term
    /// is persistent).
    pub fn comes_back(&self, place: Place, term: Term) -> Checked {
        let spoken = self.spoken.get(&place).copied().unwrap_or_default();
        ensure(term >= spoken, "terms survive a crash", || {
            format!("n{} spoke in term {spoken} and came back in term {term}", place + 1)
        })
    }

    pub fn leader_of(&self, term: Term) -> Option<Place> {
        self.leaders.get(&term).copied()
    }

    /// How many elections were won.
    pub fn won(&self) -> usize {
        self.leaders.len()
    }
}

/// Messages about a term that nobody has entered yet.
pub fn is_of_no_term(message: &Message) -> bool {
    matches!(message, Message::PreVoteRequest { .. } | Message::PreVoteReply { granted: true, .. })
}
