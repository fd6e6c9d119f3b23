//! Free use by clients without a token: a number of requests to a service within a window, per
//! network.
//!
//! The table is bounded, however many addresses come. When it is full, new clients get no free
//! requests, and no open window is evicted. Otherwise a flood of addresses would renew every quota.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::account::store::Entry;
use crate::base::clock::Moment;

use super::record::QuotaRecord;

/// The free requests within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// The number of requests.
    pub requests: u64,
    /// The length of a window, from its first request on.
    pub per: Duration,
}

/// How far the wall clock may move between two checks before it counts as set, in milliseconds. The
/// system corrects the clock in small steps all the time.
const CLOCK_MOVES_MS: u64 = 1_000;

/// The first 16 bytes of a SHA-256 over service and network, so that the ledger holds no addresses.
type Key = [u8; 16];

/// The table of windows. It uses a `std` mutex, which is held for a look-up and never across an
/// await.
#[derive(Debug)]
pub(super) struct Quotas {
    /// The maximum number of windows.
    max: usize,
    /// The table itself.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    pub(super) windows: HashMap<Key, Window>,
    /// Whether a client found the table full since this was last read.
    pub(super) was_full: bool,
    /// How far the wall clock was ahead of the time since the machine started when it was last
    /// checked, in milliseconds.
    pub(super) ahead_ms: u64,
    /// The serial number of the last window.
    pub(super) last_serial: u64,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    had: QuotaRecord,
    /// Distinguishes the window from earlier and later windows of the same client, even if the
    /// clock is set; 0 if the window was read from the store.
    serial: u64,
    /// The end of the window, in milliseconds since the machine started. This end counts while the
    /// program runs.
    ends_ms: u64,
    /// Whether the window was read from the store and not used since. The wall clock then decides
    /// when the window ends.
    is_from_store: bool,
    /// Whether the store lacks the window's current state.
    is_unwritten: bool,
}

/// The changes that make the store match the table.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    /// The windows to write.
    pub(super) put: Vec<Entry<QuotaRecord>>,
    /// The keys of the windows that are over.
    pub(super) remove: Vec<Vec<u8>>,
    /// Whether new clients were turned away.
    pub(super) was_full: bool,
}

/// One reserved use of a quota. Dropping it counts the use as served, except during a panic.
#[derive(Debug)]
#[must_use = "dropped, it counts as served; call `give_back` if it was not"]
pub struct QuotaUse {
    quotas: Arc<Quotas>,
    key: Key,
    /// The window's serial number.
    serial: u64,
    until_ms: u64,
    left: u64,
    /// The number of free requests in a window.
    max: u64,
    /// Whether the use was given back.
    is_returned: bool,
}

impl QuotaUse {
    /// Returns the number of requests that are left in the window.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Returns the end of the window, in Unix seconds.
    pub fn until_secs(&self) -> u64 {
        self.until_ms / 1_000
    }

    /// Gives the use back because nothing was delivered. Returns the number of requests that are
    /// then left.
    pub fn give_back(mut self) -> u64 {
        self.return_it()
    }

    fn return_it(&mut self) -> u64 {
        self.is_returned = true;
        let mut table = self.quotas.table();
        // The use belongs only to the window that it was taken from.
        if let Some(window) = table.windows.get_mut(&self.key)
            && window.serial == self.serial
        {
            window.had.requests = window.had.requests.saturating_sub(1);
            window.is_unwritten = true;
            return self.max.saturating_sub(window.had.requests);
        }
        self.left
    }
}

impl Drop for QuotaUse {
    fn drop(&mut self) {
        // A panic is our fault. This code cannot know whether anything was delivered, so the use
        // goes back.
        if std::thread::panicking() && !self.is_returned {
            self.return_it();
        }
    }
}

impl Window {
    /// Makes an open window from its stored record.
    fn stored(had: QuotaRecord, now: Moment) -> Self {
        Self {
            had,
            serial: 0,
            ends_ms: ends_ms(had, now),
            is_from_store: true,
            is_unwritten: false,
        }
    }

    /// Makes a window that begins now.
    fn open(serial: u64, per_ms: u64, now: Moment) -> Self {
        Self {
            had: QuotaRecord {
                requests: 0,
                until_ms: now.unix_ms.saturating_add(per_ms),
            },
            serial,
            ends_ms: now.since_boot_ms.saturating_add(per_ms),
            is_from_store: false,
            is_unwritten: true,
        }
    }

    /// Adapts to a change of the wall clock. An unused window from the store takes its end from the
    /// new time. A window in use gets a new end for the store.
    fn follow(&mut self, now: Moment) {
        if self.is_from_store {
            self.ends_ms = ends_ms(self.had, now);
        } else {
            let left_ms = self.ends_ms.saturating_sub(now.since_boot_ms);
            self.had.until_ms = now.unix_ms.saturating_add(left_ms);
            self.is_unwritten = true;
        }
    }

    /// Replaces this window by a new one with this number if it is over. A window that lasts longer
    /// than the period was made by a clock that was ahead, so it is shortened.
    fn keep(&mut self, next_serial: u64, per_ms: u64, now: Moment) {
        if self.ends_ms <= now.since_boot_ms {
            *self = Self::open(next_serial, per_ms, now);
            return;
        }
        self.is_from_store = false;
        let latest_ms = now.since_boot_ms.saturating_add(per_ms);
        if self.ends_ms > latest_ms {
            self.ends_ms = latest_ms;
            self.had.until_ms = now.unix_ms.saturating_add(per_ms);
            self.is_unwritten = true;
        }
    }
}

/// Returns the end of a stored window, in milliseconds since the machine started.
fn ends_ms(had: QuotaRecord, now: Moment) -> u64 {
    let left_ms = had.until_ms.saturating_sub(now.unix_ms);
    now.since_boot_ms.saturating_add(left_ms)
}

impl Table {
    /// Adapts all windows if the wall clock was set.
    fn follow(&mut self, now: Moment) {
        let ahead_ms = now.unix_ms.wrapping_sub(now.since_boot_ms);
        let moved_ms = ahead_ms.wrapping_sub(self.ahead_ms).cast_signed();
        if moved_ms.unsigned_abs() <= CLOCK_MOVES_MS {
            return;
        }
        self.ahead_ms = ahead_ms;
        for window in self.windows.values_mut() {
            window.follow(now);
        }
    }
}

impl Quotas {
    /// Makes a table of at most `max` windows and fills it with the stored windows.
    pub(super) fn new(
        max: usize,
        stored: impl IntoIterator<Item = (Key, QuotaRecord)>,
        now: Moment,
    ) -> Self {
        let window = |(key, had)| (key, Window::stored(had, now));
        Self {
            max,
            table: Mutex::new(Table {
                windows: stored.into_iter().take(max).map(window).collect(),
                was_full: false,
                ahead_ms: now.unix_ms.wrapping_sub(now.since_boot_ms),
                last_serial: 0,
            }),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each window is complete in itself, so a panic in between breaks none of them.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves one request. Returns `None` if none is left or the table is full.
    pub(super) fn reserve(
        self: &Arc<Self>,
        service: &str,
        client: IpAddr,
        free: Free,
        now: Moment,
    ) -> Option<QuotaUse> {
        let key = key(service, client, free);
        let per_ms = u64::try_from(free.per.as_millis()).unwrap_or(u64::MAX);
        let mut table = self.table();
        table.follow(now);
        table.last_serial += 1;
        let next_serial = table.last_serial;
        let is_full = table.windows.len() >= self.max;
        let window = match table.windows.get_mut(&key) {
            Some(window) => window,
            None if is_full => {
                table.was_full = true;
                return None;
            }
            None => {
                let new = Window::open(next_serial, per_ms, now);
                table.windows.entry(key).or_insert(new)
            }
        };
        window.keep(next_serial, per_ms, now);
        if window.had.requests >= free.requests {
            return None;
        }
        window.had.requests += 1;
        window.is_unwritten = true;
        Some(QuotaUse {
            quotas: Arc::clone(self),
            key,
            serial: window.serial,
            until_ms: window.had.until_ms,
            left: free.requests - window.had.requests,
            max: free.requests,
            is_returned: false,
        })
    }

    /// Drops the windows that are over, and returns the writes for the store.
    pub(super) fn write_behind(&self, now: Moment) -> WriteBehind {
        let mut behind = WriteBehind::default();
        let mut table = self.table();
        table.follow(now);
        behind.was_full = std::mem::take(&mut table.was_full);
        table.windows.retain(|key, window| {
            let is_open = window.ends_ms > now.since_boot_ms;
            if !is_open {
                behind.remove.push(key.to_vec());
            } else if std::mem::take(&mut window.is_unwritten) {
                behind.put.push((key.to_vec(), window.had));
            }
            is_open
        });
        behind
    }
}

/// Treats a /24 or a /48 network as one client, because its owner can use all of its addresses.
fn key(service: &str, client: IpAddr, free: Free) -> Key {
    let mut hash = Sha256::new();
    match client.to_canonical() {
        IpAddr::V4(address) => hash.update(&address.octets()[..3]),
        IpAddr::V6(address) => hash.update(&address.octets()[..6]),
    }
    // Separates the address families: a network's bytes alone do not tell where the network ends.
    hash.update(if client.to_canonical().is_ipv4() {
        b"4"
    } else {
        b"6"
    });
    // Each period of a service has its own windows, so that a short one does not renew a long one.
    // The key leaves out the number of requests, so that used requests stay used when the settings
    // change the number.
    hash.update(free.per.as_secs().to_be_bytes());
    hash.update(service);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

#[cfg(test)]
mod tests;
