//! The bytes and the time of one token, including what its running answers will still take.
//!
//! An answer of known length holds its whole length when it begins, so that concurrent answers
//! cannot use the same bytes. For an answer of unknown length, bytes count as they are sent. Time
//! counts as it passes. If answers may exceed the grant, only one does, and the others end with the
//! grant. Unused held bytes go back when an answer ends.

use crate::protocol::l402::caveat::Allowance;

use super::overrun::Overrun;

/// Each request sets aside this fraction of a grant, 1/64, until its answer's length is known. An
/// answer of unknown length sets it aside until the answer ends. Otherwise any number of concurrent
/// requests could be passed on for the last byte. If answers are cut at the last byte, no bytes are
/// set aside.
const AT_ONCE: u64 = 64;

/// An answer of unknown length may be endless. It exceeds the grant by at most the grant's size, or
/// by this many bytes if that is more. So a token gets at most twice its grant, or its grant and a
/// mebibyte.
const BEYOND_BYTES_MIN: u64 = 1024 * 1024;

/// The seconds by which an endless answer may exceed a grant of time that is smaller than this.
const BEYOND_SECS_MIN: u64 = 60;

/// The bytes and time that a token's answers have used and hold.
#[derive(Debug, Default)]
pub(super) struct Meters {
    bytes: Meter,
    /// Metered time in milliseconds. Time is never held in advance.
    time: Meter,
    /// The number of requests and running answers whose length is not known.
    unknown: u64,
    /// The time of all requests in flight that is not in `time` yet.
    asked: Running,
    /// The part of that time that belongs to answers that have begun.
    begun: Running,
    /// The number of the last claim.
    last_id: u64,
}

#[derive(Debug, Default)]
struct Meter {
    used: u64,
    /// The amount that is held for running answers and not used yet.
    held: u64,
    /// The claim that may exceed the grant; one at a time.
    beyond: Option<u64>,
}

/// The time of several requests: their number, and the sum of the times up to which each is
/// counted.
#[derive(Debug, Default)]
struct Running {
    count: u64,
    since_ms: u64,
}

/// One request's part of the meters.
#[derive(Debug)]
pub(super) struct Claim {
    id: u64,
    /// The bytes held for the answer.
    held: u64,
    /// Whether the answer's length is not known.
    is_unknown: bool,
    /// Whether the answer has begun.
    has_begun: bool,
    /// The end of the counted time, in milliseconds on the meters' clock; `None` once the time is
    /// metered elsewhere or the answer has ended.
    counted_to_ms: Option<u64>,
    /// The request's part of the token's counted time, in milliseconds.
    time_ms: u64,
}

/// The bytes and seconds that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rest {
    pub(super) bytes: Option<u64>,
    pub(super) seconds: Option<u64>,
}

impl Running {
    fn add(&mut self, since_ms: u64) {
        self.count += 1;
        self.since_ms += since_ms;
    }

    fn remove(&mut self, since_ms: u64) {
        self.count = self.count.saturating_sub(1);
        self.since_ms = self.since_ms.saturating_sub(since_ms);
    }

    fn ms(&self, now_ms: u64) -> u64 {
        (self.count * now_ms).saturating_sub(self.since_ms)
    }
}

impl Meter {
    fn left(&self, max: u64) -> u64 {
        max.saturating_sub(self.used.saturating_add(self.held))
    }

    /// Whether this claim may exceed the grant. While something is left, the permission goes to the
    /// claim that asks.
    fn lets_beyond(&mut self, id: u64, is_left: bool) -> bool {
        if is_left || self.beyond.is_none() {
            self.beyond = Some(id);
        }
        self.beyond == Some(id)
    }
}

impl Meters {
    /// Makes meters from the stored counts.
    pub(super) fn new(bytes: u64, time_ms: u64) -> Self {
        let meter = |used| Meter {
            used,
            ..Meter::default()
        };
        Self {
            bytes: meter(bytes),
            time: meter(time_ms),
            ..Self::default()
        }
    }

    /// Returns the delivered bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.used
    }

    /// Returns the counted time, in milliseconds.
    pub(super) fn time_ms(&self) -> u64 {
        self.time.used
    }

    /// Returns what is left after all running answers.
    pub(super) fn rest(&self, allowance: &Allowance, now_ms: u64) -> Rest {
        let running_ms = self.begun.ms(now_ms);
        Rest {
            bytes: allowance.bytes_max.map(|max| self.bytes.left(max)),
            seconds: allowance
                .seconds_max
                .map(|max| secs_left(max, self.time.used + running_ms)),
        }
    }

    /// Whether one more request may be passed on.
    pub(super) fn has_room(&self, allowance: &Allowance, overrun: Overrun, now_ms: u64) -> bool {
        let has_bytes = allowance.bytes_max.is_none_or(|max| {
            let shares = match overrun {
                Overrun::Serve => self.unknown.saturating_mul(share(max)),
                Overrun::Cut => 0,
            };
            self.bytes.left(max) > shares
        });
        let has_time = allowance.seconds_max.is_none_or(|max| {
            let used_ms = self.time.used + self.asked.ms(now_ms);
            secs_left(max, used_ms) > self.asked.count.saturating_mul(share(max))
        });
        has_bytes && has_time
    }

    /// Adds a request.
    pub(super) fn claim(&mut self, now_ms: u64) -> Claim {
        self.last_id += 1;
        self.unknown += 1;
        self.asked.add(now_ms);
        Claim {
            id: self.last_id,
            held: 0,
            is_unknown: true,
            has_begun: false,
            counted_to_ms: Some(now_ms),
            time_ms: 0,
        }
    }

    /// Begins an answer of this length, if the length is known. Returns `false` if other answers
    /// have used up the grant since the request was passed on.
    pub(super) fn begin(
        &mut self,
        claim: &mut Claim,
        allowance: &Allowance,
        overrun: Overrun,
        (length, now_ms): (Option<u64>, u64),
    ) -> bool {
        if let Some(max) = allowance.seconds_max {
            let others_ms = self.time.used - claim.time_ms + self.begun.ms(now_ms);
            if secs_left(max, others_ms) == 0 {
                return false;
            }
        }
        if let Some(length) = length {
            let left = allowance.bytes_max.map(|max| self.bytes.left(max));
            if left == Some(0) && length > 0 {
                return false;
            }
            if left.is_some_and(|left| left < length) && overrun == Overrun::Serve {
                self.bytes.beyond = Some(claim.id);
            }
            claim.held = match (overrun, left) {
                (Overrun::Cut, Some(left)) => length.min(left),
                (Overrun::Cut | Overrun::Serve, _) => length,
            };
            self.bytes.held += claim.held;
            self.unknown -= 1;
            claim.is_unknown = false;
        } else if allowance
            .bytes_max
            .is_some_and(|max| self.bytes.left(max) == 0)
        {
            return false;
        }
        claim.has_begun = true;
        if let Some(since_ms) = claim.counted_to_ms {
            self.begun.add(since_ms);
        }
        true
    }

    /// Counts bytes of an answer and returns how many of them may be sent.
    pub(super) fn deliver(
        &mut self,
        claim: &mut Claim,
        allowance: &Allowance,
        overrun: Overrun,
        bytes: u64,
    ) -> u64 {
        let promised = bytes.min(claim.held);
        claim.held -= promised;
        self.bytes.held -= promised;
        self.bytes.used += promised;
        let wanted = bytes - promised;
        let allowed = match allowance.bytes_max {
            None => wanted,
            Some(_) if wanted == 0 => 0,
            Some(max) => {
                let left = self.bytes.left(max);
                let may_run_on = wanted > left
                    && overrun == Overrun::Serve
                    && self.bytes.lets_beyond(claim.id, left > 0);
                if may_run_on {
                    wanted.min(self.bytes.left(last_byte(max)))
                } else {
                    wanted.min(left)
                }
            }
        };
        self.bytes.used += allowed;
        promised + allowed
    }

    /// Holds this many bytes in all for the answer's next messages, which must not be split.
    /// Returns `false` if fewer bytes are left; these then count as used, because no message fits
    /// into them.
    pub(super) fn hold(
        &mut self,
        claim: &mut Claim,
        allowance: &Allowance,
        overrun: Overrun,
        bytes: u64,
    ) -> bool {
        let Some(max) = allowance.bytes_max else {
            return true;
        };
        let wanted = bytes.saturating_sub(claim.held);
        let left = self.bytes.left(max);
        let may_run_on = wanted > left
            && overrun == Overrun::Serve
            && self.bytes.lets_beyond(claim.id, left > 0)
            && wanted <= self.bytes.left(last_byte(max));
        let fits = wanted <= left || may_run_on;
        if fits {
            claim.held += wanted;
            self.bytes.held += wanted;
        } else {
            self.bytes.used += left;
        }
        fits
    }

    /// Counts the time since the last count and returns it.
    pub(super) fn pass_time(&mut self, claim: &mut Claim, now_ms: u64) -> u64 {
        let passed_ms = self.count_from(claim, now_ms);
        self.add_time(claim, passed_ms);
        passed_ms
    }

    /// Skips the time since the last count and returns it.
    pub(super) fn count_from(&mut self, claim: &mut Claim, now_ms: u64) -> u64 {
        let Some(since_ms) = claim.counted_to_ms else {
            return 0;
        };
        let passed_ms = now_ms.saturating_sub(since_ms);
        for running in self.running_of(claim) {
            running.since_ms += passed_ms;
        }
        claim.counted_to_ms = Some(since_ms + passed_ms);
        passed_ms
    }

    /// Whether the token's time allows the answer to go on.
    pub(super) fn has_time(
        &mut self,
        claim: &Claim,
        allowance: &Allowance,
        overrun: Overrun,
        now_ms: u64,
    ) -> bool {
        let Some(max) = allowance.seconds_max else {
            return true;
        };
        let used_ms = self.time.used + self.begun.ms(now_ms);
        if secs_left(max, used_ms) > 0 {
            return true;
        }
        let last = max.saturating_add(max.max(BEYOND_SECS_MIN));
        overrun == Overrun::Serve
            && self.time.lets_beyond(claim.id, false)
            && secs_left(last, used_ms) > 0
    }

    /// Counts time that was metered elsewhere, instead of the elapsed time.
    pub(super) fn report(&mut self, claim: &mut Claim, worked_ms: u64) {
        self.stop_time(claim);
        self.add_time(claim, worked_ms);
    }

    /// Ends the answer. Held bytes that it has not used go back.
    pub(super) fn end(&mut self, claim: &mut Claim) {
        self.bytes.held -= std::mem::take(&mut claim.held);
        if std::mem::take(&mut claim.is_unknown) {
            self.unknown -= 1;
        }
        self.stop_time(claim);
    }

    /// Ends the answer and takes its time off the count. Returns the time that goes back.
    pub(super) fn give_back(&mut self, claim: &mut Claim) -> u64 {
        self.end(claim);
        let time_ms = std::mem::take(&mut claim.time_ms);
        self.time.used -= time_ms;
        time_ms
    }

    fn add_time(&mut self, claim: &mut Claim, ms: u64) {
        claim.time_ms += ms;
        self.time.used += ms;
    }

    fn stop_time(&mut self, claim: &mut Claim) {
        if let Some(since_ms) = claim.counted_to_ms {
            for running in self.running_of(claim) {
                running.remove(since_ms);
            }
            claim.counted_to_ms = None;
        }
    }

    /// Returns the sums that include the time of this claim.
    fn running_of(&mut self, claim: &Claim) -> impl Iterator<Item = &mut Running> {
        let begun = claim.has_begun.then_some(&mut self.begun);
        std::iter::once(&mut self.asked).chain(begun)
    }
}

/// Returns the part of a grant that one request sets aside (see [`AT_ONCE`]).
fn share(max: u64) -> u64 {
    (max / AT_ONCE).max(1)
}

/// Returns the most bytes that a token gets if an answer of unknown length exceeds this grant.
fn last_byte(max: u64) -> u64 {
    max.saturating_add(max.max(BEYOND_BYTES_MIN))
}

/// Returns the seconds left. A second counts as used once it is over.
fn secs_left(max: u64, used_ms: u64) -> u64 {
    max.saturating_sub(used_ms / 1_000)
}

#[cfg(test)]
mod tests;
