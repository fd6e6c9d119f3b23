//! Time, passed in: the one place that asks the operating system what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// What counts the time since the machine was started, time in suspension included. Linux' monotonic clock stands still meanwhile.
#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const SINCE_BOOT: ClockId = ClockId::Monotonic;

/// Where the time comes from: the system, or a test's hand.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Unix milliseconds of a clock that only a test moves; `None` reads the system's.
    fixed_ms: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { fixed_ms: None }
    }

    /// A clock that stands still at `unix_secs` until [`Clock::advance`] moves it.
    pub fn fixed(unix_secs: u64) -> Self {
        Self {
            fixed_ms: Some(Arc::new(AtomicU64::new(unix_secs * 1_000))),
        }
    }

    /// Moves a fixed clock forward; the system's clock does not move for us.
    pub fn advance(&self, by: Duration) {
        if let Some(ms) = &self.fixed_ms {
            ms.fetch_add(
                u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
                Ordering::Relaxed,
            );
        }
    }

    /// Milliseconds since the Unix epoch; 0 on a machine whose clock stands before 1970.
    pub fn unix_ms(&self) -> u64 {
        if let Some(ms) = &self.fixed_ms {
            return ms.load(Ordering::Relaxed);
        }
        #[expect(clippy::disallowed_methods, reason = "this is the clock")]
        let now = SystemTime::now();
        let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }

    /// Seconds since the Unix epoch.
    pub fn unix_secs(&self) -> u64 {
        self.unix_ms() / 1_000
    }

    /// How long ago the machine was started, time in suspension included. Whatever the clock is set to, this goes on.
    pub fn since_boot(&self) -> Duration {
        if let Some(ms) = &self.fixed_ms {
            return Duration::from_millis(ms.load(Ordering::Relaxed));
        }
        let now = Duration::try_from(clock_gettime(SINCE_BOOT));
        now.expect("no machine runs since before it was started")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_since_the_start_goes_on_with_the_machine_and_with_a_tests_hand() {
        let clock = Clock::system();
        let before = clock.since_boot();
        assert!(before > Duration::ZERO && clock.since_boot() >= before);
        let clock = Clock::fixed(7);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clock.since_boot(), Duration::from_secs(9));
    }
}
