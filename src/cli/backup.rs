//! `kvorum backup`, and how a snapshot is fetched from a running node.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::limits::SNAPSHOT_CHUNK_BYTES_MAX;
use kvorum_protocol::{LogIndex, Quorum, Read, Request, SnapshotRead};

use super::Error;
use super::partial::{PartialFile, refuse_existing};
use super::progress::Progress;
use super::servers::ClientFlags;
use super::snapshot::{print_summary, verify_file};
use crate::client::{Connection, ConnectionError, Reply, RequestId};
use crate::disk::advice;

/// How long a node may take to write a snapshot: it goes easy on its clients.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Parts on their way: enough that the network is never idle.
const PARTS_UNDER_WAY: usize = 4;

/// How often a snapshot is fetched from its start.
const BEGINNINGS_MAX: u32 = 5;

#[derive(Debug, clap::Args)]
pub(super) struct BackupFlags {
    #[command(flatten)]
    client: ClientFlags,
    /// Where the backup goes; nothing may be there
    file: PathBuf,
}

/// Why there is no backup.
#[derive(Debug)]
pub(super) enum BackupError {
    /// Something is there already.
    Exists(PathBuf),
    /// Another process writes this file.
    InUse(PathBuf),
    /// The file can not be written.
    File {
        /// What was tried, as `"write"`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No server has given its snapshot: what each has said.
    Servers(Vec<String>),
    /// Newer snapshots have taken the place of those that this server has begun to give.
    Replaced {
        /// The server.
        server: String,
    },
    /// A server has begun to, and failed.
    Lost {
        /// The server.
        server: String,
        /// What happened.
        what: String,
    },
}

impl fmt::Display for BackupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BackupError::Exists(path) => {
                write!(f, "{}: is there already: choose another name", path.display())
            }
            BackupError::InUse(path) => write!(
                f,
                "{}: another process writes it: wait until it has, or choose another name",
                path.display()
            ),
            BackupError::File { action, path, source } => {
                write!(f, "can not {action} {}: {source}: {}", path.display(), advice(source))
            }
            BackupError::Servers(said) => {
                write!(f, "no server gives its data: {}", said.join("; "))
            }
            BackupError::Replaced { server } => write!(
                f,
                "{server}: newer snapshots have taken the place of {BEGINNINGS_MAX}, one after the \
                 other, while they were read; there is no backup: try again, or another server"
            ),
            BackupError::Lost { server, what } => {
                write!(f, "{server}: {what}; there is no backup: try again, or another server")
            }
        }
    }
}

pub(super) fn run(flags: &BackupFlags) -> Result<(), Error> {
    refuse_existing(&flags.file)?;
    let mut file = PartialFile::create(&flags.file)?;
    fetch(&flags.client, &mut file, "backup")?;
    let summary = verify_file(file.partial_path())?;
    file.publish()?;
    Ok(print_summary(&summary)?)
}

/// Fetches a snapshot of one of the servers, none of which was checked yet. When a newer one takes
/// its place meanwhile, that is fetched.
pub(super) fn fetch(
    flags: &ClientFlags,
    file: &mut PartialFile,
    what: &'static str,
) -> Result<(), BackupError> {
    let mut beginnings = 0;
    loop {
        beginnings += 1;
        let fetched = Source::open(flags)?.fetch(what, |bytes| file.write(bytes));
        match fetched {
            Err(BackupError::Replaced { server }) if beginnings < BEGINNINGS_MAX => {
                // With standard error gone there is nobody left to tell.
                let _ = writeln!(
                    io::stderr(),
                    "{what}: {server}: a newer snapshot has taken the place of this one, beginning \
                     again"
                );
                file.clear()?;
            }
            other => return other,
        }
    }
}

/// A running node with a fresh snapshot.
struct Source {
    connection: Connection,
    index: LogIndex,
    /// For an answer that needs no work.
    timeout: Duration,
}

impl Source {
    /// Has the first of the servers that can take a snapshot: of a state that holds everything that
    /// was acknowledged before this call.
    fn open(flags: &ClientFlags) -> Result<Source, BackupError> {
        let mut said = Vec::new();
        for server in &flags.servers {
            match Source::open_at(server, flags) {
                Ok(source) => return Ok(source),
                Err(what) => said.push(format!("{server}: {what}")),
            }
        }
        Err(BackupError::Servers(said))
    }

    fn open_at(server: &str, flags: &ClientFlags) -> Result<Source, String> {
        let timeout = Duration::from_millis(flags.timeout_ms);
        let words = |error: ConnectionError| error.to_string();
        let mut connection = Connection::open(server, flags.deadline()).map_err(words)?;
        // A read waits until the node has applied what was acknowledged before: then its snapshot
        // has it too, whoever leads.
        let head = RequestHead { level: Some(Quorum::Majority), ..RequestHead::default() };
        let read = Request::Read(Read::Length(b"kvorum"));
        let reply = connection.call(head, &read, flags.deadline()).map_err(words)?;
        refusal(reply, |reply| matches!(reply, Reply::Number(_)).then_some(()))?;
        let index = take_snapshot(&mut connection)?;
        Ok(Source { connection, index, timeout })
    }

    /// Hands all bytes to `write`, in order.
    fn fetch(
        mut self,
        what: &'static str,
        mut write: impl FnMut(&[u8]) -> Result<(), BackupError>,
    ) -> Result<(), BackupError> {
        let server = self.connection.address().to_owned();
        let lost = |what: String| BackupError::Lost { server: server.clone(), what };
        let (mut total_bytes, mut written) = (None, 0);
        let mut progress = Progress::new(what, "MiB");
        let mut under_way: VecDeque<RequestId> = VecDeque::new();
        let mut asked = 0;
        loop {
            let is_more = |asked| total_bytes.is_none_or(|total| asked < total);
            while under_way.len() < PARTS_UNDER_WAY && is_more(asked) {
                under_way.push_back(self.ask(asked).map_err(lost)?);
                asked += SNAPSHOT_CHUNK_BYTES_MAX as u64;
                // How much there is shows the first answer.
                if total_bytes.is_none() {
                    break;
                }
            }
            let Some(id) = under_way.pop_front() else { break };
            let deadline = Instant::now() + self.timeout;
            let reply = self.connection.receive_for(id, deadline);
            let reply = reply.map_err(|error| lost(error.to_string()))?;
            let Some((total, bytes)) = part(reply, self.index).map_err(lost)? else {
                return Err(BackupError::Replaced { server });
            };
            let expected = (total - written.min(total)).min(SNAPSHOT_CHUNK_BYTES_MAX as u64);
            if total_bytes.is_some_and(|before| before != total) || bytes.len() as u64 != expected {
                return Err(lost("what it sends does not fit together".to_owned()));
            }
            total_bytes = Some(total);
            write(&bytes)?;
            written += bytes.len() as u64;
            progress.at(written >> 20, Some(total >> 20));
        }
        progress.end();
        Ok(())
    }

    fn ask(&mut self, offset: u64) -> Result<RequestId, String> {
        let bytes_max = u32::try_from(SNAPSHOT_CHUNK_BYTES_MAX).expect("a part is small");
        let read = SnapshotRead { index: self.index, offset, bytes_max };
        let deadline = Instant::now() + self.timeout;
        let sent =
            self.connection.send(RequestHead::default(), &Request::SnapshotRead(read), deadline);
        sent.map_err(|error| error.to_string())
    }
}

/// Has a node take a snapshot; its index.
pub(super) fn take_snapshot(connection: &mut Connection) -> Result<LogIndex, String> {
    let deadline = Instant::now() + SNAPSHOT_PATIENCE;
    let reply = connection.call(RequestHead::default(), &Request::Snapshot, deadline);
    let reply = reply.map_err(|error| error.to_string())?;
    let index = |reply: &Reply| match reply {
        Reply::Number(index) => Some(LogIndex(*index)),
        _ => None,
    };
    refusal(reply, index)
}

/// Length of the whole file, and a part of it; `None` when the server has it no more.
fn part(reply: Reply, expected: LogIndex) -> Result<Option<(u64, Vec<u8>)>, String> {
    match reply {
        Reply::SnapshotPart { index, total_bytes, bytes } if index == expected => {
            Ok(Some((total_bytes, bytes)))
        }
        Reply::NotFound => Ok(None),
        other => Err(refusal(other, |_| None::<()>).err().unwrap_or_default()),
    }
}

/// What was wanted of a reply, or why it is not there.
fn refusal<T>(reply: Reply, wanted: impl Fn(&Reply) -> Option<T>) -> Result<T, String> {
    match wanted(&reply) {
        Some(found) => Ok(found),
        None => Err(match reply {
            Reply::Error { code, message } => format!("{} {message}", code.word()),
            other => format!("an answer that does not fit: {other:?}"),
        }),
    }
}
