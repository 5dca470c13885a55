//! Who leads: terms, votes and roles (Raft paper, section 5.2), with pre-vote (thesis, 9.6).
//!
//! This is the part of a node's state that elections change. When to stand, whom to tell and what
//! must be durable first is decided in [`node`](super::node).

use kvorum_protocol::{LogIndex, Lsn, NodeId, Term};

/// What a node is in its current term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes entries from a leader and never votes.
    Learner,
    /// Takes entries from a leader.
    Follower,
    /// Asks whether it would be elected, still in the old term.
    PreCandidate,
    /// Stands for election.
    Candidate,
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
            Role::Learner => "learner",
            Role::Follower => "follower",
            Role::PreCandidate | Role::Candidate => "candidate",
            Role::Leader { .. } => "leader",
        }
    }
}

/// Term, vote and role of one node.
#[derive(Debug)]
pub struct Raft {
    id: NodeId,
    /// Sorted.
    voters: Vec<NodeId>,
    /// It is a voter by a list that may come into force again. It may be the only one to have the
    /// entry of the list that leaves it out, and then has to lead until that is committed, without
    /// counting itself (thesis, section 4.2.2 and figure 4.6).
    was_voter: bool,
    /// Never goes back.
    term: Term,
    /// At most one vote a term.
    voted_for: Option<NodeId>,
    /// The position of the record of `term` and `voted_for`. Nothing that this node says of the
    /// term leaves before it is durable: a vote that a crash can forget is a vote that can be
    /// given twice.
    vote_lsn: Lsn,
    role: Role,
    /// Who leads the current term, once that is known.
    leader: Option<NodeId>,
    /// Who has said yes to this (pre-)candidate, itself included; each once.
    granted: Vec<NodeId>,
    /// Who has said no to this candidate; each once.
    refused: Vec<NodeId>,
    /// Whose process is known to be gone: no answer will come; each once.
    lost: Vec<NodeId>,
}

impl Raft {
    /// A follower or learner with the term and vote that its log remembers, all of it durable.
    pub fn new(id: NodeId, voters: Vec<NodeId>, term: Term, voted_for: Option<NodeId>) -> Raft {
        let mut raft = Raft {
            id,
            voters,
            was_voter: false,
            term,
            voted_for,
            vote_lsn: Lsn(0),
            role: Role::Learner,
            leader: None,
            granted: Vec::new(),
            refused: Vec::new(),
            lost: Vec::new(),
        };
        raft.role = raft.idle_role();
        raft
    }

    fn idle_role(&self) -> Role {
        if self.may_stand() { Role::Follower } else { Role::Learner }
    }

    /// Asks first whether an election would succeed.
    pub fn become_pre_candidate(&mut self) {
        assert!(self.may_stand() && !self.is_leader());
        self.role = Role::PreCandidate;
        self.leader = None;
        self.granted.clear();
        self.refused.clear();
        self.grant(self.id);
    }

    /// Starts an election: the next term, with its vote for itself. The caller writes both as the
    /// record at `vote_lsn`.
    pub fn become_candidate(&mut self, vote_lsn: Lsn) {
        assert!(self.may_stand() && !self.is_leader());
        self.term = Term(self.term.0 + 1);
        self.voted_for = Some(self.id);
        self.vote_lsn = vote_lsn;
        self.role = Role::Candidate;
        self.leader = None;
        self.granted.clear();
        self.refused.clear();
        self.grant(self.id);
    }

    /// A voter says yes; a repetition changes nothing.
    pub fn grant(&mut self, voter: NodeId) {
        if self.voters.contains(&voter) && !self.granted.contains(&voter) {
            self.granted.push(voter);
        }
    }

    /// A voter says no; a repetition changes nothing.
    pub fn refuse(&mut self, voter: NodeId) {
        if self.voters.contains(&voter) && !self.refused.contains(&voter) {
            self.refused.push(voter);
        }
    }

    /// A voter's process is gone: it will say neither yes nor no.
    pub fn lose(&mut self, voter: NodeId) {
        if !self.lost.contains(&voter) {
            self.lost.push(voter);
        }
    }

    /// Whether a member's process is known to be gone.
    #[must_use]
    pub fn is_lost(&self, member: NodeId) -> bool {
        self.lost.contains(&member)
    }

    /// It is there after all, or again.
    pub fn find(&mut self, voter: NodeId) {
        self.lost.retain(|lost| *lost != voter);
    }

    /// Whether so many have said no, or can say nothing, that no majority is left.
    pub fn is_refused(&self) -> bool {
        let is_left = |voter: &&NodeId| {
            self.granted.contains(voter)
                || !self.refused.contains(voter) && !self.lost.contains(voter)
        };
        let left = self.voters.iter().filter(is_left).count();
        left < super::quorum::majority(self.voters.len())
    }

    /// Whether a majority has said yes.
    pub fn is_granted(&self) -> bool {
        self.granted.len() >= super::quorum::majority(self.voters.len())
    }

    /// Takes office; `first_index` is the no-op that the caller appends.
    pub fn become_leader(&mut self, first_index: LogIndex) {
        assert!(self.role == Role::Candidate && self.is_granted());
        self.role = Role::Leader { first_index };
        self.leader = Some(self.id);
    }

    /// Gives up whatever it strove for, in the same term.
    pub fn become_follower(&mut self, leader: Option<NodeId>) {
        assert!(leader != Some(self.id));
        self.role = self.idle_role();
        self.leader = leader;
    }

    /// Enters a higher term, in which it has not voted. The caller writes that as the record at
    /// `vote_lsn`.
    pub fn enter_term(&mut self, term: Term, vote_lsn: Lsn) {
        assert!(term > self.term, "terms never go back");
        self.term = term;
        self.voted_for = None;
        self.vote_lsn = vote_lsn;
        self.become_follower(None);
    }

    /// Gives its vote of this term. The caller writes that as the record at `vote_lsn`.
    pub fn vote_for(&mut self, candidate: NodeId, vote_lsn: Lsn) {
        self.voted_for = Some(candidate);
        self.vote_lsn = vote_lsn;
    }

    /// Other voters are in force. A leader stays one; whether it may, the caller decides. Who asks
    /// whether it would be elected has asked others, and gives up.
    ///
    /// # Panics
    /// When it stands for election: no log changes meanwhile.
    pub fn set_voters(&mut self, voters: Vec<NodeId>, was_voter: bool) {
        assert!(self.role != Role::Candidate, "a log at rest");
        (self.voters, self.was_voter) = (voters, was_voter);
        if !self.is_leader() {
            self.role = self.idle_role();
        }
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

    /// The position of the record that holds both.
    #[must_use]
    pub fn vote_lsn(&self) -> Lsn {
        self.vote_lsn
    }

    /// The current role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whether it leads.
    #[inline]
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    /// The leader of the current term, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The voters, sorted.
    #[must_use]
    pub fn voters(&self) -> &[NodeId] {
        &self.voters
    }

    /// Whether this node may stand for election.
    #[must_use]
    pub fn may_stand(&self) -> bool {
        self.is_voter() || self.was_voter
    }

    /// Whether this node is a voter.
    #[must_use]
    pub fn is_voter(&self) -> bool {
        self.voters.contains(&self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(count: u16) -> Vec<NodeId> {
        (1..=count).map(NodeId).collect()
    }

    #[test]
    fn a_majority_elects() {
        for (count, needed) in [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)] {
            let mut raft = Raft::new(NodeId(1), voters(count), Term(4), None);
            raft.become_candidate(Lsn(1));
            assert_eq!((raft.term(), raft.voted_for()), (Term(5), Some(NodeId(1))));
            for voter in 2..=count {
                let votes = voter - 1;
                assert_eq!(raft.is_granted(), votes >= needed, "{votes} of {count}");
                raft.grant(NodeId(voter));
                raft.grant(NodeId(voter));
            }
            assert!(raft.is_granted());
        }
    }

    #[test]
    fn who_is_gone_will_not_say_yes() {
        let mut raft = Raft::new(NodeId(1), voters(3), Term(4), None);
        raft.lose(NodeId(3));
        raft.become_candidate(Lsn(1));
        assert!(!raft.is_refused());
        raft.refuse(NodeId(2));
        assert!(raft.is_refused());
        raft.find(NodeId(3));
        assert!(!raft.is_refused());
        raft.grant(NodeId(3));
        raft.lose(NodeId(3));
        assert!(raft.is_granted() && !raft.is_refused(), "its vote was given");
    }

    #[test]
    fn a_role_follows_the_list() {
        let mut raft = Raft::new(NodeId(3), voters(2), Term(0), None);
        assert_eq!(raft.role(), Role::Learner);
        raft.set_voters(voters(3), false);
        assert_eq!(raft.role(), Role::Follower);
        raft.become_candidate(Lsn(1));
        raft.grant(NodeId(1));
        raft.become_leader(LogIndex(1));
        raft.set_voters(voters(2), true);
        assert!(raft.is_leader() && !raft.is_voter());
        raft.become_follower(None);
        assert_eq!(raft.role(), Role::Follower);
        // It may still lead, by the votes of others.
        raft.become_candidate(Lsn(2));
        raft.grant(NodeId(1));
        assert!(!raft.is_granted());
        raft.grant(NodeId(2));
        assert!(raft.is_granted());
        raft.become_follower(None);
        raft.set_voters(voters(2), false);
        assert_eq!(raft.role(), Role::Learner);
    }

    #[test]
    fn strangers_and_learners_do_not_elect() {
        let mut raft = Raft::new(NodeId(1), voters(3), Term(0), None);
        raft.become_candidate(Lsn(1));
        raft.grant(NodeId(9));
        assert!(!raft.is_granted());
        let learner = Raft::new(NodeId(9), voters(3), Term(0), None);
        assert_eq!(learner.role(), Role::Learner);
    }
}
