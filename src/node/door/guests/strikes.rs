//! How often networks and peers exceeded the limits.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// The most networks or peers that are remembered for exceeding the limits, each 70 bytes.
const STRUCK_MAX: usize = 10_000;

/// The ways in which a stranger can exceed the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::node) enum Violation {
    /// It had a channel accepted that it never funded, or that exceeded the limits. Each leaves some kilobytes in the node's
    /// database, and two addresses that the wallet has given out.
    Channel,
    /// It asked for a channel that ldk-node refused at once, as it does while coins are missing. An honest peer asks again for
    /// a channel of another type.
    Refused,
}

impl Violation {
    /// The weight of one such violation.
    pub(super) const fn weight(self) -> u32 {
        match self {
            Self::Channel => 10,
            Self::Refused => 1,
        }
    }
}

/// The violations of the limits, by their weight, within a period that begins with the first of them.
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
            // Many that have one strike each do not make the others forgotten.
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

    /// Whether the violations of this key weigh more than this number of [`Violation::Channel`].
    pub(super) fn is_beyond(&self, key: &K, channels: u32, now: Instant) -> bool {
        self.sums.get(key).is_some_and(|(sum, since)| {
            *sum > channels * Violation::Channel.weight()
                && now.saturating_duration_since(*since) <= self.period
        })
    }
}
