//! Counts how often networks and peers exceeded the limits.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The maximum number of networks or peers with remembered violations, each 70 bytes.
const STRUCK_MAX: usize = 10_000;

/// The ways in which a stranger can exceed the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Violation {
    /// A channel that was accepted but never funded, or that exceeded the limits. Each one leaves
    /// some kilobytes in the node's database, and uses two of the wallet's addresses.
    Channel,
    /// A request for a channel that ldk-node refused at once, as it does while coins are missing.
    /// An honest peer then asks again, for a channel of another type.
    Refused,
}

impl Violation {
    /// The weight of one violation of this kind.
    pub(super) const fn weight(self) -> u32 {
        match self {
            Self::Channel => 10,
            Self::Refused => 1,
        }
    }
}

/// The sum of the weights of all violations, by key. Each sum covers a period that begins with the
/// key's first violation.
#[derive(Debug)]
pub(super) struct Strikes<K> {
    period: Duration,
    sums: HashMap<K, (u32, Instant)>,
}

impl<K: Eq + Hash> Strikes<K> {
    pub(super) fn within(period: Duration) -> Self {
        Self {
            period,
            sums: HashMap::new(),
        }
    }

    /// Counts a violation.
    pub(super) fn add(&mut self, key: K, violation: Violation, now: Instant) {
        let sums = &mut self.sums;
        if sums.len() >= STRUCK_MAX {
            // Many keys with one violation each must not displace the others.
            sums.retain(|_, (sum, _)| *sum > Violation::Channel.weight());
        }
        if sums.len() >= STRUCK_MAX {
            sums.clear();
        }
        let (sum, since) = sums.entry(key).or_insert((0, now));
        if now.saturating_duration_since(*since) > self.period {
            (*sum, *since) = (0, now);
        }
        *sum = sum.saturating_add(violation.weight());
    }

    /// Whether the violations of this key weigh more than `channels` times a
    /// [`Violation::Channel`].
    pub(super) fn is_beyond(&self, key: &K, channels: u32, now: Instant) -> bool {
        self.sums.get(key).is_some_and(|(sum, since)| {
            *sum > channels * Violation::Channel.weight()
                && now.saturating_duration_since(*since) <= self.period
        })
    }
}
