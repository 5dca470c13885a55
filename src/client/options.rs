//! What a program may ask of a client, and of a single call.

use std::time::Duration;

use kvorum_protocol::{LogIndex, Quorum};

use super::route::ReadFrom;

/// A call that may take longer than this has all the time there is.
const TIMEOUT_MAX: Duration = Duration::from_secs(1 << 30);

/// What holds for all calls of a client. Change what you need of the default:
///
/// ```
/// # use kvorum::client::{Options, ReadFrom};
/// # use std::time::Duration;
/// let options = Options {
///     timeout: Duration::from_secs(2),
///     read_from: ReadFrom::Nearest,
///     ..Options::default()
/// };
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a call may take in all, every retry included. Default: 5 s.
    pub timeout: Duration,
    /// Where reads go. Default: to the leader.
    pub read_from: ReadFrom,
    /// W: how many voters hold a write durably before the call returns; `None`, the default,
    /// leaves it to the server's `--write-quorum`.
    pub write_quorum: Option<Quorum>,
    /// R: how many voters a read consults; `None`, the default, leaves it to the server's
    /// `--read-quorum`. There is no [`Quorum::All`] for reads.
    pub read_quorum: Option<Quorum>,
    /// The most connections to one server, at least 1; more calls share them. Default: 10.
    pub connections_max: usize,
    /// A connection that was not used for so long is closed instead of being used again. Default:
    /// 60 s.
    pub idle_timeout: Duration,
    /// Whether writes are numbered in a session, so that one whose answer was lost is sent again
    /// and still happens once. Without it such a write fails with an unknown outcome. Default: yes.
    pub exactly_once: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            timeout: Duration::from_secs(5),
            read_from: ReadFrom::default(),
            write_quorum: None,
            read_quorum: None,
            connections_max: 10,
            idle_timeout: Duration::from_secs(60),
            exactly_once: true,
        }
    }
}

/// What holds for some calls; what is `None` stays as the client's [`Options`] have it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    /// How long the call may take in all.
    pub timeout: Option<Duration>,
    /// Where a read goes.
    pub read_from: Option<ReadFrom>,
    /// W of a write.
    pub write_quorum: Option<Quorum>,
    /// R of a read.
    pub read_quorum: Option<Quorum>,
    /// A read is answered from a state that has at least this index, whoever answers it and
    /// whatever R is: the version of one's own last write makes one read it on any replica. A
    /// server that lacks it waits until it comes. 0, the default: any state will do.
    pub min_version: LogIndex,
}

impl CallOptions {
    /// How long the call of a client with these options may take in all.
    pub(super) fn timeout_with(&self, client: &Options) -> Duration {
        self.timeout.unwrap_or(client.timeout).min(TIMEOUT_MAX)
    }
}
