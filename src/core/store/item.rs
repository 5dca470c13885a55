//! One key with its value: a single allocation behind a thin pointer.
//!
//! ```text
//!  0                 6            8                  12       12+k
//! +-----------------+------------+------------------+--------+--------+
//! | version, 48 bit | key length | value length, 27 |  key   | value  |
//! |                 |    u16     | bit + 5 flag bit |        |        |
//! +-----------------+------------+------------------+--------+--------+
//! ```
//!
//! A `Box<[u8]>` would do the same without `unsafe`, but as a fat pointer it takes twice the room
//! in the table: at ten million keys that is 80 to 160 MB.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use kvorum_protocol::LogIndex;
use kvorum_protocol::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

const HEADER_BYTES: usize = 12;
const ALIGN: usize = 4;

/// The flag bits above it are reserved (expiry); they are zero.
const VALUE_LENGTH_BITS: u32 = 27;
const VERSION_BITS: u32 = 48;

/// No version reaches it: at a million entries a second, after nine years of nothing else.
pub const VERSION_END: LogIndex = LogIndex(1 << VERSION_BITS);

const _: () = assert!(VALUE_BYTES_MAX < 1 << VALUE_LENGTH_BITS);
const _: () = assert!(KEY_BYTES_MAX < 1 << (64 - VERSION_BITS));

/// An owned key and value with the version of the last change.
pub struct Item {
    /// Invariant: points to an allocation made by `new` whose header describes its size; no
    /// other pointer to it exists.
    header: NonNull<u8>,
}

// SAFETY: an `Item` owns its allocation alone, as a `Box<[u8]>` does, and holds nothing that is
// bound to a thread.
unsafe impl Send for Item {}
// SAFETY: `&Item` only reads the allocation.
unsafe impl Sync for Item {}

impl Item {
    /// Copies `key` and `value` into a new item.
    pub fn new(version: LogIndex, key: &[u8], value: &[u8]) -> Item {
        assert!(key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX);
        let layout = layout(key.len(), value.len());
        // SAFETY: the layout is never empty, it holds at least the header.
        let Some(header) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        // SAFETY: the allocation is `HEADER_BYTES + key + value` long, and new, so it overlaps
        // neither source.
        unsafe {
            let body = header.as_ptr().add(HEADER_BYTES);
            std::ptr::copy_nonoverlapping(key.as_ptr(), body, key.len());
            std::ptr::copy_nonoverlapping(value.as_ptr(), body.add(key.len()), value.len());
        }
        let mut item = Item { header };
        item.write_header(version, key.len(), value.len());
        item
    }

    /// The index of the entry that last changed the key.
    #[inline]
    pub fn version(&self) -> LogIndex {
        LogIndex(self.word() >> 16)
    }

    /// The key.
    #[inline]
    pub fn key(&self) -> &[u8] {
        // SAFETY: the header describes the allocation (invariant of `header`), and `&self` keeps
        // it alive and unchanged.
        unsafe {
            std::slice::from_raw_parts(self.header.as_ptr().add(HEADER_BYTES), self.key_len())
        }
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &[u8] {
        // SAFETY: as in `key`; the value stands behind the key.
        unsafe {
            let start = self.header.as_ptr().add(HEADER_BYTES + self.key_len());
            std::slice::from_raw_parts(start, self.value_len())
        }
    }

    /// Replaces the value by one of the same length, in place. Answers false, and changes
    /// nothing, when the lengths differ.
    #[inline]
    pub fn overwrite(&mut self, version: LogIndex, value: &[u8]) -> bool {
        if value.len() != self.value_len() {
            return false;
        }
        let key_len = self.key_len();
        // SAFETY: the allocation holds `value_len` bytes behind the key (invariant of `header`),
        // `value.len()` equals that, and `&mut self` rules out that `value` points into it.
        unsafe {
            let start = self.header.as_ptr().add(HEADER_BYTES + key_len);
            std::ptr::copy_nonoverlapping(value.as_ptr(), start, value.len());
        }
        self.write_header(version, key_len, value.len());
        true
    }

    /// How many bytes the item asks of the allocator.
    #[inline]
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.key_len() + self.value_len()
    }

    /// Asks the processor to bring the header and the start of the key near.
    #[inline]
    pub fn prefetch_key(&self) {
        prefetch(self.header.as_ptr());
    }

    /// Asks the processor to bring the item's first cache lines near.
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self.header.as_ptr());
        prefetch(self.header.as_ptr().wrapping_add(64));
    }

    fn write_header(&mut self, version: LogIndex, key_len: usize, value_len: usize) {
        assert!(version < VERSION_END, "the log index outgrew its 48 bits");
        let word = version.0 << 16 | key_len as u64;
        let value_word = u32::try_from(value_len).expect("bounded by VALUE_BYTES_MAX");
        // SAFETY: every allocation starts with `HEADER_BYTES` of header; unaligned writes, since
        // the allocation is only 4-aligned.
        unsafe {
            self.header.as_ptr().cast::<u64>().write_unaligned(word);
            self.header.as_ptr().add(8).cast::<u32>().write_unaligned(value_word);
        }
    }

    #[inline]
    fn word(&self) -> u64 {
        // SAFETY: the header was written by `write_header`.
        unsafe { self.header.as_ptr().cast::<u64>().read_unaligned() }
    }

    #[inline]
    fn key_len(&self) -> usize {
        (self.word() & 0xffff) as usize
    }

    #[inline]
    fn value_len(&self) -> usize {
        // SAFETY: the header was written by `write_header`.
        let word = unsafe { self.header.as_ptr().add(8).cast::<u32>().read_unaligned() };
        (word & ((1 << VALUE_LENGTH_BITS) - 1)) as usize
    }
}

impl Drop for Item {
    fn drop(&mut self) {
        let layout = layout(self.key_len(), self.value_len());
        // SAFETY: allocated in `new` with this layout: neither length ever changes.
        unsafe { dealloc(self.header.as_ptr(), layout) }
    }
}

/// A hint, which a processor without it ignores.
#[inline]
fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: it reads nothing that the program can see and can not fault, whatever the
        // address. SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

fn layout(key_len: usize, value_len: usize) -> Layout {
    Layout::from_size_align(HEADER_BYTES + key_len + value_len, ALIGN)
        .expect("bounded by KEY_BYTES_MAX and VALUE_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_gives_back_what_it_was_made_of() {
        for (key, value) in [(&b""[..], &b""[..]), (b"k", b"v"), (&[7; 65535], &[9; 100_000])] {
            let item = Item::new(LogIndex((1 << 48) - 1), key, value);
            assert_eq!((item.key(), item.value()), (key, value));
            assert_eq!(item.version(), LogIndex((1 << 48) - 1));
            assert_eq!(item.bytes(), 12 + key.len() + value.len());
        }
    }

    #[test]
    fn overwriting_keeps_the_key_and_refuses_another_length() {
        let mut item = Item::new(LogIndex(1), b"key", b"old");
        assert!(item.overwrite(LogIndex(2), b"new"));
        assert!(!item.overwrite(LogIndex(3), b"longer"));
        assert_eq!(
            (item.version(), item.key(), item.value()),
            (LogIndex(2), &b"key"[..], &b"new"[..])
        );
    }
}
