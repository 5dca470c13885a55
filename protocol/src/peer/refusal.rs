//! Why two nodes do not talk to each other.

use std::fmt;

use super::VERSION;
use super::introduction::Introduction;
use crate::types::{LogIndex, NodeId};

/// The longest sentence that a refusal carries, in bytes.
pub(super) const SENTENCE_BYTES_MAX: usize = 1024;

/// The kind of a refusal, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The two sides speak different versions.
    Version,
    /// They belong to different clusters.
    Cluster,
    /// The one that calls is no member.
    NotMember,
    /// The one that is called is another node than the caller thinks.
    WrongNode,
    /// Their member lists differ.
    Members,
    /// One of them has a secret and the other has none, or theirs differ.
    Secret,
    /// The other side's data directory is not the one that is known, or an older state of it: it
    /// may have forgotten votes and entries that it has promised to remember.
    Amnesia,
    /// A newer connection has taken this one's place.
    Replaced,
    /// The one that calls was a member and is none any more.
    Removed,
    /// A reason of another version.
    Other(u8),
}

impl Reason {
    pub(super) fn code(self) -> u8 {
        match self {
            Reason::Version => 1,
            Reason::Cluster => 2,
            Reason::NotMember => 3,
            Reason::WrongNode => 4,
            Reason::Members => 5,
            Reason::Secret => 6,
            Reason::Amnesia => 7,
            Reason::Replaced => 8,
            Reason::Removed => 9,
            Reason::Other(code) => code,
        }
    }

    pub(super) fn from_code(code: u8) -> Reason {
        match code {
            1 => Reason::Version,
            2 => Reason::Cluster,
            3 => Reason::NotMember,
            4 => Reason::WrongNode,
            5 => Reason::Members,
            6 => Reason::Secret,
            7 => Reason::Amnesia,
            8 => Reason::Replaced,
            9 => Reason::Removed,
            code => Reason::Other(code),
        }
    }
}

/// A refusal: the reason, and a sentence for the logs of both sides that names both nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people; one line of printable text.
    pub sentence: String,
}

impl Refusal {
    fn new(reason: Reason, sentence: String) -> Refusal {
        Refusal { reason, sentence }
    }

    /// `own` knows another state of `theirs`'s data directory than the one it comes with.
    #[must_use]
    pub fn amnesia(own: NodeId, theirs: NodeId) -> Refusal {
        Refusal::new(
            Reason::Amnesia,
            format!(
                "the data directory of node {theirs} is empty or older than what node {own} knows \
                 of it, so it may have forgotten votes and entries"
            ),
        )
    }

    /// `own` knows that `theirs` was removed from the cluster.
    #[must_use]
    pub fn removed(own: NodeId, theirs: NodeId) -> Refusal {
        Refusal::new(
            Reason::Removed,
            format!("node {theirs} was removed from the cluster, says node {own}"),
        )
    }

    /// `own` has a newer connection of `theirs` on the same lane.
    #[must_use]
    pub fn replaced(own: NodeId, theirs: NodeId) -> Refusal {
        Refusal::new(
            Reason::Replaced,
            format!("node {own} has a newer connection of node {theirs}"),
        )
    }

    pub(super) fn version(own: NodeId, theirs: u16) -> Refusal {
        Refusal::new(
            Reason::Version,
            format!(
                "node {own} speaks version {VERSION} of the peer protocol and the other side \
                 version {theirs}: run the same release on all nodes"
            ),
        )
    }

    pub(super) fn wrong_secret(own: &Introduction, theirs: &Introduction) -> Refusal {
        let (own, theirs) = (own.from, theirs.from);
        Refusal::new(
            Reason::Secret,
            format!(
                "nodes {own} and {theirs} have different cluster secrets: give both the same \
                 --cluster-secret-file"
            ),
        )
    }

    /// Compares what two sides say of themselves; `theirs` calls `own` or is called by it.
    pub(super) fn of(own: &Introduction, theirs: &Introduction, knows: bool) -> Option<Refusal> {
        let (me, other) = (own.from, theirs.from);
        if own.has_secret != theirs.has_secret {
            let (with, without) = if own.has_secret { (me, other) } else { (other, me) };
            return Some(Refusal::new(
                Reason::Secret,
                format!(
                    "node {with} has a cluster secret and node {without} has none: give both the \
                     same --cluster-secret-file"
                ),
            ));
        }
        if theirs.to != me || own.to != other {
            let (called, answers) = if theirs.to == me { (own.to, other) } else { (theirs.to, me) };
            return Some(Refusal::new(
                Reason::WrongNode,
                format!(
                    "node {answers} answers where node {called} was called: an address in the \
                     member list is another node's"
                ),
            ));
        }
        if own.cluster != theirs.cluster {
            return Some(Refusal::new(
                Reason::Cluster,
                format!(
                    "node {other} belongs to cluster {:016x} and node {me} to cluster {:016x}: \
                     one of them has the data directory of another cluster, or was first started \
                     with another member list",
                    theirs.cluster.0, own.cluster.0
                ),
            ));
        }
        let index = own.members_index;
        let is_same_index = index == theirs.members_index && index > LogIndex(0);
        if is_same_index && own.members != theirs.members {
            return Some(Refusal::new(
                Reason::Members,
                format!(
                    "nodes {me} and {other} have different member lists at index {index} of their \
                     logs: one of them has the data directory of another cluster"
                ),
            ));
        }
        if !knows {
            return Some(Refusal::new(
                Reason::NotMember,
                format!(
                    "node {other} is not in the member list of node {me}: add it with kvorum \
                     member add"
                ),
            ));
        }
        None
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}
