//! The challenges that routes in dry-run mode would have sent.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::base::amount::Msat;

/// The counts since the start.
#[derive(Debug, Default)]
pub(super) struct DryRuns {
    requests: AtomicU64,
    amount_msat: AtomicU64,
}

/// The challenges that dry-run routes would have sent since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DryRun {
    /// The number of requests that would have been answered with a challenge.
    pub requests: u64,
    /// The sum of the known prices of these requests, in msat.
    pub amount_msat: u64,
}

impl DryRuns {
    /// Counts a request and its price, if known.
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
