//! The one-shot client commands: `get`, `set`, `delete`.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use kvorum_protocol::{Command, DecodeError, ErrorCode, KeyList, Limits, Op, Read, Request};

use super::Error;
use crate::client::{Connection, ConnectionError, Reply};

/// How long one server may take to accept a connection before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// No server accepts more than this, however it is configured.
const LIMITS: Limits = Limits { key_bytes_max: KEY_BYTES_MAX, value_bytes_max: VALUE_BYTES_MAX };

#[derive(Debug, clap::Args)]
pub(super) struct ClientFlags {
    /// Servers to try in this order, with commas between them
    #[arg(
        long,
        env = "KVORUM_SERVERS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "HOST:PORT,...",
        default_value = crate::config::LISTEN_DEFAULT,
    )]
    pub servers: Vec<String>,

    /// How long a server may take to answer; its own timeout for a quorum is 5000 ms
    #[arg(long, value_name = "MS", default_value_t = 6000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub timeout_ms: u64,
}

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

/// Why a client command has no result.
#[derive(Debug)]
pub(super) enum ClientError {
    /// A key or value that no server accepts.
    WrongUsage(DecodeError),
    /// No server could be asked; nothing was applied. One reason for each.
    NoServer(Vec<ConnectionError>),
    /// The connection was lost; a write may or may not have been applied.
    Lost { error: ConnectionError, is_write: bool },
    /// The server that was named as the leader named yet another.
    NoLeaderFound { leader: String },
    /// The server refused.
    Refused { code: ErrorCode, message: String },
    /// The server's answer does not belong to the request.
    WrongReply(Reply),
    /// Standard input can not be read.
    Input(io::Error),
}

impl ClientError {
    pub(super) fn is_wrong_usage(&self) -> bool {
        matches!(self, ClientError::WrongUsage(_))
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::WrongUsage(error) => error.fmt(f),
            ClientError::NoServer(errors) => {
                f.write_str("no server could be asked, nothing was applied: ")?;
                for (at, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}", if at == 0 { "" } else { "; " })?;
                }
                Ok(())
            }
            ClientError::Lost { error, is_write: true } => {
                write!(f, "{error}: the write may or may not have been applied")
            }
            ClientError::Lost { error, is_write: false } => error.fmt(f),
            ClientError::NoLeaderFound { leader } => write!(
                f,
                "nothing was applied: the servers do not agree on a leader, the last one named \
                 {leader}; try again"
            ),
            ClientError::Refused { code, message } => write!(f, "{} {message}", code.word()),
            ClientError::WrongReply(reply) => {
                write!(f, "the server gave a wrong answer: {reply:?}")
            }
            ClientError::Input(error) => write!(f, "standard input: {error}"),
        }
    }
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

impl ClientFlags {
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Asks the servers in turn until one gives an answer that is final.
    fn call(&self, request: &Request<'_>) -> Result<Reply, ClientError> {
        let is_write = matches!(request, Request::Write(_));
        let mut errors = Vec::new();
        let mut refusal = None;
        for server in &self.servers {
            let reply = match ask(server, request, self.timeout()) {
                Ok(Reply::NotLeader { leader }) => ask(&leader, request, self.timeout()),
                reply => reply,
            };
            match reply {
                // Not applied, and another server may know better.
                Ok(Reply::Error {
                    code: code @ (ErrorCode::NoLeader | ErrorCode::Busy),
                    message,
                }) => {
                    refusal = Some(ClientError::Refused { code, message });
                }
                Ok(Reply::NotLeader { leader }) => {
                    refusal = Some(ClientError::NoLeaderFound { leader });
                }
                Ok(Reply::Error { code, message }) => {
                    return Err(ClientError::Refused { code, message });
                }
                Ok(reply) => return Ok(reply),
                Err(ConnectionError::WrongUsage(error)) => {
                    return Err(ClientError::WrongUsage(error));
                }
                // A write that may have been applied must not be sent again.
                Err(error) if is_write && error.outcome_is_open() => {
                    return Err(ClientError::Lost { error, is_write });
                }
                Err(error) => errors.push(error),
            }
        }
        Err(refusal.unwrap_or(match errors.pop() {
            Some(error) if errors.is_empty() && error.outcome_is_open() => {
                ClientError::Lost { error, is_write }
            }
            last => {
                errors.extend(last);
                ClientError::NoServer(errors)
            }
        }))
    }
}

/// Asks one server.
pub(super) fn ask(
    server: &str,
    request: &Request<'_>,
    timeout: Duration,
) -> Result<Reply, ConnectionError> {
    let mut connection = Connection::open(server, Instant::now() + timeout.min(CONNECT_TIMEOUT))?;
    connection.call(RequestHead::default(), request, Instant::now() + timeout)
}
