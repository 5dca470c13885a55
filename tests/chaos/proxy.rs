//! A proxy in front of each node's peer port, which knows by the address who calls. So there is a
//! link for every pair of nodes and each direction, and each may have a fault of its own.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::network::{PEER_PORT, node_host, proxy_host};
use super::stop::Stop;

/// What a proxy takes from a socket at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Chunks on their way; when there are more, the sender has to wait.
const CHUNKS_MAX: usize = 256;

/// How often a link looks whether it may go on.
const TICK: Duration = Duration::from_millis(5);

/// What a link does to what is sent on it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fault {
    #[default]
    Clean,
    /// It comes later by `mean`, more or less by up to `spread`; TCP keeps it in order.
    Delay { mean: Duration, spread: Duration },
    /// Of the chunks that pass, such a share gets a wrong byte.
    Corrupt { share: f64 },
    /// Nothing passes; what was sent comes when this is over.
    BlackHole,
    /// So much passes and no more.
    SlowDrain { bytes_per_second: usize },
}

/// All proxies; they end when this is dropped.
pub struct Proxies {
    shared: Arc<Shared>,
    acceptors: Vec<JoinHandle<()>>,
}

struct Shared {
    stop: Stop,
    state: Mutex<State>,
}

struct State {
    /// By sender and receiver.
    faults: Vec<Vec<Fault>>,
    /// How often all links were half closed.
    half_closes: u64,
    /// How many bytes were made wrong.
    corrupted: u64,
    /// To be shut down at the end.
    sockets: Vec<TcpStream>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self, link: Link) -> Fault {
        self.state().faults[link.from - 1][link.to - 1]
    }
}

/// A direction between two nodes.
#[derive(Clone, Copy)]
struct Link {
    from: usize,
    to: usize,
}

impl Proxies {
    /// Proxies for so many nodes; to be called where the clients are.
    pub fn start(nodes: usize) -> Proxies {
        let state = State {
            faults: vec![vec![Fault::Clean; nodes]; nodes],
            half_closes: 0,
            corrupted: 0,
            sockets: Vec::new(),
        };
        let shared = Arc::new(Shared { stop: Stop::default(), state: Mutex::new(state) });
        let acceptors = (1..=nodes).map(|to| {
            let listener = TcpListener::bind((proxy_host(to), PEER_PORT)).expect("a free address");
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || accept(&listener, to, &shared))
        });
        let acceptors = acceptors.collect();
        Proxies { shared, acceptors }
    }

    /// Gives the link from one node to another a fault.
    pub fn set(&self, from: usize, to: usize, fault: Fault) {
        self.shared.state().faults[from - 1][to - 1] = fault;
    }

    /// Gives all links the same fault.
    pub fn set_all(&self, fault: Fault) {
        let mut state = self.shared.state();
        state.faults.iter_mut().flatten().for_each(|link| *link = fault);
    }

    /// Every connection that stands says "no more" to its receiver and swallows the rest, while the
    /// other direction goes on.
    pub fn half_close_all(&self) {
        self.shared.state().half_closes += 1;
    }

    /// How many bytes have been made wrong.
    pub fn corrupted(&self) -> u64 {
        self.shared.state().corrupted
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        self.shared.stop.say();
        for socket in &self.shared.state().sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for (to, acceptor) in (1..).zip(self.acceptors.drain(..)) {
            // It sees the end when it accepts something. Who can not be woken ends with the
            // process.
            if TcpStream::connect((proxy_host(to), PEER_PORT)).is_ok() {
                let _ = acceptor.join();
            }
        }
    }
}

/// Serves those who call node `to`.
fn accept(listener: &TcpListener, to: usize, shared: &Arc<Shared>) {
    for caller in listener.incoming() {
        if !shared.stop.is_not_said_within(Duration::ZERO) {
            return;
        }
        let Some((caller, from)) = caller.ok().and_then(|caller| {
            let from = node_of(caller.peer_addr().ok()?)?;
            Some((caller, from))
        }) else {
            continue;
        };
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // Nobody there: the caller sees a connection that ends at once.
            let Ok(called) = TcpStream::connect((node_host(to), PEER_PORT)) else { return };
            let _ = relay(&shared, Link { from, to }, caller, called);
        });
    }
}

/// Whose address this is.
fn node_of(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) => Some(usize::from(ip.octets()[3])),
        IpAddr::V6(_) => None,
    }
}

fn relay(
    shared: &Arc<Shared>,
    link: Link,
    caller: TcpStream,
    called: TcpStream,
) -> std::io::Result<()> {
    caller.set_nodelay(true)?;
    called.set_nodelay(true)?;
    let back = Link { from: link.to, to: link.from };
    let ways = [
        (link, caller.try_clone()?, called.try_clone()?),
        (back, called.try_clone()?, caller.try_clone()?),
    ];
    shared.state().sockets.extend([caller, called]);
    for (link, input, output) in ways {
        let (sender, receiver) = sync_channel(CHUNKS_MAX);
        let reading = Arc::clone(shared);
        std::thread::spawn(move || take(&reading, link, input, &sender));
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pass_on(&shared, link, &output, &receiver));
    }
    Ok(())
}

/// Reads until the end, and says when each chunk is to arrive.
fn take(
    shared: &Shared,
    link: Link,
    mut input: TcpStream,
    sender: &SyncSender<(Instant, Vec<u8>)>,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Ok(read @ 1..) = input.read(&mut chunk) {
        let delay = match shared.fault(link) {
            Fault::Delay { mean, spread } => mean - spread + (spread * 2).mul_f64(rand::random()),
            _ => Duration::ZERO,
        };
        if sender.send((Instant::now() + delay, chunk[..read].to_vec())).is_err() {
            return;
        }
    }
}

/// Writes what comes, when its time has come, with what the link does to it.
fn pass_on(
    shared: &Shared,
    link: Link,
    mut output: &TcpStream,
    receiver: &Receiver<(Instant, Vec<u8>)>,
) {
    let half_closes = shared.state().half_closes;
    let mut is_closed = false;
    while let Ok((due, mut chunk)) = receiver.recv() {
        let mut wait = due.saturating_duration_since(Instant::now());
        while shared.fault(link) == Fault::BlackHole || !wait.is_zero() {
            if !shared.stop.is_not_said_within(wait.max(TICK)) {
                return;
            }
            wait = due.saturating_duration_since(Instant::now());
        }
        if !is_closed && shared.state().half_closes > half_closes {
            let _ = output.shutdown(Shutdown::Write);
            is_closed = true;
        }
        if is_closed {
            continue;
        }
        match shared.fault(link) {
            Fault::Corrupt { share } if rand::random_bool(share) => {
                let at = rand::random_range(0..chunk.len());
                chunk[at] ^= rand::random_range(1..=255);
                shared.state().corrupted += 1;
            }
            Fault::SlowDrain { bytes_per_second } => {
                let time = Duration::from_secs_f64(chunk.len() as f64 / bytes_per_second as f64);
                if !shared.stop.is_not_said_within(time) {
                    return;
                }
            }
            _ => {}
        }
        if output.write_all(&chunk).is_err() {
            break;
        }
    }
    let _ = output.shutdown(Shutdown::Both);
}
