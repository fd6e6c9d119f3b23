//! How often something may happen: a bucket that fills up again, kept as one number (the generic cell rate algorithm of
//! ITU-T I.371, which is a token bucket without a timer). Pure.

use std::time::Duration;

/// So many times within a span: all at once after a rest, and then as they come back one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// How many; at least one.
    pub requests: u64,
    /// Within this time; at least a second.
    pub per: Duration,
}

/// What a pace leaves to somebody, as the `RateLimit-*` headers tell it (draft-ietf-httpapi-ratelimit-headers-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// How many there are in all.
    pub limit: u64,
    /// How many may follow at once.
    pub remaining: u64,
    /// Seconds until all of them are back; of a refusal, until the next one.
    pub reset_secs: u64,
}

/// What somebody has taken of a pace: the state of a bucket, and the pace that it fills up at. By a clock that only goes forward.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When it is full again, in microseconds.
    full_at_us: u64,
    /// When it was last taken from.
    taken_us: u64,
    /// The pace that held then; `None` for somebody new.
    pace: Option<Pace>,
}

impl Bucket {
    /// When it is full again, in microseconds; then it says no more than a new one does.
    pub fn full_at_us(&self) -> u64 {
        self.full_at_us
    }

    /// Returns what was taken last: it was not used.
    pub fn give_back(&mut self) {
        let each_us = self.pace.map_or(0, Pace::each_us);
        self.full_at_us = self.full_at_us.saturating_sub(each_us);
    }

    /// How long it takes until it is full by this pace. What was taken stays taken when the pace changes, and comes back at the
    /// faster one of the two from the moment at which it was taken: nobody stays refused by a limit that was loosened, and
    /// whoever tightens one and loosens it again has given nothing away.
    fn missing_us(&mut self, pace: Pace, now_us: u64) -> u64 {
        let missing_us = self.full_at_us.saturating_sub(now_us);
        let Some(old) = self.pace.filter(|old| *old != pace) else {
            return missing_us;
        };
        let (each_us, old_each_us) = (pace.each_us(), old.each_us());
        if each_us >= old_each_us {
            return scaled(missing_us, each_us, old_each_us);
        }
        let taken_us = self.full_at_us.saturating_sub(self.taken_us);
        let passed_us = now_us.saturating_sub(self.taken_us);
        let missing_us = scaled(taken_us, each_us, old_each_us)
            .min(pace.per_us())
            .saturating_sub(passed_us);
        *self = Self {
            full_at_us: now_us.saturating_add(missing_us),
            taken_us: now_us,
            pace: Some(pace),
        };
        missing_us
    }
}

impl Pace {
    /// Takes one, and says what is left, or what to wait for. `now_us` is in microseconds of a clock that only goes forward.
    pub fn take(self, bucket: &mut Bucket, now_us: u64) -> Result<Room, Room> {
        let (each_us, per_us) = (self.each_us(), self.per_us());
        let missing_us = bucket.missing_us(self, now_us).saturating_add(each_us);
        if missing_us > per_us {
            // It comes back at the pace at which it was taken.
            let back_each_us = bucket.pace.unwrap_or(self).each_us();
            return Err(Room {
                limit: self.requests,
                remaining: 0,
                reset_secs: secs(scaled(missing_us - per_us, back_each_us, each_us)),
            });
        }
        *bucket = Bucket {
            full_at_us: now_us.saturating_add(missing_us),
            taken_us: now_us,
            pace: Some(self),
        };
        Ok(Room {
            limit: self.requests,
            remaining: (per_us - missing_us) / each_us,
            reset_secs: secs(missing_us),
        })
    }

    fn per_us(self) -> u64 {
        let per_us = u64::try_from(self.per.as_micros()).unwrap_or(u64::MAX);
        per_us.max(1)
    }

    /// The time in which one comes back.
    fn each_us(self) -> u64 {
        (self.per_us() / self.requests.max(1)).max(1)
    }
}

/// A time as if one came back in `each_us` and not in `old_each_us`.
fn scaled(time_us: u64, each_us: u64, old_each_us: u64) -> u64 {
    let scaled = u128::from(time_us) * u128::from(each_us) / u128::from(old_each_us.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up: whoever waits as long as it says is not too early.
fn secs(us: u64) -> u64 {
    us.div_ceil(1_000_000).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        requests: 3,
        per: Duration::from_secs(30),
    };

    #[test]
    fn a_burst_goes_through_and_then_one_at_a_time() {
        let now_us = 1_000_000_000;
        let mut bucket = Bucket::default();
        for remaining in [2, 1, 0] {
            let room = PACE.take(&mut bucket, now_us).unwrap();
            assert_eq!((room.limit, room.remaining), (3, remaining));
        }
        let refused = PACE.take(&mut bucket, now_us).unwrap_err();
        assert_eq!((refused.remaining, refused.reset_secs), (0, 10));
        assert!(PACE.take(&mut bucket, now_us + 9_999_999).is_err());
        PACE.take(&mut bucket, now_us + 10_000_000).unwrap();
        assert!(PACE.take(&mut bucket, now_us + 10_000_000).is_err());
        bucket.give_back();
        PACE.take(&mut bucket, now_us + 10_000_000).unwrap();
        let rested = PACE.take(&mut bucket, now_us + 60_000_000).unwrap();
        assert_eq!(rested.remaining, 2);
    }

    #[test]
    fn a_loosened_pace_holds_at_once_and_a_change_gives_nothing_twice() {
        const SECOND_US: u64 = 1_000_000;
        let pace = |requests, secs| Pace {
            requests,
            per: Duration::from_secs(secs),
        };
        let count = |bucket: &mut Bucket, pace: Pace, now_us| {
            let takes = (0..1_000).take_while(|_| pace.take(bucket, now_us).is_ok());
            takes.count()
        };
        let mut bucket = Bucket::default();
        let (day, tight) = (pace(5, 86_400), pace(2, 86_400));
        assert_eq!(count(&mut bucket, day, SECOND_US), 5);
        assert_eq!(count(&mut bucket, tight, SECOND_US), 0);
        assert_eq!(count(&mut bucket, day, SECOND_US), 0);
        assert_eq!(count(&mut bucket, pace(8, 86_400), SECOND_US), 3);
        assert_eq!(count(&mut bucket, day, SECOND_US), 0);
        // Faster: what came back by it since then is there.
        let minute = pace(6, 60);
        assert_eq!(count(&mut bucket.clone(), minute, 62 * SECOND_US), 6);
        assert_eq!(count(&mut bucket, minute, SECOND_US), 0);
        assert_eq!(count(&mut bucket, minute, 11 * SECOND_US), 1);
        // Slower: one wait tells the truth.
        let mut bucket = Bucket::default();
        assert_eq!(count(&mut bucket, minute, 0), 6);
        let room = tight.take(&mut bucket, 0).unwrap_err();
        assert_eq!(room.reset_secs, 50);
        assert!(tight.take(&mut bucket, 49 * SECOND_US).is_err());
        assert!(tight.take(&mut bucket, 50 * SECOND_US).is_ok());
    }

    #[test]
    fn no_number_makes_it_panic() {
        let odd = [0, 1, u64::MAX];
        let spans = [Duration::ZERO, Duration::from_secs(1), Duration::MAX];
        let paces = odd.map(|requests| spans.map(|per| Pace { requests, per }));
        let paces = paces.as_flattened();
        for (pace, old) in paces
            .iter()
            .flat_map(|a| paces.iter().map(move |b| (*a, *b)))
        {
            for (full_at_us, now_us) in odd.iter().flat_map(|a| odd.map(|b| (*a, b))) {
                let mut bucket = Bucket {
                    full_at_us,
                    taken_us: full_at_us / 2,
                    pace: Some(old),
                };
                let _ = pace.take(&mut bucket, now_us);
                bucket.give_back();
                let _ = pace.take(&mut bucket, now_us);
            }
        }
    }
}
