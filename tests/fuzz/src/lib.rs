//! What the fuzz targets share. `run` says how to run them.
//!
//! A target is a function of bytes that panics when a promise is broken. Beside what each checks,
//! all are compiled with debug assertions and overflow checks, and none may allocate more than
//! [`bounded`] lets it.

pub mod reply;

use std::alloc::System;
use std::fmt::Debug;
use std::sync::Once;

use cap::Cap;
use kvorum_protocol::Limits;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Small, so that small inputs go over them, too.
pub const LIMITS: Limits = Limits { key_bytes_max: 24, value_bytes_max: 160 };

/// Runs `body`, which may hold `bytes` of memory at once beyond what there is; asking for more
/// aborts, which is a finding.
pub fn bounded<R>(bytes: usize, body: impl FnOnce() -> R) -> R {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        // A panic has to be told whatever that takes.
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let _ = ALLOCATOR.set_limit(usize::MAX);
            tell(panic);
        }));
    });
    ALLOCATOR.set_limit(ALLOCATOR.allocated() + bytes).expect("there is no less than there is");
    let result = body();
    ALLOCATOR.set_limit(usize::MAX).expect("there is no more");
    result
}

/// What a decoder may hold for so many bytes of input: some copies of them, and a table.
#[must_use]
pub fn decoder_bytes(input: &[u8]) -> usize {
    (64 << 10) + 64 * input.len()
}

/// Splits the number off that a target takes from the front of its input to make a choice.
#[must_use]
pub fn choice(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(first, rest)| (*first, rest))
}

/// Checks that a decoder says the same however its input comes in: `full` is what it says of all
/// of `input`, with the bytes that it took when that is known. Of a beginning it may say that
/// there is more to come, or the same.
pub fn check_beginnings<T: PartialEq + Debug>(
    input: &[u8],
    full: &Option<T>,
    taken: Option<usize>,
    decode: impl Fn(usize) -> Option<T>,
) {
    // All of a short input, else those at the start and around the end.
    let end = taken.unwrap_or(input.len());
    let near = end.saturating_sub(16)..=(end + 16).min(input.len());
    for length in (0..end.min(64)).chain(near) {
        let beginning = decode(length);
        if beginning.is_some() {
            assert_eq!(&beginning, full, "the first {length} bytes are enough for something else");
        }
        if taken.is_some_and(|taken| length < taken) {
            assert_eq!(beginning, None, "the first {length} bytes are not all of it");
        }
        if taken.is_some_and(|taken| length >= taken) {
            assert_eq!(&beginning, full, "the first {length} bytes are all of it");
        }
    }
}

/// Sets the checksums of all frames that stand in `stream`: a fuzzer can not guess them.
pub fn put_checksums(stream: &mut [u8]) {
    let mut rest = stream;
    while let Some(length) = rest.first_chunk() {
        let end = 4 + u32::from_le_bytes(*length) as usize;
        let Some((frame, behind)) = rest.split_at_mut_checked(end) else { return };
        let Some((body, crc)) = frame.split_last_chunk_mut() else { return };
        if body.len() < 4 {
            return;
        }
        *crc = crc32fast::hash(body).to_le_bytes();
        rest = behind;
    }
}
