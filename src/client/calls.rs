//! What a program asks a cluster for.

use std::cell::Cell;
use std::time::{Duration, Instant};

use kvorum_protocol::binary::RequestHead;
use kvorum_protocol::{Command, KeyList, Limits, LogIndex, Op, PairList, Quorum, Read, Request};

use super::check::{check, check_read_quorum, check_write_quorum};
use super::cluster::{Cluster, Outcome};
use super::error::{Cause, Error, ErrorKind};
use super::options::CallOptions;
use super::reply::Reply;
use super::route::{Course, Kind, ReadFrom};

/// A buffer for lists that a large one has made larger than this is given up.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

/// A value, and since when it is that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The index of the log entry that last changed the key. It grows with every change.
    pub version: LogIndex,
    /// The value.
    pub value: Vec<u8>,
}

/// What a delete has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The index of the log entry of the delete.
    pub version: LogIndex,
    /// How many of the keys were there.
    pub count: u32,
}

/// The calls of a client under some options: [`Client::with`](super::Client::with).
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) options: CallOptions,
}

impl Calls<'_> {
    /// The value of a key; `None` when it is absent.
    ///
    /// # Errors
    /// No server could answer in time; see [`Cause`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Versioned>, Error> {
        match self.read(&Read::Get(key.as_ref()))? {
            Reply::Value { version, value } => Ok(Some(Versioned { version, value })),
            Reply::NotFound => Ok(None),
            _ => Err(wrong_answer(ErrorKind::NotApplied)),
        }
    }

    /// The values of several keys in their order, all from one point of the log.
    ///
    /// # Errors
    /// As [`get`](Calls::get); nothing is returned in part.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Versioned>>, Error> {
        let reply = with_scratch(|scratch| {
            let list = KeyList::encode(keys.iter().map(AsRef::as_ref), &Limits::MAX, scratch)?;
            self.read(&Read::GetMany(list))
        })?;
        match reply {
            Reply::Values(values) if values.len() == keys.len() => {
                let versioned = |(version, value)| Versioned { version, value };
                Ok(values.into_iter().map(|found| found.map(versioned)).collect())
            }
            _ => Err(wrong_answer(ErrorKind::NotApplied)),
        }
    }

    /// Stores a value; returns its version.
    ///
    /// # Errors
    /// [`Error::kind`] says whether it may have been stored.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<LogIndex, Error> {
        written(self.write(Op::Set { key: key.as_ref(), value: value.as_ref() })?)
    }

    /// Stores several values at once: all of them, or none; returns the version of all.
    ///
    /// # Errors
    /// As [`set`](Calls::set).
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: &[(K, V)],
    ) -> Result<LogIndex, Error> {
        with_scratch(|scratch| {
            let pairs = pairs.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
            let list = PairList::encode(pairs, &Limits::MAX, scratch)?;
            written(self.write(Op::SetMany(list))?)
        })
    }

    /// Removes a key; says whether it was there.
    ///
    /// # Errors
    /// As [`set`](Calls::set).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Deleted, Error> {
        deleted(&self.write(Op::Delete { key: key.as_ref() })?)
    }

    /// Removes several keys at once; says how many of them were there.
    ///
    /// # Errors
    /// As [`set`](Calls::set).
    pub fn delete_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Deleted, Error> {
        with_scratch(|scratch| {
            let list = KeyList::encode(keys.iter().map(AsRef::as_ref), &Limits::MAX, scratch)?;
            deleted(&self.write(Op::DeleteMany(list))?)
        })
    }

    fn read(&self, read: &Read<'_>) -> Result<Reply, Error> {
        let level = self.options.read_quorum.or(self.cluster.options.read_quorum);
        check_read_quorum(level)?;
        let from = self.options.read_from.unwrap_or(self.cluster.options.read_from);
        let head =
            RequestHead { level, min_version: self.options.min_version, ..RequestHead::default() };
        self.once(Kind::Read(from), head, &Request::Read(*read))
    }

    fn write(&self, op: Op<'_>) -> Result<Reply, Error> {
        let level = self.options.write_quorum.or(self.cluster.options.write_quorum);
        check_write_quorum(level)?;
        if self.cluster.options.exactly_once {
            return self.write_in_session(op, level);
        }
        let head = RequestHead { level, ..RequestHead::default() };
        let request = Request::Write(Command::new(op));
        self.once(Kind::Write { may_repeat: false }, head, &request)
    }

    fn write_in_session(&self, op: Op<'_>, level: Option<Quorum>) -> Result<Reply, Error> {
        let head = RequestHead { level, ..RequestHead::default() };
        check(&Request::Write(Command::new(op)))?;
        let mut now = Instant::now();
        let deadline = now + self.timeout();
        let mut course = Course::new(Kind::Write { may_repeat: true }, deadline);
        loop {
            let open = || self.open_session(deadline).map_err(Error::before_sending);
            let number = self.cluster.session.number(deadline, open)?;
            let command = Command { session: Some(number.sequence()), op };
            match self.cluster.run(&mut course, head, &Request::Write(command), now)? {
                Outcome::Reply(reply) => return Ok(reply),
                Outcome::NewSession => number.expired(),
            }
            now = Instant::now();
        }
    }

    /// Opening one twice wastes a little of the cluster's memory for a while, and nothing else.
    fn open_session(&self, deadline: Instant) -> Result<u64, Error> {
        let mut course = Course::new(Kind::Write { may_repeat: true }, deadline);
        let window = self.cluster.session.window();
        let request = Request::Write(Command::new(Op::OpenSession { window }));
        let run = self.cluster.run(&mut course, RequestHead::default(), &request, Instant::now());
        match run? {
            Outcome::Reply(reply) => written(reply).map(|version| version.0),
            Outcome::NewSession => Err(wrong_answer(ErrorKind::NotApplied)),
        }
    }

    /// Asks whom it may concern; any server will do, or only the leader.
    pub(super) fn other(&self, request: &Request<'_>) -> Result<Reply, Error> {
        let kind = match request {
            // Without a name, the next leader would hand the office on.
            Request::Transfer { to } => Kind::Write { may_repeat: to.is_some() },
            // The second time it would be another change, or none that makes sense any more.
            Request::ChangeMembers { .. } => Kind::Write { may_repeat: false },
            _ => Kind::Read(ReadFrom::Random),
        };
        self.once(kind, RequestHead::default(), request)
    }

    fn once(&self, kind: Kind, head: RequestHead, request: &Request<'_>) -> Result<Reply, Error> {
        check(request)?;
        let now = Instant::now();
        let mut course = Course::new(kind, now + self.timeout());
        match self.cluster.run(&mut course, head, request, now)? {
            Outcome::Reply(reply) => Ok(reply),
            // There was none to be forgotten.
            Outcome::NewSession => Err(wrong_answer(ErrorKind::NotApplied)),
        }
    }

    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout_with(&self.cluster.options)
    }
}

fn written(reply: Reply) -> Result<LogIndex, Error> {
    match reply {
        Reply::Written { version } => Ok(version),
        _ => Err(wrong_answer(ErrorKind::OutcomeUnknown)),
    }
}

fn deleted(reply: &Reply) -> Result<Deleted, Error> {
    match *reply {
        Reply::Deleted { version, count } => Ok(Deleted { version, count }),
        _ => Err(wrong_answer(ErrorKind::OutcomeUnknown)),
    }
}

pub(super) fn wrong_answer(kind: ErrorKind) -> Error {
    Error::new(kind, Cause::WrongAnswer)
}

/// Lends this thread's buffer for lists.
fn with_scratch<T>(act: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    thread_local!(static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });
    let mut scratch = SCRATCH.take();
    let result = act(&mut scratch);
    if scratch.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
    result
}
