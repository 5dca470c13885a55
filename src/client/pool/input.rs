//! The bytes that were received and not yet understood.

use kvorum_protocol::binary::frame_bytes;

/// The least room that is offered to the socket at once.
const ROOM_BYTES_MIN: usize = 8 << 10;

/// A buffer that a large answer has made larger than this is given up when it is empty.
const KEEP_BYTES_MAX: usize = 1 << 20;

/// A receive buffer. It grows with what has come, never with what a server says will come.
#[derive(Debug, Default)]
pub(super) struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// What is there.
    pub(super) fn unread(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The first bytes are dealt with.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        assert!(self.start <= self.end, "only what is there can be dealt with");
    }

    /// Room for more.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.buffer.len() > KEEP_BYTES_MAX {
                self.buffer = Vec::new();
            }
        }
        if self.buffer.len() - self.end < ROOM_BYTES_MIN {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            // Doubling keeps the work for a large answer in proportion to its size.
            let wanted = frame_bytes(self.unread()).min(2 * self.end);
            let length = (self.end + ROOM_BYTES_MIN).max(2 * ROOM_BYTES_MIN).max(wanted);
            if self.buffer.len() < length {
                self.buffer.resize(length, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// So much of the room was filled.
    pub(super) fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.buffer.len(), "only the room can be filled");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(input: &mut Input, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = input.room();
            let count = room.len().min(rest.len());
            room[..count].copy_from_slice(&rest[..count]);
            input.filled(count);
            rest = &rest[count..];
        }
    }

    #[test]
    fn what_comes_in_pieces_is_there_in_one() {
        let mut input = Input::default();
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        put(&mut input, &bytes[..5]);
        input.consume(3);
        put(&mut input, &bytes[5..]);
        assert_eq!(input.unread(), &bytes[3..]);
    }

    #[test]
    fn a_large_answer_does_not_hold_its_memory() {
        let mut input = Input::default();
        let bytes = vec![7; 3 * KEEP_BYTES_MAX];
        put(&mut input, &bytes);
        input.consume(bytes.len());
        assert!(input.room().len() <= KEEP_BYTES_MAX);
    }

    #[test]
    fn a_length_that_is_only_claimed_takes_no_memory() {
        let mut input = Input::default();
        put(&mut input, &(100_u32 << 20).to_le_bytes());
        assert!(input.room().len() <= 2 * ROOM_BYTES_MIN);
    }

    #[test]
    fn small_answers_without_end_use_one_small_buffer() {
        let mut input = Input::default();
        for _ in 0..10_000 {
            put(&mut input, &[1; 100]);
            input.consume(99);
            input.consume(1);
        }
        assert_eq!(input.buffer.len(), 2 * ROOM_BYTES_MIN);
    }
}
