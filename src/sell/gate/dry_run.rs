//! What would have been asked on routes that let everybody through for now.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::amount::Msat;

/// Counts since the start.
#[derive(Debug, Default)]
pub(super) struct DryRuns {
    requests: AtomicU64,
    amount_msat: AtomicU64,
}

/// What would have been asked since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// Requests that would have been answered with a challenge.
    pub requests: u64,
    /// The sum of their prices, of those that were known, in msat.
    pub amount_msat: u64,
}

impl DryRuns {
    /// Counts a request and what it would have cost.
    pub(super) fn count(&self, price: Option<Msat>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let msat = price.unwrap_or(Msat::ZERO).msat();
        self.amount_msat.fetch_add(msat, Ordering::Relaxed);
    }

    pub(super) fn so_far(&self) -> DryRun {
        DryRun {
            requests: self.requests.load(Ordering::Relaxed),
            amount_msat: self.amount_msat.load(Ordering::Relaxed),
        }
    }
}
