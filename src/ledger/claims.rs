//! Payments that the node is claiming, as far as it has spoken of them: before a payer can learn the preimage, and before the
//! node tells the payment as received. In memory, and anew with each start of the node.
//!
//! It answers two questions. Whether a payment is about to be entered: its token may be shown before that. And whether a
//! payment that is told is a new one. After a start LDK repeats what it claimed before, as often as it likes, and the same hash
//! may also stand for other money: somebody paid the invoice again. What LDK repeats, it repeats before it first writes its
//! state, and before it takes anything new from a peer; what is both taken in and claimed behind that is other money.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Payments that are kept at most: channels carry 483 at once each, and each is gone in a moment.
const CLAIMS_MAX: usize = 20_000;

/// The claims of this start of the node. A `std` mutex: held for a look-up.
#[derive(Debug, Default)]
pub struct Claims(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    /// Whether everything that LDK repeats after a start has been repeated.
    is_past_replays: bool,
    /// By payment hash.
    claims: HashMap<[u8; 32], Claim>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Claim {
    /// Whether a new payment is here and not claimed yet.
    is_new: bool,
    /// How many new ones were claimed and not told yet.
    claimed: u32,
}

impl Claims {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node starts, and repeats what it likes.
    pub fn restart(&self) {
        *self.table() = Table::default();
    }

    /// Whether the node has repeated everything.
    pub fn is_past_replays(&self) -> bool {
        self.table().is_past_replays
    }

    /// The node has repeated everything.
    pub fn end_replays(&self) {
        self.table().is_past_replays = true;
    }

    /// A payment is here and can be claimed; its payer does not have the preimage yet.
    pub fn arrive(&self, payment_hash: [u8; 32]) {
        let mut table = self.table();
        if table.claims.len() >= CLAIMS_MAX {
            table.claims.clear();
        }
        let is_new = table.is_past_replays;
        table.claims.entry(payment_hash).or_default().is_new |= is_new;
    }

    /// A payment is claimed.
    pub fn claim(&self, payment_hash: &[u8; 32]) {
        if let Some(claim) = self.table().claims.get_mut(payment_hash) {
            claim.claimed += u32::from(std::mem::take(&mut claim.is_new));
        }
    }

    /// Whether a payment that is told now was never told before.
    pub fn is_new(&self, payment_hash: &[u8; 32]) -> bool {
        let table = self.table();
        let claim = table.claims.get(payment_hash);
        claim.is_some_and(|claim| claim.claimed > 0)
    }

    /// The payment is entered where it belongs.
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

    /// Whether a payment of this hash is here and not told yet.
    pub fn is_arriving(&self, payment_hash: &[u8; 32]) -> bool {
        self.table().claims.contains_key(payment_hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 32] = [1; 32];

    /// Tells the payment; whether it is a new one.
    fn tell(claims: &Claims) -> bool {
        let is_new = claims.is_new(&HASH);
        claims.end(&HASH);
        is_new
    }

    #[test]
    fn what_is_repeated_after_a_start_is_not_new_and_what_arrives_behind_it_is() {
        let claims = Claims::default();
        // Told from the queue of events, and claimed again from a monitor.
        assert!(!tell(&claims));
        claims.claim(&HASH);
        assert!(!tell(&claims));
        // Here when the program was killed.
        claims.arrive(HASH);
        claims.claim(&HASH);
        assert!(claims.is_arriving(&HASH));
        assert!(!tell(&claims));
        assert!(!claims.is_arriving(&HASH));
        claims.end_replays();
        // Repeated late, without being taken in again.
        claims.claim(&HASH);
        assert!(!tell(&claims));
        claims.arrive(HASH);
        claims.claim(&HASH);
        assert!(tell(&claims));
        assert!(!tell(&claims), "told once");
        claims.restart();
        assert!(!claims.is_past_replays());
    }

    #[test]
    fn two_at_once_are_two() {
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
