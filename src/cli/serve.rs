//! `kvorum serve`.

use super::Error;
use crate::config::{Config, LowConfig, ServeFlags};
use crate::net::serve;

pub(super) fn run(flags: &ServeFlags) -> Result<(), Error> {
    let low = LowConfig::gather(flags, std::env::vars_os())?;
    let config = Config::new(&low)?;
    // A second logger can only come from a program that calls this twice.
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format_timestamp_millis()
        .try_init();
    Ok(serve(config)?)
}
