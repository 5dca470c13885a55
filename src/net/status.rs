//! What a node tells of its place in the cluster: WHO_IS_LEADER, STATUS, MEMBERS and TRANSFER.

use std::fmt::{self, Display, Write as _};

use kvorum_protocol::{ErrorCode, MemberList, MembersLine, NodeId, Response, resp};

use super::session::Turn;
use crate::config::Relaxed;
use crate::core::{ChangeRefusal, Refusal, TransferError, raft};

/// What WHO_IS_LEADER is told: the leader's client address, as far as this node knows it.
pub fn leader<'t>(turn: &'t Turn<'_>) -> Response<'t> {
    let leader = turn.node.status().leader;
    Response::Leader(leader.and_then(|leader| client_address(turn, leader)))
}

/// Where clients reach a member.
pub fn client_address<'t>(turn: &'t Turn<'_>, id: NodeId) -> Option<&'t str> {
    // This node knows its real port, which the list of a lone node does not.
    if id == turn.node.config().id {
        return Some(&turn.server.address);
    }
    turn.node.members().get(id).map(|member| member.client.as_str())
}

/// What this node does in the cluster now.
pub fn role(turn: &Turn<'_>) -> resp::Role {
    match turn.node.status().role {
        raft::Role::Leader { .. } => resp::Role::Leader,
        raft::Role::Learner => resp::Role::Learner,
        raft::Role::PreCandidate | raft::Role::Candidate => resp::Role::Candidate,
        raft::Role::Follower => resp::Role::Follower,
    }
}

/// Which promises the configuration gives up.
pub fn relaxed(turn: &Turn<'_>) -> Vec<Relaxed> {
    turn.server.config.relaxed(turn.node.voters().len())
}

/// What TRANSFER is told.
pub fn transfer<'t>(turn: &'t mut Turn<'_>, to: Option<NodeId>) -> Response<'t> {
    let refuse = |message| Response::Error { code: ErrorCode::BadRequest, message };
    // The same request may succeed soon.
    let put_off = |message| Response::Error { code: ErrorCode::Busy, message };
    match turn.node.transfer(turn.now, to) {
        Ok(()) => Response::Ok,
        Err(TransferError::NotLeader(leader)) => {
            let refusal = leader.map_or(Refusal::NoLeader, |leader| Refusal::NotLeader { leader });
            refusal.response(turn.node.members())
        }
        Err(TransferError::Alone) => refuse("there is no other voter"),
        Err(TransferError::NotVoter(_)) => refuse("no voter has this id"),
        Err(TransferError::Silent(_)) => put_off("this voter does not answer"),
        Err(TransferError::AllSilent) => put_off("no other voter answers"),
    }
}

/// What a change of the members is told that was refused; the words are put together in the
/// scratch of the turn.
pub fn no_change<'t>(turn: &'t mut Turn<'_>, refusal: &ChangeRefusal) -> Response<'t> {
    match refusal {
        ChangeRefusal::Refused(refusal) => refusal.response(turn.node.members()),
        other => {
            let (code, words) = (other.code(), other.to_string());
            Response::Error { code, message: lend(turn, &words) }
        }
    }
}

/// What STATUS is told; the line is put together in the scratch of the turn.
pub fn status<'t>(turn: &'t mut Turn<'_>) -> Response<'t> {
    let line = line(turn);
    Response::Status(lend(turn, &line))
}

/// What MEMBERS is told; the line is put together in the scratch of the turn.
pub fn members<'t>(turn: &'t mut Turn<'_>) -> Response<'t> {
    let mut members = turn.node.members().members().to_vec();
    for member in &mut members {
        if let Some(address) = client_address(turn, member.id) {
            address.clone_into(&mut member.client);
        }
    }
    let line = MembersLine {
        id: turn.node.config().id,
        leader: turn.node.status().leader,
        members: MemberList::new(members).expect("the list of the node, and a real address"),
        index: Some(turn.node.members_index()),
        cluster: Some(turn.server.cluster_id),
    };
    Response::Members(lend(turn, &line.to_string()))
}

/// Puts a line into the scratch of the turn, where it lives until the answer is encoded.
fn lend<'t>(turn: &'t mut Turn<'_>, line: &str) -> &'t str {
    turn.scratch.clear();
    turn.scratch.extend_from_slice(line.as_bytes());
    str::from_utf8(turn.scratch).expect("just written")
}

fn line(turn: &Turn<'_>) -> String {
    let status = turn.node.status();
    let config = turn.node.config();
    let leader = status.leader.map_or_else(|| "none".to_owned(), |leader| leader.to_string());
    let learners = turn.node.members().learners().map(|member| member.id);
    let peers = turn.node.progress().map(|peer| Progress {
        id: peer.id,
        matched: peer.matched.0,
        durable: peer.durable.0,
    });
    let mut line = String::with_capacity(256);
    write!(
        line,
        "id={} role={} term={} leader={leader} commit={} applied={} last={} durable={} keys={} \
         sessions={} voters={} learners={} members={} snapshot={} log_from={} w={} r={} fsync={} \
         relaxed={} memory_bytes={} peers={}",
        config.id,
        role(turn).word(),
        status.term,
        status.committed,
        status.applied,
        status.last,
        status.durable,
        status.keys,
        status.sessions,
        list(turn.node.voters()),
        list(learners),
        turn.node.members_index(),
        turn.server.snapshots.index,
        turn.node.log_floor().next(),
        config.write_quorum,
        config.read_quorum,
        turn.server.config.fsync,
        list(relaxed(turn).iter().map(|relaxed| relaxed.word())),
        status.memory_bytes,
        list(peers),
    )
    .expect("a String takes everything");
    line
}

/// How far a leader knows another member to be: `id:matched/durable`.
struct Progress {
    id: NodeId,
    matched: u64,
    durable: u64,
}

impl Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.id, self.matched, self.durable)
    }
}

/// With commas between them.
fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    let words: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    words.join(",")
}
