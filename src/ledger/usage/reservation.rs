//! One request's use of a token: reserved before it is served, metered while it is, settled behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::l402::caveat::Allowance;
use crate::pace::{Pace, Room};

use super::Usage;

/// What an answer may take that has begun within the grant and runs beyond it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overrun {
    /// Whatever it needs: the token is used up behind it.
    #[default]
    Serve,
    /// Nothing: the answer is cut off, with its connection.
    Cut,
}

/// What is left of a grant; `None` where it has no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Requests, this one and those in flight taken off.
    pub requests: Option<u64>,
    /// Response bytes, before this answer.
    pub bytes: Option<u64>,
    /// Metered seconds, before this answer.
    pub seconds: Option<u64>,
    /// Until when it is good, Unix seconds.
    pub expires_secs: Option<u64>,
}

/// Why a request was not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreserved {
    /// Everything that was bought has been served, or is being served.
    UsedUp,
    /// The token is used too often.
    TooFast(Room),
}

/// One request's use of a token, reserved. Dropped, it counts as served: a client that hangs up in the middle has had the
/// resource. Only [`Reservation::give_back`] returns it.
#[derive(Debug)]
#[must_use = "a dropped reservation counts as served; call `give_back` if it was not"]
pub struct Reservation {
    /// The token's counts; taken when the reservation is given back.
    usage: Option<Arc<Usage>>,
    /// Where the time comes from when it is settled.
    clock: Clock,
    /// What the token allows in all.
    allowance: Allowance,
    /// What happens beyond it.
    overrun: Overrun,
    /// What was left when it was reserved.
    left: Left,
    /// Up to when the time that passes is counted; `None` when somebody else meters it.
    metered_to: Option<Instant>,
}

impl Reservation {
    pub(in crate::ledger) fn reserve(
        usage: &Arc<Usage>,
        allowance: &Allowance,
        overrun: Overrun,
        pace: Option<Pace>,
        clock: &Clock,
    ) -> Result<Self, Unreserved> {
        // The pace first: what is refused for it must not have been taken from the grant, not even for a moment.
        if let Some(pace) = pace {
            usage
                .keep_pace(pace, clock.since_boot_ms())
                .map_err(Unreserved::TooFast)?;
        }
        let left = usage
            .reserve(allowance, overrun)
            .ok_or(Unreserved::UsedUp)?;
        Ok(Self {
            usage: Some(Arc::clone(usage)),
            clock: clock.clone(),
            allowance: *allowance,
            overrun,
            left,
            metered_to: Some(Instant::now()),
        })
    }

    /// What was left when it was reserved.
    pub fn left(&self) -> Left {
        self.left
    }

    /// The token's id.
    pub fn token_id(&self) -> Option<[u8; 32]> {
        Some(self.usage.as_ref()?.token.token_id)
    }

    /// Counts response bytes and says how many of them may go out.
    pub fn deliver(&self, bytes: u64) -> u64 {
        let max = match self.overrun {
            Overrun::Serve => None,
            Overrun::Cut => self.allowance.bytes_max,
        };
        let usage = self.usage.as_ref();
        usage.map_or(0, |usage| usage.add_bytes(bytes, max))
    }

    /// Whether passing time has to be looked at while the answer runs: because the token has a limit of it, or because the
    /// answer is cut when the token's time is over.
    pub fn is_timed(&self) -> bool {
        let is_metered = self.allowance.seconds_max.is_some() && self.metered_to.is_some();
        is_metered || self.overrun == Overrun::Cut
    }

    /// Counts the time since it was last counted. `false` if the answer has to be cut off.
    pub fn pass_time(&mut self) -> bool {
        self.pass_time_to(Instant::now())
    }

    pub(super) fn pass_time_to(&mut self, now: Instant) -> bool {
        if self.is_overdue() {
            return false;
        }
        let (Some(usage), Some(metered_to)) = (&self.usage, &mut self.metered_to) else {
            return true;
        };
        let metered_ms = whole_ms(now.saturating_duration_since(*metered_to));
        // What is below a millisecond is counted the next time.
        *metered_to += Duration::from_millis(metered_ms);
        let total_ms = if metered_ms == 0 {
            0
        } else {
            usage.add_metered(metered_ms)
        };
        let is_over = self
            .allowance
            .seconds_max
            .is_some_and(|max| total_ms / 1_000 >= max);
        !(is_over && self.overrun == Overrun::Cut)
    }

    /// Whether the token's time is over, and the answer is to be cut for it.
    pub fn is_overdue(&self) -> bool {
        let until_secs = self.allowance.valid_until_secs;
        self.overrun == Overrun::Cut
            && until_secs.is_some_and(|until| self.clock.unix_secs() >= until)
    }

    /// Counts time that was metered by whoever did the work.
    pub fn report(&mut self, worked: Duration) {
        self.metered_to = None;
        if let Some(usage) = &self.usage {
            usage.add_metered(ms_begun(worked));
        }
    }

    /// Returns the use to the holder: nothing was delivered, and it was not the holder's doing.
    pub fn give_back(mut self) {
        if let Some(usage) = self.usage.take() {
            usage.give_back();
        }
    }
}

fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Begun milliseconds: work below one is work.
fn ms_begun(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let (Some(usage), Some(metered_to)) = (&self.usage, self.metered_to) {
            usage.add_metered(ms_begun(metered_to.elapsed()));
        }
        if let Some(usage) = self.usage.take() {
            usage.settle(self.clock.moment());
        }
    }
}
