//! The one-shot client commands: `get`, `set`, `delete`.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;

use kvorum_protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use kvorum_protocol::{Command, KeyList, Limits, Op, Read, Request};

use super::Error;
use super::servers::{ClientError, ClientFlags};
use crate::client::Reply;

/// No server accepts more than this, however it is configured.
const LIMITS: Limits = Limits { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: VALUE_BYTES_MAX };

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
    let request = Request::Read(Read::Get(flags.key.as_bytes()));
    match flags.client.call(&request)? {
        Reply::Value { value, .. } => {
            let mut out = io::stdout().lock();
            out.write_all(&value)?;
            out.write_all(b"\n")?;
            Ok(out.flush()?)
        }
        Reply::NotFound => Err(Error::NotFound),
        other => Err(ClientError::WrongReply(other).into()),
    }
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
    let op = Op::Set { key: flags.key.as_bytes(), value: &value };
    match flags.client.call(&Request::Write(Command::new(op)))? {
        Reply::Written { .. } => Ok(writeln!(io::stdout(), "OK")?),
        other => Err(ClientError::WrongReply(other).into()),
    }
}

pub(super) fn delete(flags: &DeleteFlags) -> Result<(), Error> {
    let keys: Vec<&[u8]> = flags.keys.iter().map(|key| key.as_bytes()).collect();
    let mut scratch = Vec::new();
    let op = match keys[..] {
        [key] => Op::Delete { key },
        _ => {
            let keys = KeyList::encode(keys.iter().copied(), &LIMITS, &mut scratch);
            Op::DeleteMany(keys.map_err(ClientError::WrongUsage)?)
        }
    };
    match flags.client.call(&Request::Write(Command::new(op)))? {
        Reply::Deleted { count: 0, .. } => Err(Error::NotFound),
        Reply::Deleted { count, .. } if keys.len() > 1 => {
            Ok(writeln!(io::stdout(), "OK {count} of {}", keys.len())?)
        }
        Reply::Deleted { .. } => Ok(writeln!(io::stdout(), "OK")?),
        other => Err(ClientError::WrongReply(other).into()),
    }
}
