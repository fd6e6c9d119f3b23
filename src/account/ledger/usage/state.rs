//! The state of the open usage counters.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::time::Instant;

use crate::base::pace::Bucket;

use super::super::record::TokenRecord;
use super::meters::Meters;
use super::windows::Windows;

/// The counts of one token.
#[derive(Debug)]
pub(in crate::account::ledger) struct Usage {
    /// Served requests in the upper 48 bits, requests in flight in the lower 16. One word holds
    /// both, so that a reservation reads both at once.
    pub(super) counter: AtomicU64,
    /// Response bytes and metered time. It uses a `std` mutex, which is held for a few additions.
    pub(super) meters: Mutex<Meters>,
    /// The start of the meters' clock.
    pub(super) begun: Instant,
    /// How often a use went back because the client left before the first byte of an answer.
    pub(super) left_early: AtomicU64,
    /// The latest end of the token's validity when a use went back, in Unix seconds.
    pub(super) left_early_until_secs: AtomicU64,
    /// How often a use went back because the answer brought the client nothing.
    pub(super) excused: AtomicU64,
    /// The end of the time in which uses are reserved only once the price is known. In milliseconds
    /// since the machine started.
    pub(super) withdrawn_until_ms: AtomicU64,
    /// Incremented after each change of the counts: a reader that sees the increment also sees the
    /// counts.
    pub(super) changes: AtomicU64,
    /// The value of `changes` at the last write to the journal.
    pub(super) journaled: AtomicU64,
    /// The value of `changes` at the last write to the store.
    pub(super) stored: AtomicU64,
    /// The time of the last write to the store, in milliseconds since the machine started.
    pub(super) stored_ms: AtomicU64,
    /// The time of the last use, in Unix milliseconds.
    pub(super) last_used_ms: AtomicU64,
    /// The time of the last reserved or settled use, in milliseconds since the machine started.
    pub(super) touched_ms: AtomicU64,
    /// How many seconds after its invoice expired the token was paid; 0 if not known.
    pub(super) late_secs: AtomicU64,
    /// The uses counted for the token's pace. It uses a `std` mutex, which is held to count.
    pub(super) bucket: Mutex<Bucket>,
    /// The files whose requests count as one. It uses a `std` mutex, held only to search a short
    /// list.
    pub(super) windows: Mutex<Windows>,
    /// The token, with its counts as they were when loaded.
    pub(super) token: TokenRecord,
}

pub(super) fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
