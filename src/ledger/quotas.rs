//! What clients without a token have had: so many requests of a service within a window, by network.
//!
//! The table is bounded however many addresses come. When it is full, newcomers get nothing, and an open window is never
//! evicted: otherwise a flood of addresses would renew everybody's quota.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::store::Entry;

use super::record::QuotaRecord;

/// What is free within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// How many requests.
    pub requests: u64,
    /// How long a window is, from the first request in it.
    pub per: Duration,
}

/// The beginning of SHA-256 over service and network: so the books hold no addresses.
type Key = [u8; 16];

/// The table. A `std` mutex: held for a look-up, never across an await.
#[derive(Debug)]
pub(super) struct Quotas {
    /// Windows at most.
    max: usize,
    /// The table itself.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    windows: HashMap<Key, Window>,
    /// Whether somebody came and found no room since it was last told.
    was_full: bool,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    had: QuotaRecord,
    /// Whether the store does not know yet.
    is_unwritten: bool,
}

/// What the store has to do to follow the table.
#[derive(Debug, Default)]
pub(super) struct WriteBehind {
    /// Windows to write.
    pub(super) put: Vec<Entry<QuotaRecord>>,
    /// Windows that are over.
    pub(super) remove: Vec<Vec<u8>>,
    /// Whether newcomers were turned away.
    pub(super) was_full: bool,
}

/// One request's use of a quota, reserved. Dropped, it counts as served.
#[derive(Debug)]
#[must_use = "dropped, it counts as served; call `give_back` if it was not"]
pub struct QuotaUse {
    quotas: Arc<Quotas>,
    key: Key,
    until_ms: u64,
    left: u64,
    /// Requests of a window.
    max: u64,
}

impl QuotaUse {
    /// Requests that are left in the window.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// When the window ends, Unix seconds.
    pub fn until_secs(&self) -> u64 {
        self.until_ms / 1_000
    }

    /// Returns the use: nothing was delivered. Says what is left then.
    pub fn give_back(self) -> u64 {
        let mut table = self.quotas.table();
        // Of another window it is not.
        if let Some(window) = table.windows.get_mut(&self.key)
            && window.had.until_ms == self.until_ms
        {
            window.had.requests = window.had.requests.saturating_sub(1);
            window.is_unwritten = true;
            return self.max.saturating_sub(window.had.requests);
        }
        self.left
    }
}

impl Quotas {
    /// A table of at most `max` windows, filled with what the store has.
    pub(super) fn new(max: usize, stored: impl IntoIterator<Item = (Key, QuotaRecord)>) -> Self {
        let window = |(key, had)| {
            let is_unwritten = false;
            (key, Window { had, is_unwritten })
        };
        Self {
            max,
            table: Mutex::new(Table {
                windows: stored.into_iter().take(max).map(window).collect(),
                was_full: false,
            }),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Each window is whole by itself: a panic in between breaks none of them.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves one request; `None` if there is none left, or no room to count it.
    pub(super) fn reserve(
        self: &Arc<Self>,
        service: &str,
        client: IpAddr,
        free: Free,
        now_ms: u64,
    ) -> Option<QuotaUse> {
        let key = key(service, client, free);
        let per_ms = u64::try_from(free.per.as_millis()).unwrap_or(u64::MAX);
        let new = QuotaRecord {
            requests: 0,
            until_ms: now_ms.saturating_add(per_ms),
        };
        let mut table = self.table();
        let is_full = table.windows.len() >= self.max;
        let window = match table.windows.get_mut(&key) {
            Some(window) => window,
            None if is_full => {
                table.was_full = true;
                return None;
            }
            None => table.windows.entry(key).or_insert(Window {
                had: new,
                is_unwritten: true,
            }),
        };
        if window.had.until_ms <= now_ms {
            window.had = new;
        }
        if window.had.requests >= free.requests {
            return None;
        }
        window.had.requests += 1;
        window.is_unwritten = true;
        Some(QuotaUse {
            quotas: Arc::clone(self),
            key,
            until_ms: window.had.until_ms,
            left: free.requests - window.had.requests,
            max: free.requests,
        })
    }

    /// Drops the windows that are over, and says what the store has to do.
    pub(super) fn write_behind(&self, now_ms: u64) -> WriteBehind {
        let mut behind = WriteBehind::default();
        let mut table = self.table();
        behind.was_full = std::mem::take(&mut table.was_full);
        table.windows.retain(|key, window| {
            let is_open = window.had.until_ms > now_ms;
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

/// A /24 or a /48 counts as one: whoever has one address there has all of them.
fn key(service: &str, client: IpAddr, free: Free) -> Key {
    let mut hash = Sha256::new();
    match client.to_canonical() {
        IpAddr::V4(address) => hash.update(&address.octets()[..3]),
        IpAddr::V6(address) => hash.update(&address.octets()[..6]),
    }
    // Behind the network, whose length tells its kind only together with what follows.
    hash.update(if client.to_canonical().is_ipv4() {
        b"4"
    } else {
        b"6"
    });
    // Each quota of a service has windows of its own: a short one must not renew a long one.
    hash.update(free.per.as_secs().to_be_bytes());
    hash.update(free.requests.to_be_bytes());
    hash.update(service);
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Free = Free {
        requests: 2,
        per: Duration::from_secs(60),
    };

    fn had(quotas: &Arc<Quotas>, client: &str, now_ms: u64) -> Option<u64> {
        let used = quotas.reserve("api", client.parse().unwrap(), FREE, now_ms);
        used.map(|used| used.left())
    }

    #[test]
    fn a_network_has_its_quota_once_a_window() {
        let quotas = Arc::new(Quotas::new(10, []));
        assert_eq!(had(&quotas, "192.0.2.1", 0), Some(1));
        assert_eq!(had(&quotas, "::ffff:192.0.2.9", 0), Some(0));
        assert_eq!(had(&quotas, "192.0.2.200", 59_999), None);
        assert_eq!(had(&quotas, "192.0.3.1", 0), Some(1));
        assert_eq!(had(&quotas, "192.0.2.1", 60_000), Some(1));
        assert_eq!(had(&quotas, "2001:db8:1::1", 0), Some(1));
        assert_eq!(had(&quotas, "2001:db8:1:ffff::1", 0), Some(0));
        assert_eq!(had(&quotas, "2001:db8:1::2", 0), None);
        assert_eq!(had(&quotas, "2001:db8:2::1", 0), Some(1));
        let client = "192.0.2.1".parse().unwrap();
        assert!(quotas.reserve("other", client, FREE, 0).is_some());
    }

    #[test]
    fn a_flood_of_addresses_renews_nobodys_quota() {
        let quotas = Arc::new(Quotas::new(3, []));
        for client in ["192.0.2.1", "192.0.2.1", "192.0.3.1", "192.0.4.1"] {
            assert!(had(&quotas, client, 0).is_some());
        }
        for number in 0..200 {
            assert_eq!(had(&quotas, &format!("198.51.{number}.1"), 1), None);
        }
        assert_eq!(had(&quotas, "192.0.2.1", 2), None);
        assert_eq!(had(&quotas, "192.0.3.1", 2), Some(0));
        assert!(quotas.write_behind(3).was_full);
        // The windows end, and there is room again.
        assert_eq!(quotas.write_behind(60_001).remove.len(), 3);
        assert_eq!(had(&quotas, "198.51.100.1", 60_001), Some(1));
    }

    #[test]
    fn what_was_not_delivered_is_given_back_to_its_own_window() {
        let quotas = Arc::new(Quotas::new(3, []));
        let client = "192.0.2.1".parse().unwrap();
        let reserve = |now_ms| quotas.reserve("api", client, FREE, now_ms);
        let old = reserve(0).unwrap();
        reserve(0).unwrap().give_back();
        assert_eq!(reserve(0).unwrap().left(), 0);
        assert_eq!(reserve(60_000).unwrap().left(), 1);
        old.give_back();
        assert_eq!(reserve(60_000).unwrap().left(), 0);
    }

    #[test]
    fn a_short_window_renews_no_long_one() {
        let quotas = Arc::new(Quotas::new(9, []));
        let client = "192.0.2.1".parse().unwrap();
        let short = Free {
            requests: 100,
            per: Duration::from_secs(1),
        };
        for now_ms in [0, 5_000, 10_000] {
            assert!(quotas.reserve("api", client, short, now_ms).is_some());
        }
        assert_eq!(had(&quotas, "192.0.2.1", 0), Some(1));
        assert_eq!(had(&quotas, "192.0.2.1", 20_000), Some(0));
        assert!(quotas.reserve("api", client, short, 30_000).is_some());
        assert_eq!(had(&quotas, "192.0.2.1", 30_000), None);
    }

    #[test]
    fn fifty_at_once_on_two_get_two() {
        let quotas = Arc::new(Quotas::new(3, []));
        let got: usize = std::thread::scope(|scope| {
            let ask = || usize::from(had(&quotas, "192.0.2.1", 0).is_some());
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum()
        });
        assert_eq!(got, 2);
    }

    #[test]
    fn what_is_written_is_what_is_read_back() {
        let quotas = Arc::new(Quotas::new(3, []));
        assert_eq!(had(&quotas, "192.0.2.1", 0), Some(1));
        let put = quotas.write_behind(1).put;
        assert_eq!(put.len(), 1);
        assert!(quotas.write_behind(1).put.is_empty());
        let stored = put
            .into_iter()
            .map(|(key, had)| (key.try_into().unwrap(), had));
        let quotas = Arc::new(Quotas::new(3, stored));
        assert_eq!(had(&quotas, "192.0.2.1", 2), Some(0));
        assert_eq!(had(&quotas, "192.0.2.1", 2), None);
    }
}
