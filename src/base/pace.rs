//! Rate limits: a token bucket without a timer, kept as one number (the generic cell rate algorithm
//! of ITU-T I.371). Pure.

use std::time::Duration;

/// A number of requests per span. After a pause all of them may come at once; then they come back
/// one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The number of requests; at least one.
    pub requests: u64,
    /// The span; at least a second.
    pub per: Duration,
}

/// The room that a pace leaves to a client, as the `RateLimit-*` headers report it
/// (draft-ietf-httpapi-ratelimit-headers-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The number of requests in a full bucket.
    pub limit: u64,
    /// The number of requests that may follow at once.
    pub remaining: u64,
    /// Seconds until the bucket is full; in a refusal, until the next request is allowed.
    pub reset_secs: u64,
}

/// The use that a client has made of a pace. Times are of a clock that never goes back.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    /// When the bucket is full, in microseconds.
    full_at_us: u64,
    /// When a request was last taken, in microseconds.
    taken_us: u64,
    /// The pace at that time; `None` for a new client.
    pace: Option<Pace>,
}

impl Bucket {
    /// When the bucket is full, in microseconds. From then on it is equivalent to a new bucket.
    pub fn full_at_us(&self) -> u64 {
        self.full_at_us
    }

    /// Returns the request that was taken last, because it was not used.
    pub fn give_back(&mut self) {
        let each_us = self.pace.map_or(0, Pace::each_us);
        self.full_at_us = self.full_at_us.saturating_sub(each_us);
    }

    /// The time until the bucket is full at this pace. When the pace changes, taken requests stay
    /// taken and come back at the faster of the two paces, counted from when they were taken. So a
    /// loosened limit takes effect at once, and a limit that is tightened and loosened again gives
    /// no extra requests.
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
    /// Takes one request and returns the room left. A refusal returns the time to wait. `now_us` is
    /// in microseconds of a clock that never goes back.
    pub fn take(self, bucket: &mut Bucket, now_us: u64) -> Result<Room, Room> {
        let (each_us, per_us) = (self.each_us(), self.per_us());
        let missing_us = bucket.missing_us(self, now_us).saturating_add(each_us);
        if missing_us > per_us {
            // Taken requests come back at the pace at which they were taken.
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

    /// The time in which one request comes back.
    fn each_us(self) -> u64 {
        (self.per_us() / self.requests.max(1)).max(1)
    }
}

/// Converts a time measured at `old_each_us` per request to one measured at `each_us`.
fn scaled(time_us: u64, each_us: u64, old_each_us: u64) -> u64 {
    let scaled = u128::from(time_us) * u128::from(each_us) / u128::from(old_each_us.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up, so that a client that waits this long is not too early.
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
        // A faster pace counts from when the requests were taken.
        let minute = pace(6, 60);
        assert_eq!(count(&mut bucket.clone(), minute, 62 * SECOND_US), 6);
        assert_eq!(count(&mut bucket, minute, SECOND_US), 0);
        assert_eq!(count(&mut bucket, minute, 11 * SECOND_US), 1);
        // With a slower pace, the reported wait is exact.
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
