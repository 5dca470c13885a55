//! Whom this node talks to: the members by its log, and what it was told of them before it had one.

use kvorum_protocol::{LogIndex, Member, MemberList, NodeId, Role};

use crate::core::Node;

/// The member lists that matter for connections.
#[derive(Debug)]
pub struct Roster {
    own: NodeId,
    /// The list in force.
    list: MemberList,
    /// The last one that is committed; another than the list in force while it changes.
    committed: MemberList,
    committed_index: LogIndex,
    /// Where the list stands that a node which joins was told; 0 for others.
    told_index: LogIndex,
    /// [`Node::members_version`] when this was looked at last.
    version: u64,
}

/// How the members have changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Whether the list in force is another one.
    pub is_other_list: bool,
    /// Who is there, new ones and others, by their ids.
    pub here: Vec<Member>,
    /// Who is not any more.
    pub gone: Vec<NodeId>,
    /// Learners that have become voters.
    pub promoted: Vec<NodeId>,
}

impl Roster {
    /// The members as node `own` knows them before it has looked at its log. A node that joins was
    /// told a list by the cluster, and where that stands in the log which it will get.
    pub fn new(own: NodeId, list: MemberList, told_index: LogIndex) -> Roster {
        Roster {
            own,
            committed: list.clone(),
            committed_index: LogIndex(0),
            list,
            told_index,
            version: 0,
        }
    }

    /// Looks whether the core counts by another list than before.
    pub fn follow(&mut self, node: &Node) -> Option<Changes> {
        if node.members_version() == self.version {
            return None;
        }
        self.version = node.members_version();
        // A log that is still coming tells of members that are gone for long.
        if node.members_index() < self.told_index {
            return None;
        }
        let before: Vec<NodeId> = self.others().map(|member| member.id).collect();
        let list = node.members().clone();
        let is_voter =
            |list: &MemberList, id| list.get(id).is_some_and(|member| member.role == Role::Voter);
        let promoted = list.voters().map(|member| member.id);
        let promoted = promoted.filter(|id| !is_voter(&self.list, *id)).collect();
        let is_other_list = self.list != list;
        self.list = list;
        let (committed_index, committed) = node.committed_members();
        if committed_index >= self.told_index {
            (self.committed_index, self.committed) = (committed_index, committed.clone());
        }
        let here: Vec<Member> = self.others().cloned().collect();
        let is_here = |id: &NodeId| here.iter().any(|member| member.id == *id);
        let gone = before.into_iter().filter(|id| !is_here(id)).collect();
        Some(Changes { is_other_list, here, gone, promoted })
    }

    /// Everybody else. Who is only in one of two lists is talked to until one is committed: it is
    /// not certain yet which list stays.
    pub fn others(&self) -> impl Iterator<Item = &Member> {
        let leaving = self.committed.members().iter();
        let leaving = leaving.filter(|member| self.list.get(member.id).is_none());
        let all = self.list.members().iter().chain(leaving);
        all.filter(|member| member.id != self.own)
    }

    /// The list in force.
    pub fn list(&self) -> &MemberList {
        &self.list
    }

    /// The last list that is committed, and the index of its entry: what an introduction tells.
    /// 0 while this node does not know.
    pub fn committed(&self) -> (LogIndex, &MemberList) {
        (self.committed_index, &self.committed)
    }

    /// Whether a node was removed, and that is committed.
    pub fn is_removed(&self, id: NodeId) -> bool {
        self.committed.is_retired(id)
    }

    /// A learner has promised nothing that it could forget.
    pub fn is_voter(&self) -> bool {
        self.list.get(self.own).is_some_and(|own| own.role == Role::Voter)
    }
}
