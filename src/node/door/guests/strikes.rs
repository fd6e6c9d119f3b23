//! How often networks and peers exceeded the limits.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The most networks or peers that are remembered for exceeding the limits, each 70 bytes.
const STRUCK_MAX: usize = 10_000;

/// How long the peers without a channel are cut if their network exceeded the limits too often. Each attempt leaves some
/// kilobytes in the node's database.
const STRUCK_FOR: Duration = Duration::from_secs(3_600);

/// How often somebody exceeded the limits within [`STRUCK_FOR`].
#[derive(Debug)]
pub(super) struct Strikes<K>(HashMap<K, (u32, Instant)>);

impl<K> Default for Strikes<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Strikes<K> {
    /// One more.
    pub(super) fn add(&mut self, key: K, now: Instant) {
        if self.0.len() >= STRUCK_MAX {
            // Many that have one strike each do not make the others forgotten.
            self.0.retain(|_, (count, _)| *count > 1);
        }
        if self.0.len() >= STRUCK_MAX {
            self.0.clear();
        }
        let (count, since) = self.0.entry(key).or_insert((0, now));
        if now.saturating_duration_since(*since) > STRUCK_FOR {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
    }

    /// Whether it happened more often than that.
    pub(super) fn is_beyond(&self, key: &K, max: u32, now: Instant) -> bool {
        self.0.get(key).is_some_and(|(count, since)| {
            *count > max && now.saturating_duration_since(*since) <= STRUCK_FOR
        })
    }
}
