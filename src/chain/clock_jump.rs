//! A clock that is set while the program runs: the other clock of the machine, which only counts, tells of it, and nobody is
//! asked.

use tokio::time::Instant;

/// What both clocks showed at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// Unix seconds.
    secs: u64,
    /// By the one that counts.
    at: Instant,
}

impl Clocks {
    /// Both of them now.
    pub(crate) fn seen(secs: u64, at: Instant) -> Self {
        Self { secs, at }
    }

    /// By how many seconds the clock was set since then (negative: back), as both are now.
    pub(crate) fn set_by(self, now: Self) -> i64 {
        let passed = now.at.saturating_duration_since(self.at);
        let expected = self.secs.saturating_add(passed.as_secs());
        now.secs
            .cast_signed()
            .saturating_sub(expected.cast_signed())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_that_is_set_is_told_from_one_that_goes() {
        let at = Instant::now();
        let before = Clocks::seen(1_000_000, at);
        let later = at + Duration::from_secs(60);
        for (secs, by) in [
            (1_000_060, 0),
            (1_000_061, 1),
            (1_003_660, 3_600),
            (996_460, -3_600),
            (0, -1_000_060),
        ] {
            assert_eq!(before.set_by(Clocks::seen(secs, later)), by, "{secs}");
        }
    }
}
