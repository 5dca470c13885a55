//! The promises that a configuration gives up.

use kvorum_protocol::Quorum;

use super::{Config, Fsync};

/// What is less than the default promises. Each is named wherever a node tells of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relaxed {
    /// W below a majority: the loss of one node can lose acknowledged writes.
    WriteQuorum(Quorum),
    /// R below a majority: reads may be stale.
    ReadQuorum(Quorum),
    /// Acknowledged before fdatasync: a power cut can lose acknowledged writes.
    Fsync(Fsync),
}

impl Relaxed {
    /// The word that STATUS and INFO have for it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Relaxed::WriteQuorum(_) => "w",
            Relaxed::ReadQuorum(_) => "r",
            Relaxed::Fsync(_) => "fsync",
        }
    }

    /// The same for a person.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Relaxed::WriteQuorum(quorum) => {
                format!("w={quorum} is below a majority: acknowledged writes can be lost")
            }
            Relaxed::ReadQuorum(quorum) => {
                format!("r={quorum} is below a majority: reads may be stale")
            }
            Relaxed::Fsync(fsync) => {
                format!("fsync={fsync}: a power cut loses acknowledged writes")
            }
        }
    }
}

impl Config {
    /// What this configuration gives up in a cluster of so many voters.
    #[must_use]
    pub fn relaxed(&self, voters: usize) -> Vec<Relaxed> {
        let is_below = |quorum: Quorum| quorum.size(voters) < Quorum::Majority.size(voters);
        let mut relaxed = Vec::new();
        if is_below(self.write_quorum) {
            relaxed.push(Relaxed::WriteQuorum(self.write_quorum));
        }
        if is_below(self.read_quorum) {
            relaxed.push(Relaxed::ReadQuorum(self.read_quorum));
        }
        if self.fsync != Fsync::Always {
            relaxed.push(Relaxed::Fsync(self.fsync));
        }
        relaxed
    }
}

#[cfg(test)]
mod tests {
    use super::super::LowConfig;
    use super::*;

    #[test]
    fn what_is_below_a_majority_or_not_synced_is_named() {
        let mut config = Config::new(&LowConfig::default()).unwrap();
        let words = |config: &Config, voters| {
            config.relaxed(voters).iter().map(Relaxed::word).collect::<Vec<_>>().join(",")
        };
        assert_eq!(words(&config, 3), "");
        config.write_quorum = Quorum::Count(1);
        assert_eq!((words(&config, 1), words(&config, 3)), (String::new(), "w".to_owned()));
        config.read_quorum = Quorum::Count(2);
        assert_eq!(words(&config, 3), "w");
        assert_eq!(words(&config, 5), "w,r");
        config.fsync = Fsync::EveryMs(10);
        config.write_quorum = Quorum::All;
        assert_eq!(words(&config, 5), "r,fsync");
    }
}
