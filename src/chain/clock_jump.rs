//! Detects that the system clock was set while the program runs, by comparing it with the machine's
//! monotonic clock. No server is asked.

use tokio::time::Instant;

/// The values of both clocks at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    /// The system clock, in Unix seconds.
    secs: u64,
    /// The monotonic clock.
    at: Instant,
}

impl Clocks {
    /// Makes a pair of values that were read at the same time.
    pub(crate) fn seen(secs: u64, at: Instant) -> Self {
        Self { secs, at }
    }

    /// Returns by how many seconds the system clock was set between `self` and `now`; negative if
    /// it was set back.
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
