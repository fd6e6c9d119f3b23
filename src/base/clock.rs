//! The clock, which callers receive as a value. Only this module asks the operating system for the
//! time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// The system clock that counts the time since boot, including suspension. On Linux, the monotonic
/// clock stops during suspension.
#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const SINCE_BOOT: ClockId = ClockId::Monotonic;

/// A source of time: the system, or a clock that a test moves.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// A clock that only a test moves; `None` reads the system clock.
    fixed: Option<Arc<Fixed>>,
}

/// A clock that stands still until it is moved.
#[derive(Debug)]
struct Fixed {
    /// Milliseconds since the machine was started.
    since_boot_ms: AtomicU64,
    /// The difference between the wall clock and the time since boot, in milliseconds.
    ahead_ms: AtomicI64,
}

/// A point in time on two clocks. Values that are kept only in memory use the time since boot,
/// which cannot be set. Values that are stored use Unix time, which may be wrong until the machine
/// has synchronized its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Milliseconds since the machine was started.
    pub since_boot_ms: u64,
}

impl Clock {
    /// The system's clock.
    pub fn system() -> Self {
        Self { fixed: None }
    }

    /// A clock that stands still at `unix_secs` until [`Clock::advance`] moves it.
    pub fn fixed(unix_secs: u64) -> Self {
        Self {
            fixed: Some(Arc::new(Fixed {
                since_boot_ms: AtomicU64::new(unix_secs * 1_000),
                ahead_ms: AtomicI64::new(0),
            })),
        }
    }

    /// Moves a fixed clock forward. Has no effect on the system clock.
    pub fn advance(&self, by: Duration) {
        if let Some(fixed) = &self.fixed {
            fixed.since_boot_ms.fetch_add(
                u64::try_from(by.as_millis()).unwrap_or(u64::MAX),
                Ordering::Relaxed,
            );
        }
    }

    /// Sets the Unix time of a fixed clock, forward or back. Its time since boot does not change.
    pub fn set(&self, unix_secs: u64) {
        if let Some(fixed) = &self.fixed {
            let ahead_ms = (unix_secs * 1_000).wrapping_sub(self.since_boot_ms());
            fixed
                .ahead_ms
                .store(ahead_ms.cast_signed(), Ordering::Relaxed);
        }
    }

    /// Milliseconds since the Unix epoch; 0 if the machine's clock is set before 1970.
    pub fn unix_ms(&self) -> u64 {
        if let Some(fixed) = &self.fixed {
            let since_boot_ms = fixed.since_boot_ms.load(Ordering::Relaxed);
            return since_boot_ms.saturating_add_signed(fixed.ahead_ms.load(Ordering::Relaxed));
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

    /// The time since boot, including suspension. Setting the machine's clock does not change it.
    pub fn since_boot(&self) -> Duration {
        if let Some(fixed) = &self.fixed {
            return Duration::from_millis(fixed.since_boot_ms.load(Ordering::Relaxed));
        }
        let now = Duration::try_from(clock_gettime(SINCE_BOOT));
        now.expect("no machine runs since before it was started")
    }

    /// Milliseconds since boot, including suspension.
    pub fn since_boot_ms(&self) -> u64 {
        u64::try_from(self.since_boot().as_millis()).unwrap_or(u64::MAX)
    }

    /// The current time on both clocks.
    pub fn moment(&self) -> Moment {
        Moment {
            unix_ms: self.unix_ms(),
            since_boot_ms: self.since_boot_ms(),
        }
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
        clock.set(3);
        assert_eq!((clock.unix_secs(), clock.since_boot_ms()), (3, 9_000));
        clock.advance(Duration::from_secs(1));
        assert_eq!((clock.unix_secs(), clock.since_boot_ms()), (4, 10_000));
    }
}
