//! Who leads: terms, votes and roles (Raft paper, section 5.2).
//!
//! The rules are Raft's with any number of voters; what is not here yet is the exchange of
//! messages, so a node with other voters would stay a candidate. A lone voter elects itself: it
//! stands for election at once, votes for itself, and leads as soon as that vote is durable.
//!
//! # Caveats
//! No messages between nodes, no pre-vote, no leadership transfer yet.

use kvorum_protocol::{LogIndex, Lsn, NodeId, Term};

/// What a node is in its current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes entries from a leader.
    Follower,
    /// Stands for election. Its own vote counts once the record at `vote_lsn` is durable: a vote
    /// that a crash can forget is a vote that can be given twice.
    Candidate {
        /// The position of the record of its vote for itself.
        vote_lsn: Lsn,
    },
    /// Makes the entries of its term.
    Leader {
        /// The first entry of its term, a no-op. Nothing is answered from the state before it is
        /// committed (Raft paper, section 8).
        first_index: LogIndex,
    },
}

impl Role {
    /// The word that STATUS prints.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Role::Follower => "follower",
            Role::Candidate { .. } => "candidate",
            Role::Leader { .. } => "leader",
        }
    }
}

/// Term, vote and role of one node.
#[derive(Debug)]
pub struct Raft {
    id: NodeId,
    /// Sorted; contains `id`.
    voters: Vec<NodeId>,
    /// Never goes back.
    term: Term,
    /// At most one vote a term.
    voted_for: Option<NodeId>,
    role: Role,
}

impl Raft {
    /// A follower with the term and vote that its log remembers.
    pub fn new(id: NodeId, voters: Vec<NodeId>, term: Term, voted_for: Option<NodeId>) -> Raft {
        assert!(voters.contains(&id), "node {id} is not a voter");
        Raft { id, voters, term, voted_for, role: Role::Follower }
    }

    /// Starts an election: the next term, with its vote for itself. The caller writes both as the
    /// record at `vote_lsn`.
    pub fn stand_for_election(&mut self, vote_lsn: Lsn) {
        assert!(!matches!(self.role, Role::Leader { .. }));
        self.term = Term(self.term.0 + 1);
        self.voted_for = Some(self.id);
        self.role = Role::Candidate { vote_lsn };
    }

    /// Whether the durable votes elect this candidate: so far only its own can be among them.
    pub fn is_elected(&self, durable_lsn: Lsn) -> bool {
        let Role::Candidate { vote_lsn } = self.role else { return false };
        let votes = usize::from(vote_lsn <= durable_lsn);
        votes > self.voters.len() / 2
    }

    /// Takes office; `first_index` is the no-op that the caller appends.
    pub fn become_leader(&mut self, first_index: LogIndex) {
        assert!(matches!(self.role, Role::Candidate { .. }));
        self.role = Role::Leader { first_index };
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Who got this node's vote in the current term.
    #[must_use]
    pub fn voted_for(&self) -> Option<NodeId> {
        self.voted_for
    }

    /// The current role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The leader of the current term, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        matches!(self.role, Role::Leader { .. }).then_some(self.id)
    }

    /// The voters, sorted.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }
}
