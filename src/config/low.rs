//! What was typed: the flags of `serve`, the environment, and a TOML file, merged. A flag beats
//! the environment, and the environment beats the file; lists are replaced, not joined.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Origin};

/// What a variable's name starts with.
const VARIABLE_PREFIX: &str = "KVORUM_";

/// Variables with the prefix that are not settings of `serve`: the client commands read the
/// first, and the second names the file.
const OTHER_VARIABLES: [&str; 2] = ["KVORUM_SERVERS", "KVORUM_CONFIG"];

/// The flags of `kvorum serve`, kept as words: one place parses them, whichever way they came.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ServeFlags {
    /// TOML file with these settings (names with `_`); also KVORUM_CONFIG
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// This node's id, 1 to 65535 [default: 1]
    #[arg(long, value_name = "N")]
    pub id: Option<String>,

    /// Directory of the log and snapshots; made if missing [default: kvorum-data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<String>,

    /// Client port: binary, text and RESP [default: own member entry, else 127.0.0.1:6379]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,

    /// Peer port [default: own member entry]
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,

    /// A voter, such as 1=127.0.0.1:6381/127.0.0.1:7381; repeated, the same list on every node
    #[arg(long, value_name = "ID=CLIENT/PEER")]
    pub member: Vec<String>,

    /// A non-voting replica; repeated, the same list on every node
    #[arg(long, value_name = "ID=CLIENT/PEER")]
    pub learner: Vec<String>,

    /// Join a cluster that runs: some of its servers; `kvorum member add` names this node to it
    #[arg(long, value_name = "HOST:PORT,...")]
    pub join: Vec<String>,

    /// File with what the nodes of the cluster prove to each other; without it peers are served
    /// on loopback only
    #[arg(long, value_name = "FILE")]
    pub cluster_secret_file: Option<String>,

    /// Give up what is damaged in the log, and let the cluster fill it again [default: false]
    ///
    /// As `kvorum repair` does, at every start, and without asking: what is cut off is gone from
    /// this node. Votes and acknowledgements are not forgotten; where they can not be told any
    /// more, the node refuses to start.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub repair_from_peers: Option<String>,

    /// Print each message between this node and its peers [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    pub trace_peers: Option<String>,

    /// W, how many voters hold a write durably before it is acknowledged [default: majority]
    #[arg(long, value_name = "majority|all|N")]
    pub write_quorum: Option<String>,

    /// R, how many voters a read consults; 1 answers from local state [default: majority]
    #[arg(long, value_name = "majority|N")]
    pub read_quorum: Option<String>,

    /// How long a request may wait for W or R [default: 5000]
    #[arg(long, value_name = "MS")]
    pub quorum_timeout_ms: Option<String>,

    /// A write counts as durable after fdatasync; with fdatasync every MS ms; left to the system
    /// [default: always]
    #[arg(long, value_name = "always|MS|never")]
    pub fsync: Option<String>,

    /// How often an idle leader is heard [default: 50]
    #[arg(long, value_name = "MS")]
    pub heartbeat_ms: Option<String>,

    /// T, a follower that hears nothing stands for election after a random time in [T, 2T)
    /// [default: 300]
    #[arg(long, value_name = "MS")]
    pub election_timeout_ms: Option<String>,

    /// Longest key, at most 65535 [default: 65535]
    #[arg(long, value_name = "SIZE")]
    pub key_bytes_max: Option<String>,

    /// Longest value, at most 64mb [default: 8mb]
    #[arg(long, value_name = "SIZE")]
    pub value_bytes_max: Option<String>,

    /// How many client connections are served at once [default: 10000]
    #[arg(long, value_name = "N")]
    pub connections_max: Option<String>,

    /// Memory for keys and values, such as 512mb or 4GiB; writes beyond it are refused
    /// [default: none]
    #[arg(long, value_name = "SIZE")]
    pub memory_max: Option<String>,

    /// A snapshot is taken when the log has grown by so much of what the keys weigh [default: 100]
    #[arg(long, value_name = "PERCENT")]
    pub snapshot_log_percent: Option<String>,

    /// But not before it has grown by this [default: 128mb]
    #[arg(long, value_name = "SIZE")]
    pub snapshot_log_bytes_min: Option<String>,
}

impl ServeFlags {
    /// Each setting by its name in the file, with the words that were typed for it.
    fn words(&self) -> [(&'static str, &[String]); 22] {
        [
            ("id", self.id.as_slice()),
            ("data", self.data.as_slice()),
            ("listen", self.listen.as_slice()),
            ("peer_listen", self.peer_listen.as_slice()),
            ("member", &self.member),
            ("learner", &self.learner),
            ("join", &self.join),
            ("cluster_secret_file", self.cluster_secret_file.as_slice()),
            ("repair_from_peers", self.repair_from_peers.as_slice()),
            ("trace_peers", self.trace_peers.as_slice()),
            ("write_quorum", self.write_quorum.as_slice()),
            ("read_quorum", self.read_quorum.as_slice()),
            ("quorum_timeout_ms", self.quorum_timeout_ms.as_slice()),
            ("fsync", self.fsync.as_slice()),
            ("heartbeat_ms", self.heartbeat_ms.as_slice()),
            ("election_timeout_ms", self.election_timeout_ms.as_slice()),
            ("key_bytes_max", self.key_bytes_max.as_slice()),
            ("value_bytes_max", self.value_bytes_max.as_slice()),
            ("connections_max", self.connections_max.as_slice()),
            ("memory_max", self.memory_max.as_slice()),
            ("snapshot_log_percent", self.snapshot_log_percent.as_slice()),
            ("snapshot_log_bytes_min", self.snapshot_log_bytes_min.as_slice()),
        ]
    }
}

/// What was typed for each setting, and where.
#[derive(Clone, Debug, Default)]
pub struct LowConfig {
    given: BTreeMap<&'static str, Given>,
}

/// The words for one setting, all from one place.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// One word; any number for a list.
    words: Vec<String>,
    origin: Origin,
}

impl Given {
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The word of a setting that is no list.
    pub(super) fn text(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The one value of a setting that is no list.
    pub(super) fn parse<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        self.parse_word(self.text(), parse)
    }

    /// The values of a list. A word may hold several, with commas between them.
    pub(super) fn parse_all<T>(
        &self,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, ConfigError> {
        let words = self.words.iter().flat_map(|words| words.split(','));
        words.map(|word| self.parse_word(word.trim(), &parse)).collect()
    }

    fn parse_word<T>(
        &self,
        word: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        parse(word).map_err(|accepted| ConfigError::Value {
            origin: self.origin.clone(),
            value: word.to_owned(),
            accepted,
        })
    }
}

impl LowConfig {
    /// Merges the flags, the variables of the environment, and the file that `--config` or
    /// `KVORUM_CONFIG` names.
    ///
    /// # Errors
    /// A file that can not be read or is not TOML, a name that no setting has, a value that is no
    /// text.
    pub fn gather(
        flags: &ServeFlags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<LowConfig, ConfigError> {
        let mut low = LowConfig::default();
        let mut config = flags.config.clone();
        for (key, words) in flags.words() {
            if !words.is_empty() {
                low.give(key, words.to_vec(), Origin::Flag { name: key.replace('_', "-") });
            }
        }
        for (name, value) in environment {
            // An empty variable is how a wrapper script spells "not set".
            let Some(name) = name.to_str().filter(|_| !value.is_empty()) else { continue };
            if name == "KVORUM_CONFIG" {
                config = config.or_else(|| Some(value.into()));
            } else if name.starts_with(VARIABLE_PREFIX) && !OTHER_VARIABLES.contains(&name) {
                low.add_variable(name, value)?;
            }
        }
        if let Some(path) = config {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| ConfigError::ReadFile { path: path.clone(), error })?;
            low.add_file(&path, &text)?;
        }
        Ok(low)
    }

    /// What was typed for the setting with this name in the file.
    pub(super) fn get(&self, key: &str) -> Option<&Given> {
        assert!(setting(key).is_some(), "no setting has the name {key}");
        self.given.get(key)
    }

    /// Where the first of these settings that was typed at all was typed.
    pub(super) fn origin(&self, keys: &[&str]) -> Option<&Origin> {
        keys.iter().find_map(|key| self.get(key)).map(Given::origin)
    }

    /// Places are added from the strongest to the weakest: what is there stays.
    fn give(&mut self, key: &'static str, words: Vec<String>, origin: Origin) {
        self.given.entry(key).or_insert(Given { words, origin });
    }

    fn add_variable(&mut self, name: &str, value: OsString) -> Result<(), ConfigError> {
        let origin = Origin::Variable { name: name.to_owned() };
        let value = value.into_string().map_err(|value| ConfigError::Value {
            origin: origin.clone(),
            value: value.to_string_lossy().into_owned(),
            accepted: "UTF-8 text".into(),
        })?;
        let key = name[VARIABLE_PREFIX.len()..].to_ascii_lowercase();
        match setting(&key).filter(|key| variable(key) == name) {
            Some(key) => self.give(key, vec![value], origin),
            None if is_service_link(name, &value) => {}
            None => {
                let nearest = nearest(&key).map(variable);
                return Err(ConfigError::UnknownKey { origin, nearest });
            }
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let line = |at: usize| {
            let before = &text.as_bytes()[..at.min(text.len())];
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        };
        let table = DeTable::parse(text).map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            line: line(error.span().map_or(0, |span| span.start)),
            message: error.message().to_owned(),
        })?;
        for (key, value) in table.get_ref() {
            let name = key.get_ref();
            let origin = Origin::File {
                path: path.to_owned(),
                line: line(key.span().start),
                key: name.to_string(),
            };
            let Some(key) = setting(name) else {
                let nearest = nearest(name).map(str::to_owned);
                return Err(ConfigError::UnknownKey { origin, nearest });
            };
            let words = words_of(key, value.get_ref()).ok_or_else(|| ConfigError::Value {
                origin: origin.clone(),
                value: text.get(value.span()).unwrap_or_default().to_owned(),
                accepted: if is_list(key) {
                    "an array of texts".into()
                } else {
                    "a text or a whole number".into()
                },
            })?;
            self.give(key, words, origin);
        }
        Ok(())
    }
}

/// The name of the setting, if one has this name.
fn setting(name: &str) -> Option<&'static str> {
    let flags = ServeFlags::default();
    flags.words().into_iter().find_map(|(key, _)| (key == name).then_some(key))
}

fn is_list(key: &str) -> bool {
    matches!(key, "member" | "learner")
}

fn is_switch(key: &str) -> bool {
    matches!(key, "repair_from_peers" | "trace_peers")
}

fn variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_ascii_uppercase())
}

/// The setting whose name is like this one, when one is: the measure and the bound are those that
/// clap has for mistyped flags.
fn nearest(name: &str) -> Option<&'static str> {
    let flags = ServeFlags::default();
    let similar = flags.words().map(|(key, _)| (strsim::jaro(name, key), key));
    let best = similar.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > 0.7).then_some(best.1)
}

/// Kubernetes gives every pod variables that describe the services beside it, such as
/// `KVORUM_PORT=tcp://10.0.0.7:6379` and `KVORUM_SERVICE_HOST` for a service named kvorum. Nobody
/// typed them.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT") && value.contains("://")
        || name.contains("_PORT_")
            && ["_TCP", "_UDP", "_SCTP", "_PROTO", "_PORT", "_ADDR"]
                .iter()
                .any(|end| name.ends_with(end))
}

/// A value of the file as words; `None` when it is neither text nor a whole number (nor, for a
/// list, an array of texts).
fn words_of(key: &str, value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.to_string()]),
        DeValue::Integer(integer) if !is_list(key) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok()?;
            Some(vec![number.to_string()])
        }
        DeValue::Boolean(boolean) if is_switch(key) => Some(vec![boolean.to_string()]),
        DeValue::Array(items) if is_list(key) => {
            items.iter().map(|item| Some(item.get_ref().as_str()?.to_owned())).collect()
        }
        _ => None,
    }
}
