//! The replies that a connection has not sent yet.

use std::io::{self, ErrorKind, Write};

/// An outbox larger than this is given back to the allocator when it is empty.
const KEPT_BYTES: usize = 256 << 10;

/// Empty outboxes that are kept for the next connections with something to say.
const SPARES_MAX: usize = 64;

/// Room of a fresh outbox: the replies of one pipelined turn.
const FRESH_BYTES: usize = 16 << 10;

/// Empty outboxes, lent to the connections that have something to say: an idle connection owns
/// no buffer.
#[derive(Debug, Default)]
pub struct OutboxPool {
    spare: Vec<Vec<u8>>,
}

/// Bytes to send. Invariant: `sent <= bytes.len()`.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

/// What came of sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Everything is with the kernel.
    All,
    /// The kernel takes no more now; it will say when.
    Blocked,
    /// The budget of this turn is used up.
    Budget,
}

impl Outbox {
    /// Where replies are appended.
    #[inline]
    pub fn buffer(&mut self, pool: &mut OutboxPool) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.spare.pop().unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES));
        }
        &mut self.bytes
    }

    /// Bytes not sent yet.
    #[inline]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// How far into the buffer it may grow, for `unsent_max` unsent bytes.
    pub fn end(&self, unsent_max: usize) -> usize {
        self.sent + unsent_max
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Sends what there is, at most `budget` bytes.
    ///
    /// # Errors
    /// What the kernel says of the socket: the connection is over.
    #[inline]
    pub fn send(&mut self, socket: &mut impl Write, budget: usize) -> io::Result<Sent> {
        let mut left = budget;
        while self.sent < self.bytes.len() {
            if left == 0 {
                return Ok(Sent::Budget);
            }
            let end = self.bytes.len().min(self.sent + left);
            match socket.write(&self.bytes[self.sent..end]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.sent += count;
                    left -= count;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.forget_sent();
                    return Ok(Sent::Blocked);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::All)
    }

    /// Gives up the room of what is sent. A client that reads at its own pace may never find the
    /// outbox empty, and without this it would grow by everything that was ever sent. Each byte is
    /// moved at most once for each byte that was sent.
    fn forget_sent(&mut self) {
        if self.sent >= self.len() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Gives the memory back once everything is sent.
    #[inline]
    pub fn recycle(&mut self, pool: &mut OutboxPool) {
        if self.sent < self.bytes.len() || self.bytes.capacity() == 0 {
            return;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        self.sent = 0;
        if bytes.capacity() <= KEPT_BYTES && pool.spare.len() < SPARES_MAX {
            bytes.clear();
            pool.spare.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then blocks.
    struct Narrow {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(self.room).min(3);
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_outbox_that_is_never_empty_does_not_grow() {
        let mut pool = OutboxPool::default();
        let mut outbox = Outbox::default();
        let mut socket = Narrow { room: 0, taken: Vec::new() };
        let mut expected = Vec::new();
        outbox.buffer(&mut pool).extend_from_slice(&[b'x'; 50_000]);
        expected.extend_from_slice(&[b'x'; 50_000]);
        for round in 0..1000 {
            let reply = vec![b'a' + u8::try_from(round % 26).unwrap(); 1000];
            outbox.buffer(&mut pool).extend_from_slice(&reply);
            expected.extend_from_slice(&reply);
            socket.room = 1000;
            assert_eq!(outbox.send(&mut socket, 1 << 20).unwrap(), Sent::Blocked);
            outbox.recycle(&mut pool);
            assert_eq!(outbox.len(), 50_000);
        }
        assert!(outbox.capacity() < 300_000, "{} bytes held", outbox.capacity());
        socket.room = 50_000;
        assert_eq!(outbox.send(&mut socket, 1 << 20).unwrap(), Sent::All);
        assert_eq!(socket.taken, expected);
    }

    #[test]
    fn a_crowd_of_outboxes_is_not_kept() {
        let mut pool = OutboxPool::default();
        let mut socket = Narrow { room: usize::MAX, taken: Vec::new() };
        let mut crowd: Vec<Outbox> = (0..1000).map(|_| Outbox::default()).collect();
        for outbox in &mut crowd {
            outbox.buffer(&mut pool).push(b'x');
        }
        for outbox in &mut crowd {
            assert_eq!(outbox.send(&mut socket, 1).unwrap(), Sent::All);
            outbox.recycle(&mut pool);
        }
        assert_eq!(pool.spare.len(), SPARES_MAX);
    }

    #[test]
    fn sends_in_portions_and_forgets_nothing() {
        let mut pool = OutboxPool::default();
        let mut outbox = Outbox::default();
        let mut socket = Narrow { room: 5, taken: Vec::new() };
        outbox.buffer(&mut pool).extend_from_slice(b"0123456789");
        assert_eq!(outbox.send(&mut socket, 100).unwrap(), Sent::Blocked);
        outbox.buffer(&mut pool).extend_from_slice(b"ab");
        outbox.recycle(&mut pool);
        assert_eq!(outbox.len(), 7);
        socket.room = 100;
        assert_eq!(outbox.send(&mut socket, 4).unwrap(), Sent::Budget);
        assert_eq!(outbox.send(&mut socket, 100).unwrap(), Sent::All);
        assert_eq!(socket.taken, b"0123456789ab");
        outbox.recycle(&mut pool);
        assert_eq!((outbox.capacity(), pool.spare.len()), (0, 1));
    }
}
