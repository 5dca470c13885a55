//! A stretch of a segment in memory, moved along while the segment is written elsewhere.

use std::io;

use crate::disk::{AlignedBuffer, BLOCK_BYTES, ReadFile};

/// The most that is read at once, unless one record is longer: enough for a disk to stream.
pub(super) const READ_BYTES_MAX: usize = 256 << 10;

/// Whole blocks of a file, from `start` on.
pub(super) struct Window {
    file: Box<dyn ReadFile>,
    /// How much is read at once.
    read_bytes: usize,
    buffer: AlignedBuffer,
    /// Where in the file the buffer starts; a multiple of the block.
    start: u64,
}

impl Window {
    /// Nothing is read yet. `read_bytes` is about how much will be, so that not much more is.
    pub fn new(file: Box<dyn ReadFile>, read_bytes: usize) -> Window {
        let read_bytes = read_bytes.clamp(BLOCK_BYTES, READ_BYTES_MAX);
        let read_bytes = read_bytes.next_multiple_of(BLOCK_BYTES);
        Window { file, read_bytes, buffer: AlignedBuffer::new(), start: 0 }
    }

    /// The bytes of the file from `offset` on: at least `len` of them, or up to its end. Blocks
    /// that are here already are not read again.
    ///
    /// # Errors
    /// The file does not read.
    pub fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let is_here = self.place_of(offset).is_some_and(|at| at + len <= self.buffer.len());
        if !is_here {
            self.read(offset, len)?;
        }
        let at = self.place_of(offset).unwrap_or(self.buffer.len());
        Ok(&self.buffer.as_slice()[at..])
    }

    /// Forgets all bytes: the file may have changed.
    pub fn forget(&mut self) {
        self.buffer.clear();
    }

    /// Where in the buffer the byte at `offset` stands.
    fn place_of(&self, offset: u64) -> Option<usize> {
        let at = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        (at <= self.buffer.len()).then_some(at)
    }

    fn read(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let start = offset - offset % BLOCK_BYTES as u64;
        match self.place_of(start) {
            // The front of what is wanted is the tail of what is here.
            Some(at) => self.buffer.drop_front(at),
            None => self.buffer.clear(),
        }
        self.start = start;
        let here = self.buffer.len();
        let wanted = usize::try_from(offset - start).unwrap_or(0) + len;
        let missing = wanted.saturating_sub(here).next_multiple_of(BLOCK_BYTES);
        self.buffer.extend_zeros(missing.max(self.read_bytes));
        let room = &mut self.buffer.as_mut_slice()[here..];
        let read = self.file.read_at(start + here as u64, room);
        // What is not read counts as not there, also after an error, and so does half a block.
        let whole = read.as_ref().map_or(0, |count| count - count % BLOCK_BYTES);
        self.buffer.truncate(here + whole);
        read.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Where reads began, and how many bytes they gave.
    type Reads = Arc<Mutex<Vec<(u64, usize)>>>;

    /// A file of so many bytes, each telling its block; notes what is read.
    struct Numbers {
        bytes: usize,
        reads: Reads,
    }

    fn number(offset: usize) -> u8 {
        u8::try_from(offset / BLOCK_BYTES % 251).unwrap()
    }

    impl ReadFile for Numbers {
        fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
            assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
            assert!(bytes.len().is_multiple_of(BLOCK_BYTES));
            assert_eq!(bytes.as_ptr().align_offset(BLOCK_BYTES), 0);
            let offset = usize::try_from(offset).unwrap();
            let count = bytes.len().min(self.bytes.saturating_sub(offset));
            for (at, byte) in bytes[..count].iter_mut().enumerate() {
                *byte = number(offset + at);
            }
            self.reads.lock().unwrap().push((offset as u64, count));
            Ok(count)
        }

        fn bytes(&self) -> io::Result<u64> {
            Ok(self.bytes as u64)
        }
    }

    fn window(bytes: usize) -> (Window, Reads) {
        let reads = Reads::default();
        let file = Box::new(Numbers { bytes, reads: Arc::clone(&reads) });
        (Window::new(file, 100_000), reads)
    }

    #[test]
    fn no_block_is_read_twice_on_the_way_through_a_file() {
        const BYTES: usize = 3 << 20;
        let (mut window, reads) = window(BYTES);
        let lengths = [64, 5000, 64, 700_000, 12, 300_000];
        let mut offset = 0;
        for len in lengths.iter().cycle() {
            if offset + len > BYTES {
                break;
            }
            let bytes = window.bytes(offset as u64, *len).unwrap();
            assert!(bytes.len() >= *len);
            assert_eq!((bytes[0], bytes[len - 1]), (number(offset), number(offset + len - 1)));
            offset += len;
        }
        let mut end = 0;
        for (start, count) in reads.lock().unwrap().iter() {
            assert_eq!(*start, end, "neither twice nor left out");
            end = start + *count as u64;
        }
        assert!(offset > BYTES / 2);
    }

    #[test]
    fn a_jump_reads_only_from_there_and_the_end_of_the_file_is_an_end() {
        let (mut window, reads) = window(2 << 20);
        window.bytes(100, 64).unwrap();
        assert_eq!(window.bytes((1 << 20) + 70, 64).unwrap()[0], number(1 << 20));
        assert_eq!(window.bytes(200, 64).unwrap()[0], number(0));
        let reads: Vec<u64> = reads.lock().unwrap().iter().map(|(start, _)| *start).collect();
        assert_eq!(reads, [0, 1 << 20, 0]);
        assert_eq!(window.bytes((2 << 20) - 10, 64).unwrap().len(), 10);
        assert!(window.bytes(2 << 20, 64).unwrap().is_empty());
        assert!(window.bytes(3 << 20, 64).unwrap().is_empty());
    }

    #[test]
    fn what_is_forgotten_is_read_again() {
        let (mut window, reads) = window(1 << 20);
        for _ in 0..2 {
            window.bytes(8192, 64).unwrap();
            window.bytes(8200, 64).unwrap();
            window.forget();
        }
        assert_eq!(reads.lock().unwrap().len(), 2);
    }
}
