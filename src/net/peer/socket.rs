//! What peer sockets are set to.

use std::io;
use std::time::Duration;

use mio::net::TcpStream;
use socket2::{SockRef, TcpKeepalive};

/// How long the other side's kernel may leave bytes unacknowledged. Without it a connection that
/// was cut for a while waits for the next repetition of TCP, whose pauses grow to minutes; a new
/// connection is there as soon as the network is.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);

/// When nothing is said, how soon the kernel asks whether the other side is there.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// Makes a socket fit for a peer: small messages leave at once, and a dead connection is noticed.
///
/// # Errors
/// What setsockopt(2) says.
pub fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))
}
