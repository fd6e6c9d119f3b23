//! Amounts of bitcoin: one type, millisatoshi inside, arithmetic that cannot wrap.

use std::fmt;

/// All the bitcoin that will ever exist, in msat: 21 million coins of 10^8 sat of 10^3 msat.
pub const MSAT_MAX: u64 = 21_000_000 * 100_000_000 * 1_000;

/// An amount in millisatoshi, the unit of a Lightning payment (BOLT 11 and BOLT 2 count in it).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Msat(u64);

impl Msat {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// This many millisatoshi, or `None` above all the bitcoin that can exist.
    pub const fn new(msat: u64) -> Option<Self> {
        if msat <= MSAT_MAX {
            Some(Self(msat))
        } else {
            None
        }
    }

    /// This many whole satoshi, or `None` above all the bitcoin that can exist.
    pub const fn from_sat(sat: u64) -> Option<Self> {
        match sat.checked_mul(1_000) {
            Some(msat) => Self::new(msat),
            None => None,
        }
    }

    /// The number of millisatoshi.
    pub const fn msat(self) -> u64 {
        self.0
    }

    /// The sum, held at all the bitcoin that can exist.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0).min(MSAT_MAX))
    }
}

/// Whole satoshi as `10 sat`, everything else as `2500 msat`: what a settings file takes back.
impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000) {
            write!(f, "{} sat", self.0 / 1_000)
        } else {
            write!(f, "{} msat", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_all_bitcoin() {
        assert_eq!(Msat::new(MSAT_MAX).unwrap().msat(), MSAT_MAX);
        assert_eq!(Msat::new(MSAT_MAX + 1), None);
        assert_eq!(Msat::from_sat(u64::MAX), None);
        let all = Msat::new(MSAT_MAX).unwrap();
        assert_eq!(all.saturating_add(all), all);
    }

    #[test]
    fn whole_satoshi_are_shown_as_such() {
        assert_eq!(Msat::from_sat(10).unwrap().to_string(), "10 sat");
        assert_eq!(Msat::new(2_500).unwrap().to_string(), "2500 msat");
    }
}
