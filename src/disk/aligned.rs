//! A growing buffer whose start is aligned for direct I/O.

use super::BLOCK_BYTES;

/// What is kept for the next use, so that one large record does not hold its memory for ever.
const KEEP_BYTES: usize = 4 << 20;

/// Bytes that start at a multiple of [`BLOCK_BYTES`] in memory, as `O_DIRECT` asks (`open(2)`).
#[derive(Default)]
pub struct AlignedBuffer {
    /// Room, up to a block larger than what can be used.
    storage: Vec<u8>,
    /// Where in `storage` the aligned bytes start.
    start: usize,
    len: usize,
}

impl AlignedBuffer {
    /// An empty buffer; it allocates on first use.
    #[must_use]
    pub fn new() -> AlignedBuffer {
        AlignedBuffer::default()
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.len]
    }

    /// The bytes, to change them.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..self.start + self.len]
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends `bytes`.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let at = self.grow(bytes.len());
        self.as_mut_slice()[at..].copy_from_slice(bytes);
    }

    /// Appends zeros until the length is a multiple of `unit`.
    pub fn pad_to(&mut self, unit: usize) {
        let missing = self.len.next_multiple_of(unit) - self.len;
        self.extend_zeros(missing);
    }

    /// Appends `count` zeros.
    pub fn extend_zeros(&mut self, count: usize) {
        let at = self.grow(count);
        self.as_mut_slice()[at..].fill(0);
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Drops the first `count` bytes, and moves the rest to the start.
    pub fn drop_front(&mut self, count: usize) {
        self.as_mut_slice().copy_within(count.., 0);
        self.len -= count;
    }

    /// Drops all bytes, and the memory if it is much.
    pub fn clear(&mut self) {
        self.len = 0;
        if self.storage.len() > KEEP_BYTES {
            *self = AlignedBuffer::new();
        }
    }

    /// Makes room for `more` bytes of unspecified content; returns where they start.
    fn grow(&mut self, more: usize) -> usize {
        let at = self.len;
        let needed = at + more;
        if self.start + needed > self.storage.len() {
            let room = needed.next_power_of_two().max(16 * BLOCK_BYTES);
            let mut storage = vec![0; room + BLOCK_BYTES];
            let start = storage.as_ptr().align_offset(BLOCK_BYTES);
            storage[start..start + at].copy_from_slice(self.as_slice());
            (self.storage, self.start) = (storage, start);
        }
        self.len = needed;
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stay_aligned_and_in_order_through_growth() {
        let mut buffer = AlignedBuffer::new();
        let mut expected = Vec::new();
        for round in 1..200u8 {
            let piece = vec![round; usize::from(round) * 37];
            buffer.extend_from_slice(&piece);
            expected.extend_from_slice(&piece);
            assert_eq!(buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
        }
        assert_eq!(buffer.as_slice(), expected);
        buffer.truncate(1001);
        buffer.pad_to(BLOCK_BYTES);
        expected.truncate(1001);
        expected.resize(expected.len().next_multiple_of(BLOCK_BYTES), 0);
        assert_eq!(buffer.as_slice(), expected);
        buffer.drop_front(1000);
        assert_eq!(buffer.as_slice(), &expected[1000..]);
        assert_eq!(buffer.as_slice().as_ptr().align_offset(BLOCK_BYTES), 0);
    }

    #[test]
    fn padding_over_old_bytes_is_zero_and_large_storage_is_given_back() {
        let mut buffer = AlignedBuffer::new();
        buffer.extend_from_slice(&vec![0xff; KEEP_BYTES + 1]);
        buffer.clear();
        assert!(buffer.storage.is_empty());
        buffer.extend_from_slice(&[0xff; BLOCK_BYTES]);
        buffer.clear();
        buffer.extend_from_slice(&[1]);
        buffer.pad_to(8);
        assert_eq!(buffer.as_slice(), [1, 0, 0, 0, 0, 0, 0, 0]);
    }
}
