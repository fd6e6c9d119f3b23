//! One request's use of a token: reserved before it is served, metered while it is, settled behind it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::clock::Clock;
use crate::base::pace::{Pace, Room};
use crate::protocol::l402::caveat::Allowance;

use super::{Claim, Usage, whole_ms};

/// What happens if an answer that began within the grant runs beyond it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overrun {
    /// The answer is served, and the token is used up. Only one answer at a time may do so: no other begins once
    /// the grant is held or used, and those of unknown length end with the grant. An answer of unknown length runs
    /// beyond it by at most the grant's size, or by a mebibyte or a minute if that is more.
    #[default]
    Serve,
    /// The answer is cut off, and its connection is closed.
    Cut,
}

/// What is left of a grant; `None` where it has no such limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Requests, this one and those in flight taken off.
    pub requests: Option<u64>,
    /// Response bytes, before this answer and without those held for others.
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

/// One reserved use of a token. Dropping it counts it as served: a client that hangs up midway has had the resource.
/// [`Reservation::give_back`] returns it, and so does a panic before anything was delivered.
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
    /// What was left when the use was reserved, or when its answer began.
    left: Left,
    /// Its part of bytes and time.
    claim: Claim,
    /// The number of its window, if all requests for the file count as one.
    window: Option<u64>,
    /// Whether somebody else meters its time.
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
        // The pace first: what is refused for it must not have been taken from the grant, not even for a moment.
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

    /// What is left: requests as of now, bytes and seconds as of the answer's beginning.
    pub fn left(&self) -> Left {
        let usage = self.usage.as_ref();
        let requests = usage.and_then(|usage| usage.requests_left(&self.allowance));
        Left {
            requests,
            ..self.left
        }
    }

    /// Counts time from now on only.
    pub fn count_from_now(&mut self) {
        if let Some(usage) = &self.usage {
            let now_ms = usage.ms(Instant::now());
            usage.meters().count_from(&mut self.claim, now_ms);
        }
    }

    /// Whether other running answers can take from what is left.
    pub fn is_shared(&self) -> bool {
        self.allowance.bytes_max.is_some() || self.allowance.seconds_max.is_some()
    }

    /// Begins the answer, and holds `length` bytes for it if its length is known. `false` if other answers have
    /// used up the rest in the meantime.
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

    /// Counts response bytes and says how many of them may go out.
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

    /// Reserves this many bytes in all for the answer's next messages, which must pass as a whole. `false` if less is left,
    /// which is then used up.
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

    /// Whether passing time has to be looked at while the answer runs: because the token has a limit of it, or because the
    /// answer is cut when the token's time is over.
    pub fn is_timed(&self) -> bool {
        let is_metered = self.allowance.seconds_max.is_some() && !self.is_metered_elsewhere;
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
        let Some(usage) = self.usage.as_ref().filter(|_| !self.is_metered_elsewhere) else {
            return true;
        };
        let now_ms = usage.ms(now);
        let mut meters = usage.meters();
        // What is below a millisecond is counted the next time.
        let passed_ms = meters.pass_time(&mut self.claim, now_ms);
        let has_time = meters.has_time(&self.claim, &self.allowance, self.overrun, now_ms);
        drop(meters);
        if passed_ms > 0 {
            usage.has_changed();
        }
        has_time
    }

    /// Whether the token's time is over, and the answer is to be cut for it.
    pub fn is_overdue(&self) -> bool {
        let until_secs = self.allowance.valid_until_secs;
        self.overrun == Overrun::Cut
            && until_secs.is_some_and(|until| self.clock.unix_secs() >= until)
    }

    /// Counts time that was metered by whoever did the work.
    pub fn report(&mut self, worked: Duration) {
        self.is_metered_elsewhere = true;
        if let Some(usage) = &self.usage {
            usage.meters().report(&mut self.claim, ms_begun(worked));
            usage.has_changed();
        }
    }

    /// Returns the use to the holder, because nothing was delivered and that was not the holder's doing. Returns
    /// what is left for the next request.
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

    /// Whether the use may be given back because its answer brought nothing. Each call counts towards the token's limit. A
    /// grant of bytes or seconds always counts what such an answer takes: a HEAD may have worked for a minute.
    pub fn is_excused(&self) -> bool {
        let is_metered = self.allowance.bytes_max.is_some() || self.allowance.seconds_max.is_some();
        let usage = self.usage.as_ref().filter(|_| !is_metered);
        usage.is_some_and(|usage| usage.excuses(&self.allowance))
    }

    /// Gives back a use that was reserved for a hook call and not needed. For a minute, this token reserves no use before
    /// the price is known.
    pub fn withdraw(self) {
        if let Some(usage) = &self.usage {
            usage.be_withdrawn(self.clock.since_boot_ms());
        }
        self.give_back();
    }

    /// Ends the use of a client that left before the first byte of an answer. The use goes back, but only a few
    /// times.
    pub fn leave(self) {
        let usage = self.usage.as_ref();
        if usage.is_some_and(|usage| usage.forgives_leaving(&self.allowance)) {
            self.give_back();
        }
    }
}

/// Begun milliseconds: work below one is work.
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
