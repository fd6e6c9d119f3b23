//! A rate that was taken.

use crate::base::clock::Moment;
use crate::base::price::Rate;

/// An accepted rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) rate: Rate,
    /// The time at which the sources were asked, in milliseconds since the machine started. The
    /// rate's age counts from that time, so setting the clock does not change it.
    pub(super) asked_ms: u64,
}

impl Taken {
    /// Converts the wall-clock time from the file to the time since the machine started. Returns
    /// `None` if the rate is older than the machine's start, or comes from a clock that was ahead,
    /// because then its age is uncertain.
    pub(super) fn since_boot(self, now: Moment) -> Option<Self> {
        let age_ms = now.unix_ms.checked_sub(self.asked_ms)?;
        let asked_ms = now.since_boot_ms.checked_sub(age_ms)?;
        Some(Self { asked_ms, ..self })
    }

    /// Converts the time since the machine started back to wall-clock time.
    pub(super) fn on_the_wall(self, now: Moment) -> Self {
        let age_ms = now.since_boot_ms.saturating_sub(self.asked_ms);
        let asked_ms = now.unix_ms.saturating_sub(age_ms);
        Self { asked_ms, ..self }
    }
}
