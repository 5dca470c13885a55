//! The line that answers MEMBERS: who is in the cluster, where, and who leads, as one node knows
//! it.
//!
//! ```text
//! id=2 leader=1 member=1=a:6381/a:7381 learner=4=d:6381/d:7381 index=9 cluster=0123456789abcdef
//! ```
//!
//! `name=value` pairs with one space between them: `id` is the node that answers, `leader` is left
//! out when it knows none, and there is one `member` for each voter and one `learner` for each
//! other member, written as on the command line. `index` is where the list stands in the log: of
//! two lists the one with the higher index is the newer one. `cluster` names the cluster, in 16
//! hexadecimal digits. Names may be added: readers pass over those that they do not know.

use std::fmt;

use crate::error::DecodeError;
use crate::membership::{Member, MemberList, Role};
use crate::types::{ClusterId, LogIndex, NodeId};

/// What the line says. Prints as it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembersLine {
    /// The node that answers.
    pub id: NodeId,
    /// The leader, if it knows one.
    pub leader: Option<NodeId>,
    /// Everybody, the node itself included.
    pub members: MemberList,
    /// The index of the entry that names them; `None` from an old server.
    pub index: Option<LogIndex>,
    /// Which cluster it is; `None` from an old server.
    pub cluster: Option<ClusterId>,
}

impl MembersLine {
    /// Reads a line without its line end.
    ///
    /// # Errors
    /// [`DecodeError::Invalid`] naming the part that is wrong: something that is no pair, no `id`
    /// or a second one, or members that are no [`MemberList`].
    pub fn parse(line: &str) -> Result<MembersLine, DecodeError> {
        let (mut id, mut leader, mut members) = (None, None, Vec::new());
        let (mut index, mut cluster) = (None, None);
        for pair in line.split(' ') {
            let (name, value) = pair.split_once('=').ok_or(DecodeError::Invalid("pair"))?;
            let twice = match name {
                "id" => id.replace(node_id(value)?).is_some(),
                "leader" => leader.replace(node_id(value)?).is_some(),
                "index" => {
                    let number = value.parse().map_err(|_| DecodeError::Invalid("index"))?;
                    index.replace(LogIndex(number)).is_some()
                }
                "cluster" => {
                    let number = u64::from_str_radix(value, 16);
                    let number = number.map_err(|_| DecodeError::Invalid("cluster"))?;
                    cluster.replace(ClusterId(number)).is_some()
                }
                "member" => {
                    members.push(member(value, Role::Voter)?);
                    false
                }
                "learner" => {
                    members.push(member(value, Role::Learner)?);
                    false
                }
                _ => false,
            };
            if twice {
                return Err(DecodeError::Invalid("pair that comes twice"));
            }
        }
        let id = id.ok_or(DecodeError::Invalid("line without an id"))?;
        let members =
            MemberList::new(members).map_err(|_| DecodeError::Invalid("list of members"))?;
        Ok(MembersLine { id, leader, members, index, cluster })
    }
}

fn node_id(text: &str) -> Result<NodeId, DecodeError> {
    match text.parse() {
        Ok(id @ 1..) => Ok(NodeId(id)),
        _ => Err(DecodeError::Invalid("node id")),
    }
}

fn member(text: &str, role: Role) -> Result<Member, DecodeError> {
    Member::parse(text, role).map_err(|_| DecodeError::Invalid("member"))
}

impl fmt::Display for MembersLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id={}", self.id)?;
        if let Some(leader) = self.leader {
            write!(f, " leader={leader}")?;
        }
        for member in self.members.members() {
            let name = match member.role {
                Role::Voter => "member",
                Role::Learner => "learner",
            };
            write!(f, " {name}={member}")?;
        }
        if let Some(index) = self.index {
            write!(f, " index={index}")?;
        }
        match self.cluster {
            Some(cluster) => write!(f, " cluster={:016x}", cluster.0),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_it_prints() {
        for line in [
            "id=1 leader=1 member=1=127.0.0.1:6379/",
            "id=1 member=1=[::1]:6379/",
            "id=2 leader=1 member=1=a:1/a:2 member=2=b:1/b:2 learner=4=d:1/d:2",
            "id=1 member=1=a:1/ index=7 cluster=00000000000000ff",
        ] {
            assert_eq!(MembersLine::parse(line).unwrap().to_string(), line);
        }
    }

    #[test]
    fn pairs_may_come_in_any_order_and_unknown_ones_are_passed_over() {
        let line = "learner=4=d:1/d:2 zone=a= member=1=a:1/a:2 id=4 new=";
        let line = MembersLine::parse(line).unwrap();
        assert_eq!(line.to_string(), "id=4 member=1=a:1/a:2 learner=4=d:1/d:2");
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for (line, what) in [
            ("", "pair"),
            ("id=1 member", "pair"),
            ("id=1  member=1=a:1/", "pair"),
            ("member=1=a:1/", "line without an id"),
            ("id=1 id=1 member=1=a:1/", "pair that comes twice"),
            ("id=1 leader=2 leader=2 member=1=a:1/", "pair that comes twice"),
            ("id=1 member=1=a:1/ index=x", "index"),
            ("id=1 member=1=a:1/ cluster=g", "cluster"),
            ("id=0 member=1=a:1/", "node id"),
            ("id=1 leader=none member=1=a:1/", "node id"),
            ("id=1 member=1=a/", "member"),
            ("id=1 member=1=a:1", "member"),
            ("id=1 leader=1", "list of members"),
            ("id=1 learner=1=a:1/a:2", "list of members"),
            ("id=1 member=1=a:1/a:2 learner=1=b:1/b:2", "list of members"),
        ] {
            assert_eq!(MembersLine::parse(line), Err(DecodeError::Invalid(what)), "{line}");
        }
    }
}
