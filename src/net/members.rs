//! Who is in the cluster, when a node starts: the log knows it, or on first boot the flags, or the
//! cluster that the node joins.

use kvorum_protocol::{ClusterId, LogIndex, Member, MemberList, NodeId, Role};

use super::join::Invitation;
use super::serve::ServeError;
use crate::config::{Config, LISTEN_DEFAULT};
use crate::core::Recovery;

/// What a node goes by until its log says more.
#[derive(Debug)]
pub struct Start {
    /// The members.
    pub members: MemberList,
    /// Where the list stands in the log of the cluster that the node joins; 0 for others.
    pub told_index: LogIndex,
    /// Its first entries come from others.
    pub joins: bool,
}

/// Whether a node that has begun to join has not come, in its log, to the entry that adds it: so
/// its own log says nothing of it yet.
pub fn may_be_joining(id: NodeId, recovery: &Recovery) -> bool {
    let is_told = |list: &MemberList| list.get(id).is_some() || list.is_retired(id);
    !recovery.members().is_some_and(is_told) && recovery.earlier_member(id).is_none()
}

/// The members that the log says, or the cluster, or on first boot the flags. `cluster` is the one
/// that the directory belongs to.
///
/// # Errors
/// The node is none of them, or they are another cluster's.
pub fn at_start(
    config: &Config,
    recovery: &Recovery,
    cluster: ClusterId,
    invitation: Option<Invitation>,
) -> Result<Start, ServeError> {
    let other_cluster = |found: Option<&MemberList>| ServeError::OtherCluster {
        directory: config.data.clone(),
        found: found.cloned(),
    };
    let own = |members| Start { members, told_index: LogIndex(0), joins: false };
    let logged = recovery.members().filter(|_| invitation.is_none());
    match (logged, invitation, &config.members) {
        (Some(logged), _, configured) => {
            if let Some(configured) = configured.as_ref().filter(|list| *list != logged) {
                // The list of the first boot, or one that has grown old or been edited, names some
                // of the members where they are. One that names nobody is about another cluster.
                if configured.cluster_id() != cluster && !have_a_place_in_common(configured, logged)
                {
                    return Err(other_cluster(Some(logged)));
                }
                let logged_list = list(logged);
                log::warn!("--member is not used: the log says that the members are {logged_list}");
            }
            Ok(own(logged.clone()))
        }
        (None, Some(Invitation { cluster: theirs, members, index }), _) => {
            if theirs != cluster {
                return Err(other_cluster(Some(&members)));
            }
            Ok(Start { members, told_index: index, joins: true })
        }
        (None, None, Some(configured)) => {
            if configured.members().len() > 1 && configured.cluster_id() != cluster {
                return Err(other_cluster(None));
            }
            Ok(own(configured.clone()))
        }
        (None, None, None) => {
            Ok(own(MemberList::new(vec![lone(config)]).expect("one good member")))
        }
    }
}

/// A cluster of one, which others can join only if it says where.
pub fn lone(config: &Config) -> Member {
    let id = config.id;
    let unreachable =
        || Member { id, role: Role::Voter, client: LISTEN_DEFAULT.to_owned(), peer: String::new() };
    let Some(peer) = config.peer_listen.clone() else { return unreachable() };
    let client = config.listen.clone().unwrap_or_else(|| LISTEN_DEFAULT.to_owned());
    if client.ends_with(":0") || peer.ends_with(":0") {
        log::warn!("--peer-listen is not used: others can find a node at a fixed port only");
        return unreachable();
    }
    Member { client, peer, ..unreachable() }
}

/// The members for a person, voters and learners alike.
pub fn list(members: &MemberList) -> String {
    let words: Vec<String> = members.members().iter().map(Member::to_string).collect();
    words.join(", ")
}

/// Whether some node of one list is where a node of the other is.
fn have_a_place_in_common(one: &MemberList, other: &MemberList) -> bool {
    let is_there = |member: &Member| {
        let at = |there: &Member| {
            there.client == member.client || !there.peer.is_empty() && there.peer == member.peer
        };
        other.members().iter().any(at)
    };
    one.members().iter().any(is_there)
}
