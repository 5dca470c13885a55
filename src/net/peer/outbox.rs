//! What is on its way to a peer.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, Write};

use bytes::Bytes;
use kvorum_protocol::peer::{Message, wire};

/// Batches from here on are sent from where they are; smaller ones are cheaper to copy than to
/// name.
const SHARED_BYTES_MIN: usize = 8 << 10;

/// How many pieces one write names.
const PIECES_MAX: usize = 64;

/// A buffer larger than this is given back to the allocator when it is sent.
const KEPT_BYTES: usize = 256 << 10;

/// Frames to send, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// How much of the first piece is sent.
    sent: usize,
    /// Bytes not sent yet.
    bytes: usize,
    /// An empty buffer for the next frames.
    spare: Vec<u8>,
}

#[derive(Debug)]
enum Piece {
    /// Frames, or their heads.
    Own(Vec<u8>),
    /// A batch that the log holds too.
    Shared(Bytes),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Own(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
        }
    }
}

impl Outbox {
    /// Adds the frame of a message.
    pub fn push(&mut self, message: &Message) {
        let mut batches = &[][..];
        self.append(|out| batches = wire::encode(message, out));
        for batch in batches {
            let bytes = batch.bytes();
            if bytes.len() < SHARED_BYTES_MIN {
                self.append(|out| out.extend_from_slice(bytes));
            } else {
                self.bytes += bytes.len();
                self.pieces.push_back(Piece::Shared(bytes.clone()));
            }
        }
    }

    /// Adds whatever `write` appends to the buffer that it is given.
    pub fn append<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if !matches!(self.pieces.back(), Some(Piece::Own(_))) {
            self.pieces.push_back(Piece::Own(std::mem::take(&mut self.spare)));
        }
        let Some(Piece::Own(buffer)) = self.pieces.back_mut() else { unreachable!("just pushed") };
        let before = buffer.len();
        let result = write(buffer);
        self.bytes += buffer.len() - before;
        result
    }

    /// Bytes not sent yet.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Sends what the kernel takes. False when it takes no more for now; it will say when.
    ///
    /// # Errors
    /// What the kernel says of the socket: the connection is over.
    pub fn send(&mut self, socket: &mut impl Write) -> io::Result<bool> {
        while self.bytes > 0 {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let mut skip = self.sent;
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(&piece.bytes()[skip..]);
                skip = 0;
                count += 1;
            }
            match socket.write_vectored(&slices[..count]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.advance(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn advance(&mut self, count: usize) {
        self.bytes -= count;
        self.sent += count;
        while let Some(first) = self.pieces.front() {
            let length = first.bytes().len();
            if self.sent < length {
                return;
            }
            self.sent -= length;
            if let Some(Piece::Own(mut buffer)) = self.pieces.pop_front()
                && buffer.capacity() <= KEPT_BYTES
            {
                buffer.clear();
                self.spare = buffer;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::peer::Append;
    use kvorum_protocol::{BatchBuilder, Command, LogIndex, LogTimeMs, Op, Term};

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
            let count = bytes.len().min(self.room);
            self.room -= count;
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn messages() -> Vec<Message> {
        let heartbeat = Message::Heartbeat { term: Term(1), commit: LogIndex(5), round: 9 };
        let mut messages = vec![heartbeat.clone()];
        for bytes in [1, 20 << 10] {
            let value = vec![b'x'; bytes];
            let mut builder = BatchBuilder::new(LogIndex(6));
            builder.push(&Command::new(Op::Set { key: b"k", value: &value }));
            let mut batches = vec![builder.seal(Term(1), LogTimeMs(1), 0).unwrap()];
            builder.push(&Command::new(Op::Delete { key: b"k" }));
            let crc = batches[0].header().crc;
            batches.extend(builder.seal(Term(1), LogTimeMs(1), crc));
            messages.push(Message::Append(Append {
                term: Term(1),
                prev: LogIndex(5),
                prev_term: Term(1),
                commit: LogIndex(5),
                batches,
            }));
            messages.push(heartbeat.clone());
        }
        messages
    }

    #[test]
    fn sends_in_any_portions_and_forgets_nothing() {
        let mut expected = Vec::new();
        for message in messages() {
            for batch in wire::encode(&message, &mut expected) {
                expected.extend_from_slice(batch.bytes());
            }
        }
        for room in [1, 7, 1000, 1 << 20] {
            let mut outbox = Outbox::default();
            let mut socket = Narrow { room: 0, taken: Vec::new() };
            messages().iter().for_each(|message| outbox.push(message));
            assert_eq!(outbox.len(), expected.len());
            while !outbox.send(&mut socket).unwrap() {
                socket.room = room;
            }
            assert_eq!(outbox.len(), 0);
            assert!(socket.taken == expected, "portions of {room}");
        }
    }

    #[test]
    fn a_large_batch_is_not_copied() {
        let mut outbox = Outbox::default();
        messages().iter().for_each(|message| outbox.push(message));
        let shared = |piece: &&Piece| matches!(piece, Piece::Shared(_));
        assert_eq!(outbox.pieces.iter().filter(shared).count(), 1);
    }
}
