//! What has come from a peer and is not done with.

use std::io::{self, Read};

use bytes::Bytes;
use kvorum_protocol::DecodeError;
use kvorum_protocol::peer::frame::{Phase, frame_bytes};

/// Room for what comes at once. Frames that do not fit get room of their own.
const BUFFER_BYTES: usize = 64 << 10;

/// What one read of a large frame takes, so that the others have their turn.
const LARGE_READ_BYTES: usize = 1 << 20;

/// Bytes of one connection, cut into frames.
///
/// Small frames are copied out of the buffer: an Append that is kept must not keep the buffer, and
/// with it everything that came beside it. A large one is read straight to where it stays.
#[derive(Debug)]
pub struct Inbox {
    buffer: Box<[u8]>,
    /// `buffer[start..end]` is not cut yet.
    start: usize,
    end: usize,
    large: Option<Large>,
}

/// A frame that does not fit into the buffer; then the buffer is empty.
#[derive(Debug)]
struct Large {
    bytes: Vec<u8>,
    frame_bytes: usize,
}

/// What one read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes, at least one.
    Bytes {
        /// How many.
        count: usize,
        /// The read took all that it had room for: there may be more.
        was_full: bool,
    },
    /// The other side has sent its last byte.
    End,
}

impl Inbox {
    /// Nothing has come.
    pub fn new() -> Inbox {
        Inbox { buffer: vec![0; BUFFER_BYTES].into(), start: 0, end: 0, large: None }
    }

    /// Reads once. [`next`](Inbox::next) must have taken all whole frames before.
    ///
    /// # Errors
    /// What the kernel says of the socket.
    pub fn fill(&mut self, socket: &mut impl Read) -> io::Result<Filled> {
        if let Some(large) = &mut self.large {
            let space = (large.frame_bytes - large.bytes.len()).min(LARGE_READ_BYTES);
            let had = large.bytes.len();
            // What was read before an error is kept by `read_to_end`, and counts.
            let read = socket.take(space as u64).read_to_end(&mut large.bytes);
            let count = large.bytes.len() - had;
            return match read {
                Err(error) if count == 0 => Err(error),
                Ok(0) => Ok(Filled::End),
                // `read_to_end` stops at the end of input and at an error: either shows again.
                _ => Ok(Filled::Bytes { count, was_full: true }),
            };
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let space = self.buffer.len() - self.end;
        match socket.read(&mut self.buffer[self.end..])? {
            0 => Ok(Filled::End),
            count => {
                self.end += count;
                Ok(Filled::Bytes { count, was_full: count == space })
            }
        }
    }

    /// Takes the next whole frame; `None` when it has not come yet.
    ///
    /// # Errors
    /// The stream can not be read on.
    pub fn next(&mut self, phase: Phase) -> Result<Option<Bytes>, DecodeError> {
        if let Some(large) = self.large.take_if(|large| large.bytes.len() == large.frame_bytes) {
            return Ok(Some(large.bytes.into()));
        }
        let input = &self.buffer[self.start..self.end];
        let Some(length) = frame_bytes(input, phase)? else { return Ok(None) };
        if let Some(frame) = input.get(..length) {
            self.start += length;
            return Ok(Some(Bytes::copy_from_slice(frame)));
        }
        if length > self.buffer.len() {
            let mut bytes = Vec::with_capacity(length);
            bytes.extend_from_slice(input);
            self.start = self.end;
            self.large = Some(Large { bytes, frame_bytes: length });
        }
        Ok(None)
    }

    /// Whether the start of a frame is here, and its end is not.
    pub fn is_unfinished(&self) -> bool {
        self.start < self.end || self.large.is_some()
    }
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::peer::{Append, Message, wire};
    use kvorum_protocol::{BatchBuilder, Command, LogIndex, LogTimeMs, Op, Term};

    use super::*;

    fn stream() -> Vec<u8> {
        let mut stream = Vec::new();
        for bytes in [1, 300 << 10, 10, 100 << 10] {
            let value = vec![b'x'; bytes];
            let mut builder = BatchBuilder::new(LogIndex(6));
            builder.push(&Command::new(Op::Set { key: b"k", value: &value }));
            let batch = builder.seal(Term(1), LogTimeMs(1), 0).unwrap();
            let append = Message::Append(Append {
                term: Term(1),
                prev: LogIndex(5),
                prev_term: Term(1),
                commit: LogIndex(5),
                batches: vec![batch],
            });
            let heartbeat = Message::Heartbeat { term: Term(1), commit: LogIndex(5), round: 9 };
            for message in [append, heartbeat] {
                for batch in wire::encode(&message, &mut stream) {
                    stream.extend_from_slice(batch.bytes());
                }
            }
        }
        stream
    }

    /// Gives at most `piece` bytes a read.
    struct Pieces<'a> {
        rest: &'a [u8],
        piece: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.piece.min(out.len());
            self.rest.read(&mut out[..count])
        }
    }

    #[test]
    fn frames_of_every_size_come_out_whole_however_they_come_in() {
        let stream = stream();
        for piece in [7, 1000, 64 << 10, 1 << 20] {
            let mut socket = Pieces { rest: &stream, piece };
            let (mut inbox, mut read) = (Inbox::new(), Vec::new());
            while let Filled::Bytes { .. } = inbox.fill(&mut socket).unwrap() {
                while let Some(frame) = inbox.next(Phase::Open).unwrap() {
                    wire::decode(&frame).unwrap();
                    read.extend_from_slice(&frame);
                }
            }
            assert!(!inbox.is_unfinished());
            assert!(read == stream, "pieces of {piece}");
        }
    }

    #[test]
    fn half_a_frame_is_unfinished() {
        let stream = stream();
        let mut inbox = Inbox::new();
        inbox.fill(&mut &stream[..10]).unwrap();
        assert_eq!(inbox.next(Phase::Open), Ok(None));
        assert!(inbox.is_unfinished());
    }
}
