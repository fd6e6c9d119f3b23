//! Payments that the node is claiming. The node reports each one before its payer can learn the
//! preimage, and before it reports the payment as received. The table is in memory and starts empty
//! with each start of the node.
//!
//! The table says whether a payment is about to be recorded, because its token may be presented
//! before that. The table also says whether a reported payment is new: after a start, LDK repeats
//! payments that it claimed before, any number of times. The same hash may also stand for a second
//! payment of the invoice.
//!
//! LDK repeats everything before it first writes its state and before it accepts anything new from
//! a peer. A payment that both arrives and is claimed after that is a new one.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most claims in the table. A channel carries 483 payments at once, and each claim is brief.
const CLAIMS_MAX: usize = 20_000;

/// The claims since the node started. It uses a `std` mutex, which is held for a look-up.
#[derive(Debug, Default)]
pub struct Claims(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Whether LDK has repeated everything after its start.
    pub(super) is_past_replays: bool,
    /// The claims by payment hash.
    pub(super) claims: HashMap<[u8; 32], Claim>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Claim {
    /// Whether a new payment has arrived and is not claimed yet.
    is_new: bool,
    /// The number of new payments that are claimed and not recorded yet.
    claimed: u32,
}

impl Claims {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all claims, because the node starts and repeats earlier payments.
    pub fn restart(&self) {
        *self.table() = Table::default();
    }

    /// Whether the node has repeated all earlier payments.
    pub fn is_past_replays(&self) -> bool {
        self.table().is_past_replays
    }

    /// Records that the node has repeated all earlier payments.
    pub fn end_replays(&self) {
        self.table().is_past_replays = true;
    }

    /// Records that a payment has arrived and can be claimed. Its payer does not have the preimage
    /// yet.
    pub fn arrive(&self, payment_hash: [u8; 32]) {
        let mut table = self.table();
        if table.claims.len() >= CLAIMS_MAX {
            table.claims.clear();
        }
        let is_new = table.is_past_replays;
        table.claims.entry(payment_hash).or_default().is_new |= is_new;
    }

    /// Records that a payment is claimed.
    pub fn claim(&self, payment_hash: &[u8; 32]) {
        if let Some(claim) = self.table().claims.get_mut(payment_hash) {
            claim.claimed += u32::from(std::mem::take(&mut claim.is_new));
        }
    }

    /// Whether a payment that is reported now was never reported before.
    pub fn is_new(&self, payment_hash: &[u8; 32]) -> bool {
        let table = self.table();
        let claim = table.claims.get(payment_hash);
        claim.is_some_and(|claim| claim.claimed > 0)
    }

    /// Ends the claim: the payment is in the ledger.
    pub fn end(&self, payment_hash: &[u8; 32]) {
        let mut table = self.table();
        let Some(claim) = table.claims.get_mut(payment_hash) else {
            return;
        };
        claim.claimed = claim.claimed.saturating_sub(1);
        if claim.claimed == 0 && !claim.is_new {
            table.claims.remove(payment_hash);
        }
    }

    /// Whether a payment of this hash has arrived and is not recorded yet.
    pub fn is_arriving(&self, payment_hash: &[u8; 32]) -> bool {
        self.table().claims.contains_key(payment_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 32] = [1; 32];

    /// Reports a payment; returns whether it is new.
    fn tell(claims: &Claims) -> bool {
        let is_new = claims.is_new(&HASH);
        claims.end(&HASH);
        is_new
    }

    #[test]
    fn payments_repeated_after_a_start_are_not_new_and_later_arrivals_are() {
        let claims = Claims::default();
        // LDK repeats the payment from its queue of events, and then claims it from a monitor.
        assert!(!tell(&claims));
        claims.claim(&HASH);
        assert!(!tell(&claims));
        // The payment was in flight when the program was killed.
        claims.arrive(HASH);
        claims.claim(&HASH);
        assert!(claims.is_arriving(&HASH));
        assert!(!tell(&claims));
        assert!(!claims.is_arriving(&HASH));
        claims.end_replays();
        // The payment is claimed again later, without arriving again.
        claims.claim(&HASH);
        assert!(!tell(&claims));
        claims.arrive(HASH);
        claims.claim(&HASH);
        assert!(tell(&claims));
        assert!(!tell(&claims), "reported once");
        claims.restart();
        assert!(!claims.is_past_replays());
    }

    #[test]
    fn two_payments_at_once_are_both_new() {
        let claims = Claims::default();
        claims.end_replays();
        claims.arrive(HASH);
        claims.claim(&HASH);
        claims.arrive(HASH);
        assert!(tell(&claims));
        assert!(claims.is_arriving(&HASH));
        claims.claim(&HASH);
        assert!(tell(&claims) && !claims.is_arriving(&HASH));
    }
}
