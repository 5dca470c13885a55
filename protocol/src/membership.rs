//! The members of a cluster: the payload of the MEMBERSHIP command, and the form of one member on
//! the command line.
//!
//! ```text
//! payload   u8 format, u16 count, then per member in ascending order of id       (little-endian)
//!
//!  0      2       3            4          5
//! +------+-------+------------+----------+--------+------+
//! |  id  | role  | client_len | peer_len | client | peer |
//! | u16  | u8    |    u8      |    u8    |        |      |
//! +------+-------+------------+----------+--------+------+
//! role: 1 voter, 2 learner
//!
//! format 1: that is all. Format 2: behind the members, which ids must never be used again
//!           u16 floor (all up to here that are no members), u16 count, count times u16 id
//! ```
//!
//! A list has one encoding only, so two nodes that agree on the members agree on the bytes: format
//! 1 as long as nobody was removed.

mod change;
mod retired;

use std::fmt;

use sha2::{Digest, Sha256};

use crate::error::DecodeError;
use crate::limits::{ADDRESS_BYTES_MAX, MEMBERS_MAX, VOTERS_MAX};
use crate::types::{ClusterId, NodeId};

pub use change::{Change, ChangeError};
pub use retired::Retired;

const FORMAT: u8 = 1;
const FORMAT_WITH_RETIRED: u8 = 2;
const LIST_HEADER_BYTES: usize = 3;
const MEMBER_HEADER_BYTES: usize = 5;
const ROLE_VOTER: u8 = 1;
const ROLE_LEARNER: u8 = 2;

/// What a member does in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Votes in elections, and its durable copies count for commit.
    Voter,
    /// Holds a replica and answers reads; it never votes and is never counted.
    Learner,
}

/// One node of a cluster, as the whole cluster knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Which node.
    pub id: NodeId,
    /// What it does.
    pub role: Role,
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` for peers; empty for a node that is alone.
    pub peer: String,
}

impl Member {
    /// Reads the `ID=CLIENT/PEER` of `--member` and `--learner`, such as
    /// `1=127.0.0.1:6381/127.0.0.1:7381`. The part behind the slash may be empty.
    ///
    /// # Errors
    /// Another shape, an id that is not 1 to 65535, or an address that is not `host:port`.
    pub fn parse(text: &str, role: Role) -> Result<Member, MembershipError> {
        let (id, addresses) = text.split_once('=').ok_or(MembershipError::Shape)?;
        let (client, peer) = addresses.split_once('/').ok_or(MembershipError::Shape)?;
        let id = id.parse().map(NodeId).map_err(|_| MembershipError::Id)?;
        let member = Member { id, role, client: client.to_owned(), peer: peer.to_owned() };
        member.check()?;
        Ok(member)
    }

    fn check(&self) -> Result<(), MembershipError> {
        if self.id == NodeId(0) {
            return Err(MembershipError::Id);
        }
        if !is_address(&self.client) || !(self.peer.is_empty() || is_address(&self.peer)) {
            return Err(MembershipError::Address(self.id));
        }
        Ok(())
    }
}

/// Prints what [`Member::parse`] reads.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}/{}", self.id, self.client, self.peer)
    }
}

/// `host:port` of printable ASCII without spaces; no slash, which separates two of them. Whether
/// the host exists is for the resolver to say.
pub(crate) fn is_address(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    text.len() <= ADDRESS_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/')
        && !host.is_empty()
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok()
}

/// Why something is not a member, or not a list of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembershipError {
    /// Not of the form `ID=CLIENT/PEER`.
    Shape,
    /// Not of the form `add ID=CLIENT/PEER`, `remove ID`, `promote ID` or `demote ID`.
    Change,
    /// An id that is not a number from 1 to 65535.
    Id,
    /// A client or peer address of this member that is not `host:port`.
    Address(NodeId),
    /// This id stands there twice.
    DuplicateId(NodeId),
    /// Another member has the same peer address as this one.
    DuplicatePeer(NodeId),
    /// This member has no peer address, and it is not alone.
    NoPeer(NodeId),
    /// No voter, or more than [`VOTERS_MAX`].
    Voters(usize),
    /// More than [`MEMBERS_MAX`] members.
    Members(usize),
}

impl fmt::Display for MembershipError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MembershipError::Shape => f.write_str(
                "a member is written ID=CLIENT/PEER, such as 1=127.0.0.1:6381/127.0.0.1:7381",
            ),
            MembershipError::Change => f.write_str(
                "a change of the members is written add ID=CLIENT/PEER, remove ID, promote ID or \
                 demote ID",
            ),
            MembershipError::Id => f.write_str("the id of a member is a number from 1 to 65535"),
            MembershipError::Address(id) => write!(
                f,
                "the addresses of member {id} must be host:port, in at most {ADDRESS_BYTES_MAX} \
                 printable ASCII characters"
            ),
            MembershipError::DuplicateId(id) => write!(f, "member {id} is named twice"),
            MembershipError::DuplicatePeer(id) => {
                write!(f, "member {id} has the peer address of another member")
            }
            MembershipError::NoPeer(id) => {
                write!(f, "member {id} needs a peer address: it is not alone")
            }
            MembershipError::Voters(count) => {
                write!(f, "a cluster has 1 to {VOTERS_MAX} voters, not {count}")
            }
            MembershipError::Members(count) => {
                write!(f, "a cluster has at most {MEMBERS_MAX} members, not {count}")
            }
        }
    }
}

impl std::error::Error for MembershipError {}

/// The members of a cluster, in ascending order of their ids: at least one voter, every id and
/// every peer address once, and peer addresses wherever there is more than one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList {
    members: Vec<Member>,
    retired: Retired,
}

impl MemberList {
    /// A cluster of one voter, which serves clients at `client`.
    ///
    /// # Errors
    /// An id or address that is none.
    pub fn lone(id: NodeId, client: &str) -> Result<MemberList, MembershipError> {
        let (client, peer) = (client.to_owned(), String::new());
        MemberList::new(vec![Member { id, role: Role::Voter, client, peer }])
    }

    /// Takes members in any order.
    ///
    /// # Errors
    /// What contradicts the promises above.
    pub fn new(mut members: Vec<Member>) -> Result<MemberList, MembershipError> {
        if members.len() > MEMBERS_MAX {
            return Err(MembershipError::Members(members.len()));
        }
        members.sort_by_key(|member| member.id.0);
        for member in &members {
            member.check()?;
        }
        if let Some(twice) = members.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(MembershipError::DuplicateId(twice[0].id));
        }
        let voters = members.iter().filter(|member| member.role == Role::Voter).count();
        if !(1..=usize::from(VOTERS_MAX)).contains(&voters) {
            return Err(MembershipError::Voters(voters));
        }
        if members.len() > 1 {
            check_peers(&members)?;
        }
        Ok(MemberList { members, retired: Retired::default() })
    }

    /// Reads a list that fills `bytes` exactly.
    ///
    /// # Errors
    /// Anything that [`encode`](MemberList::encode) could not have written.
    pub fn decode(bytes: &[u8]) -> Result<MemberList, DecodeError> {
        let (&[format, low, high], mut rest) =
            bytes.split_first_chunk::<LIST_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
        if format != FORMAT && format != FORMAT_WITH_RETIRED {
            return Err(DecodeError::Invalid("member list format"));
        }
        let count = usize::from(u16::from_le_bytes([low, high]));
        if count > MEMBERS_MAX {
            return Err(DecodeError::TooLarge { what: "member list", limit: MEMBERS_MAX });
        }
        let mut members: Vec<Member> = Vec::with_capacity(count);
        for _ in 0..count {
            let member;
            (member, rest) = decode_member(rest)?;
            if members.last().is_some_and(|last| last.id >= member.id) {
                return Err(DecodeError::Invalid("member order"));
            }
            members.push(member);
        }
        let retired = match (format, rest) {
            (FORMAT_WITH_RETIRED, rest) => Retired::decode(rest)?,
            (_, []) => Retired::default(),
            _ => return Err(DecodeError::TrailingBytes),
        };
        let list = MemberList::new(members).map_err(|_| DecodeError::Invalid("member list"))?;
        Ok(MemberList { retired, ..list })
    }

    /// Appends the list in the layout above.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let count = u16::try_from(self.members.len()).expect("bounded by MEMBERS_MAX");
        out.push(if self.retired.is_empty() { FORMAT } else { FORMAT_WITH_RETIRED });
        out.extend_from_slice(&count.to_le_bytes());
        for member in &self.members {
            let role = match member.role {
                Role::Voter => ROLE_VOTER,
                Role::Learner => ROLE_LEARNER,
            };
            out.extend_from_slice(&member.id.0.to_le_bytes());
            out.push(role);
            for address in [&member.client, &member.peer] {
                out.push(u8::try_from(address.len()).expect("bounded by ADDRESS_BYTES_MAX"));
            }
            out.extend_from_slice(member.client.as_bytes());
            out.extend_from_slice(member.peer.as_bytes());
        }
        if !self.retired.is_empty() {
            self.retired.encode(out);
        }
    }

    /// What the same list has everywhere, and another one has not: nodes compare it when they meet.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.digest(b"kvorum member list\n")
    }

    /// The identity of a cluster that begins with this list, so that nodes that are configured
    /// alike agree on it without having met.
    #[must_use]
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId(self.digest(b"kvorum cluster\n"))
    }

    /// The first 8 bytes of SHA-256, little-endian.
    fn digest(&self, label: &[u8]) -> u64 {
        let mut encoded = label.to_vec();
        self.encode(&mut encoded);
        let digest = Sha256::digest(&encoded);
        let head = digest.first_chunk().expect("SHA-256 has 32 bytes");
        u64::from_le_bytes(*head)
    }

    /// All members, in ascending order of their ids.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member with this id.
    #[must_use]
    pub fn get(&self, id: NodeId) -> Option<&Member> {
        self.members
            .binary_search_by_key(&id.0, |member| member.id.0)
            .ok()
            .map(|i| &self.members[i])
    }

    /// Whether a node with this id was a member once and is none any more, or must pass for one.
    #[must_use]
    pub fn is_retired(&self, id: NodeId) -> bool {
        self.retired.contains(id) && self.get(id).is_none()
    }

    /// The members that vote, in ascending order of their ids.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == Role::Voter)
    }

    /// The members that only follow, in ascending order of their ids.
    pub fn learners(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.role == Role::Learner)
    }
}

fn check_peers(members: &[Member]) -> Result<(), MembershipError> {
    let mut by_peer: Vec<&Member> = members.iter().collect();
    by_peer.sort_by_key(|member| &member.peer);
    if let Some(alone) = by_peer.iter().find(|member| member.peer.is_empty()) {
        return Err(MembershipError::NoPeer(alone.id));
    }
    match by_peer.windows(2).find(|pair| pair[0].peer == pair[1].peer) {
        Some(twice) => Err(MembershipError::DuplicatePeer(twice[1].id)),
        None => Ok(()),
    }
}

fn decode_member(bytes: &[u8]) -> Result<(Member, &[u8]), DecodeError> {
    let (&[low, high, role, client_len, peer_len], rest) =
        bytes.split_first_chunk::<MEMBER_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
    let role = match role {
        ROLE_VOTER => Role::Voter,
        ROLE_LEARNER => Role::Learner,
        _ => return Err(DecodeError::Invalid("member role")),
    };
    let (client, rest) = take_address(rest, client_len)?;
    let (peer, rest) = take_address(rest, peer_len)?;
    let id = NodeId(u16::from_le_bytes([low, high]));
    Ok((Member { id, role, client, peer }, rest))
}

fn take_address(bytes: &[u8], length: u8) -> Result<(String, &[u8]), DecodeError> {
    let (address, rest) =
        bytes.split_at_checked(usize::from(length)).ok_or(DecodeError::Truncated)?;
    let address =
        std::str::from_utf8(address).map_err(|_| DecodeError::Invalid("member address"))?;
    Ok((address.to_owned(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voter(text: &str) -> Member {
        Member::parse(text, Role::Voter).unwrap()
    }

    fn three() -> MemberList {
        let learner = Member::parse("9=[::1]:6389/node-9.lan:7389", Role::Learner).unwrap();
        MemberList::new(vec![learner, voter("2=b:2/b:3"), voter("1=a:2/a:3")]).unwrap()
    }

    #[test]
    fn a_list_is_sorted_and_survives_encoding() {
        let list = three();
        assert_eq!(list.members().iter().map(|m| m.id.0).collect::<Vec<_>>(), [1, 2, 9]);
        assert_eq!(list.voters().count(), 2);
        assert_eq!(list.learners().next().unwrap().to_string(), "9=[::1]:6389/node-9.lan:7389");
        assert_eq!(list.get(NodeId(2)).unwrap().client, "b:2");
        assert_eq!(list.get(NodeId(3)), None);
        let mut bytes = Vec::new();
        list.encode(&mut bytes);
        assert_eq!(MemberList::decode(&bytes), Ok(list));
        for length in 0..bytes.len() {
            assert!(MemberList::decode(&bytes[..length]).is_err(), "length {length}");
        }
        bytes.push(0);
        assert_eq!(MemberList::decode(&bytes), Err(DecodeError::TrailingBytes));
    }

    #[test]
    fn a_member_reads_as_it_prints() {
        for text in ["1=127.0.0.1:6381/127.0.0.1:7381", "65535=host:0/", "7=[::1]:1/[::2]:65535"] {
            assert_eq!(voter(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_member_is_refused() {
        for (text, error) in [
            ("", MembershipError::Shape),
            ("1", MembershipError::Shape),
            ("1=a:1", MembershipError::Shape),
            ("0=a:1/b:1", MembershipError::Id),
            ("65536=a:1/b:1", MembershipError::Id),
            ("x=a:1/b:1", MembershipError::Id),
            ("1=/b:1", MembershipError::Address(NodeId(1))),
            ("1=a/b:1", MembershipError::Address(NodeId(1))),
            ("1=a:1/b:65536", MembershipError::Address(NodeId(1))),
            ("1=a:+1/b:1", MembershipError::Address(NodeId(1))),
            ("1=a b:1/b:1", MembershipError::Address(NodeId(1))),
            ("1=a:1/b:1/c:1", MembershipError::Address(NodeId(1))),
            ("1=\u{e4}:1/b:1", MembershipError::Address(NodeId(1))),
        ] {
            assert_eq!(Member::parse(text, Role::Voter), Err(error), "{text}");
        }
        let long = format!("1={}:1/", "a".repeat(ADDRESS_BYTES_MAX - 1));
        assert_eq!(Member::parse(&long, Role::Voter), Err(MembershipError::Address(NodeId(1))));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let list = |texts: &[&str]| MemberList::new(texts.iter().map(|t| voter(t)).collect());
        assert_eq!(list(&[]), Err(MembershipError::Voters(0)));
        assert!(list(&["1=a:1/"]).is_ok());
        let twice = list(&["1=a:1/a:2", "1=b:1/b:2"]);
        assert_eq!(twice, Err(MembershipError::DuplicateId(NodeId(1))));
        assert_eq!(list(&["1=a:1/a:2", "2=b:1/"]), Err(MembershipError::NoPeer(NodeId(2))));
        let peer = list(&["1=a:1/a:2", "2=b:1/a:2"]);
        assert_eq!(peer, Err(MembershipError::DuplicatePeer(NodeId(2))));
        let learner = Member::parse("1=a:1/a:2", Role::Learner).unwrap();
        assert_eq!(MemberList::new(vec![learner]), Err(MembershipError::Voters(0)));
        let many: Vec<_> = (1..=64).map(|i| voter(&format!("{i}=a:{i}/b:{i}"))).collect();
        assert!(MemberList::new(many[..63].to_vec()).is_ok());
        assert_eq!(MemberList::new(many), Err(MembershipError::Voters(64)));
    }
}
