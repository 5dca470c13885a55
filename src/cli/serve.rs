//! `kvorum serve`.

use kvorum_protocol::Role;

use super::Error;
use crate::config::{Config, ConfigError, LowConfig, ServeFlags};
use crate::net::serve;

pub(super) fn run(flags: &ServeFlags) -> Result<(), Error> {
    let low = LowConfig::gather(flags, std::env::vars_os())?;
    let config = Config::new(&low)?;
    require_one_voter(&config)?;
    // A second logger can only come from a program that calls this twice.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .try_init();
    Ok(serve(config)?)
}

/// Replication is not there yet: whoever asks for it must not get a lone node in its place.
fn require_one_voter(config: &Config) -> Result<(), ConfigError> {
    let members = config.members.iter().flat_map(|members| members.members());
    let (mut voters, mut learners) = (0, 0);
    for member in members {
        match member.role {
            Role::Voter => voters += 1,
            Role::Learner => learners += 1,
        }
    }
    if voters > 1 || learners > 0 {
        return Err(ConfigError::NotYet { voters, learners });
    }
    config.check_quorums(1)
}
