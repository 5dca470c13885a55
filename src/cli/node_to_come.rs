//! Stands where `crate::net` will: `serve` and its error.

use std::fmt;

use crate::config::Config;

/// This build has no server in it.
#[derive(Debug)]
pub struct ServeError;

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this build has no server in it")
    }
}

pub(super) fn serve(_config: Config) -> Result<(), ServeError> {
    Err(ServeError)
}
