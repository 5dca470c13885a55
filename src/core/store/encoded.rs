//! One key with its value as it stands in a snapshot.
//!
//! ```text
//!  0                 6            8              12       12+k
//! +-----------------+------------+--------------+--------+--------+
//! | version, 48 bit | key length | value length |  key   | value  |
//! |                 |    u16     |     u32      |        |        |
//! +-----------------+------------+--------------+--------+--------+
//! ```
//!
//! The first eight bytes are one little-endian number, `version << 16 | key length`.

use kvorum_protocol::limits::VALUE_BYTES_MAX;
use kvorum_protocol::{DecodeError, LogIndex};

use super::item::Item;

const HEADER_BYTES: usize = 12;

/// A key with its value and the index of the entry that last changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedItem<'a> {
    /// That index.
    pub version: LogIndex,
    /// The key.
    pub key: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

impl<'a> EncodedItem<'a> {
    /// Appends the item in the layout above.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let word = self.version.0 << 16 | self.key.len() as u64;
        let value_len = u32::try_from(self.value.len()).expect("bounded by VALUE_BYTES_MAX");
        out.reserve(HEADER_BYTES + self.key.len() + self.value.len());
        out.extend_from_slice(&word.to_le_bytes());
        out.extend_from_slice(&value_len.to_le_bytes());
        out.extend_from_slice(self.key);
        out.extend_from_slice(self.value);
    }

    /// Reads the item at the start of `bytes`; also returns what stands behind it.
    ///
    /// # Errors
    /// No item stands there, or not a whole one.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<(EncodedItem<'a>, &'a [u8]), DecodeError> {
        let (word, rest) = bytes.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
        let (value_len, rest) = rest.split_first_chunk::<4>().ok_or(DecodeError::Truncated)?;
        let word = u64::from_le_bytes(*word);
        let value_len = u32::from_le_bytes(*value_len) as usize;
        if value_len > VALUE_BYTES_MAX {
            return Err(DecodeError::TooLarge { what: "value", limit: VALUE_BYTES_MAX });
        }
        let key_len = (word & 0xffff) as usize;
        let (key, rest) = rest.split_at_checked(key_len).ok_or(DecodeError::Truncated)?;
        let (value, rest) = rest.split_at_checked(value_len).ok_or(DecodeError::Truncated)?;
        Ok((EncodedItem { version: LogIndex(word >> 16), key, value }, rest))
    }
}

impl Item {
    /// The item as a snapshot holds it.
    #[inline]
    pub fn encoded(&self) -> EncodedItem<'_> {
        EncodedItem { version: self.version(), key: self.key(), value: self.value() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn items_survive_encoding_and_no_part_of_one_passes(
            version in 0u64..1 << 48,
            key in proptest::collection::vec(any::<u8>(), 0..300),
            value in proptest::collection::vec(any::<u8>(), 0..300),
            behind in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let version = LogIndex(version);
            let mut bytes = Vec::new();
            Item::new(version, &key, &value).encoded().encode(&mut bytes);
            for length in 0..bytes.len() {
                prop_assert_eq!(
                    EncodedItem::decode(&bytes[..length]),
                    Err(DecodeError::Truncated)
                );
            }
            bytes.extend_from_slice(&behind);
            let (item, rest) = EncodedItem::decode(&bytes).unwrap();
            prop_assert_eq!(item, EncodedItem { version, key: &key, value: &value });
            prop_assert_eq!(rest, &behind);
        }

        #[test]
        fn whatever_is_read_is_written_the_same(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..400),
        ) {
            if let Ok((item, rest)) = EncodedItem::decode(&bytes) {
                let mut again = Vec::new();
                item.encode(&mut again);
                prop_assert_eq!([&again[..], rest].concat(), bytes);
            }
        }
    }

    #[test]
    fn a_value_beyond_every_limit_is_refused_before_it_is_looked_for() {
        let mut bytes = [0; HEADER_BYTES];
        let length = u32::try_from(VALUE_BYTES_MAX + 1).unwrap();
        bytes[8..].copy_from_slice(&length.to_le_bytes());
        assert!(matches!(EncodedItem::decode(&bytes), Err(DecodeError::TooLarge { .. })));
    }
}
