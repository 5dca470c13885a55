//! How the one-shot commands reach a cluster: the servers in turn, the leader where one is named.

use std::fmt;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{DecodeError, ErrorCode, Request};

use crate::client::{Connection, ConnectionError, Reply};

/// How long one server may take to accept a connection before the next one is tried.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two rounds of questions to servers that have no leader. An election takes longer.
const ROUND_INTERVAL: Duration = Duration::from_millis(20);

/// How often the leader that a server names may name another.
const HOPS_MAX: usize = 3;

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

    /// How long to try; a server's own timeout for a quorum is 5000 ms
    #[arg(long, value_name = "MS", default_value_t = 6000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub timeout_ms: u64,
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
    /// The servers name a leader that is none, or that is not there.
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

/// What one round of questions has brought.
enum Round {
    Final(Result<Reply, ClientError>),
    /// Nothing was applied, and soon there may be an answer: the reason so far.
    AskAgain(ClientError),
}

impl ClientFlags {
    /// When to give up what begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.timeout_ms)
    }

    /// Asks the servers in turn, and the leader that they name, until one gives an answer that is
    /// final. While there is no leader it asks again, as long as there is time.
    pub(super) fn call(&self, request: &Request<'_>) -> Result<Reply, ClientError> {
        let deadline = self.deadline();
        let mut last_reason = None;
        loop {
            match self.round(request, deadline) {
                // The time was over in the middle of this round: it says less than the last one.
                Round::Final(Err(ClientError::NoServer(_)))
                    if last_reason.is_some() && Instant::now() >= deadline => {}
                Round::Final(result) => return result,
                Round::AskAgain(reason) => last_reason = Some(reason),
            }
            match last_reason.take_if(|_| Instant::now() + ROUND_INTERVAL >= deadline) {
                Some(reason) => return Err(reason),
                None => pause(),
            }
        }
    }

    fn round(&self, request: &Request<'_>, deadline: Instant) -> Round {
        let is_write = matches!(request, Request::Write(_));
        let mut errors = Vec::new();
        let mut refusal = None;
        for server in &self.servers {
            let (named, reply) = ask_and_follow(server, request, deadline);
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
                    return Round::Final(Err(ClientError::Refused { code, message }));
                }
                Ok(reply) => return Round::Final(Ok(reply)),
                Err(ConnectionError::WrongUsage(error)) => {
                    return Round::Final(Err(ClientError::WrongUsage(error)));
                }
                // A write that may have been applied must not be sent again.
                Err(error) if is_write && error.outcome_is_open() => {
                    return Round::Final(Err(ClientError::Lost { error, is_write }));
                }
                Err(error) => {
                    if let Some(leader) = named {
                        refusal = Some(ClientError::NoLeaderFound { leader });
                    }
                    errors.push(error);
                }
            }
        }
        match refusal {
            Some(refusal) => Round::AskAgain(refusal),
            None => Round::Final(Err(nobody_answered(errors, is_write))),
        }
    }

    /// Asks all servers at once.
    pub(super) fn ask_all(
        &self,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Vec<(&str, Result<Reply, ConnectionError>)> {
        thread::scope(|scope| {
            let asked: Vec<_> = self
                .servers
                .iter()
                .map(|server| (server, scope.spawn(|| ask(server, request, deadline))))
                .collect();
            let answers = asked.into_iter().map(|(server, answer)| {
                (server.as_str(), answer.join().expect("asking does not panic"))
            });
            answers.collect()
        })
    }
}

/// Waits for what only time can bring: there is nobody who would tell.
pub(super) fn pause() {
    thread::sleep(ROUND_INTERVAL);
}

/// Asks one server, and the leader that it names, if any: the name comes first.
fn ask_and_follow(
    server: &str,
    request: &Request<'_>,
    deadline: Instant,
) -> (Option<String>, Result<Reply, ConnectionError>) {
    let mut named = None;
    let mut reply = ask(server, request, deadline);
    for _ in 0..HOPS_MAX {
        let Ok(Reply::NotLeader { leader }) = &reply else { break };
        let leader = leader.clone();
        reply = ask(&leader, request, deadline);
        named = Some(leader);
    }
    (named, reply)
}

fn ask(server: &str, request: &Request<'_>, deadline: Instant) -> Result<Reply, ConnectionError> {
    let mut connection = Connection::open(server, deadline.min(Instant::now() + CONNECT_TIMEOUT))?;
    connection.call(RequestHead::default(), request, deadline)
}

fn nobody_answered(mut errors: Vec<ConnectionError>, is_write: bool) -> ClientError {
    match errors.pop() {
        Some(error) if errors.is_empty() && error.outcome_is_open() => {
            ClientError::Lost { error, is_write }
        }
        last => {
            errors.extend(last);
            ClientError::NoServer(errors)
        }
    }
}
