//! The ids that must never be used again.
//!
//! A voter that was removed, and comes back with an empty directory under its old id, could vote a
//! second time in a term. So an id that was once a member's is never given to another node. The
//! memory of that is bounded: only the highest ids are kept one by one, and all below count as
//! used. Who numbers nodes upwards never notices.

use crate::error::DecodeError;
use crate::limits::RETIRED_IDS_MAX;
use crate::types::NodeId;

/// Ids of former members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// All ids up to here, but for those of members.
    floor: u16,
    /// And these, ascending, all above the floor.
    ids: Vec<u16>,
}

impl Retired {
    /// Whether nobody was removed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Retired::default()
    }

    /// Whether a node that is no member must not get this id.
    #[must_use]
    pub fn contains(&self, id: NodeId) -> bool {
        id.0 <= self.floor || self.ids.binary_search(&id.0).is_ok()
    }

    /// A member with this id is no more.
    pub(super) fn insert(&mut self, id: NodeId) {
        if id.0 <= self.floor {
            return;
        }
        if let Err(place) = self.ids.binary_search(&id.0) {
            self.ids.insert(place, id.0);
        }
        if self.ids.len() > RETIRED_IDS_MAX {
            self.floor = self.ids.remove(0);
        }
    }

    /// Appends the floor, a count and the ids.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let count = u16::try_from(self.ids.len()).expect("bounded by RETIRED_IDS_MAX");
        for number in [self.floor, count].iter().chain(&self.ids) {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }

    /// Reads what fills `bytes` exactly, and says that anybody has gone.
    pub(super) fn decode(bytes: &[u8]) -> Result<Retired, DecodeError> {
        let (head, rest) = bytes.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
        let floor = u16::from_le_bytes([head[0], head[1]]);
        let count = usize::from(u16::from_le_bytes([head[2], head[3]]));
        if count > RETIRED_IDS_MAX {
            return Err(DecodeError::TooLarge { what: "retired ids", limit: RETIRED_IDS_MAX });
        }
        if rest.len() != 2 * count {
            let is_short = rest.len() < 2 * count;
            return Err(if is_short { DecodeError::Truncated } else { DecodeError::TrailingBytes });
        }
        let ids: Vec<u16> =
            rest.chunks_exact(2).map(|id| u16::from_le_bytes([id[0], id[1]])).collect();
        let is_ascending = ids.windows(2).all(|pair| pair[0] < pair[1]);
        let is_above = ids.first().is_none_or(|first| *first > floor);
        let retired = Retired { floor, ids };
        if !is_ascending || !is_above || retired.is_empty() {
            return Err(DecodeError::Invalid("retired ids"));
        }
        Ok(retired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(retired: &Retired) -> Result<Retired, DecodeError> {
        let mut bytes = Vec::new();
        retired.encode(&mut bytes);
        Retired::decode(&bytes)
    }

    #[test]
    fn an_id_is_never_forgotten_and_the_memory_is_bounded() {
        let mut retired = Retired::default();
        for id in (1..=2000).rev().step_by(3).chain([1999, 5]) {
            retired.insert(NodeId(id));
            assert_eq!(decoded(&retired), Ok(retired.clone()));
        }
        assert_eq!(retired.ids.len(), RETIRED_IDS_MAX);
        assert!((1..=2000).rev().step_by(3).all(|id| retired.contains(NodeId(id))));
        assert!(retired.contains(NodeId(4)), "low ids that were never used count as used");
        assert!(!retired.contains(NodeId(1998)));
        assert!(!retired.contains(NodeId(2001)));
    }

    #[test]
    fn what_is_no_set_of_ids_is_refused() {
        let words = |words: &[u16]| -> Vec<u8> {
            words.iter().flat_map(|word| word.to_le_bytes()).collect()
        };
        let invalid = Err(DecodeError::Invalid("retired ids"));
        assert_eq!(Retired::decode(&words(&[0, 0])), invalid, "nobody has gone");
        assert_eq!(Retired::decode(&words(&[0, 2, 5, 5])), invalid);
        assert_eq!(Retired::decode(&words(&[5, 1, 5])), invalid);
        assert_eq!(Retired::decode(&words(&[0, 0, 7])), Err(DecodeError::TrailingBytes));
        assert_eq!(Retired::decode(&words(&[0, 2, 7])), Err(DecodeError::Truncated));
        assert!(Retired::decode(&words(&[0, 60_000])).is_err());
    }
}
