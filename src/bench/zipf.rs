//! Zipf-distributed keys, as the Yahoo! Cloud Serving Benchmark draws them.
//!
//! Ranks are drawn by the method of Gray et al., "Quickly Generating Billion-Record Synthetic
//! Databases" (SIGMOD 1994), section 3.2, with the exponent 0.99 of YCSB. YCSB then scatters the
//! ranks over the keys with a hash, which lets some keys share several ranks and leaves others
//! without any; here a multiplication that is a permutation of the key space does it, so that the
//! distribution stays exactly the one that was asked for.

use rand::{Rng, RngExt};

/// The exponent of YCSB's "zipfian" request distribution.
pub(crate) const YCSB_EXPONENT: f64 = 0.99;

/// Below this rank the terms of the zeta sum are added one by one; above, an integral is exact to
/// about 12 digits.
const ZETA_TERMS: u32 = 1000;

/// Draws numbers below `count`; the most popular ones lie anywhere among them.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    count: u32,
    exponent: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
    /// Coprime to `count`, so that multiplying modulo `count` is a permutation.
    multiplier: u64,
}

impl Zipf {
    /// A distribution over the numbers below `count`, with an exponent between 0 and 1.
    pub(crate) fn new(count: u32, exponent: f64) -> Zipf {
        assert!(count > 0 && exponent > 0.0 && exponent < 1.0);
        let zeta = zeta(count, exponent);
        let spread = 1.0 - (2.0 / f64::from(count)).powf(1.0 - exponent);
        let eta = spread / (1.0 - self::zeta(2, exponent) / zeta);
        let alpha = 1.0 / (1.0 - exponent);
        Zipf { count, exponent, zeta, alpha, eta, multiplier: scattering_multiplier(count) }
    }

    /// The next number.
    #[inline]
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> u32 {
        let rank = u64::from(self.rank(rng.random()));
        let count = u64::from(self.count);
        u32::try_from(rank * self.multiplier % count).expect("it is below count")
    }

    /// The popularity rank, 0 for the most popular, that belongs to a uniform number in [0, 1).
    #[inline]
    fn rank(&self, uniform: f64) -> u32 {
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(self.exponent) {
            return 1.min(self.count - 1);
        }
        let rank = f64::from(self.count) * (self.eta * uniform - self.eta + 1.0).powf(self.alpha);
        #[expect(clippy::cast_possible_truncation, reason = "it is at most count; `as` saturates")]
        let rank = rank as u32;
        rank.min(self.count - 1)
    }
}

/// The sum of `i^-exponent` for i from 1 to `count`: exactly at first, then by the Euler-Maclaurin
/// formula.
fn zeta(count: u32, exponent: f64) -> f64 {
    let exact = count.min(ZETA_TERMS);
    let sum: f64 = (1..=exact).map(|i| f64::from(i).powf(-exponent)).sum();
    if exact == count {
        return sum;
    }
    let (low, high) = (f64::from(exact), f64::from(count));
    let integral = (high.powf(1.0 - exponent) - low.powf(1.0 - exponent)) / (1.0 - exponent);
    let ends = (high.powf(-exponent) - low.powf(-exponent)) / 2.0;
    let slopes = exponent / 12.0 * (low.powf(-exponent - 1.0) - high.powf(-exponent - 1.0));
    sum + integral + ends + slopes
}

/// A number coprime to `count`, near its golden section, so that neighbouring ranks fall far apart.
fn scattering_multiplier(count: u32) -> u64 {
    let count = u64::from(count);
    let start = count * 618 / 1000 + 1;
    (start..).find(|&candidate| greatest_common_divisor(candidate, count) == 1).expect("primes")
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn zeta_agrees_with_the_plain_sum() {
        for count in [1, 2, 999, 1000, 1001, 200_000] {
            let plain: f64 = (1..=count).map(|i| f64::from(i).powf(-0.99)).sum();
            let error = (zeta(count, 0.99) - plain).abs() / plain;
            assert!(error < 1e-11, "count {count}: off by {error}");
        }
    }

    #[test]
    fn every_rank_falls_on_its_own_key() {
        for count in [1u32, 2, 3, 10, 1000, 65_536, 99_991] {
            let multiplier = scattering_multiplier(count);
            let count = u64::from(count);
            let keys: HashSet<u64> = (0..count).map(|rank| rank * multiplier % count).collect();
            assert_eq!(keys.len() as u64, count);
        }
    }

    #[test]
    fn the_popular_keys_get_the_share_that_the_law_gives_them() {
        const COUNT: u32 = 10_000;
        const DRAWS: u32 = 400_000;
        let zipf = Zipf::new(COUNT, YCSB_EXPONENT);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut hits = vec![0u32; COUNT as usize];
        for _ in 0..DRAWS {
            hits[zipf.rank(rng.random()) as usize] += 1;
        }
        let share = |ranks: std::ops::Range<usize>| {
            f64::from(hits[ranks].iter().sum::<u32>()) / f64::from(DRAWS)
        };
        let law = |ranks: std::ops::Range<u32>| {
            let sum: f64 = ranks.map(|i| f64::from(i + 1).powf(-YCSB_EXPONENT)).sum();
            sum / zeta(COUNT, YCSB_EXPONENT)
        };
        // The first two ranks are drawn exactly, the others by an approximation that the paper
        // describes; a tenth of relative error is far above the noise of so many draws.
        for (low, high) in [(0, 1), (1, 2), (2, 10), (10, 100), (100, 1000), (1000, COUNT)] {
            let (is, should) = (share(low as usize..high as usize), law(low..high));
            assert!((is - should).abs() / should < 0.1, "ranks {low}..{high}: {is} for {should}");
        }
    }

    #[test]
    fn the_ends_of_the_unit_interval_stay_in_range() {
        for count in [1, 2, 3, 1_000_000, u32::MAX] {
            let zipf = Zipf::new(count, YCSB_EXPONENT);
            for uniform in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
                assert!(zipf.rank(uniform) < count);
            }
        }
    }
}
