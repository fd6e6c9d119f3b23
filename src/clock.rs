//! Time, passed in: the one place that asks the operating system what time it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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
}
