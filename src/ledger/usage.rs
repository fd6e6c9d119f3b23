//! How much of each token was used: atomics in memory, loaded at a token's first use, written behind.
//!
//! A use is reserved before the resource is called and settled after; no request waits for the disk. A crash gives back to
//! the customer what was reserved and what was settled in the last second; it never takes.

mod reservation;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use reservation::{Left, Overrun, Reservation, Unreserved};

use crate::clock::Moment;
use crate::l402::TokenId;
use crate::l402::caveat::Allowance;
use crate::pace::{Bucket, Pace, Room};

use super::record::TokenRecord;

/// Bits of the counter that hold the requests in flight: 65,535 at once on one token, further ones are refused.
const IN_FLIGHT_BITS: u32 = 16;
/// One request in flight.
const ONE_IN_FLIGHT: u64 = 1;
/// One request served.
const ONE_SERVED: u64 = 1 << IN_FLIGHT_BITS;
/// The part of the counter that holds the requests in flight.
const IN_FLIGHT_MASK: u64 = ONE_SERVED - 1;

/// What each request in flight is taken to need of a grant of bytes or seconds before it is known is this part of it: without
/// that, as many as can be sent at once would begin within the last byte. Where answers are cut at the last byte, there is
/// no need for it.
const AT_ONCE: u64 = 64;

/// Locks over the map; two cores rarely meet in one of sixteen.
const SHARDS: usize = 16;

/// One token's counts.
#[derive(Debug)]
pub(super) struct Usage {
    /// Served requests in the upper 48 bits, requests in flight in the lower 16: one word, so that a reservation looks at
    /// both at once.
    counter: AtomicU64,
    /// Response bytes served.
    bytes: AtomicU64,
    /// Metered time, in milliseconds.
    metered_ms: AtomicU64,
    /// Goes up with whatever changes the counts, behind them: whoever sees the change sees the counts.
    changes: AtomicU64,
    /// The change up to which the journal knows the counts.
    journaled: AtomicU64,
    /// The change up to which the store knows them.
    stored: AtomicU64,
    /// When it was told, milliseconds since the machine was started.
    stored_ms: AtomicU64,
    /// When it was last used, Unix milliseconds.
    last_used_ms: AtomicU64,
    /// The same in milliseconds since the machine was started; 0 before the first use in this run.
    touched_ms: AtomicU64,
    /// What was taken of its pace. A `std` mutex: held to count.
    bucket: Mutex<Bucket>,
    /// What does not change.
    token: TokenRecord,
}

impl Usage {
    /// The counts of a token, as the store has them.
    pub(super) fn new(token: TokenRecord) -> Self {
        Self {
            counter: AtomicU64::new(token.requests << IN_FLIGHT_BITS),
            bytes: AtomicU64::new(token.bytes),
            metered_ms: AtomicU64::new(token.metered_ms),
            changes: AtomicU64::new(0),
            journaled: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            stored_ms: AtomicU64::new(0),
            last_used_ms: AtomicU64::new(token.last_used_ms),
            touched_ms: AtomicU64::new(0),
            bucket: Mutex::default(),
            token,
        }
    }

    /// Reserves one request and says what is left after it; `None` if something is used up.
    fn reserve(&self, allowance: &Allowance, overrun: Overrun) -> Option<Left> {
        let bytes = left(allowance.bytes_max, self.bytes.load(Ordering::Acquire))?;
        let metered_secs = self.metered_ms.load(Ordering::Acquire) / 1_000;
        let seconds = left(allowance.seconds_max, metered_secs)?;
        let max = allowance.requests_max;
        let before = self
            .counter
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |counter| {
                let in_flight = counter & IN_FLIGHT_MASK;
                let is_left = max.is_none_or(|max| begun(counter) < max)
                    && bytes.is_none_or(|left| {
                        overrun == Overrun::Cut || left > in_flight * each(allowance.bytes_max)
                    })
                    && seconds.is_none_or(|left| left > in_flight * each(allowance.seconds_max));
                (is_left && in_flight < IN_FLIGHT_MASK).then_some(counter + ONE_IN_FLIGHT)
            })
            .ok()?;
        Some(Left {
            requests: max.map(|max| max - begun(before) - 1),
            bytes,
            seconds,
            expires_secs: allowance.valid_until_secs,
        })
    }

    /// Takes one from the token's bucket, or says what to wait for.
    fn keep_pace(&self, pace: Pace, since_boot_ms: u64) -> Result<(), Room> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        pace.take(&mut bucket, since_boot_ms.saturating_mul(1_000))?;
        Ok(())
    }

    fn settle(&self, now: Moment) {
        self.counter
            .fetch_add(ONE_SERVED - ONE_IN_FLIGHT, Ordering::AcqRel);
        self.last_used_ms.fetch_max(now.unix_ms, Ordering::Relaxed);
        self.touched_ms
            .fetch_max(now.since_boot_ms, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn give_back(&self) {
        self.counter.fetch_sub(ONE_IN_FLIGHT, Ordering::AcqRel);
    }

    /// Counts response bytes, at most up to `max`, and says how many.
    fn add_bytes(&self, bytes: u64, max: Option<u64>) -> u64 {
        let added = match max {
            None => {
                self.bytes.fetch_add(bytes, Ordering::AcqRel);
                bytes
            }
            Some(max) => {
                let add = |before: u64| bytes.min(max.saturating_sub(before));
                let update = |before| Some(before + add(before));
                let before = self
                    .bytes
                    .fetch_update(Ordering::AcqRel, Ordering::Acquire, update);
                before.map_or(0, add)
            }
        };
        self.changes.fetch_add(1, Ordering::Release);
        added
    }

    /// Counts metered time and says how much there is now.
    fn add_metered(&self, metered_ms: u64) -> u64 {
        let before = self.metered_ms.fetch_add(metered_ms, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::Release);
        before.saturating_add(metered_ms)
    }

    /// What journal and store should know, if they do not know it yet. Only the writer calls this.
    fn take_unwritten(&self, stored_before_ms: u64, now_ms: u64) -> Option<Unwritten> {
        let changes = self.changes.load(Ordering::Acquire);
        let is_for_journal = self.journaled.swap(changes, Ordering::Relaxed) != changes;
        let is_for_store = self.stored.load(Ordering::Relaxed) != changes
            && self.stored_ms.load(Ordering::Relaxed) <= stored_before_ms;
        if is_for_store {
            self.stored.store(changes, Ordering::Relaxed);
            self.stored_ms.store(now_ms, Ordering::Relaxed);
        }
        let token = || TokenRecord {
            requests: self.counter.load(Ordering::Acquire) >> IN_FLIGHT_BITS,
            bytes: self.bytes.load(Ordering::Acquire),
            metered_ms: self.metered_ms.load(Ordering::Acquire),
            last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
            ..self.token.clone()
        };
        (is_for_journal || is_for_store).then(|| Unwritten {
            token: token(),
            is_for_journal,
            is_for_store,
        })
    }

    /// Whether the store knows of less use than there was.
    fn is_unstored(&self) -> bool {
        self.changes.load(Ordering::Acquire) != self.stored.load(Ordering::Relaxed)
    }
}

/// See [`AT_ONCE`].
fn each(max: Option<u64>) -> u64 {
    (max.unwrap_or(0) / AT_ONCE).max(1)
}

/// Requests served or in flight.
fn begun(counter: u64) -> u64 {
    (counter >> IN_FLIGHT_BITS) + (counter & IN_FLIGHT_MASK)
}

/// What is left of a limit, if there is one; `None` if that is nothing.
fn left(max: Option<u64>, used: u64) -> Option<Option<u64>> {
    match max.map(|max| max.saturating_sub(used)) {
        Some(0) => None,
        left => Some(left),
    }
}

/// A count that has to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unwritten {
    /// The token with its counts.
    pub(super) token: TokenRecord,
    /// Whether the journal does not know it.
    pub(super) is_for_journal: bool,
    /// Whether it is time that the store knows it.
    pub(super) is_for_store: bool,
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
    /// `stored_before_ms`, in milliseconds since the machine was started.
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

    /// Forgets what the store knows and nobody has used since `idle_since_ms`, in milliseconds since the machine was started. Only after what was taken is written.
    pub(super) fn forget_idle(&self, idle_since_ms: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, usage| {
                // Alone with it, in an order that sees what the last holder did.
                let Some(usage) = Arc::get_mut(usage) else {
                    return true;
                };
                let bucket = usage.bucket.get_mut();
                let full_at_us = bucket.unwrap_or_else(PoisonError::into_inner).full_at_us();
                usage.is_unstored()
                    || *usage.touched_ms.get_mut() >= idle_since_ms
                    // A slow pace must not be forgotten before it is over.
                    || full_at_us / 1_000 >= idle_since_ms
            });
        }
    }
}

#[cfg(test)]
mod tests;
