//! The state hash: one number for all that applied entries have made, the same on every node that
//! has applied as many. Nodes compare it ([`audit`](super::audit)), and a snapshot carries it.
//!
//! It is a multiset hash: the sum of one term for each thing in the state. A change subtracts the
//! old term and adds the new one, so it costs the same however large the state is, does not
//! depend on any order, and can be summed up from nothing, a part at a time
//! ([`State::hash_from_scratch`](super::state::State::hash_from_scratch)). It does not depend on
//! the seed of the table.
//!
//! | thing | its term is made of |
//! |---|---|
//! | item | version; of the key: length, first and last 8 bytes; of the value: length, first 16 |
//! | session | name, window, last use, the first sequence that is not too old |
//! | outcome in a session | name, sequence, the entry that took effect, what it did |
//!
//! # What it finds
//! Entries that were skipped, applied twice, at another index or to another key, on one node and
//! not on others; keys that a snapshot or a recovery has lost, doubled or kept too long; values of
//! another length; sessions that would answer a retry in another way. A bit that flips in memory
//! is noticed when the item changes, or when the hash is summed up from nothing and compared.
//!
//! # What it does not
//! A value that differs behind its first 16 bytes alone, or a key that differs in its middle alone:
//! reading all of them, and the old value before every overwrite, would cost large values a tenth
//! of their throughput. The bytes are guarded by the checksums of batches and of snapshots. Nor is
//! it a defence against an attacker: it has no key, and whoever can choose keys can make two states
//! of equal hash.
//!
//! # What it costs
//! Two multiplications of 64 bits to 128 and a few of 64 for an overwrite, one for a new key, on
//! bytes that are in the cache for other reasons. A SET costs the reactor some 400 ns with deep
//! pipelines; `benches/core` (a turn of 256 SETs) shows what this adds.
//!
//! The numbers are a part of the format of snapshots and of what nodes say to each other: they must
//! never change.

use kvorum_protocol::{LogIndex, SessionSequence};

use super::outcome::{Applied, Outcome};
use super::sessions::Session;

/// Of a value, so many bytes have a part in the hash: what a lookup has brought near.
const SAMPLE_BYTES: usize = 16;

/// Odd numbers without a pattern: the first digits of pi, in hexadecimal, made odd.
const PI: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89];

/// A sum of terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// One thing more.
    #[inline]
    pub fn add(&mut self, term: u64) {
        self.0 = self.0.wrapping_add(term);
    }

    /// One thing less.
    #[inline]
    pub fn subtract(&mut self, term: u64) {
        self.0 = self.0.wrapping_sub(term);
    }

    /// What two parts of a state come to.
    #[must_use]
    pub fn and(self, other: Sum) -> Sum {
        Sum(self.0.wrapping_add(other.0))
    }

    /// What is left without a part of it.
    #[must_use]
    pub fn without(self, part: Sum) -> Sum {
        Sum(self.0.wrapping_sub(part.0))
    }
}

/// The hash of a state with these items and sessions.
pub fn state(items: Sum, sessions: Sum) -> u64 {
    mix(items.0 ^ PI[0], sessions.0 ^ PI[1])
}

/// What the terms of a key have in common, whatever its value.
#[derive(Clone, Copy, Debug)]
pub struct KeyPrint(u64);

/// The part of an item's term that only depends on its key.
#[inline]
pub fn key(key: &[u8]) -> KeyPrint {
    KeyPrint(print(key))
}

/// The term of an item.
#[inline]
pub fn item(key: KeyPrint, version: LogIndex, value: &[u8]) -> u64 {
    let start = &value[..value.len().min(SAMPLE_BYTES)];
    let value = print(start) ^ (value.len() as u64).wrapping_mul(PI[3]);
    mix(key.0 ^ version.0.wrapping_mul(PI[1]), value ^ PI[2])
}

/// The first and the last 8 bytes, and how many there are.
#[inline]
fn print(bytes: &[u8]) -> u64 {
    let (first, last) = match (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => short(bytes),
    };
    let ends = first.wrapping_mul(PI[1]) ^ last.rotate_left(32).wrapping_mul(PI[3]);
    ends.wrapping_add((bytes.len() as u64).wrapping_mul(PI[1]))
}

/// The same of fewer than 8 bytes.
#[inline]
fn short(bytes: &[u8]) -> (u64, u64) {
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        (Some(first), Some(last)) => {
            (u32::from_le_bytes(*first).into(), u32::from_le_bytes(*last).into())
        }
        _ => {
            let number = bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
            (number, number)
        }
    }
}

/// The term of a session without its outcomes. Its last log time is that of its last use.
#[inline]
pub fn session(id: LogIndex, session: &Session) -> u64 {
    let shape = mix(id.0 ^ PI[0], session.first ^ PI[1]) ^ u64::from(session.window);
    mix(shape ^ PI[2], session.last_used.0 ^ PI[3])
}

/// The term of what a session knows of a sequence.
#[inline]
pub fn outcome(name: SessionSequence, outcome: &Outcome) -> u64 {
    let did = match outcome.applied {
        Applied::Nothing => 0,
        Applied::Written => 1,
        Applied::SessionExpired => 2,
        Applied::SequenceTooOld => 3,
        Applied::Deleted(count) => 1 << 32 | u64::from(count),
    };
    let what = mix(outcome.version.0 ^ PI[3], did ^ PI[2]);
    mix(mix(name.session ^ PI[1], name.sequence ^ PI[0]), what)
}

/// Folds the product of both, as wyhash does: every bit has a part in every bit.
#[inline]
pub fn mix(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    low(product) ^ low(product >> 64)
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn low(number: u128) -> u64 {
    number as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(of: &[u8], version: u64, value: &[u8]) -> u64 {
        item(key(of), LogIndex(version), value)
    }

    /// Nodes of different builds compare them, and snapshots are read by later versions.
    #[test]
    fn the_numbers_never_change() {
        let name = SessionSequence { session: 5, sequence: 9 };
        let told = |applied| outcome(name, &Outcome { version: LogIndex(12), applied });
        let numbers = [
            term(b"key", 7, b"value"),
            term(b"", 1, b""),
            term(&[9; 300], 1 << 40, &[3; 100]),
            told(Applied::Written),
            told(Applied::Deleted(2)),
            state(Sum(3), Sum(4)),
            state(Sum::default(), Sum::default()),
        ];
        let expected = [
            0xc407_8841_0181_1e39,
            0xf03c_262b_8132_db0b,
            0x395f_c30d_187b_ba3f,
            0xc26b_aec8_3fdd_c0b6,
            0x82c3_9f17_7734_1d28,
            0x1a28_242a_4ad5_21a5,
            0xe052_ed86_abb7_a4aa,
        ];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn whatever_a_term_is_made_of_changes_it() {
        let one = term(b"key", 7, b"value");
        for other in [
            term(b"kez", 7, b"value"),
            term(b"key", 8, b"value"),
            term(b"key", 7, b"valuf"),
            term(b"key", 7, b"value\0"),
            term(b"keyv", 7, b"alue"),
            term(b"yek", 7, b"value"),
            term(b"key\0", 7, b"value"),
            term(b"key", 7, b""),
        ] {
            assert_ne!(one, other);
        }
        let long = |at: usize| {
            let mut value = [1; 40];
            value[at] = 2;
            term(b"key", 7, &value)
        };
        assert_ne!(long(0), long(15));
        assert_eq!(long(16), long(39), "what is behind the sample is not looked at");
    }
}
