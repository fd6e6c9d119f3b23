//! A lower bound for the current time, from the newest block: its time is at most two hours ahead
//! of the network's time (consensus). The time that Esplora servers report is better, but other
//! sources have only this.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::chain::{ChainSource, bitcoind, electrum};
use crate::node::config::Config;

/// The maximum time by which a block may be ahead (`MAX_FUTURE_BLOCK_TIME` of Bitcoin Core).
const AHEAD_MAX_SECS: u64 = 2 * 3_600;

/// The newest block's time as a clock.
#[derive(Debug, Default)]
pub(super) struct BlockClock {
    /// A time that has certainly passed. A `std` mutex: never held across an await.
    passed: Mutex<Option<Passed>>,
}

/// A time that has certainly passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Passed {
    /// The time of the machine's clock, Unix seconds.
    secs: u64,
    /// When the passed time became known.
    at: Instant,
}

impl Passed {
    /// The time that has passed if a block has this time.
    fn of(block_secs: u64, at: Instant) -> Self {
        let secs = block_secs.saturating_sub(AHEAD_MAX_SECS);
        Self { secs, at }
    }

    /// How far a clock that shows `now_secs` is behind, in seconds, if it is certainly behind.
    fn behind_secs(self, now_secs: u64, now: Instant) -> Option<i64> {
        let since = now.saturating_duration_since(self.at);
        let at_least = self.secs.saturating_add(since.as_secs());
        let behind = at_least.checked_sub(now_secs).filter(|secs| *secs > 0)?;
        Some(behind.cast_signed())
    }
}

impl BlockClock {
    /// Asks a chain source other than Esplora for the newest block's time, which takes up to half a
    /// minute. Without an answer, the last known time stays.
    pub(super) async fn ask(&self, config: &Config) {
        let network = config.network;
        let newest = match &config.chain.source {
            ChainSource::Esplora { .. } => return,
            ChainSource::Electrum(url) => electrum::newest(url, network).await.ok(),
            ChainSource::Bitcoind(bitcoind) => bitcoind::newest(bitcoind, network).await.ok(),
        };
        if let Some((_, block_secs)) = newest {
            let passed = Passed::of(block_secs, Instant::now());
            let known = self.passed.lock();
            *known.unwrap_or_else(PoisonError::into_inner) = Some(passed);
        }
    }

    /// How far a clock that shows `now_secs` is certainly behind, by the last known block time.
    pub(super) fn behind_secs(&self, now_secs: u64) -> Option<i64> {
        let passed = *self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        passed?.behind_secs(now_secs, Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_clock_is_behind_a_block_only_if_it_is_by_more_than_blocks_may_be_ahead() {
        let at = Instant::now();
        let passed = Passed::of(1_000_000, at);
        let hour = Duration::from_secs(3_600);
        for (ours, since, behind) in [
            (1_000_000, 0, None),
            (1_000_000 + 86_400 * 366, 0, None),
            (1_000_000 - 7_200, 0, None),
            (1_000_000 - 7_201, 0, Some(1)),
            (1_000_000 - 86_400, 0, Some(86_400 - 7_200)),
            // The difference is the same an hour later, unless the clock was set.
            (1_000_000 - 86_400 + 3_600, 1, Some(86_400 - 7_200)),
            (1_000_000 + 3_600, 1, None),
            (0, 0, Some(1_000_000 - 7_200)),
        ] {
            assert_eq!(
                passed.behind_secs(ours, at + hour * since),
                behind,
                "{ours}"
            );
        }
    }
}
