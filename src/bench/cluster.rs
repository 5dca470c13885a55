//! One cluster as a whole: who leads, who answers, and new connections in place of broken ones.
//!
//! A thread for each server asks it for its STATUS, one more opens connections: the engine's own
//! thread never waits for a server that may be gone.

use std::net::SocketAddr;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use kvorum_protocol::Request;
use kvorum_protocol::binary::RequestHead;

use super::connection::Connection;
use super::workload::Part;
use super::{BenchError, Protocol};
use crate::client::{self, Reply};

/// Between two questions to a server.
const WATCH_INTERVAL: Duration = Duration::from_millis(10);

/// A server that does not answer for so long is taken for dead.
const WATCH_TIMEOUT: Duration = Duration::from_millis(300);

/// How long a new connection may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the cluster may take to have a leader before the run.
const LEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Which requests it takes.
    pub(crate) part: Part,
    /// Reads alone: the server, by its number on the command line, that it is for while that
    /// server lives.
    pub(crate) home: usize,
}

/// The leader, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leader {
    /// Its number on the command line.
    pub(crate) server: usize,
    /// Since when.
    pub(crate) term: u64,
}

/// What the servers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// By their number on the command line.
    servers: Vec<Server>,
}

/// What one server says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Server {
    is_alive: bool,
    /// The term in which it leads, if it does.
    leads_in: Option<u64>,
}

impl View {
    /// Who leads in the latest term. One that was cut off may take itself for the leader still.
    pub(crate) fn leader(&self) -> Option<Leader> {
        let leaders = self.servers.iter().enumerate().filter(|(_, said)| said.is_alive);
        let leaders =
            leaders.filter_map(|(server, said)| Some(Leader { server, term: said.leads_in? }));
        leaders.max_by_key(|leader| leader.term)
    }

    /// Whether the server answers.
    pub(crate) fn is_alive(&self, server: usize) -> bool {
        self.servers[server].is_alive
    }

    /// Which server a connection should lead to; `None` when there is none now.
    pub(crate) fn target(&self, place: Place) -> Option<usize> {
        match place.part {
            Part::All | Part::Writes => self.leader().map(|leader| leader.server),
            Part::Reads => {
                let count = self.servers.len();
                let from_home = (place.home..place.home + count).map(|number| number % count);
                from_home.into_iter().find(|&server| self.is_alive(server))
            }
        }
    }
}

/// A new connection, or why there is none.
pub(crate) struct Opened {
    /// The connection of the engine that it is for.
    pub(crate) index: usize,
    /// Where it leads.
    pub(crate) server: usize,
    pub(crate) connection: Result<Connection, BenchError>,
}

/// The threads that keep an eye on a cluster; they end when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    addresses: Vec<SocketAddr>,
    view: Arc<Mutex<View>>,
    orders: Sender<(usize, usize)>,
    opened: Receiver<Opened>,
}

impl Cluster {
    /// Starts to watch, and waits until a server leads.
    ///
    /// # Errors
    /// [`BenchError::NoLeader`].
    pub(crate) fn watch(addresses: Vec<SocketAddr>) -> Result<Cluster, BenchError> {
        let view = View { servers: vec![Server::default(); addresses.len()] };
        let view = Arc::new(Mutex::new(view));
        for (server, address) in addresses.iter().enumerate() {
            let (view, address) = (Arc::downgrade(&view), address.to_string());
            thread::spawn(move || watch(&view, server, &address));
        }
        let (orders, ordered) = mpsc::channel();
        let (done, opened) = mpsc::channel();
        let to_open = addresses.clone();
        thread::spawn(move || open_as_ordered(&to_open, &ordered, &done));
        let cluster = Cluster { addresses, view, orders, opened };
        let deadline = Instant::now() + LEADER_TIMEOUT;
        while cluster.view().leader().is_none() {
            if Instant::now() >= deadline {
                return Err(BenchError::NoLeader);
            }
            // The threads that watch look no more often.
            thread::sleep(WATCH_INTERVAL);
        }
        Ok(cluster)
    }

    /// What is known now.
    pub(crate) fn view(&self) -> View {
        lock(&self.view).clone()
    }

    /// Where a server listens.
    pub(crate) fn address(&self, server: usize) -> SocketAddr {
        self.addresses[server]
    }

    /// Asks for a new connection; it comes with [`opened`](Cluster::opened).
    pub(crate) fn order(&self, index: usize, server: usize) {
        self.orders.send((index, server)).expect("the thread lives as long as this");
    }

    /// The next connection that is ready, or has failed.
    pub(crate) fn opened(&self) -> Option<Opened> {
        self.opened.try_recv().ok()
    }
}

fn open_as_ordered(
    addresses: &[SocketAddr],
    orders: &Receiver<(usize, usize)>,
    done: &Sender<Opened>,
) {
    for (index, server) in orders {
        let connection = Connection::open(addresses[server], Protocol::Binary, OPEN_TIMEOUT);
        if done.send(Opened { index, server, connection }).is_err() {
            return;
        }
    }
}

/// Asks one server until nobody wants to know any more.
fn watch(view: &Weak<Mutex<View>>, server: usize, address: &str) {
    let mut connection = None;
    loop {
        let said = ask(&mut connection, address);
        let Some(view) = view.upgrade() else { return };
        lock(&view).servers[server] = said;
        drop(view);
        thread::sleep(WATCH_INTERVAL);
    }
}

fn ask(connection: &mut Option<client::Connection>, address: &str) -> Server {
    let deadline = Instant::now() + WATCH_TIMEOUT;
    let open = match connection.take() {
        Some(open) => Ok(open),
        None => client::Connection::open(address, deadline),
    };
    let Ok(mut open) = open else { return Server::default() };
    match open.call(RequestHead::default(), &Request::Status, deadline) {
        Ok(Reply::Status(line)) => {
            *connection = Some(open);
            Server { is_alive: true, leads_in: leads_in(&line) }
        }
        _ => Server::default(),
    }
}

/// The term in which the node of this STATUS line leads.
fn leads_in(status: &str) -> Option<u64> {
    let value = |name| {
        let pairs = status.split(' ').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find_map(|(this, value)| (this == name).then_some(value))
    };
    if value("role") == Some("leader") { value("term")?.parse().ok() } else { None }
}

/// Whoever panicked with the lock has left a view as good as any.
fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(servers: &[(bool, Option<u64>)]) -> View {
        let server = |&(is_alive, leads_in)| Server { is_alive, leads_in };
        View { servers: servers.iter().map(server).collect() }
    }

    #[test]
    fn the_leader_is_who_leads_in_the_latest_term_and_lives() {
        assert_eq!(leads_in("id=1 role=leader term=5 leader=1"), Some(5));
        assert_eq!(leads_in("id=1 role=follower term=5 leader=2"), None);
        let leader = |servers: &[_]| view(servers).leader();
        let latest = Leader { server: 2, term: 7 };
        assert_eq!(leader(&[(true, Some(5)), (true, None), (true, Some(7))]), Some(latest));
        assert_eq!(leader(&[(false, Some(7)), (true, None)]), None);
    }

    #[test]
    fn reads_stay_at_home_while_it_lives_and_writes_go_to_the_leader() {
        let view = view(&[(true, Some(5)), (false, None), (true, None)]);
        let target = |part, home| view.target(Place { part, home });
        assert_eq!((target(Part::Reads, 2), target(Part::Reads, 1)), (Some(2), Some(2)));
        assert_eq!((target(Part::Writes, 2), target(Part::All, 1)), (Some(0), Some(0)));
        let nobody = View { servers: vec![Server::default(); 2] };
        assert_eq!(nobody.target(Place { part: Part::Reads, home: 0 }), None);
    }
}
