//! From the address of a member to where it is. Numbers need no help; a name is looked up on a
//! thread of its own each time it is dialed, because that may take seconds, and its host may move.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use kvorum_protocol::NodeId;
use kvorum_protocol::peer::Lane;
use mio::Waker;

/// What became of a name.
#[derive(Debug)]
pub struct Resolved {
    /// Whose address it is.
    pub member: NodeId,
    /// For which connection.
    pub lane: Lane,
    /// Where it is, at least one address; or why that is not known.
    pub addresses: io::Result<Vec<SocketAddr>>,
}

/// Looks names up beside the reactor.
#[derive(Debug)]
pub struct Resolver {
    results: Arc<Mutex<Vec<Resolved>>>,
    waker: Arc<Waker>,
}

impl Resolver {
    /// A resolver that wakes the reactor with `waker` when it knows something.
    pub fn new(waker: Arc<Waker>) -> Resolver {
        Resolver { results: Arc::default(), waker }
    }

    /// The address itself, if it is a number and not a name.
    pub fn number(address: &str) -> Option<SocketAddr> {
        address.parse().ok()
    }

    /// Begins to look `address` up; the result comes with [`take`](Resolver::take).
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn begin(&self, member: NodeId, lane: Lane, address: &str) -> io::Result<()> {
        let (results, waker) = (Arc::clone(&self.results), Arc::clone(&self.waker));
        let address = address.to_owned();
        let look_up = move || {
            let addresses = address.to_socket_addrs().map(Vec::from_iter);
            let addresses = addresses.and_then(|addresses| match addresses.is_empty() {
                true => Err(io::Error::other("the name has no address")),
                false => Ok(addresses),
            });
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push(Resolved { member, lane, addresses });
            drop(results);
            if let Err(error) = waker.wake() {
                log::error!("can not wake the reactor: {error}");
            }
        };
        thread::Builder::new().name("kvorum-resolve".into()).spawn(look_up).map(drop)
    }

    /// What has become known since the last call.
    pub fn take(&self) -> Vec<Resolved> {
        std::mem::take(&mut *self.results.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
