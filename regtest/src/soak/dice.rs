//! When the merchant is killed: drawn from a seed, so that a run can be repeated as far as its moments go.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

/// Out of so many moments one is counted from the first request instead of the first purchase: then the merchant's node is
/// still busy with its start, and LDK waits up to two seconds with its first payment.
const COLD_ONE_IN: u64 = 4;
/// How late such a moment may be.
const COLD_WITHIN_MS: u64 = 2_500;
/// How late the others may be: a few rounds of purchases, of which one takes some 100 to 300 ms.
const WARM_WITHIN_MS: u64 = 500;

/// Random numbers: SplitMix64, which is all that moments need.
#[derive(Debug)]
pub(super) struct Dice {
    state: u64,
}

/// When to kill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// Whether it is counted from the first purchase of the cycle; otherwise from its first request.
    pub(super) is_warm: bool,
    /// How long after that.
    pub(super) after: Duration,
}

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next moment.
    pub(super) fn moment(&mut self) -> Moment {
        let is_warm = !self.draw().is_multiple_of(COLD_ONE_IN);
        let within_ms = if is_warm {
            WARM_WITHIN_MS
        } else {
            COLD_WITHIN_MS
        };
        Moment {
            is_warm,
            after: Duration::from_millis(self.draw() % within_ms),
        }
    }
}

/// A seed for those who name none.
#[must_use]
pub fn random_seed() -> u64 {
    // Short enough to be typed again.
    RandomState::new().hash_one(()) % 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_moments() {
        let moments = |seed| {
            let mut dice = Dice::new(seed);
            (0..50).map(|_| dice.moment().after).collect::<Vec<_>>()
        };
        assert_eq!(moments(7), moments(7));
        assert_ne!(moments(7), moments(8));
    }
}
