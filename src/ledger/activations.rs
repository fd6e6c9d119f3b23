//! Activations' place in the account: what a customer paid, what the provider of the channel kept, and what arrived.
//!
//! They are no sales: nothing was bought, and they count in no total of what was. They are entered when the invoice is made,
//! because that is the operator's own act, and settled by the node's event.

use super::journal::Line;
use super::record::{ActivationRecord, ActivationTotals};
use super::{Books, Ledger, LedgerError};

/// Activations that are shown at once. A node needs a handful in its life.
pub const ACTIVATIONS_PAGE_MAX: usize = 500;

/// A payment that opened a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its hash.
    pub payment_hash: [u8; 32],
    /// What arrived, in msat: less than was paid.
    pub net_msat: u64,
    /// What the provider kept, in msat.
    pub fee_msat: u64,
    /// The provider, a node id in hex.
    pub provider: String,
}

impl Ledger {
    /// Enters an activation whose invoice was made. Blocks on the disk: only then may the invoice be given away.
    pub fn open_activation(&self, activation: &ActivationRecord) -> Result<(), LedgerError> {
        self.change(|books| self.write_activation(books, activation))
    }

    /// Enters that an activation was paid; `None` if the books knew that already. One whose record is gone is entered anew
    /// from what the node knows. Blocks on the disk.
    pub fn settle_activation(
        &self,
        arrived: &Arrived,
    ) -> Result<Option<ActivationRecord>, LedgerError> {
        self.change(|books| {
            let now_ms = self.clock.unix_ms();
            let known = self.trees.activations.get(&arrived.payment_hash)?;
            if known.as_ref().is_some_and(|it| it.settled_ms.is_some()) {
                return Ok(None);
            }
            let known = known.unwrap_or_else(|| ActivationRecord {
                payment_hash: arrived.payment_hash,
                gross_msat: 0,
                fee_msat: 0,
                net_msat: 0,
                provider: arrived.provider.clone(),
                bolt11: String::new(),
                made_ms: now_ms,
                expires_ms: now_ms,
                settled_ms: None,
            });
            let settled = ActivationRecord {
                gross_msat: arrived.net_msat.saturating_add(arrived.fee_msat),
                fee_msat: arrived.fee_msat,
                net_msat: arrived.net_msat,
                settled_ms: Some(now_ms),
                ..known
            };
            self.write_activation(books, &settled)?;
            Ok(Some(settled))
        })
    }

    fn write_activation(
        &self,
        books: &mut Books,
        activation: &ActivationRecord,
    ) -> Result<(), LedgerError> {
        books
            .journal
            .append([&Line::Activation(activation.clone())])?;
        books.journal.sync()?;
        let tree = &self.trees.activations;
        tree.put(&activation.payment_hash, activation)?;
        Ok(self.store.flush_blocking()?)
    }

    /// Activations, the newest first, at most `max` and at most [`ACTIVATIONS_PAGE_MAX`], and what came of all that were paid.
    pub fn activations(
        &self,
        max: usize,
    ) -> Result<(Vec<ActivationRecord>, ActivationTotals), LedgerError> {
        self.using(|| {
            let all = self.trees.activations.iter();
            let mut all: Vec<ActivationRecord> = all
                .map(|entry| entry.map(|(_, activation)| activation))
                .collect::<Result<_, _>>()?;
            let mut totals = ActivationTotals::default();
            for paid in all.iter().filter(|it| it.settled_ms.is_some()) {
                totals.count += 1;
                totals.gross_msat += paid.gross_msat;
                totals.fee_msat += paid.fee_msat;
                totals.net_msat += paid.net_msat;
            }
            all.sort_by_key(|it| std::cmp::Reverse(it.made_ms));
            all.truncate(max.min(ACTIVATIONS_PAGE_MAX));
            Ok((all, totals))
        })
    }
}
