//! What can be wrong with a configuration, as one line that names the place and what is accepted.

use std::fmt;
use std::path::PathBuf;

use kvorum_protocol::{MembershipError, NodeId, Quorum};

/// Where a value was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag {
        /// Its name, without the dashes.
        name: String,
    },
    /// In an environment variable.
    Variable {
        /// Its name.
        name: String,
    },
    /// In the configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key.
        key: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Flag { name } => write!(f, "--{name}"),
            Origin::Variable { name } => {
                write!(f, "environment variable {}", name.escape_debug())
            }
            Origin::File { path, line, key } => {
                write!(f, "{}:{line}: {}", path.display(), key.escape_debug())
            }
        }
    }
}

/// Why there is no [`Config`](super::Config). Displays as one line.
#[derive(Debug)]
pub enum ConfigError {
    /// The file can not be read.
    ReadFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: std::io::Error,
    },
    /// The file is not TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// No setting has this name.
    UnknownKey {
        /// Where it stands.
        origin: Origin,
        /// The setting with the most similar name, in the spelling of that place.
        nearest: Option<String>,
    },
    /// A value is not what the setting accepts.
    Value {
        /// Where it stands.
        origin: Origin,
        /// What was typed.
        value: String,
        /// What is accepted.
        accepted: String,
    },
    /// A value is not accepted beside the others.
    Conflict {
        /// Where the value stands, unless it is a default.
        origin: Option<Origin>,
        /// What does not go together.
        conflict: Conflict,
    },
}

/// Values that do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The member list does not name this node.
    OwnIdMissing {
        /// This node.
        id: NodeId,
    },
    /// The voters and learners together are no member list.
    Members(MembershipError),
    /// A client address stands twice in the lists of voters and learners.
    DuplicateAddress {
        /// The address.
        address: String,
    },
    /// There are learners, but nobody for them to learn from.
    LearnersWithoutVoters,
    /// A node that joins a cluster is told by that who its members are.
    JoinWithMembers,
    /// A quorum asks for more voters than there are.
    QuorumTooLarge {
        /// Its name in the file.
        key: &'static str,
        /// The quorum.
        quorum: Quorum,
        /// How many voters there are.
        voters: usize,
    },
    /// Followers would stand for election between two heartbeats.
    HeartbeatTooSlow {
        /// As configured, or by default.
        heartbeat_ms: u64,
        /// As configured, or by default.
        election_timeout_ms: u64,
    },
    /// Clients and peers can not be served on one port.
    SameListen {
        /// The address.
        address: String,
    },
    /// Whoever reaches the peer port could take the cluster over.
    OpenPeerPort {
        /// The address.
        address: String,
    },
}

impl Conflict {
    pub(super) fn at(self, origin: Option<&Origin>) -> ConfigError {
        ConfigError::Conflict { origin: origin.cloned(), conflict: self }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conflict::OwnIdMissing { id } => write!(
                f,
                "no member or learner has this node's id {id}: set --id to one that is listed, \
                 or list this node"
            ),
            Conflict::Members(error) => error.fmt(f),
            Conflict::DuplicateAddress { address } => write!(
                f,
                "{address} is listed twice: each node needs a client and a peer address of its own"
            ),
            Conflict::LearnersWithoutVoters => {
                f.write_str("learners need the voters too: give the same --member list as theirs")
            }
            Conflict::JoinWithMembers => f.write_str(
                "the cluster tells a node that joins it who is a member: leave --member and \
                 --learner out",
            ),
            Conflict::QuorumTooLarge { key, quorum, voters } => write!(
                f,
                "{key} {quorum} is more than the {voters} {} there {}",
                if *voters == 1 { "voter" } else { "voters" },
                if *voters == 1 { "is" } else { "are" },
            ),
            Conflict::HeartbeatTooSlow { heartbeat_ms, election_timeout_ms } => write!(
                f,
                "a heartbeat every {heartbeat_ms} ms must come well within the election timeout \
                 of {election_timeout_ms} ms: a sixth of it is usual"
            ),
            Conflict::SameListen { address } => {
                write!(f, "{address} can not serve both clients and peers: give two ports")
            }
            Conflict::OpenPeerPort { address } => write!(
                f,
                "peers are not served on {address}, where other machines can reach them, without \
                 a secret: give all nodes the same --cluster-secret-file"
            ),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::ReadFile { path, error } => {
                write!(f, "{}: can not read the configuration file: {error}", path.display())
            }
            ConfigError::Syntax { path, line, message } => {
                // The parser's message may have several lines.
                let message = message.lines().collect::<Vec<_>>().join(", ");
                write!(f, "{}:{line}: not TOML: {message}", path.display())
            }
            ConfigError::UnknownKey { origin, nearest: Some(nearest) } => {
                write!(f, "{origin} is not a setting: is it {nearest}?")
            }
            ConfigError::UnknownKey { origin, nearest: None } => {
                write!(f, "{origin} is not a setting: 'kvorum serve --help' lists them")
            }
            ConfigError::Value { origin, value, accepted } => {
                write!(f, "{origin}: '{}' is not {accepted}", value.escape_debug())
            }
            ConfigError::Conflict { origin: Some(origin), conflict } => {
                write!(f, "{origin}: {conflict}")
            }
            ConfigError::Conflict { origin: None, conflict } => conflict.fmt(f),
        }
    }
}

impl std::error::Error for ConfigError {}
