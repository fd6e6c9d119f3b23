//! The use of each token: counts in memory, loaded at the token's first use and written behind.
//!
//! A use is reserved before the upstream is called and settled afterwards. No request waits for the
//! disk. A crash returns reserved uses, and uses settled in the last second, to the customer. A
//! crash never costs the customer a use.

mod meters;
mod overrun;
mod reservation;
mod state;
mod windows;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::base::clock::Moment;
use crate::base::pace::{Pace, Room};
use crate::protocol::l402::TokenId;
use crate::protocol::l402::caveat::Allowance;

use super::record::TokenRecord;
use meters::{Claim, Meters};
use state::whole_ms;
use windows::{Held, Windows};

pub use overrun::Overrun;
pub use reservation::{Left, Reservation, Unreserved};

pub(super) use state::Usage;

/// The bits of the counter that hold the requests in flight. One token has at most 65,535 requests
/// in flight; further requests are refused.
const IN_FLIGHT_BITS: u32 = 16;
const ONE_IN_FLIGHT: u64 = 1;
const ONE_SERVED: u64 = 1 << IN_FLIGHT_BITS;
const IN_FLIGHT_MASK: u64 = ONE_SERVED - 1;

/// How often a token gets a use back after its client left before the first byte of an answer.
const LEFT_EARLY_MAX: u64 = 3;

/// How long a count must be idle before it is dropped from memory. The next use reads it from the
/// store.
const IDLE_MS: u64 = 60_000;

/// How often a token gets a use back for an answer that brought the client nothing: `EXCUSED_FIRST`
/// times, and `EXCUSED_PER_USE` more times for each counted use. Further such answers count as
/// uses.
const EXCUSED_FIRST: u64 = 20;
const EXCUSED_PER_USE: u64 = 4;

/// How long the program remembers, at least, how often a token got a use back: 24 hours. The store
/// does not keep this number.
const LEFT_EARLY_KEPT_MS: u64 = 86_400_000;

/// The most idle tokens that are kept in memory only for these numbers.
const LEFT_EARLY_TOKENS_MAX: usize = 65_536;

/// How long a token's uses are reserved only once the price is known, after a use was withdrawn: a
/// minute.
const WITHDRAWN_MS: u64 = 60_000;

/// The number of locks over the map. Two cores rarely need the same one of sixteen.
const SHARDS: usize = 16;

impl Usage {
    /// Makes the counts of a token from its stored record.
    pub(super) fn new(token: TokenRecord, now: Moment) -> Self {
        Self {
            counter: AtomicU64::new(token.requests << IN_FLIGHT_BITS),
            meters: Mutex::new(Meters::new(token.bytes, token.metered_ms)),
            begun: Instant::now(),
            left_early: AtomicU64::new(0),
            left_early_until_secs: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            withdrawn_until_ms: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            journaled: AtomicU64::new(0),
            stored: AtomicU64::new(0),
            stored_ms: AtomicU64::new(0),
            last_used_ms: AtomicU64::new(token.last_used_ms),
            touched_ms: AtomicU64::new(now.since_boot_ms),
            late_secs: AtomicU64::new(0),
            bucket: Mutex::default(),
            windows: Mutex::default(),
            token,
        }
    }

    /// Returns how many seconds after its invoice expired the token was paid; 0 if it was paid in
    /// time or the delay is not known.
    pub(super) fn late_secs(&self) -> u64 {
        self.late_secs.load(Ordering::Relaxed)
    }

    /// Records how many seconds after its invoice expired the token was paid.
    pub(super) fn be_late(&self, secs: u64) {
        self.late_secs.fetch_max(secs, Ordering::Relaxed);
    }

    /// Records that the token was used.
    fn touch(&self, since_boot_ms: u64) {
        self.touched_ms.fetch_max(since_boot_ms, Ordering::Relaxed);
    }

    fn meters(&self) -> MutexGuard<'_, Meters> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Converts to milliseconds on the meters' clock.
    fn ms(&self, now: Instant) -> u64 {
        whole_ms(now.saturating_duration_since(self.begun))
    }

    /// Returns what is left of the grant for the next request.
    fn left(&self, allowance: &Allowance) -> Left {
        let rest = self.meters().rest(allowance, self.ms(Instant::now()));
        Left {
            requests: self.requests_left(allowance),
            bytes: rest.bytes,
            seconds: rest.seconds,
            expires_secs: allowance.valid_until_secs,
        }
    }

    fn requests_left(&self, allowance: &Allowance) -> Option<u64> {
        let begun = begun(self.counter.load(Ordering::Acquire));
        allowance.requests_max.map(|max| max.saturating_sub(begun))
    }

    /// Reserves one request and returns what is left after it. Returns `None` if a limit is used up
    /// or held for other answers.
    fn reserve(&self, allowance: &Allowance, overrun: Overrun) -> Option<(Left, Claim)> {
        let now_ms = self.ms(Instant::now());
        // The lock is held until the request is counted, so that two requests never use the same
        // remainder.
        let mut meters = self.meters();
        if !meters.has_room(allowance, overrun, now_ms) {
            return None;
        }
        let max = allowance.requests_max;
        let before = self
            .counter
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |counter| {
                let is_left = max.is_none_or(|max| begun(counter) < max);
                let has_place = counter & IN_FLIGHT_MASK < IN_FLIGHT_MASK;
                (is_left && has_place).then_some(counter + ONE_IN_FLIGHT)
            })
            .ok()?;
        let rest = meters.rest(allowance, now_ms);
        let left = Left {
            requests: max.map(|max| max - begun(before) - 1),
            bytes: rest.bytes,
            seconds: rest.seconds,
            expires_secs: allowance.valid_until_secs,
        };
        Some((left, meters.claim(now_ms)))
    }

    /// Reserves a request for this file. The request joins the file's open window if one exists.
    /// Returns the number of the window as well.
    fn reserve_of_file(
        &self,
        allowance: &Allowance,
        overrun: Overrun,
        (file, since_boot_ms): (u64, u64),
    ) -> Option<(Left, Claim, Option<u64>)> {
        let mut windows = self.windows();
        let now_ms = self.ms(Instant::now());
        let mut meters = self.meters();
        if !meters.has_room(allowance, overrun, now_ms) {
            return None;
        }
        if let Some(window) = windows.join(file, since_boot_ms) {
            let claim = meters.claim(now_ms);
            drop(meters);
            return Some((self.left(allowance), claim, Some(window)));
        }
        drop(meters);
        let (left, claim) = self.reserve(allowance, overrun)?;
        Some((left, claim, windows.open(file, since_boot_ms)))
    }

    fn windows(&self) -> MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one use from the token's bucket. If the bucket is empty, the error says when to retry.
    fn keep_pace(&self, pace: Pace, since_boot_ms: u64) -> Result<(), Room> {
        let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
        pace.take(&mut bucket, since_boot_ms.saturating_mul(1_000))?;
        Ok(())
    }

    fn settle(&self, now: Moment) {
        self.counter
            .fetch_add(ONE_SERVED - ONE_IN_FLIGHT, Ordering::AcqRel);
        self.last_used_ms.fetch_max(now.unix_ms, Ordering::Relaxed);
        self.touch(now.since_boot_ms);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Ends a request of this window.
    fn end_of_file(&self, window: u64, is_delivered: bool, now: Moment) {
        let held = self.windows().end(window, is_delivered);
        match held {
            Held::Counts => self.settle(now),
            Held::GoesBack => self.give_back(),
            Held::Stays if is_delivered => {
                self.last_used_ms.fetch_max(now.unix_ms, Ordering::Relaxed);
                self.touch(now.since_boot_ms);
                self.has_changed();
            }
            Held::Stays => {}
        }
    }

    fn give_back(&self) {
        self.counter.fetch_sub(ONE_IN_FLIGHT, Ordering::AcqRel);
    }

    /// Records a change of the counts. Call it after the change.
    fn has_changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Whether a use whose client left before the first byte may go back. This is allowed only a
    /// few times, so that a client cannot make the upstream work without payment again and again.
    fn forgives_leaving(&self, allowance: &Allowance) -> bool {
        self.keep_until(allowance);
        let forgive = |times| (times < LEFT_EARLY_MAX).then_some(times + 1);
        self.left_early
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, forgive)
            .is_ok()
    }

    /// Whether a use may go back because its answer brought the client nothing.
    fn excuses(&self, allowance: &Allowance) -> bool {
        self.keep_until(allowance);
        let served = self.counter.load(Ordering::Relaxed) >> IN_FLIGHT_BITS;
        let max = EXCUSED_FIRST.saturating_add(served.saturating_mul(EXCUSED_PER_USE));
        let excuse = |times| (times < max).then_some(times + 1);
        self.excused
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, excuse)
            .is_ok()
    }

    /// Records the end of the token's validity, for the numbers that are only in memory.
    fn keep_until(&self, allowance: &Allowance) {
        let until_secs = allowance.valid_until_secs.unwrap_or(0);
        self.left_early_until_secs
            .fetch_max(until_secs, Ordering::Relaxed);
    }

    /// Records that a use was reserved for a hook call and not needed.
    fn be_withdrawn(&self, since_boot_ms: u64) {
        self.touch(since_boot_ms);
        self.withdrawn_until_ms
            .fetch_max(since_boot_ms + WITHDRAWN_MS, Ordering::Relaxed);
    }

    /// Whether a use of this token was recently withdrawn.
    pub(super) fn was_withdrawn(&self, since_boot_ms: u64) -> bool {
        since_boot_ms < self.withdrawn_until_ms.load(Ordering::Relaxed)
    }

    /// Returns the counts if the journal or the store lacks them. Only the writer calls this.
    fn take_unwritten(&self, stored_before_ms: u64, now_ms: u64) -> Option<Unwritten> {
        let changes = self.changes.load(Ordering::Acquire);
        let is_for_journal = self.journaled.swap(changes, Ordering::Relaxed) != changes;
        let is_for_store = self.stored.load(Ordering::Relaxed) != changes
            && self.stored_ms.load(Ordering::Relaxed) <= stored_before_ms;
        if is_for_store {
            self.stored.store(changes, Ordering::Relaxed);
            self.stored_ms.store(now_ms, Ordering::Relaxed);
        }
        let token = || {
            let meters = self.meters();
            TokenRecord {
                requests: self.counter.load(Ordering::Acquire) >> IN_FLIGHT_BITS,
                bytes: meters.bytes(),
                metered_ms: meters.time_ms(),
                last_used_ms: self.last_used_ms.load(Ordering::Relaxed),
                ..self.token.clone()
            }
        };
        (is_for_journal || is_for_store).then(|| Unwritten {
            token: token(),
            is_for_journal,
            is_for_store,
        })
    }

    /// Whether the store lacks some of the counts.
    fn is_unstored(&self) -> bool {
        self.changes.load(Ordering::Acquire) != self.stored.load(Ordering::Relaxed)
    }

    /// Whether nothing is lost, neither uses nor pace, if this count is dropped from memory.
    fn is_idle(&mut self, now: Moment) -> bool {
        let idle_since_ms = now.since_boot_ms.saturating_sub(IDLE_MS);
        let bucket = self.bucket.get_mut();
        let full_at_us = bucket.unwrap_or_else(PoisonError::into_inner).full_at_us();
        let windows = self.windows.get_mut();
        let windows = windows.unwrap_or_else(PoisonError::into_inner);
        let are_windows_over = windows.are_over(now.since_boot_ms);
        !self.is_unstored()
            && *self.touched_ms.get_mut() < idle_since_ms
            // A slow pace must not be forgotten before its bucket is full again.
            && full_at_us / 1_000 < idle_since_ms
            && are_windows_over
    }

    /// Whether uses went back because the client left or the answers brought nothing. The program
    /// remembers this while the token is valid, and for at least a day, because the holder can
    /// shorten the validity with a caveat.
    fn was_left_early(&mut self, now: Moment) -> bool {
        let is_of_today =
            self.touched_ms.get_mut().saturating_add(LEFT_EARLY_KEPT_MS) > now.since_boot_ms;
        let is_good = *self.left_early_until_secs.get_mut() > now.unix_ms / 1_000;
        let went_back = *self.left_early.get_mut() + *self.excused.get_mut();
        went_back > 0 && (is_of_today || is_good)
    }
}

/// Returns the number of requests served or in flight.
fn begun(counter: u64) -> u64 {
    (counter >> IN_FLIGHT_BITS) + (counter & IN_FLIGHT_MASK)
}

/// Counts that must be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unwritten {
    /// The token with its counts.
    pub(super) token: TokenRecord,
    /// Whether the journal lacks the counts.
    pub(super) is_for_journal: bool,
    /// Whether the store lacks the counts and is due to get them.
    pub(super) is_for_store: bool,
}

/// The counts of the tokens in use.
#[derive(Debug)]
pub(super) struct Usages {
    /// The shards of the map. Each uses a `std` mutex, held for a look-up and never across an
    /// await.
    shards: [Mutex<HashMap<TokenId, Arc<Usage>>>; SHARDS],
    /// The hasher for file paths.
    hasher: RandomState,
}

impl Default for Usages {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
            hasher: RandomState::new(),
        }
    }
}

impl Usages {
    fn shard(&self, token_id: &TokenId) -> MutexGuard<'_, HashMap<TokenId, Arc<Usage>>> {
        // The last byte is random, while the first two are the epoch.
        let index = usize::from(token_id.0[31]) % SHARDS;
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the hash of this path.
    pub(super) fn file(&self, path: &str) -> u64 {
        self.hasher.hash_one(path)
    }

    /// Returns the token's counts, if they are in memory.
    pub(super) fn find(&self, token_id: &TokenId) -> Option<Arc<Usage>> {
        self.shard(token_id).get(token_id).cloned()
    }

    /// Returns the token's counts, or keeps `usage` if none are in memory. If two requests load the
    /// counts at once, both get the first.
    pub(super) fn find_or_keep(&self, token_id: TokenId, usage: Usage) -> Arc<Usage> {
        Arc::clone(
            self.shard(&token_id)
                .entry(token_id)
                .or_insert_with(|| Arc::new(usage)),
        )
    }

    /// Returns all counts that the journal lacks. Returns also counts that the store lacks and last
    /// received before `stored_before_ms`, in milliseconds since the machine started.
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

    /// Drops idle counts that the store has. Called only after all taken counts are written.
    pub(super) fn forget_idle(&self, now: Moment) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            let mut room = LEFT_EARLY_TOKENS_MAX / SHARDS;
            shard.retain(|_, usage| {
                // `get_mut` succeeds only without other holders, and sees all their changes.
                let Some(usage) = Arc::get_mut(usage) else {
                    return true;
                };
                if !usage.is_idle(now) {
                    return true;
                }
                let is_kept = room > 0 && usage.was_left_early(now);
                room -= usize::from(is_kept);
                is_kept
            });
        }
    }
}

#[cfg(test)]
mod tests;
