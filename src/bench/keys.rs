//! Which key a request is about, and how its name is spelled.

use rand::{Rng, RngExt};

use super::zipf::Zipf;

/// Keys of one length: `key:` where it fits, then the number, padded with zeros. With 16 bytes
/// these are the names that `redis-benchmark -r` uses, so that either tool can fill a server for
/// the other.
#[derive(Clone, Debug)]
pub(crate) struct KeyFormat {
    /// The name of key 0.
    zero: Vec<u8>,
    /// How many digits at its end differ from key to key.
    digits: usize,
}

const PREFIX: &[u8] = b"key:";

impl KeyFormat {
    /// Names of `key_bytes` for the numbers below `key_space`; `None` when the digits do not fit.
    pub(crate) fn new(key_bytes: usize, key_space: u32) -> Option<KeyFormat> {
        let digits = key_space.saturating_sub(1).max(1).ilog10() as usize + 1;
        if digits > key_bytes {
            return None;
        }
        let mut zero = vec![b'0'; key_bytes];
        if digits + PREFIX.len() <= key_bytes {
            zero[..PREFIX.len()].copy_from_slice(PREFIX);
        }
        Some(KeyFormat { zero, digits })
    }

    /// The name of key 0.
    pub(crate) fn zero(&self) -> &[u8] {
        &self.zero
    }

    /// Turns `key`, which holds the name of any key of this format, into that of `number`.
    #[inline]
    pub(crate) fn write(&self, number: u32, key: &mut [u8]) {
        let mut rest = number;
        let start = key.len() - self.digits;
        for digit in key[start..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }
}

/// Draws the key of the next request.
#[derive(Clone, Debug)]
pub(crate) enum KeyChooser {
    /// Each of so many keys with the same probability.
    Uniform(u32),
    /// A few keys most of the time.
    Zipf(Zipf),
    /// One after the other, for filling the key space.
    Sequential {
        /// The key of the next request.
        next: u32,
    },
}

impl KeyChooser {
    /// The number of the next key.
    #[inline]
    pub(crate) fn draw(&mut self, rng: &mut impl Rng) -> u32 {
        match self {
            KeyChooser::Uniform(count) => {
                // Lemire's multiplication: no division, and a bias of at most count / 2^32.
                let random = u64::from(rng.random::<u32>());
                ((random * u64::from(*count)) >> 32) as u32
            }
            KeyChooser::Zipf(zipf) => zipf.draw(rng),
            KeyChooser::Sequential { next } => {
                let this = *next;
                *next = this.wrapping_add(1);
                this
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn name(key_bytes: usize, key_space: u32, number: u32) -> String {
        let format = KeyFormat::new(key_bytes, key_space).unwrap();
        let mut key = format.zero().to_vec();
        format.write(number, &mut key);
        String::from_utf8(key).unwrap()
    }

    #[test]
    fn names_have_the_length_asked_for_and_those_of_redis_benchmark_at_16() {
        assert_eq!(name(16, 1_000_000, 42), "key:000000000042");
        assert_eq!(name(16, 1_000_000, 999_999), "key:000000999999");
        assert_eq!(name(10, 1_000_000, 999_999), "key:999999");
        assert_eq!(name(9, 1_000_000, 7), "000000007");
        assert_eq!(name(1, 10, 9), "9");
        assert_eq!(name(1, 1, 0), "0");
        assert_eq!(name(20, u32::MAX, u32::MAX - 1), "key:0000004294967294");
        assert!(KeyFormat::new(1, 11).is_none());
        assert!(KeyFormat::new(0, 1).is_none());
    }

    #[test]
    fn uniform_keys_cover_the_key_space_evenly() {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut chooser = KeyChooser::Uniform(10);
        let mut hits = [0u32; 10];
        for _ in 0..100_000 {
            hits[chooser.draw(&mut rng) as usize] += 1;
        }
        assert!(hits.iter().all(|hits| (9_000..11_000).contains(hits)), "{hits:?}");
    }
}
