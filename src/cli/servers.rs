//! How the commands reach a cluster: which servers, for how long, and how a failure is told.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{CallOptions, Calls, Cause, Client, Error, ErrorKind, Options};

/// Between two looks at what changes without anybody telling.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, clap::Args)]
pub(super) struct ClientFlags {
    /// Servers of the cluster, with commas between them; one that lives is enough
    #[arg(
        long,
        env = "KVORUM_SERVERS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "HOST:PORT,...",
        default_value = crate::config::LISTEN_DEFAULT,
    )]
    pub servers: Vec<String>,

    /// How long to try; a server's own timeout for a quorum is 5000 ms
    #[arg(long, value_name = "MS", default_value_t = 6000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub timeout_ms: u64,
}

/// Why a client command has no result.
#[derive(Debug)]
pub(super) enum ClientError {
    /// The call failed.
    Call(Error),
    /// Standard input can not be read.
    Input(io::Error),
}

impl ClientError {
    /// Whether what was asked makes no sense, here or to a server.
    pub(super) fn is_wrong_usage(&self) -> bool {
        matches!(self, ClientError::Call(error) if error.kind() == ErrorKind::WrongUsage
            && (error.server().is_none() || *error.cause() == Cause::BadRequest))
    }
}

impl From<Error> for ClientError {
    fn from(error: Error) -> ClientError {
        ClientError::Call(error)
    }
}

/// What a server has said begins with its code, as in the text protocol.
impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            ClientError::Call(error) => error,
            ClientError::Input(error) => return write!(f, "standard input: {error}"),
        };
        let Some(message) = error.message() else { return error.fmt(f) };
        match error.cause() {
            Cause::NoLeader => write!(f, "NO_LEADER {message}")?,
            cause => write!(f, "{cause} {message}")?,
        }
        match error.kind() {
            ErrorKind::NotApplied => f.write_str("; nothing was applied"),
            ErrorKind::OutcomeUnknown => f.write_str("; the write may or may not be applied"),
            ErrorKind::WrongUsage => Ok(()),
        }
    }
}

/// A cluster of which a server has answered, for one command.
pub(super) struct Connected {
    pub(super) client: Client,
    pub(super) deadline: Instant,
}

impl Connected {
    /// The calls that end in time.
    pub(super) fn calls(&self) -> Calls<'_> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.client.with(CallOptions { timeout: Some(left), ..CallOptions::default() })
    }
}

impl ClientFlags {
    /// A client of these servers, none of which was asked yet.
    pub(super) fn client(&self) -> Result<Client, ClientError> {
        Ok(Client::new(&self.servers, self.options())?)
    }

    /// Begins a command. When no server answers at all, that is said at once.
    pub(super) fn connect(&self) -> Result<Connected, ClientError> {
        let deadline = self.deadline();
        let client = Client::connect(&self.servers, self.options())?.one_at_a_time();
        Ok(Connected { client, deadline })
    }

    /// When to give up what begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.timeout_ms)
    }

    fn options(&self) -> Options {
        Options { timeout: Duration::from_millis(self.timeout_ms), ..Options::default() }
    }

    /// The STATUS lines of all servers, asked at once.
    pub(super) fn statuses(&self, client: &Client) -> Vec<(&str, Result<String, Error>)> {
        thread::scope(|scope| {
            let ask = |server| (server, scope.spawn(move || client.status(server)));
            let asked: Vec<_> = self.servers.iter().map(String::as_str).map(ask).collect();
            let answers = asked
                .into_iter()
                .map(|(server, answer)| (server, answer.join().expect("asking does not panic")));
            answers.collect()
        })
    }
}

/// Waits for what only time can bring: there is nobody who would tell.
pub(super) fn pause() {
    pause_until(Instant::now() + PAUSE);
}

/// The same for as long as somebody else has thought best.
pub(super) fn pause_until(until: Instant) {
    thread::sleep(until.saturating_duration_since(Instant::now()));
}
