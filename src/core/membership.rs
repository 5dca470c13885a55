//! Which member list is in force: the last one in the log, committed or not (Raft thesis, section
//! 4.1). A node that waited for the commit would count by a list that others have left behind.
//! When an entry is taken back, so is its list.

use kvorum_protocol::{Batch, LogIndex, MemberList, NodeId, Op};

use super::quorum::majority;

/// The lists that may still come into force again, and the one that is.
#[derive(Clone, Debug)]
pub struct Membership {
    own: NodeId,
    /// By the index of their entries, ascending. The first is the last committed one, or that of
    /// the first boot, which stands in no log yet (index 0); those behind it may be taken back.
    lists: Vec<(LogIndex, MemberList)>,
    is_alone: bool,
    /// Counts the changes.
    version: u64,
    /// For bugs that the simulator must find.
    #[cfg(feature = "seeded-bugs")]
    pub bug: Option<super::seeded::Bug>,
}

impl Membership {
    /// Node `own` knows these lists of its log; at least one.
    pub fn new(own: NodeId, lists: Vec<(LogIndex, MemberList)>) -> Membership {
        let mut membership = Membership {
            own,
            lists,
            is_alone: false,
            version: 0,
            #[cfg(feature = "seeded-bugs")]
            bug: None,
        };
        membership.note_change();
        membership
    }

    fn note_change(&mut self) {
        self.version += 1;
        let members = self.list().members();
        self.is_alone = members.len() == 1 && members[0].id == self.own;
    }

    /// The list in force.
    pub fn list(&self) -> &MemberList {
        &self.in_force().1
    }

    /// The index of its entry.
    pub fn index(&self) -> LogIndex {
        self.in_force().0
    }

    fn in_force(&self) -> &(LogIndex, MemberList) {
        #[cfg(feature = "seeded-bugs")]
        if self.bug == Some(super::seeded::Bug::ListInForceAtCommit) {
            return &self.lists[0];
        }
        self.lists.last().expect("there is always one")
    }

    /// The last list that is committed, and the index of its entry; 0 when that of the first boot
    /// stands in no log yet.
    pub fn committed(&self) -> (LogIndex, &MemberList) {
        let (index, list) = &self.lists[0];
        (*index, list)
    }

    /// Whether this node is a voter by the list in force, or by one that may come into force again.
    pub fn may_be_voter(&self) -> bool {
        let is_voter = |list: &MemberList| list.voters().any(|voter| voter.id == self.own);
        self.lists.iter().any(|(_, list)| is_voter(list))
    }

    /// Whether the list in force is committed.
    pub fn is_settled(&self) -> bool {
        self.lists.len() == 1
    }

    /// Whether there is no other member.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// How many voters are a majority.
    pub fn majority(&self) -> usize {
        majority(self.list().voters().count())
    }

    /// Changes whenever any of this does.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The entry at `index` is in the log: its list is in force.
    pub fn append(&mut self, index: LogIndex, list: MemberList) {
        assert!(index > self.lists[self.lists.len() - 1].0, "lists come in the order of the log");
        self.lists.push((index, list));
        self.note_change();
    }

    /// The log ends at `end` now. Answers whether a list was taken back.
    pub fn truncate(&mut self, end: LogIndex) -> bool {
        #[cfg(feature = "seeded-bugs")]
        if self.bug == Some(super::seeded::Bug::TruncatedListStays) {
            return false;
        }
        let kept = self.lists.partition_point(|(index, _)| *index <= end).max(1);
        let is_shorter = kept < self.lists.len();
        if is_shorter {
            self.lists.truncate(kept);
            self.note_change();
        }
        is_shorter
    }

    /// Entries up to `committed` are decided. Answers whether a list is among them.
    pub fn commit(&mut self, committed: LogIndex) -> bool {
        let decided = self.lists.partition_point(|(index, _)| *index <= committed);
        let is_news = decided > 1;
        if is_news {
            self.lists.drain(..decided - 1);
            self.note_change();
        }
        is_news
    }

    /// Everything up to `index` came from elsewhere, with the list that was in force there.
    pub fn replace(&mut self, index: LogIndex, list: MemberList) {
        self.lists = vec![(index, list)];
        self.note_change();
    }
}

/// The list that a batch brings: it is always alone in its batch.
///
/// # Errors
/// It is none, in words.
pub fn list_in(batch: &Batch) -> Result<Option<MemberList>, &'static str> {
    if batch.header().count != 1 {
        return Ok(None);
    }
    match batch.entries().next().map(|(_, command)| command.op) {
        Some(Op::Membership(bytes)) => {
            MemberList::decode(bytes).map(Some).map_err(|_| "it brings a member list that is none")
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::{Change, Member, Role};

    use super::*;

    fn member(id: u16) -> Member {
        Member::parse(&format!("{id}=a:{id}/b:{id}"), Role::Learner).unwrap()
    }

    fn lists() -> [MemberList; 3] {
        let one = MemberList::new(vec![Member { role: Role::Voter, ..member(1) }]).unwrap();
        let two = one.changed(&Change::Add(member(2))).unwrap();
        let three = two.changed(&Change::Promote(NodeId(2))).unwrap();
        [one, two, three]
    }

    #[test]
    fn the_last_list_in_the_log_is_in_force() {
        let [one, two, three] = lists();
        let mut membership = Membership::new(NodeId(1), vec![(LogIndex(1), one.clone())]);
        assert!(membership.is_alone() && membership.is_settled());
        membership.append(LogIndex(5), two.clone());
        assert_eq!((membership.index(), membership.list()), (LogIndex(5), &two));
        assert_eq!(membership.committed(), (LogIndex(1), &one));
        assert!(!membership.is_alone() && !membership.is_settled());
        membership.append(LogIndex(9), three.clone());
        assert_eq!(membership.majority(), 2);
        assert!(membership.truncate(LogIndex(8)));
        assert!(!membership.truncate(LogIndex(5)));
        assert_eq!(membership.list(), &two);
        assert!(!membership.commit(LogIndex(4)));
        assert!(membership.commit(LogIndex(5)));
        assert_eq!(membership.committed(), (LogIndex(5), &two));
        assert!(!membership.truncate(LogIndex(5)));
        membership.replace(LogIndex(20), three.clone());
        assert_eq!((membership.index(), membership.list()), (LogIndex(20), &three));
    }

    #[test]
    fn another_s_lone_list_does_not_make_a_node_alone() {
        let [one, ..] = lists();
        assert!(!Membership::new(NodeId(2), vec![(LogIndex(1), one)]).is_alone());
    }
}
