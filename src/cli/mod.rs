//! The command line: `kvorum serve` (also plain `kvorum`) and the tools beside it.
//!
//! Exit codes: 0, it worked; 1, it did not, with one line on standard error that says why; 2, the
//! command line or the configuration is wrong, or asks for what makes no sense to the cluster.

mod backup;
mod client;
mod demo;
mod member;
mod pair;
mod pairs;
mod partial;
mod progress;
mod prompt;
mod repair;
mod restore;
mod serve;
mod servers;
mod snapshot;
mod status;
mod transfer;
mod wal;

use std::fmt;
use std::io;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::bench::{self, BenchError};
use crate::config::{ConfigError, ServeFlags};
use crate::net::ServeError;
use crate::snapshot::SnapshotError;
use crate::wal::WalError;
use servers::ClientError;
use wal::WalCommand;

/// A replicated key-value server: durable before acknowledged, linearizable by default.
///
/// `kvorum` alone is `kvorum serve`.
#[derive(Debug, Parser)]
#[command(name = "kvorum", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    serve: ServeFlags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node
    ///
    /// Every flag can also come from the environment (KVORUM_LISTEN for --listen; lists with
    /// commas) and from the TOML file that --config names (listen = "..."; lists as arrays). A flag
    /// beats the environment, the environment beats the file. A SIZE is in bytes or has a unit:
    /// k, m, g are powers of 1000; kb, mb, gb and KiB, MiB, GiB are powers of 1024. Logs go to
    /// standard error; RUST_LOG chooses what is logged (error, warn, info, debug) [default: info].
    Serve(Box<ServeFlags>),
    /// Print the value of a key
    ///
    /// The value goes to standard output as it is, with a line end behind it. Exit code 1 and
    /// NOT_FOUND on standard error when the key is absent.
    Get(client::GetFlags),
    /// Store a value under a key
    Set(client::SetFlags),
    /// Remove keys, all at once or none
    ///
    /// Exit code 1 and NOT_FOUND on standard error when none of them was there.
    Delete(client::DeleteFlags),
    /// Show the state of one or several nodes as a table
    ///
    /// Exit code 1 when a node did not answer; its role is then given as `silent`.
    Status(status::StatusFlags),
    /// Show, add and remove members, one at a time, while the cluster works
    #[command(subcommand)]
    Member(member::MemberCommand),
    /// Hand leadership over, and wait until it has moved
    ///
    /// Exit code 1 when it has not moved within --timeout-ms.
    Transfer(transfer::TransferFlags),
    /// Talk to a cluster at a prompt, or line by line from a pipe
    ///
    /// Takes the verbs of the text protocol: HELP lists them. On a terminal it has a history and
    /// completes words; from a pipe every line gets one reply line, and the exit code is 1 when a
    /// request has failed. It follows the leader when a write needs one, and goes to another server
    /// when its own is gone. A write whose connection was lost is not sent again, and the reply
    /// says so.
    Cli(prompt::PromptFlags),
    /// Run three nodes on this machine, to try things out
    ///
    /// Their data is in a temporary directory and goes with them. Prints how to talk to them, and
    /// who leads, dies and comes back, as it happens.
    Demo,
    #[command(hide = true)]
    DemoNode(Box<demo::NodeFlags>),
    Bench(Box<bench::Args>),
    /// Read a log without changing it
    ///
    /// Works beside a running node, and on a copy of its directory.
    #[command(subcommand)]
    Wal(WalCommand),
    /// Give up what is damaged in the log of a cluster's member, for the others to fill it again
    ///
    /// The member must be stopped; a sound log is left as it is. What it has promised, votes and
    /// acknowledged entries, is not forgotten: where that can not be told any more, nothing is
    /// changed, the exit code is 1, and the member has to be replaced.
    Repair(repair::RepairFlags),
    /// Have nodes take a snapshot now, or check one
    ///
    /// Every server that is named takes one of its present state, and its index is printed when
    /// that is durable. Nodes do so by themselves too, as their logs grow.
    Snapshot(snapshot::SnapshotFlags),
    /// Copy all data of a running cluster to a file
    ///
    /// The data of one moment, with everything that was acknowledged before, from the first of the
    /// servers that answers. FILE is there when it is whole and checked, and not before.
    Backup(backup::BackupFlags),
    /// Make a data directory for a new cluster from a backup
    ///
    /// No node of the old cluster can join the new one. Prints how to start it. For several nodes,
    /// restore each of them from the same file, with its own --id and the same --member list.
    Restore(restore::RestoreFlags),
    /// Write all keys and values of one moment as JSON lines
    ///
    /// One object a line: {"key":"k","value":"v"}. What is not UTF-8 stands in base64, under
    /// key_base64 or value_base64.
    Export(pairs::ExportFlags),
    /// Store the keys and values of JSON lines, as export writes them
    ///
    /// Keys that are there are overwritten, others stay. At the first line that is no pair it
    /// stops, with exit code 1; what came before is stored.
    Import(pairs::ImportFlags),
}

/// Why a command did not do what it was asked.
#[derive(Debug)]
enum Error {
    Usage(clap::Error),
    Config(ConfigError),
    Serve(ServeError),
    Client(ClientError),
    Bench(BenchError),
    Wal(WalError),
    Snapshot(SnapshotError),
    Backup(backup::BackupError),
    Restore(restore::RestoreError),
    Import(pairs::ImportError),
    /// What was asked for is not there.
    NotFound,
    /// Some of the nodes did not answer; the table says which.
    Silent,
    /// A node of the demo has never worked.
    Demo {
        id: u16,
        last_words: String,
    },
    /// No server could be asked at all; an error line of the prompt.
    NotConnected(String),
    /// So many requests of a script have failed.
    Failed(u64),
    /// The terminal can not be used.
    Terminal(io::Error),
    /// Leadership is still where it was: who leads, as far as anybody knows.
    NotMoved(Option<String>),
    Output(io::Error),
}

impl Error {
    fn exit_code(&self) -> ExitCode {
        match self {
            Error::Usage(_) | Error::Config(_) => ExitCode::from(2),
            Error::Client(error) if error.is_wrong_usage() => ExitCode::from(2),
            Error::Bench(error) if error.is_usage() => ExitCode::from(2),
            Error::Restore(restore::RestoreError::Members(_)) => ExitCode::from(2),
            Error::Serve(_)
            | Error::Client(_)
            | Error::Bench(_)
            | Error::Wal(_)
            | Error::Snapshot(_)
            | Error::Backup(_)
            | Error::Restore(_)
            | Error::Import(_)
            | Error::NotFound
            | Error::Silent
            | Error::NotConnected(_)
            | Error::Failed(_)
            | Error::Terminal(_)
            | Error::Demo { .. }
            | Error::NotMoved(_)
            | Error::Output(_) => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(error) => f.write_str(&one_line(&error.render().to_string())),
            Error::Config(error) => error.fmt(f),
            Error::Serve(error) => error.fmt(f),
            Error::Client(error) => error.fmt(f),
            Error::Bench(error) => error.fmt(f),
            Error::Wal(error) => error.fmt(f),
            Error::Snapshot(error) => error.fmt(f),
            Error::Backup(error) => error.fmt(f),
            Error::Restore(error) => error.fmt(f),
            Error::Import(error) => error.fmt(f),
            Error::NotFound => f.write_str("NOT_FOUND"),
            Error::Silent => f.write_str("not every server answered"),
            Error::NotConnected(line) => f.write_str(line.strip_prefix("ERROR ").unwrap_or(line)),
            Error::Failed(1) => f.write_str("a request has failed"),
            Error::Failed(count) => write!(f, "{count} requests have failed"),
            Error::Terminal(error) => write!(f, "the terminal: {error}"),
            Error::Demo { id, last_words } => {
                write!(f, "node {id} does not start: {last_words}")
            }
            Error::NotMoved(Some(view)) => {
                write!(f, "leadership has not moved in time: {view}; try again")
            }
            Error::NotMoved(None) => f.write_str("no node knows a leader; try again"),
            Error::Output(error) => write!(f, "standard output: {error}"),
        }
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Error {
        Error::Config(error)
    }
}

impl From<ServeError> for Error {
    fn from(error: ServeError) -> Error {
        match error {
            ServeError::Config(error) => Error::Config(error),
            error => Error::Serve(error),
        }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Error {
        Error::Client(error)
    }
}

impl From<BenchError> for Error {
    fn from(error: BenchError) -> Error {
        match error {
            BenchError::Print(error) => Error::Output(error),
            error => Error::Bench(error),
        }
    }
}

impl From<WalError> for Error {
    fn from(error: WalError) -> Error {
        match error {
            WalError::Output { source } => Error::Output(source),
            error => Error::Wal(error),
        }
    }
}

impl From<SnapshotError> for Error {
    fn from(error: SnapshotError) -> Error {
        Error::Snapshot(error)
    }
}

impl From<backup::BackupError> for Error {
    fn from(error: backup::BackupError) -> Error {
        Error::Backup(error)
    }
}

impl From<restore::RestoreError> for Error {
    fn from(error: restore::RestoreError) -> Error {
        Error::Restore(error)
    }
}

impl From<pairs::ImportError> for Error {
    fn from(error: pairs::ImportError) -> Error {
        Error::Import(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Output(error)
    }
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Cli::try_parse() {
        Ok(cli) => run(cli),
        // --help and --version come this way too.
        Err(text) if !text.use_stderr() => text.print().map_err(Error::Output),
        Err(error) => Err(Error::Usage(error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever closed the pipe has read as much as they wanted.
        Err(Error::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            error.exit_code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    match cli.command {
        None => serve::run(&cli.serve),
        Some(Command::Serve(flags)) => serve::run(&flags),
        Some(Command::Get(flags)) => client::get(&flags),
        Some(Command::Set(flags)) => client::set(&flags),
        Some(Command::Delete(flags)) => client::delete(&flags),
        Some(Command::Status(flags)) => status::run(&flags),
        Some(Command::Member(command)) => member::run(&command),
        Some(Command::Transfer(flags)) => transfer::run(&flags),
        Some(Command::Cli(flags)) => prompt::run(&flags),
        Some(Command::Demo) => demo::run(),
        Some(Command::DemoNode(flags)) => demo::run_node(&flags),
        Some(Command::Bench(flags)) => Ok(bench::run(&flags)?),
        Some(Command::Wal(command)) => wal::run(&command),
        Some(Command::Repair(flags)) => repair::run(&flags),
        Some(Command::Snapshot(flags)) => snapshot::run(&flags),
        Some(Command::Backup(flags)) => backup::run(&flags),
        Some(Command::Restore(flags)) => restore::run(&flags),
        Some(Command::Export(flags)) => pairs::export(&flags),
        Some(Command::Import(flags)) => pairs::import(&flags),
    }
}

fn print_error(error: &Error) {
    use std::io::Write as _;
    // With standard error gone there is nobody left to tell.
    let _ = match error {
        Error::NotFound => writeln!(io::stderr(), "NOT_FOUND"),
        error => writeln!(io::stderr(), "kvorum: {error}"),
    };
}

/// The sentences of clap's message without its layout: what is wrong, the tips, where to read on.
fn one_line(message: &str) -> String {
    let before_usage = message.split("Usage:").next().unwrap_or(message);
    let lines = before_usage
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let mut words: Vec<&str> = lines.collect();
    if let Some(first) = words.first_mut() {
        *first = first.strip_prefix("error: ").unwrap_or(first);
    }
    format!(
        "{} (see '{} --help')",
        words.join(" ").replace(" tip:", "; tip:"),
        Cli::command().get_name()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage_error(words: &[&str]) -> String {
        let error = Cli::try_parse_from([&["kvorum"], words].concat()).unwrap_err();
        assert!(error.use_stderr());
        Error::Usage(error).to_string()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_word_serve_may_be_left_out() {
        let cli = Cli::try_parse_from(["kvorum", "--listen", "a:1"]).unwrap();
        assert_eq!(cli.serve.listen.as_deref(), Some("a:1"));
        assert!(cli.command.is_none());
        assert!(Cli::try_parse_from(["kvorum", "--listen", "a:1", "get", "k"]).is_err());
    }

    #[test]
    fn wrong_usage_is_told_in_one_line() {
        for (words, expected) in [
            (&["--lissen", "a:1"][..], "unexpected argument '--lissen' found"),
            (&["--lissen", "a:1"], "'--listen'"),
            (&["get"], "<KEY>"),
            (&["serve", "--id"], "--id <N>"),
            (&["serve", "--id", "1", "--id", "2"], "cannot be used multiple times"),
            (&["gett", "k"], "unrecognized subcommand 'gett'"),
        ] {
            let line = usage_error(words);
            assert!(!line.contains('\n') && line.contains(expected), "{line}");
        }
    }
}
