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

impl Pace {
    /// Takes one. `full_at_us` is the state: when the bucket will be full again, in microseconds of any clock that only
    /// goes forward; 0 for somebody new. Gives the new state and what is left, or what to wait for.
    pub fn take(self, full_at_us: u64, now_us: u64) -> Result<(u64, Room), Room> {
        let per_us = u64::try_from(self.per.as_micros())
            .unwrap_or(u64::MAX)
            .max(1);
        let each_us = (per_us / self.requests.max(1)).max(1);
        let after_us = full_at_us.max(now_us).saturating_add(each_us);
        let missing_us = after_us - now_us;
        if missing_us > per_us {
            return Err(Room {
                limit: self.requests,
                remaining: 0,
                reset_secs: secs(missing_us - per_us),
            });
        }
        let room = Room {
            limit: self.requests,
            remaining: (per_us - missing_us) / each_us,
            reset_secs: secs(missing_us),
        };
        Ok((after_us, room))
    }
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
        let mut state = 0;
        for remaining in [2, 1, 0] {
            let (after, room) = PACE.take(state, now_us).unwrap();
            assert_eq!((room.limit, room.remaining), (3, remaining));
            state = after;
        }
        let refused = PACE.take(state, now_us).unwrap_err();
        assert_eq!((refused.remaining, refused.reset_secs), (0, 10));
        assert!(PACE.take(state, now_us + 9_999_999).is_err());
        let (after, _) = PACE.take(state, now_us + 10_000_000).unwrap();
        assert!(PACE.take(after, now_us + 10_000_000).is_err());
        let (_, rested) = PACE.take(after, now_us + 60_000_000).unwrap();
        assert_eq!(rested.remaining, 2);
    }

    #[test]
    fn no_number_makes_it_panic() {
        let odd = [0, 1, u64::MAX];
        for requests in odd {
            for per in [Duration::ZERO, Duration::from_secs(1), Duration::MAX] {
                for (state, now_us) in odd.iter().flat_map(|a| odd.map(|b| (*a, b))) {
                    let _ = Pace { requests, per }.take(state, now_us);
                }
            }
        }
    }
}
