//! One change of the members. A list is only ever changed by one voter at a time: then every
//! majority of the old list shares a voter with every majority of the new one, and no two leaders
//! can be elected side by side while some nodes know the one and some the other (Raft thesis,
//! section 4.1).

use std::fmt;

use super::{Member, MemberList, MembershipError, Role};
use crate::types::NodeId;

/// What is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new node, as a learner whatever its role says: it would hold up commits as a voter before
    /// it has the log.
    Add(Member),
    /// A member is none any more, and its id is never used again.
    Remove(NodeId),
    /// A learner becomes a voter.
    Promote(NodeId),
    /// A voter becomes a learner.
    Demote(NodeId),
}

impl Change {
    /// Reads what [`Display`](fmt::Display) prints; the verb in any case.
    ///
    /// # Errors
    /// Other words, or a member that is none.
    pub fn parse(words: &str) -> Result<Change, MembershipError> {
        let (verb, whom) = words.split_once(' ').ok_or(MembershipError::Change)?;
        let id = || match whom.parse() {
            Ok(id @ 1..) => Ok(NodeId(id)),
            _ => Err(MembershipError::Id),
        };
        let is = |name: &str| verb.eq_ignore_ascii_case(name);
        if is("add") {
            Member::parse(whom, Role::Learner).map(Change::Add)
        } else if is("remove") {
            id().map(Change::Remove)
        } else if is("promote") {
            id().map(Change::Promote)
        } else if is("demote") {
            id().map(Change::Demote)
        } else {
            Err(MembershipError::Change)
        }
    }

    /// Whom it is about.
    #[must_use]
    pub fn id(&self) -> NodeId {
        match self {
            Change::Add(member) => member.id,
            Change::Remove(id) | Change::Promote(id) | Change::Demote(id) => *id,
        }
    }
}

/// The words that people type: `add 4=...`, `remove 4`.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Add(member) => write!(f, "add {member}"),
            Change::Remove(id) => write!(f, "remove {id}"),
            Change::Promote(id) => write!(f, "promote {id}"),
            Change::Demote(id) => write!(f, "demote {id}"),
        }
    }
}

/// Why a list can not be changed like that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The id to be added is a member's.
    Exists(NodeId),
    /// The id to be added was once a member's.
    Retired(NodeId),
    /// An address of the node to be added is this member's.
    Taken {
        /// The address.
        address: String,
        /// Whose it is.
        by: NodeId,
    },
    /// The only member so far can not be reached by others.
    Unreachable(NodeId),
    /// No member has this id.
    Unknown(NodeId),
    /// The member to be promoted is a voter.
    IsVoter(NodeId),
    /// The member to be demoted is a learner.
    IsLearner(NodeId),
    /// Nobody would be left to vote.
    LastVoter(NodeId),
    /// The list would break another rule.
    List(MembershipError),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Exists(id) => write!(f, "member {id} exists already"),
            ChangeError::Retired(id) => write!(
                f,
                "node {id} was a member before, and an id is never used again: choose a new one"
            ),
            ChangeError::Taken { address, by } => {
                write!(f, "{address} is an address of member {by}")
            }
            ChangeError::Unreachable(id) => write!(
                f,
                "member {id} is alone and has no peer address, so nobody could join it: restart \
                 it with --listen and --peer-listen, then try again"
            ),
            ChangeError::Unknown(id) => write!(f, "there is no member {id}"),
            ChangeError::IsVoter(id) => write!(f, "member {id} is a voter already"),
            ChangeError::IsLearner(id) => write!(f, "member {id} is a learner already"),
            ChangeError::LastVoter(id) => {
                write!(f, "member {id} is the only voter: promote another one first")
            }
            ChangeError::List(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ChangeError {}

impl MemberList {
    /// The list after `change`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn changed(&self, change: &Change) -> Result<MemberList, ChangeError> {
        let mut retired = self.retired.clone();
        let mut members = self.members.clone();
        match change {
            Change::Add(member) => {
                self.check_new(member)?;
                members.push(Member { role: Role::Learner, ..member.clone() });
            }
            Change::Remove(id) => {
                self.check_loses(*id)?;
                members.retain(|member| member.id != *id);
                retired.insert(*id);
            }
            Change::Promote(id) => {
                if self.known(*id)?.role == Role::Voter {
                    return Err(ChangeError::IsVoter(*id));
                }
                set_role(&mut members, *id, Role::Voter);
            }
            Change::Demote(id) => {
                self.check_loses(*id)?;
                if self.known(*id)?.role == Role::Learner {
                    return Err(ChangeError::IsLearner(*id));
                }
                set_role(&mut members, *id, Role::Learner);
            }
        }
        let list = MemberList::new(members).map_err(ChangeError::List)?;
        Ok(MemberList { retired, ..list })
    }

    /// The same list with other addresses for one member.
    ///
    /// # Panics
    /// When they are none, or another member's.
    #[must_use]
    pub fn moved(&self, id: NodeId, client: &str, peer: &str) -> MemberList {
        let mut members = self.members.clone();
        for member in members.iter_mut().filter(|member| member.id == id) {
            (member.client, member.peer) = (client.to_owned(), peer.to_owned());
        }
        let list = MemberList::new(members).expect("addresses of its own");
        MemberList { retired: self.retired.clone(), ..list }
    }

    fn known(&self, id: NodeId) -> Result<&Member, ChangeError> {
        self.get(id).ok_or(ChangeError::Unknown(id))
    }

    fn check_new(&self, new: &Member) -> Result<(), ChangeError> {
        if self.get(new.id).is_some() {
            return Err(ChangeError::Exists(new.id));
        }
        if self.is_retired(new.id) {
            return Err(ChangeError::Retired(new.id));
        }
        if let Some(alone) = self.members.iter().find(|member| member.peer.is_empty()) {
            return Err(ChangeError::Unreachable(alone.id));
        }
        for member in &self.members {
            let taken = [&new.client, &new.peer].into_iter();
            let mut taken = taken.filter(|new| [&member.client, &member.peer].contains(new));
            if let Some(address) = taken.next() {
                return Err(ChangeError::Taken { address: address.clone(), by: member.id });
            }
        }
        Ok(())
    }

    /// Whether there are voters without this member.
    fn check_loses(&self, id: NodeId) -> Result<(), ChangeError> {
        self.known(id)?;
        match self.voters().all(|voter| voter.id == id) {
            true => Err(ChangeError::LastVoter(id)),
            false => Ok(()),
        }
    }
}

fn set_role(members: &mut [Member], id: NodeId, role: Role) {
    for member in members.iter_mut().filter(|member| member.id == id) {
        member.role = role;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VOTERS_MAX;

    fn member(text: &str) -> Member {
        Member::parse(text, Role::Voter).unwrap()
    }

    fn three() -> MemberList {
        let texts = ["1=a:1/a:2", "2=b:1/b:2", "3=c:1/c:2"];
        MemberList::new(texts.map(member).into()).unwrap()
    }

    #[test]
    fn a_node_comes_as_a_learner_and_goes_for_good() {
        let add = Change::Add(member("4=d:1/d:2"));
        let four = three().changed(&add).unwrap();
        assert_eq!(four.get(NodeId(4)).unwrap().role, Role::Learner);
        let promoted = four.changed(&Change::Promote(NodeId(4))).unwrap();
        assert_eq!(promoted.voters().count(), 4);
        let demoted = promoted.changed(&Change::Demote(NodeId(1))).unwrap();
        assert_eq!(demoted.get(NodeId(1)).unwrap().role, Role::Learner);
        let without = promoted.changed(&Change::Remove(NodeId(4))).unwrap();
        assert_eq!(without.members(), three().members());
        assert_eq!(without.changed(&add), Err(ChangeError::Retired(NodeId(4))));
        let mut bytes = Vec::new();
        without.encode(&mut bytes);
        assert_eq!(MemberList::decode(&bytes), Ok(without.clone()));
        assert_ne!(without.fingerprint(), three().fingerprint());
        for length in 0..bytes.len() {
            assert!(MemberList::decode(&bytes[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn a_change_reads_as_it_prints() {
        for words in ["add 4=d:1/d:2", "remove 4", "promote 65535", "demote 1"] {
            let change = Change::parse(words).unwrap();
            assert_eq!(change.to_string(), words);
            assert_eq!(Change::parse(&words.replace("mote", "MOTE")), Ok(change));
        }
        for words in ["", "add", "remove ", "remove 0", "remove  4", "add 4=d:1", "leave 4"] {
            assert!(Change::parse(words).is_err(), "{words}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let three = three();
        let unknown = Err(ChangeError::Unknown(NodeId(9)));
        for change in [Change::Remove(NodeId(9)), Change::Promote(NodeId(9))] {
            assert_eq!(three.changed(&change), unknown, "{change}");
        }
        let error = |change| three.changed(&change).unwrap_err().to_string();
        assert_eq!(error(Change::Promote(NodeId(1))), "member 1 is a voter already");
        assert_eq!(error(Change::Add(member("3=d:1/d:2"))), "member 3 exists already");
        assert_eq!(error(Change::Add(member("4=b:1/d:2"))), "b:1 is an address of member 2");
        assert_eq!(error(Change::Add(member("4=d:1/c:2"))), "c:2 is an address of member 3");
        assert!(error(Change::Add(member("4=d:1/"))).contains("needs a peer address"));
        let lone = MemberList::lone(NodeId(1), "a:1").unwrap();
        assert_eq!(
            lone.changed(&Change::Remove(NodeId(1))),
            Err(ChangeError::LastVoter(NodeId(1)))
        );
        assert_eq!(
            lone.changed(&Change::Add(member("2=b:1/b:2"))),
            Err(ChangeError::Unreachable(NodeId(1)))
        );
    }

    #[test]
    fn there_are_only_so_many_voters() {
        let voters = |count: u8| {
            let members = (1..=count).map(|id| member(&format!("{id}=a:{id}/b:{id}")));
            MemberList::new(members.collect()).unwrap()
        };
        let full = voters(VOTERS_MAX);
        let with_learner = full.changed(&Change::Add(member("99=c:1/c:2"))).unwrap();
        let promoted = with_learner.changed(&Change::Promote(NodeId(99)));
        let count = usize::from(VOTERS_MAX) + 1;
        assert_eq!(promoted, Err(ChangeError::List(MembershipError::Voters(count))));
    }
}
