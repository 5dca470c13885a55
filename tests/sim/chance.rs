//! Everything that is left to chance, from one seed.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::queue::Time;

/// The one source of chance of a world. The same seed draws the same numbers on every machine that
/// builds the same generator.
pub struct Chance(StdRng);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(StdRng::seed_from_u64(seed))
    }

    /// True so often.
    pub fn happens(&mut self, probability: f64) -> bool {
        self.0.random_bool(probability)
    }

    /// Any number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0.random_range(0..end)
    }

    /// Any number from `low` to `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high)
    }

    pub fn fraction(&mut self, low: f64, high: f64) -> f64 {
        self.0.random_range(low..=high)
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// One of the choices, each as likely as its weight says.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let sum: u64 = choices.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.between(0, sum - 1);
        for (weight, choice) in choices {
            if drawn < *weight {
                return *choice;
            }
            drawn -= weight;
        }
        unreachable!("the weights were summed")
    }

    /// How long until the next of events that come independently, `mean` apart: most come soon,
    /// and a few late. At most ten times the mean.
    pub fn wait(&mut self, mean: Time) -> Time {
        let uniform = self.0.random_range(f64::EPSILON..1.0);
        let wait = -uniform.ln() * mean as f64;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let wait = wait as Time;
        wait.min(mean.saturating_mul(10))
    }

    /// Any number from `low` to `high`, each order of magnitude as likely as the others.
    pub fn magnitude(&mut self, low: u64, high: u64) -> u64 {
        let exponent = self.0.random_range((low as f64).ln()..=(high as f64).ln());
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let drawn = exponent.exp() as u64;
        drawn.clamp(low, high)
    }

    /// A seed for something of its own.
    pub fn seed(&mut self) -> u64 {
        self.0.random()
    }
}
