//! One request's use of a token: reserved before the request is served, metered while the answer
//! runs, and settled after it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::pace::{Pace, Room};
use crate::protocol::l402::caveat::Allowance;

use super::meters::Claim;
use super::overrun::Overrun;
use super::state::{Usage, whole_ms};

/// The rest of a grant; a field is `None` if the grant does not limit it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The requests left, without this request and those in flight.
    pub requests: Option<u64>,
    /// The response bytes left before this answer, without the bytes held for other answers.
    pub bytes: Option<u64>,
    /// The metered seconds left before this answer.
    pub seconds: Option<u64>,
    /// The end of the token's validity, in Unix seconds.
    pub expires_secs: Option<u64>,
}

/// The reason why a request was not reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreserved {
    /// The whole grant has been served or is being served.
    UsedUp,
    /// The requests come faster than the token's pace.
    TooFast(Room),
}

/// One reserved use of a token. Dropping it counts the use as served, because a client that hangs
/// up midway has received the resource. [`Reservation::give_back`] returns the use, and so does a
/// panic before anything was delivered.
#[derive(Debug)]
#[must_use = "a dropped reservation counts as served; call `give_back` if it was not"]
pub struct Reservation {
    /// The token's counts; `None` once the reservation is given back.
    usage: Option<Arc<Usage>>,
    /// The source of the time of settlement.
    clock: Clock,
    /// The token's whole grant.
    allowance: Allowance,
    /// The treatment of an answer that exceeds the grant.
    overrun: Overrun,
    /// The rest of the grant when the use was reserved, or when its answer began.
    left: Left,
    /// The request's part of bytes and time.
    claim: Claim,
    /// The number of the file's window, if all requests for the file count as one.
    window: Option<u64>,
    /// Whether the time is metered elsewhere and reported by `Reservation::report`.
    is_metered_elsewhere: bool,
    /// Whether the client has received any bytes.
    has_delivered: bool,
}

impl Reservation {
    pub(in crate::account::ledger) fn reserve(
        usage: &Arc<Usage>,
        allowance: &Allowance,
        overrun: Overrun,
        pace: Option<Pace>,
        file: Option<u64>,
        clock: &Clock,
    ) -> Result<Self, Unreserved> {
        // The pace is checked first, so that a request refused for its pace never takes from the
        // grant.
        if let Some(pace) = pace {
            usage
                .keep_pace(pace, clock.since_boot_ms())
                .map_err(Unreserved::TooFast)?;
        }
        usage.touch(clock.since_boot_ms());
        let reserved = match file {
            Some(file) => usage.reserve_of_file(allowance, overrun, (file, clock.since_boot_ms())),
            None => {
                let reserved = usage.reserve(allowance, overrun);
                reserved.map(|(left, claim)| (left, claim, None))
            }
        };
        let (left, claim, window) = reserved.ok_or(Unreserved::UsedUp)?;
        Ok(Self {
            usage: Some(Arc::clone(usage)),
            clock: clock.clone(),
            allowance: *allowance,
            overrun,
            left,
            claim,
            window,
            is_metered_elsewhere: false,
            has_delivered: false,
        })
    }

    /// Returns what is left: requests as of now, bytes and seconds as of the beginning of the
    /// answer.
    pub fn left(&self) -> Left {
        let usage = self.usage.as_ref();
        let requests = usage.and_then(|usage| usage.requests_left(&self.allowance));
        Left {
            requests,
            ..self.left
        }
    }

    /// Starts counting time now. Earlier time does not count.
    pub fn count_from_now(&mut self) {
        if let Some(usage) = &self.usage {
            let now_ms = usage.ms(Instant::now());
            usage.meters().count_from(&mut self.claim, now_ms);
        }
    }

    /// Whether other running answers can use up what is left.
    pub fn is_shared(&self) -> bool {
        self.allowance.bytes_max.is_some() || self.allowance.seconds_max.is_some()
    }

    /// Begins the answer, and holds `length` bytes for it if the length is known. Returns `false`
    /// if other answers have used up the grant in the meantime.
    pub fn begin(&mut self, length: Option<u64>) -> bool {
        let Some(usage) = &self.usage else {
            return false;
        };
        let now_ms = usage.ms(Instant::now());
        let mut meters = usage.meters();
        let rest = meters.rest(&self.allowance, now_ms);
        let known = (length, now_ms);
        let has_begun = meters.begin(&mut self.claim, &self.allowance, self.overrun, known);
        if has_begun {
            self.left.bytes = rest.bytes;
        }
        has_begun
    }

    /// The token's id.
    pub fn token_id(&self) -> Option<[u8; 32]> {
        Some(self.usage.as_ref()?.token.token_id)
    }

    /// Counts response bytes and returns how many of them may be sent.
    pub fn deliver(&mut self, bytes: u64) -> u64 {
        let Some(usage) = &self.usage else {
            return 0;
        };
        let allowed = usage
            .meters()
            .deliver(&mut self.claim, &self.allowance, self.overrun, bytes);
        usage.has_changed();
        self.has_delivered |= allowed > 0;
        allowed
    }

    /// Holds this many bytes in all for the answer's next messages, which must not be split.
    /// Returns `false` if fewer bytes are left, and uses those up.
    pub fn hold(&mut self, bytes: u64) -> bool {
        let Some(usage) = &self.usage else {
            return false;
        };
        let fits = usage
            .meters()
            .hold(&mut self.claim, &self.allowance, self.overrun, bytes);
        if !fits {
            usage.has_changed();
        }
        fits
    }

    /// Whether the elapsed time must be checked while the answer runs: the token limits metered
    /// time, or the answer is cut when the token expires.
    pub fn is_timed(&self) -> bool {
        let is_metered = self.allowance.seconds_max.is_some() && !self.is_metered_elsewhere;
        is_metered || self.overrun == Overrun::Cut
    }

    /// Counts the time since the last count. Returns `false` if the answer must be cut off.
    pub fn pass_time(&mut self) -> bool {
        self.pass_time_to(Instant::now())
    }

    pub(super) fn pass_time_to(&mut self, now: Instant) -> bool {
        if self.is_overdue() {
            return false;
        }
        let Some(usage) = self.usage.as_ref().filter(|_| !self.is_metered_elsewhere) else {
            return true;
        };
        let now_ms = usage.ms(now);
        let mut meters = usage.meters();
        // A fraction of a millisecond is counted the next time.
        let passed_ms = meters.pass_time(&mut self.claim, now_ms);
        let has_time = meters.has_time(&self.claim, &self.allowance, self.overrun, now_ms);
        drop(meters);
        if passed_ms > 0 {
            usage.has_changed();
        }
        has_time
    }

    /// Whether the token has expired and its answer must be cut off for that.
    pub fn is_overdue(&self) -> bool {
        let until_secs = self.allowance.valid_until_secs;
        self.overrun == Overrun::Cut
            && until_secs.is_some_and(|until| self.clock.unix_secs() >= until)
    }

    /// Counts time that was metered elsewhere.
    pub fn report(&mut self, worked: Duration) {
        self.is_metered_elsewhere = true;
        if let Some(usage) = &self.usage {
            usage.meters().report(&mut self.claim, ms_begun(worked));
            usage.has_changed();
        }
    }

    /// Returns the use to the holder, because nothing was delivered and the holder did not cause
    /// that. Returns what is left for the next request.
    pub fn give_back(mut self) -> Left {
        self.return_it()
    }

    fn return_it(&mut self) -> Left {
        let Some(usage) = self.usage.take() else {
            return self.left;
        };
        let returned_ms = usage.meters().give_back(&mut self.claim);
        match self.window {
            Some(window) => usage.end_of_file(window, false, self.clock.moment()),
            None => usage.give_back(),
        }
        if returned_ms > 0 {
            usage.has_changed();
        }
        usage.left(&self.allowance)
    }

    /// Whether the use may be given back because its answer brought the client nothing. Each call
    /// counts towards the token's limit. The use of a grant of bytes or seconds always counts,
    /// because even a HEAD request may take a minute of work.
    pub fn is_excused(&self) -> bool {
        let is_metered = self.allowance.bytes_max.is_some() || self.allowance.seconds_max.is_some();
        let usage = self.usage.as_ref().filter(|_| !is_metered);
        usage.is_some_and(|usage| usage.excuses(&self.allowance))
    }

    /// Gives back a use that was reserved for a hook call and not needed. For a minute, the token's
    /// uses are then reserved only once the price is known.
    pub fn withdraw(self) {
        if let Some(usage) = &self.usage {
            usage.be_withdrawn(self.clock.since_boot_ms());
        }
        self.give_back();
    }

    /// Ends the use of a client that left before the first byte of an answer. The use goes back,
    /// but only a few times.
    pub fn leave(self) {
        let usage = self.usage.as_ref();
        if usage.is_some_and(|usage| usage.forgives_leaving(&self.allowance)) {
            self.give_back();
        }
    }
}

/// Converts to milliseconds, rounded up, so that the shortest work counts.
fn ms_begun(span: Duration) -> u64 {
    whole_ms(span + Duration::from_nanos(999_999))
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // A panic is our fault, and the client has received nothing.
        if std::thread::panicking() && !self.has_delivered {
            self.return_it();
        }
        let Some(usage) = self.usage.take() else {
            return;
        };
        let now_ms = ms_begun(usage.begun.elapsed());
        let mut meters = usage.meters();
        meters.pass_time(&mut self.claim, now_ms);
        meters.end(&mut self.claim);
        drop(meters);
        match self.window {
            Some(window) => usage.end_of_file(window, true, self.clock.moment()),
            None => usage.settle(self.clock.moment()),
        }
    }
}
