//! The listening socket: accepts in small portions, and survives the lack of descriptors.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

/// Connections that the kernel keeps for us between two turns.
const BACKLOG: i32 = 4096;

/// How long nothing may come from a client before the kernel asks whether it is still there, and
/// how often it asks again.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(120);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// What came of one try to accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection.
    Connection(TcpStream, SocketAddr),
    /// A connection that there is no descriptor for; answer it at once and drop it.
    OutOfDescriptors(TcpStream),
    /// Nobody waits.
    Nobody,
}

/// A listening socket, with one descriptor kept back so that a connection can be refused politely
/// when there is none left. Without it the connection would stay in the queue, ready for ever,
/// and the loop would spin.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    spare: Option<File>,
}

impl Listener {
    /// Listens on `address`, a `HOST:PORT`.
    ///
    /// # Errors
    /// A name that does not resolve, or what the kernel says of every address it resolves to.
    pub fn bind(address: &str) -> io::Result<Listener> {
        let mut last = io::Error::new(ErrorKind::InvalidInput, "the name has no address");
        for address in address.to_socket_addrs()? {
            match listen(address) {
                Ok(socket) => return Ok(Listener { socket, spare: spare_descriptor() }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Where it listens, the port filled in.
    ///
    /// # Errors
    /// What getsockname(2) says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The socket, for registering it.
    pub fn source(&mut self) -> &mut TcpListener {
        &mut self.socket
    }

    /// Takes the next connection from the kernel's queue.
    ///
    /// # Errors
    /// What accept(2) says, other than what passes by itself.
    pub fn accept(&mut self) -> io::Result<Accepted> {
        loop {
            match self.socket.accept() {
                Ok((stream, address)) => return Ok(Accepted::Connection(stream, address)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Accepted::Nobody),
                // The peer went away while it was queued, or a signal came: the next one.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(error) if is_out_of_descriptors(&error) => {
                    return self.accept_with_spare(error);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn accept_with_spare(&mut self, error: io::Error) -> io::Result<Accepted> {
        let Some(spare) = self.spare.take() else {
            self.spare = spare_descriptor();
            return Err(error);
        };
        drop(spare);
        match self.socket.accept() {
            Ok((stream, _)) => Ok(Accepted::OutOfDescriptors(stream)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.restore_spare();
                Ok(Accepted::Nobody)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the spare descriptor back, after the refused connection was dropped.
    pub fn restore_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = spare_descriptor();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Accepted sockets inherit it. A client that is gone without a word keeps its place no longer
    // than a few minutes.
    let probes = TcpKeepalive::new();
    socket.set_tcp_keepalive(
        &probes.with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL).with_retries(4),
    )?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}
