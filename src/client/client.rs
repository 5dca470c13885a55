//! A program's handle on a cluster.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Instant;

use kvorum_protocol::{Change, LogIndex, MembersLine, NodeId, Request};

use super::calls::{Calls, Deleted, Versioned, wrong_answer};
use super::cluster::Cluster;
use super::error::{Cause, Error, ErrorKind};
use super::options::{CallOptions, Options};
use super::pipeline::{Pipeline, PipelineOptions};
use super::reply::Reply;
use super::route::{NODES_MAX, Router};

/// A program's handle on a cluster. Clones share everything, and any number of threads may use one
/// at the same time.
#[derive(Clone, Debug)]
pub struct Client {
    cluster: Arc<Cluster>,
}

impl Client {
    /// A client of the cluster to which these servers belong (`HOST:PORT`; one that lives is
    /// enough), once one of them has answered.
    ///
    /// # Errors
    /// [`Cause::NoServer`] when all of them were asked once in vain; wrong usage as
    /// [`new`](Client::new).
    pub fn connect<S: AsRef<str>>(
        servers: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<Client, Error> {
        let (client, servers) = Client::prepare(servers, options)?;
        client.meet(&servers)?;
        Ok(client)
    }

    /// The same, but nobody is asked before the first call.
    ///
    /// # Errors
    /// Wrong usage: no servers, or more than any cluster has.
    pub fn new<S: AsRef<str>>(
        servers: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<Client, Error> {
        Ok(Client::prepare(servers, options)?.0)
    }

    fn prepare<S: AsRef<str>>(
        servers: impl IntoIterator<Item = S>,
        options: Options,
    ) -> Result<(Client, Vec<String>), Error> {
        let servers: Vec<String> = servers.into_iter().map(|s| s.as_ref().to_owned()).collect();
        if servers.is_empty() || servers.len() > NODES_MAX / 2 {
            return Err(Error::wrong_usage("give one server of the cluster, or some of them"));
        }
        // The standard library's own source of chance, so that programs that start together do not
        // wait in step.
        let seed = RandomState::new().build_hasher().finish();
        let cluster = Arc::new(Cluster::new(&servers, options, seed));
        Ok((Client { cluster }, servers))
    }

    /// For a program that makes one call at a time: the cluster keeps a single answer for it.
    /// To be called before the first write.
    pub(crate) fn one_at_a_time(self) -> Client {
        self.cluster.session.narrow(1);
        self
    }

    /// Asks the servers in turn for the members, until one answers.
    fn meet(&self, servers: &[String]) -> Result<(), Error> {
        let deadline = Instant::now() + self.calls().timeout();
        let count = u32::try_from(servers.len()).expect("no more than NODES_MAX");
        let mut last = None;
        for (at, server) in (0..).zip(servers) {
            // Those behind it get their part of the time too.
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / (count - at);
            match self.cluster.ask(server, &Request::Members, now + share) {
                Ok(Reply::Members(line)) => {
                    if let Ok(line) = MembersLine::parse(&line) {
                        self.cluster
                            .with_router(|router| router.learn_members(&line, Instant::now()));
                    }
                    return Ok(());
                }
                // It lives, and knows less.
                Err(error) if matches!(error.cause(), Cause::UnknownCommand) => return Ok(()),
                Ok(_) => last = Some(wrong_answer(ErrorKind::NotApplied).at(server)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there is a server"))
    }

    /// The same calls under other options.
    #[must_use]
    pub fn with(&self, options: CallOptions) -> Calls<'_> {
        Calls { cluster: &self.cluster, options }
    }

    /// Thousands of requests in flight from one thread, over connections of its own. What the
    /// pipeline's options leave open is as the client's have it.
    ///
    /// # Errors
    /// Options that make no sense, or the system refuses what it takes to wait for events.
    pub fn pipeline(&self, options: PipelineOptions) -> Result<Pipeline, Error> {
        Pipeline::with_router(self.cluster.fork_router(), &self.cluster.options, options)
    }

    fn calls(&self) -> Calls<'_> {
        self.with(CallOptions::default())
    }

    /// [`Calls::get`] under the client's options.
    ///
    /// # Errors
    /// As there.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Versioned>, Error> {
        self.calls().get(key)
    }

    /// [`Calls::get_many`] under the client's options.
    ///
    /// # Errors
    /// As there.
    pub fn get_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Versioned>>, Error> {
        self.calls().get_many(keys)
    }

    /// [`Calls::set`] under the client's options.
    ///
    /// # Errors
    /// As there.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<LogIndex, Error> {
        self.calls().set(key, value)
    }

    /// [`Calls::set_many`] under the client's options.
    ///
    /// # Errors
    /// As there.
    pub fn set_many<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        pairs: &[(K, V)],
    ) -> Result<LogIndex, Error> {
        self.calls().set_many(pairs)
    }

    /// [`Calls::delete`] under the client's options.
    ///
    /// # Errors
    /// As there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Deleted, Error> {
        self.calls().delete(key)
    }

    /// [`Calls::delete_many`] under the client's options.
    ///
    /// # Errors
    /// As there.
    pub fn delete_many<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Deleted, Error> {
        self.calls().delete_many(keys)
    }

    /// The state of one server, whether or not it belongs to the cluster: the pairs of its STATUS
    /// line.
    ///
    /// # Errors
    /// It could not be asked in time.
    pub fn status(&self, server: &str) -> Result<String, Error> {
        let deadline = Instant::now() + self.calls().timeout();
        match self.cluster.ask(server, &Request::Status, deadline)? {
            Reply::Status(line) => Ok(line),
            _ => Err(wrong_answer(ErrorKind::NotApplied).at(server)),
        }
    }

    /// Who is in the cluster, where, and who leads, as the leader knows it now; or if that can not
    /// be asked, as one of its servers does, which may have missed the last change.
    ///
    /// # Errors
    /// No server could answer in time.
    pub fn members(&self) -> Result<MembersLine, Error> {
        let line = read_members(self.calls().other(&Request::Members)?)?;
        let leader = line.leader.filter(|leader| *leader != line.id);
        let address = leader.and_then(|leader| line.members.get(leader)).map(|it| &it.client);
        let deadline = Instant::now() + self.calls().timeout();
        let asked = address.map(|address| self.cluster.ask(address, &Request::Members, deadline));
        let leaders = asked.and_then(Result::ok).and_then(|reply| read_members(reply).ok());
        let line = leaders.filter(|theirs| theirs.index >= line.index).unwrap_or(line);
        self.cluster.with_router(|router| router.learn_members(&line, Instant::now()));
        Ok(line)
    }

    /// The leader's client address, as one server knows it now; `None` when it knows none.
    ///
    /// # Errors
    /// No server could answer in time.
    pub fn leader(&self) -> Result<Option<String>, Error> {
        match self.calls().other(&Request::WhoIsLeader)? {
            Reply::Leader(leader) => {
                if let Some(address) = &leader {
                    self.cluster.with_router(|router| router.learn_leader(address));
                }
                Ok(leader)
            }
            _ => Err(wrong_answer(ErrorKind::NotApplied)),
        }
    }

    /// Changes the members, and waits until that is committed. `base` is the
    /// [index](MembersLine::index) of the list that the change was made for, if it must be that
    /// one. Answers the index of the new list.
    ///
    /// # Errors
    /// The leader refuses, and nothing has changed; or the outcome is open: look at
    /// [`members`](Client::members) then.
    pub fn change_members(
        &self,
        change: &Change,
        base: Option<LogIndex>,
    ) -> Result<LogIndex, Error> {
        let words = change.to_string();
        match self.calls().other(&Request::ChangeMembers { change: &words, base })? {
            Reply::Written { version } => {
                self.cluster.with_router(Router::forget_members);
                Ok(version)
            }
            _ => Err(wrong_answer(ErrorKind::OutcomeUnknown)),
        }
    }

    /// Asks the leader to hand its office over: to this voter, or to the one whose log is
    /// furthest. It has begun when this returns; [`leader`](Client::leader) shows its end.
    ///
    /// # Errors
    /// The leader refuses, or none could be asked in time. A request whose answer is lost is sent
    /// again only when it names the next leader.
    pub fn transfer(&self, to: Option<NodeId>) -> Result<(), Error> {
        match self.calls().other(&Request::Transfer { to })? {
            Reply::Ok => Ok(()),
            _ => Err(wrong_answer(ErrorKind::NotApplied)),
        }
    }
}
fn read_members(reply: Reply) -> Result<MembersLine, Error> {
    let wrong = || wrong_answer(ErrorKind::NotApplied);
    match reply {
        Reply::Members(line) => MembersLine::parse(&line).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}
