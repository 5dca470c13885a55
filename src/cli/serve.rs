//! `kvorum serve`.

use std::time::Duration;

use kvorum_protocol::MembersLine;

use super::Error;
use crate::client::{Client, Options};
use crate::config::{Config, LowConfig, ServeFlags};
use crate::net::serve;

/// How long a node that joins a cluster waits for one answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(flags: &ServeFlags) -> Result<(), Error> {
    let low = LowConfig::gather(flags, std::env::vars_os())?;
    let config = Config::new(&low)?;
    // A second logger can only come from a program that calls this twice.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .try_init();
    Ok(serve(config, &ask_members)?)
}

/// Asks a cluster for its members, once.
fn ask_members(servers: &[String]) -> Result<MembersLine, String> {
    let options = Options { timeout: ASK_TIMEOUT, ..Options::default() };
    let client = Client::connect(servers, options).map_err(|error| error.to_string())?;
    client.members().map_err(|error| error.to_string())
}
