//! What a snapshot says of itself: where in the log it was cut, and all that a node has to know
//! beside keys and sessions to go on from there.
//!
//! ```text
//!  0           8          16         24        28      32          40           48     56     64
//! +-----------+----------+----------+---------+-------+-----------+------------+------+-------+
//! | end.index | end.term | end.time | end.crc | terms | hash_seed | state_hash | keys | list  |
//! |    u64    |   u64    |   u64    |   u32   |  u32  |    u64    |    u64     | u64  | index |
//! +-----------+----------+----------+---------+-------+-----------+------------+------+-------+
//! behind it  per term: first index u64, term u64; then the member list, to the end
//! ```
//!
//! All numbers are little-endian. `terms` says how many terms there are.

use kvorum_protocol::{DecodeError, LogIndex, LogTimeMs, MemberList, Term};

use super::log::LogEnd;
use super::store::VERSION_END;
use super::terms::Terms;

const FIXED_BYTES: usize = 64;
const TERM_BYTES: usize = 16;

/// The state of a node at one log index, without its keys and sessions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotHead {
    /// The last batch that the snapshot covers: its index is that of the cut.
    pub end: LogEnd,
    /// The members in force at the cut.
    pub members: MemberList,
    /// The index of the entry that names them; 0 when none does, as at the first boot of a copy.
    pub members_index: LogIndex,
    /// The first entry of each term up to the cut, as [`Terms`] holds them.
    pub terms: Vec<(LogIndex, Term)>,
    /// What keyed the hashing of the store. Who loads the keys keeps it, because they stand in the
    /// order that it makes.
    pub hash_seed: u64,
    /// The hash of the whole state at the cut, which all nodes of the cluster have in common.
    pub state_hash: u64,
    /// How many keys there were.
    pub keys: u64,
}

impl SnapshotHead {
    /// Appends the head in the layout above.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let terms = u32::try_from(self.terms.len()).expect("fewer than entries of one node's life");
        for number in [self.end.index.0, self.end.term.0, self.end.time.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.end.crc.to_le_bytes());
        out.extend_from_slice(&terms.to_le_bytes());
        for number in [self.hash_seed, self.state_hash, self.keys, self.members_index.0] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for (first, term) in &self.terms {
            out.extend_from_slice(&first.0.to_le_bytes());
            out.extend_from_slice(&term.0.to_le_bytes());
        }
        self.members.encode(out);
    }

    /// Reads a head that fills `bytes` exactly.
    ///
    /// # Errors
    /// Anything that no node could have written.
    pub fn decode(bytes: &[u8]) -> Result<SnapshotHead, DecodeError> {
        let (fixed, rest) =
            bytes.split_first_chunk::<FIXED_BYTES>().ok_or(DecodeError::Truncated)?;
        let end = LogEnd {
            index: LogIndex(u64_at(fixed, 0)),
            term: Term(u64_at(fixed, 8)),
            time: LogTimeMs(u64_at(fixed, 16)),
            crc: u32_at(fixed, 24),
        };
        let terms = usize::try_from(u32_at(fixed, 28)).unwrap_or(usize::MAX);
        let terms_bytes = terms.checked_mul(TERM_BYTES).ok_or(DecodeError::Truncated)?;
        let (terms, members) = rest.split_at_checked(terms_bytes).ok_or(DecodeError::Truncated)?;
        let terms = terms.chunks_exact(TERM_BYTES);
        let head = SnapshotHead {
            end,
            members: MemberList::decode(members)?,
            terms: terms.map(|pair| (LogIndex(u64_at(pair, 0)), Term(u64_at(pair, 8)))).collect(),
            hash_seed: u64_at(fixed, 32),
            state_hash: u64_at(fixed, 40),
            keys: u64_at(fixed, 48),
            members_index: LogIndex(u64_at(fixed, 56)),
        };
        if head.members_index > end.index {
            return Err(DecodeError::Invalid("index of the member list"));
        }
        if end.index >= VERSION_END {
            return Err(DecodeError::Invalid("index of the cut"));
        }
        let terms = Terms::from_firsts(head.terms.clone(), end.index);
        if terms.and_then(|terms| terms.term_at(end.index)) != Some(end.term) {
            return Err(DecodeError::Invalid("terms of the log"));
        }
        Ok(head)
    }
}

/// The number at an offset of a layout whose length was checked: of the head, and of the headers
/// in the file.
///
/// # Panics
/// When `bytes` end before.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("within the fixed fields"))
}

/// The same for a longer one.
///
/// # Panics
/// When `bytes` end before.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("within the fixed fields"))
}

#[cfg(test)]
mod tests {
    use kvorum_protocol::NodeId;
    use proptest::prelude::*;

    use super::*;

    fn head() -> SnapshotHead {
        SnapshotHead {
            end: LogEnd { index: LogIndex(9), term: Term(4), crc: 7, time: LogTimeMs(1000) },
            members: MemberList::lone(NodeId(3), "a:1").unwrap(),
            members_index: LogIndex(1),
            terms: vec![(LogIndex(1), Term(1)), (LogIndex(8), Term(4))],
            hash_seed: 11,
            state_hash: 12,
            keys: 2,
        }
    }

    fn encoded(head: &SnapshotHead) -> Vec<u8> {
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        bytes
    }

    #[test]
    fn a_head_survives_encoding_and_no_part_of_it_passes() {
        let bytes = encoded(&head());
        assert_eq!(SnapshotHead::decode(&bytes), Ok(head()));
        for length in 0..bytes.len() {
            assert!(SnapshotHead::decode(&bytes[..length]).is_err(), "length {length}");
        }
        assert!(SnapshotHead::decode(&[&bytes[..], &[0]].concat()).is_err());
    }

    #[test]
    fn the_state_before_the_first_entry_is_one() {
        let (end, members_index) = (LogEnd::default(), LogIndex(0));
        let empty = SnapshotHead { end, members_index, terms: Vec::new(), keys: 0, ..head() };
        assert_eq!(SnapshotHead::decode(&encoded(&empty)), Ok(empty));
    }

    #[test]
    fn contradictions_are_refused() {
        let refused = |change: &dyn Fn(&mut SnapshotHead)| {
            let mut wrong = head();
            change(&mut wrong);
            assert!(SnapshotHead::decode(&encoded(&wrong)).is_err(), "{wrong:?}");
        };
        refused(&|head| head.end.index = VERSION_END);
        refused(&|head| head.end.index = LogIndex(7));
        refused(&|head| head.end.term = Term(3));
        refused(&|head| head.terms[0].0 = LogIndex(2));
        refused(&|head| head.terms[1].1 = Term(1));
        refused(&|head| head.terms[1].0 = LogIndex(1));
        refused(&|head| head.terms.clear());
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(
            at in 0usize..200,
            byte in any::<u8>(),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut bytes = encoded(&head());
            let at = at % bytes.len();
            bytes[at] = byte;
            for bytes in [bytes, noise] {
                if let Ok(head) = SnapshotHead::decode(&bytes) {
                    prop_assert_eq!(encoded(&head), bytes);
                }
            }
        }
    }
}
