//! The one-shot client commands: `get`, `set`, `delete`.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use kvorum_protocol::limits::VALUE_BYTES_MAX;

use super::Error;
use super::servers::{ClientError, ClientFlags};

#[derive(Debug, clap::Args)]
pub(super) struct GetFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// The key
    key: OsString,
}

#[derive(Debug, clap::Args)]
pub(super) struct SetFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// The key
    key: OsString,
    /// The value, or - for all of standard input
    #[arg(allow_hyphen_values = true)]
    value: OsString,
}

#[derive(Debug, clap::Args)]
pub(super) struct DeleteFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<OsString>,
}

pub(super) fn get(flags: &GetFlags) -> Result<(), Error> {
    let found = flags.client.connect()?.calls().get(flags.key.as_bytes());
    let found = found.map_err(ClientError::Call)?.ok_or(Error::NotFound)?;
    let mut out = io::stdout().lock();
    out.write_all(&found.value)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

pub(super) fn set(flags: &SetFlags) -> Result<(), Error> {
    let value = if flags.value == "-" {
        // One byte more than is accepted shows that there is too much.
        let mut value = Vec::new();
        let limit = u64::try_from(VALUE_BYTES_MAX).expect("fits") + 1;
        io::stdin().lock().take(limit).read_to_end(&mut value).map_err(ClientError::Input)?;
        value
    } else {
        flags.value.as_bytes().to_vec()
    };
    let set = flags.client.connect()?.calls().set(flags.key.as_bytes(), value);
    set.map_err(ClientError::Call)?;
    Ok(writeln!(io::stdout(), "OK")?)
}

pub(super) fn delete(flags: &DeleteFlags) -> Result<(), Error> {
    let keys: Vec<&[u8]> = flags.keys.iter().map(|key| key.as_bytes()).collect();
    let connected = flags.client.connect()?;
    let deleted = match keys[..] {
        [key] => connected.calls().delete(key),
        _ => connected.calls().delete_many(&keys),
    };
    match (deleted.map_err(ClientError::Call)?.count, keys.len()) {
        (0, _) => Err(Error::NotFound),
        (_, 1) => Ok(writeln!(io::stdout(), "OK")?),
        (count, of) => Ok(writeln!(io::stdout(), "OK {count} of {of}")?),
    }
}
