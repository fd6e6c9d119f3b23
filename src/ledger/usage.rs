//! How often each token was used: atomics in memory, loaded at a token's first use, written behind.
//!
//! A use is reserved before the resource is called and settled after; no request waits for the disk. A crash gives back to
//! the customer what was reserved and what was settled in the last second; it never takes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::l402::TokenId;

use super::record::TokenRecord;

/// Bits of the counter that hold the requests in flight: 65,535 at once on one token, further ones are refused.
const IN_FLIGHT_BITS: u32 = 16;
/// One request in flight.
const ONE_IN_FLIGHT: u64 = 1;
/// One request served.
const ONE_SERVED: u64 = 1 << IN_FLIGHT_BITS;
/// The part of the counter that holds the requests in flight.
const IN_FLIGHT_MASK: u64 = ONE_SERVED - 1;

/// Stands for a count of uses in the store where there is none.
const NEVER: u64 = u64::MAX;

/// Locks over the map; two cores rarely meet in one of sixteen.
const SHARDS: usize = 16;

/// One token's count.
#[derive(Debug)]
pub(super) struct Usage {
    /// Served requests in the upper 48 bits, requests in flight in the lower 16: one word, so that a reservation looks at
    /// both at once.
    counter: AtomicU64,
    /// Whether the journal does not know yet.
    is_dirty: AtomicBool,
    /// When it was last used, Unix milliseconds.
    last_used_ms: AtomicU64,
    /// The served requests that the store knows of; [`NEVER`] if it does not know the token.
    stored: AtomicU64,
    /// When it was told, Unix milliseconds.
    stored_ms: AtomicU64,
    /// What does not change.
    token: TokenRecord,
}

impl Usage {
    /// The count of a token, which the store knows already or not.
    pub(super) fn new(token: TokenRecord, is_stored: bool) -> Self {
        Self {
            stored: AtomicU64::new(if is_stored { token.requests } else { NEVER }),
            stored_ms: AtomicU64::new(0),
            counter: AtomicU64::new(token.requests << IN_FLIGHT_BITS),
            is_dirty: AtomicBool::new(false),
            last_used_ms: AtomicU64::new(token.last_used_ms),
            token,
        }
    }

    /// Reserves one request of at most `requests_max` in all; `false` if there is none left.
    fn reserve(&self, requests_max: Option<u64>) -> bool {
        let reserved = self
            .counter
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |counter| {
                let (served, in_flight) = (counter >> IN_FLIGHT_BITS, counter & IN_FLIGHT_MASK);
                let is_left = requests_max.is_none_or(|max| served + in_flight < max);
                (is_left && in_flight < IN_FLIGHT_MASK).then_some(counter + ONE_IN_FLIGHT)
            });
        reserved.is_ok()
    }

    fn settle(&self, now_ms: u64) {
        self.counter
            .fetch_add(ONE_SERVED - ONE_IN_FLIGHT, Ordering::AcqRel);
        self.last_used_ms.fetch_max(now_ms, Ordering::Relaxed);
        // Behind the counter: whoever sees the mark sees the count.
        self.is_dirty.store(true, Ordering::Release);
    }

    fn give_back(&self) {
        self.counter.fetch_sub(ONE_IN_FLIGHT, Ordering::AcqRel);
    }

    /// Requests served so far.
    fn served(&self) -> u64 {
        self.counter.load(Ordering::Acquire) >> IN_FLIGHT_BITS
    }

    /// What journal and store should know, if they do not know it yet. Only the writer calls this.
    fn take_unwritten(&self, stored_before_ms: u64, now_ms: u64) -> Option<Unwritten> {
        let is_for_journal = self.is_dirty.swap(false, Ordering::AcqRel);
        let is_for_store = self.is_unstored()
            && (self.stored.load(Ordering::Relaxed) == NEVER
                || self.stored_ms.load(Ordering::Relaxed) <= stored_before_ms);
        let token = TokenRecord {
            requests: self.served(),
            last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
            ..self.token.clone()
        };
        if is_for_store {
            self.stored.store(token.requests, Ordering::Relaxed);
            self.stored_ms.store(now_ms, Ordering::Relaxed);
        }
        (is_for_journal || is_for_store).then_some(Unwritten {
            token,
            is_for_journal,
            is_for_store,
        })
    }

    /// Whether the store knows of fewer uses than there were.
    fn is_unstored(&self) -> bool {
        let served = self.served();
        served > 0 && served != self.stored.load(Ordering::Relaxed)
    }
}

/// A count that has to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unwritten {
    /// The token with its count.
    pub(super) token: TokenRecord,
    /// Whether the journal does not know it.
    pub(super) is_for_journal: bool,
    /// Whether it is time that the store knows it.
    pub(super) is_for_store: bool,
}

/// One request's use of a token, reserved. Dropped, it counts as served: a client that hangs up in the middle has had the
/// resource. Only [`Reservation::give_back`] returns it.
#[derive(Debug)]
#[must_use = "a dropped reservation counts as served; call `give_back` if it was not"]
pub struct Reservation {
    /// The token's count; taken when the reservation is given back.
    usage: Option<Arc<Usage>>,
    /// Where the time comes from when it is settled.
    clock: crate::clock::Clock,
}

impl Reservation {
    pub(super) fn reserve(
        usage: &Arc<Usage>,
        requests_max: Option<u64>,
        clock: &crate::clock::Clock,
    ) -> Option<Self> {
        usage.reserve(requests_max).then(|| Self {
            usage: Some(Arc::clone(usage)),
            clock: clock.clone(),
        })
    }

    /// Returns the use to the holder: nothing was delivered, and it was not the holder's doing.
    pub fn give_back(mut self) {
        if let Some(usage) = self.usage.take() {
            usage.give_back();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(usage) = self.usage.take() {
            usage.settle(self.clock.unix_ms());
        }
    }
}

/// The counts of the tokens in use.
#[derive(Debug)]
pub(super) struct Usages {
    /// Each shard a `std` mutex: held for a look-up, never across an await.
    shards: [Mutex<HashMap<TokenId, Arc<Usage>>>; SHARDS],
}

impl Default for Usages {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
        }
    }
}

impl Usages {
    fn shard(&self, token_id: &TokenId) -> MutexGuard<'_, HashMap<TokenId, Arc<Usage>>> {
        // The last byte is random; the first two are the epoch.
        let index = usize::from(token_id.0[31]) % SHARDS;
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The token's count, if it is in memory.
    pub(super) fn find(&self, token_id: &TokenId) -> Option<Arc<Usage>> {
        self.shard(token_id).get(token_id).cloned()
    }

    /// The token's count; `usage` if there is none yet: of two that load it at once, the first wins for both.
    pub(super) fn find_or_keep(&self, token_id: TokenId, usage: Usage) -> Arc<Usage> {
        Arc::clone(
            self.shard(&token_id)
                .entry(token_id)
                .or_insert_with(|| Arc::new(usage)),
        )
    }

    /// Everything that the journal does not know yet; and what the store does not, if it was not told since
    /// `stored_before_ms`.
    pub(super) fn take_unwritten(&self, stored_before_ms: u64, now_ms: u64) -> Vec<Unwritten> {
        let mut unwritten = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let taken = shard
                .values()
                .filter_map(|usage| usage.take_unwritten(stored_before_ms, now_ms));
            unwritten.extend(taken);
        }
        unwritten
    }

    /// Forgets what the store knows and nobody has used since `idle_since_ms`. Only after what was taken is written.
    pub(super) fn forget_idle(&self, idle_since_ms: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, usage| {
                // Alone with it, in an order that sees what the last holder did.
                let Some(usage) = Arc::get_mut(usage) else {
                    return true;
                };
                usage.is_unstored() || *usage.last_used_ms.get_mut() >= idle_since_ms
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn usage(requests: u64) -> Arc<Usage> {
        let token = TokenRecord {
            payment_hash: [1; 32],
            token_id: [2; 32],
            service: "chain".into(),
            issued_ms: None,
            first_used_ms: 0,
            last_used_ms: 0,
            requests,
            valid_until_secs: None,
        };
        Arc::new(Usage::new(token, requests > 0))
    }

    #[test]
    fn what_is_in_flight_counts_against_the_grant() {
        let clock = Clock::fixed(0);
        let usage = usage(3);
        let first = Reservation::reserve(&usage, Some(5), &clock).unwrap();
        let _second = Reservation::reserve(&usage, Some(5), &clock).unwrap();
        assert!(Reservation::reserve(&usage, Some(5), &clock).is_none());
        first.give_back();
        assert!(Reservation::reserve(&usage, Some(5), &clock).is_some());
    }

    #[test]
    fn a_dropped_reservation_is_served_and_a_returned_one_is_not() {
        let clock = Clock::fixed(7);
        let usage = usage(0);
        drop(Reservation::reserve(&usage, None, &clock));
        Reservation::reserve(&usage, None, &clock)
            .unwrap()
            .give_back();
        let first = usage.take_unwritten(0, 7_000).unwrap();
        assert_eq!((first.token.requests, first.token.last_used_ms), (1, 7_000));
        assert!(first.is_for_journal && first.is_for_store);
        assert_eq!(usage.take_unwritten(0, 7_000), None);
    }

    #[test]
    fn the_journal_is_told_every_time_and_the_store_now_and_then() {
        let clock = Clock::fixed(7);
        let usage = usage(5);
        let told = |stored_before_ms, now_ms| {
            let unwritten = usage.take_unwritten(stored_before_ms, now_ms);
            unwritten.map(|it| (it.token.requests, it.is_for_journal, it.is_for_store))
        };
        assert_eq!(told(0, 1_000), None);
        drop(Reservation::reserve(&usage, None, &clock));
        assert_eq!(told(0, 2_000), Some((6, true, true)));
        drop(Reservation::reserve(&usage, None, &clock));
        assert_eq!(told(1_000, 3_000), Some((7, true, false)));
        assert_eq!(told(1_000, 4_000), None);
        assert!(usage.is_unstored());
        assert_eq!(told(2_000, 5_000), Some((7, false, true)));
        assert_eq!(told(u64::MAX, 6_000), None);
    }

    #[test]
    fn fifty_at_once_on_ten_get_ten() {
        let clock = Clock::fixed(0);
        let usage = usage(0);
        let got: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50)
                .map(|_| {
                    scope.spawn(|| {
                        usize::from(Reservation::reserve(&usage, Some(10), &clock).is_some())
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(got, 10);
        assert_eq!(usage.served(), 10);
    }
}
