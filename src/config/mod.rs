//! The configuration of one node, in two steps: [`LowConfig`] is what was typed, word for word,
//! with the place that each word came from (flag, environment, file); [`Config`] is what the
//! server uses: typed, checked against itself, units in the names. Nothing behind it has to check
//! again.

mod error;
mod low;
mod relaxed;
mod value;

use std::fmt;
use std::path::PathBuf;

use kvorum_protocol::limits::{LOG_BYTES_BETWEEN_SNAPSHOTS_MAX, LOG_BYTES_BETWEEN_SNAPSHOTS_MIN};
use kvorum_protocol::{Limits, Member, MemberList, NodeId, Quorum, Role, limits};

pub use error::{ConfigError, Origin};
pub use low::{LowConfig, ServeFlags};
pub use relaxed::Relaxed;

use error::Conflict;

/// Where clients are served when nothing says otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:6379";

/// The longest time, in milliseconds, that any timeout may be set to: one day.
const TIMEOUT_MS_MAX: u64 = 86_400_000;

/// The most that `snapshot_log_percent` may be.
const LOG_PERCENT_MAX: u64 = 10_000;

/// The most client connections that may be asked for.
const CONNECTIONS_MAX: u64 = 1_000_000;

/// How one node runs. Addresses are `HOST:PORT` as given; a host may be a name, and an IPv6
/// address stands in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This node's id.
    pub id: NodeId,
    /// Where the log and the snapshots are; made if missing.
    pub data: PathBuf,
    /// Where clients are served; `None`: at this node's address in the member list, the log's or
    /// on first boot the configured one, or else [`LISTEN_DEFAULT`]. Port 0 takes any free port.
    pub listen: Option<String>,
    /// Where peers are served; `None` without a member list.
    pub peer_listen: Option<String>,
    /// Holds what the nodes of the cluster prove to each other; `None`: peers are served on
    /// loopback only.
    pub cluster_secret_file: Option<PathBuf>,
    /// Whether a log that is damaged is cut, for the cluster to fill it again.
    pub repair_from_peers: bool,
    /// Whether to print each message between this node and its peers.
    pub trace_peers: bool,
    /// The members of the first boot, this node among them; `None` for a cluster of one, which is
    /// this node. Later boots use what the log says.
    pub members: Option<MemberList>,
    /// Servers of the cluster that this node joins when its directory is empty; none: it begins
    /// one.
    pub join: Vec<String>,
    /// W, unless a request or a connection says otherwise.
    pub write_quorum: Quorum,
    /// R, unless a request or a connection says otherwise; never [`Quorum::All`].
    pub read_quorum: Quorum,
    /// How long a request may wait for W or R.
    pub quorum_timeout_ms: u64,
    /// When a write counts as durable.
    pub fsync: Fsync,
    /// How often a leader that has nothing to say says so.
    pub heartbeat_ms: u64,
    /// T: a follower that hears nothing stands for election after a random time in [T, 2T).
    pub election_timeout_ms: u64,
    /// The longest key and value that are accepted.
    pub limits: Limits,
    /// How many client connections are served at once.
    pub connections_max: usize,
    /// How many bytes keys and values may take before writes are refused; `None`: no limit.
    pub memory_bytes_max: Option<u64>,
    /// A snapshot is taken when the log has grown by so many percent of what the keys weigh.
    pub snapshot_log_percent: u64,
    /// But not before it has grown by so many bytes.
    pub snapshot_log_bytes_min: u64,
}

/// When a write counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// After fdatasync.
    Always,
    /// Once it is written; fdatasync follows every so many milliseconds, at least 1.
    EveryMs(u64),
    /// Once it is written; the operating system decides when it reaches the disk.
    Never,
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fsync::Always => f.write_str("always"),
            Fsync::EveryMs(ms) => write!(f, "{ms}"),
            Fsync::Never => f.write_str("never"),
        }
    }
}

impl Config {
    /// Checks what was typed, fills in the defaults, and checks the whole against itself.
    ///
    /// # Errors
    /// A value that is not accepted, or values that contradict each other.
    pub fn new(low: &LowConfig) -> Result<Config, ConfigError> {
        let id = node_id(low)?;
        let members = members(low, id)?;
        let own = members.as_ref().and_then(|members| members.get(id));
        let listen = low.get("listen").map(|given| given.parse(value::address)).transpose()?;
        let peer_listen = low.get("peer_listen").map(|given| given.parse(value::address));
        let own_peer = own.map(|member| member.peer.clone()).filter(|peer| !peer.is_empty());
        let peer_listen = peer_listen.transpose()?.or(own_peer);

        let config = Config {
            id,
            data: low
                .get("data")
                .map_or(Ok("kvorum-data".into()), |given| given.parse(value::directory))?,
            listen,
            peer_listen,
            cluster_secret_file: low
                .get("cluster_secret_file")
                .map(|given| given.parse(value::file))
                .transpose()?,
            repair_from_peers: switch(low, "repair_from_peers")?,
            trace_peers: switch(low, "trace_peers")?,
            members,
            join: low
                .get("join")
                .map_or(Ok(Vec::new()), |given| given.parse_all(value::address))?,
            write_quorum: low
                .get("write_quorum")
                .map_or(Ok(Quorum::Majority), |given| given.parse(value::write_quorum))?,
            read_quorum: low
                .get("read_quorum")
                .map_or(Ok(Quorum::Majority), |given| given.parse(value::read_quorum))?,
            quorum_timeout_ms: number(low, "quorum_timeout_ms", 5000, TIMEOUT_MS_MAX)?,
            fsync: low.get("fsync").map_or(Ok(Fsync::Always), |given| given.parse(value::fsync))?,
            heartbeat_ms: number(low, "heartbeat_ms", 50, TIMEOUT_MS_MAX)?,
            election_timeout_ms: number(low, "election_timeout_ms", 300, TIMEOUT_MS_MAX)?,
            limits: Limits {
                key_bytes_max: size(low, "key_bytes_max", limits::KEY_BYTES_MAX)?
                    .unwrap_or(limits::KEY_BYTES_MAX),
                value_bytes_max: size(low, "value_bytes_max", limits::VALUE_BYTES_MAX)?
                    .unwrap_or(limits::VALUE_BYTES_DEFAULT),
            },
            connections_max: usize::try_from(number(
                low,
                "connections_max",
                10_000,
                CONNECTIONS_MAX,
            )?)
            .expect("CONNECTIONS_MAX fits"),
            memory_bytes_max: low
                .get("memory_max")
                .map(|given| given.parse(|word| value::size(word, u64::MAX)))
                .transpose()?,
            snapshot_log_percent: number(low, "snapshot_log_percent", 100, LOG_PERCENT_MAX)?,
            snapshot_log_bytes_min: low
                .get("snapshot_log_bytes_min")
                .map(|given| given.parse(|word| value::size(word, LOG_BYTES_BETWEEN_SNAPSHOTS_MAX)))
                .transpose()?
                .unwrap_or(LOG_BYTES_BETWEEN_SNAPSHOTS_MIN),
        };
        config.check(low)?;
        Ok(config)
    }

    /// How many voters the cluster has at its first boot.
    #[must_use]
    pub fn voter_count(&self) -> usize {
        self.members.as_ref().map_or(1, |members| members.voters().count())
    }

    /// Checks what each value alone does not show.
    fn check(&self, low: &LowConfig) -> Result<(), ConfigError> {
        if self.heartbeat_ms >= self.election_timeout_ms {
            let origin = low.origin(&["heartbeat_ms", "election_timeout_ms"]);
            return Err(Conflict::HeartbeatTooSlow {
                heartbeat_ms: self.heartbeat_ms,
                election_timeout_ms: self.election_timeout_ms,
            }
            .at(origin));
        }
        let own = self.members.as_ref().and_then(|members| members.get(self.id));
        let listen = self.listen.as_deref().or(own.map(|own| own.client.as_str()));
        let listen = listen.unwrap_or(LISTEN_DEFAULT);
        if !listen.ends_with(":0") && self.peer_listen.as_deref() == Some(listen) {
            let origin = low.origin(&["peer_listen", "listen"]);
            return Err(Conflict::SameListen { address: listen.to_owned() }.at(origin));
        }
        if self.members.is_some() && !self.join.is_empty() {
            return Err(Conflict::JoinWithMembers.at(low.origin(&["join"])));
        }
        if let Some(peer_listen) = &self.peer_listen
            && self.members.as_ref().is_some_and(|members| members.members().len() > 1)
            && self.cluster_secret_file.is_none()
            && value::is_open(peer_listen)
        {
            let origin = low.origin(&["peer_listen", "member", "learner"]);
            return Err(Conflict::OpenPeerPort { address: peer_listen.clone() }.at(origin));
        }
        // Without a list the log may know of more voters than this boot was told of.
        if self.members.is_some() {
            self.quorums_fit(self.voter_count())
                .map_err(|(key, conflict)| conflict.at(low.origin(&[key])))?;
        }
        Ok(())
    }

    /// Compares W and R with a number of voters, such as that of the recovered log.
    ///
    /// # Errors
    /// A quorum that asks for more voters than there are.
    pub fn check_quorums(&self, voters: usize) -> Result<(), ConfigError> {
        self.quorums_fit(voters).map_err(|(_, conflict)| conflict.at(None))
    }

    fn quorums_fit(&self, voters: usize) -> Result<(), (&'static str, Conflict)> {
        for (key, quorum) in
            [("write_quorum", self.write_quorum), ("read_quorum", self.read_quorum)]
        {
            if quorum.size(voters).is_none() {
                return Err((key, Conflict::QuorumTooLarge { key, quorum, voters }));
            }
        }
        Ok(())
    }
}

fn node_id(low: &LowConfig) -> Result<NodeId, ConfigError> {
    low.get("id").map_or(Ok(NodeId(1)), |given| given.parse(value::node_id))
}

/// On or off; off unless it is given.
fn switch(low: &LowConfig, key: &str) -> Result<bool, ConfigError> {
    low.get(key).map_or(Ok(false), |given| given.parse(value::boolean))
}

/// A number from 1 to `max`.
fn number(low: &LowConfig, key: &str, default: u64, max: u64) -> Result<u64, ConfigError> {
    low.get(key).map_or(Ok(default), |given| given.parse(|word| value::number(word, max)))
}

/// A size in bytes from 1 to `max`.
fn size(low: &LowConfig, key: &str, max: usize) -> Result<Option<usize>, ConfigError> {
    let parse = |word: &str| {
        let bytes = value::size(word, u64::try_from(max).expect("a usize fits in a u64"))?;
        Ok(usize::try_from(bytes).expect("at most `max`"))
    };
    low.get(key).map(|given| given.parse(parse)).transpose()
}

/// The voters and learners, when there is a list of them.
fn members(low: &LowConfig, own: NodeId) -> Result<Option<MemberList>, ConfigError> {
    let mut members = Vec::new();
    for (key, role) in [("member", Role::Voter), ("learner", Role::Learner)] {
        if let Some(given) = low.get(key) {
            members.extend(given.parse_all(|word| value::member(word, role))?);
        }
    }
    let origin = low.origin(&["member", "learner"]);
    if members.is_empty() {
        return Ok(None);
    }
    if members.iter().all(|member| member.role == Role::Learner) {
        return Err(Conflict::LearnersWithoutVoters.at(origin));
    }
    check_client_addresses(&members).map_err(|conflict| conflict.at(origin))?;
    let members = MemberList::new(members).map_err(|error| Conflict::Members(error).at(origin))?;
    match members.get(own) {
        Some(_) => Ok(Some(members)),
        None => Err(Conflict::OwnIdMissing { id: own }.at(origin)),
    }
}

/// A client that is sent to the leader must find it and nobody else.
fn check_client_addresses(members: &[Member]) -> Result<(), Conflict> {
    for (at, member) in members.iter().enumerate() {
        let client = &member.client;
        let elsewhere = members[..at].iter().any(|other| other.client == *client);
        if elsewhere || members.iter().any(|other| other.peer == *client) {
            return Err(Conflict::DuplicateAddress { address: client.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
