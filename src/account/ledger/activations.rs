//! Activations in the ledger: what a customer paid, what the channel provider kept, and what
//! arrived.
//!
//! An activation is not a sale and counts in no sales total, unless it pays for a bundle. It is
//! recorded when its invoice is made, and no challenge waits for that write. The node's event
//! settles it, and the sale of a bundle is recorded in the same write.

use crate::account::store::Together;

use super::error::LedgerError;
use super::journal::Line;
use super::payment::Payment;
use super::record::{ActivationRecord, ActivationTotals, BundleRecord, SaleRecord};
use super::state::{Books, Ledger, TOTALS_KEY};

/// The most activations on one page. A node needs a handful in its life.
pub const ACTIVATIONS_PAGE_MAX: usize = 500;

/// How long an unpaid activation is kept after its invoice expires. LDK refuses the payment two
/// hours after the expiry. The rest is for a program that was stopped before it learned of the
/// payment.
const UNPAID_KEPT_MS: u64 = 30 * 86_400_000;

/// A payment that opened a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The activation's payment hash.
    pub payment_hash: [u8; 32],
    /// The amount that arrived, in msat. It is less than the payer sent.
    pub net_msat: u64,
    /// The amount that the provider kept, in msat.
    pub fee_msat: u64,
    /// The provider's node id, in hex.
    pub provider: String,
}

impl ActivationRecord {
    /// Whether this activation is unpaid and can no longer be paid.
    pub(super) fn is_stale(&self, now_ms: u64) -> bool {
        self.settled_ms.is_none() && self.expires_ms.saturating_add(UNPAID_KEPT_MS) < now_ms
    }
}

impl Ledger {
    /// Records an activation whose invoice was made. Hand out the invoice only after this returns.
    /// Blocks on the disk.
    pub fn open_activation(&self, activation: &ActivationRecord) -> Result<(), LedgerError> {
        self.change(|books| self.write_activation(books, activation, None))
    }

    /// Drops the stale activations and returns their payment hashes. The clock must be right: a
    /// clock that is a month ahead drops activations that can still be paid.
    pub fn drop_unpaid_activations(&self) -> Result<Vec<[u8; 32]>, LedgerError> {
        self.change(|_| {
            let now_ms = self.clock.unix_ms();
            let mut stale = Vec::new();
            for entry in self.trees.activations.iter() {
                let (key, old) = entry?;
                if old.is_stale(now_ms) {
                    stale.push((key, old.payment_hash));
                }
            }
            // Their lines stay in the journal until it is folded; opening the ledger skips stale
            // activations.
            let (keys, hashes): (Vec<_>, Vec<_>) = stale.into_iter().unzip();
            self.trees.activations.remove_all(&keys)?;
            Ok(hashes)
        })
    }

    /// Returns the activation with this payment hash.
    pub fn activation(
        &self,
        payment_hash: &[u8; 32],
    ) -> Result<Option<ActivationRecord>, LedgerError> {
        self.using(|| Ok(self.trees.activations.get(payment_hash)?))
    }

    /// Records that an activation was paid, and the sale if it pays for a bundle. Returns `None` if
    /// the payment is already recorded. If the record is missing, it is made from what the node
    /// reports. Blocks on the disk.
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
                bundle: None,
            });
            let asked_msat = known.gross_msat;
            let settled = ActivationRecord {
                gross_msat: arrived.net_msat.saturating_add(arrived.fee_msat),
                fee_msat: arrived.fee_msat,
                net_msat: arrived.net_msat,
                settled_ms: Some(now_ms),
                ..known
            };
            let sale = match &settled.bundle {
                None => None,
                Some(bundle) => self.sale_of_bundle(&settled, bundle, asked_msat)?,
            };
            self.write_activation(books, &settled, sale)?;
            Ok(Some(settled))
        })
    }

    /// Builds the sale of this bundle. Returns `None` if the sale is already recorded, because the
    /// journal was torn between the line of the sale and the line of the activation.
    fn sale_of_bundle(
        &self,
        settled: &ActivationRecord,
        bundle: &BundleRecord,
        asked_msat: u64,
    ) -> Result<Option<SaleRecord>, LedgerError> {
        if self.trees.sales.get(&settled.payment_hash)?.is_some() {
            return Ok(None);
        }
        let mut sale = self.first_sale(Payment {
            payment_hash: settled.payment_hash,
            amount_msat: settled.gross_msat,
        })?;
        // The challenge's record, if it still exists, has the same values.
        if sale.route.is_none() {
            sale.service = Some(bundle.service.clone());
            sale.route = Some(bundle.route.clone());
            sale.grant.clone_from(&bundle.grant);
            sale.price_msat = Some(asked_msat);
            sale.expires_ms = Some(settled.expires_ms);
        }
        sale.split_at(asked_msat);
        Ok(Some(sale))
    }

    /// Writes an activation and its sale. The sale comes first in the journal. If the journal is
    /// torn after the sale, the node repeats the payment and the sale is known. A lost sale after a
    /// recorded activation would never be repeated.
    fn write_activation(
        &self,
        books: &mut Books,
        activation: &ActivationRecord,
        sale: Option<SaleRecord>,
    ) -> Result<(), LedgerError> {
        let sale_line = sale.clone().map(Line::Sale);
        let line = Line::Activation(activation.clone());
        books.journal.append(sale_line.iter().chain([&line]))?;
        books.journal.sync()?;
        let trees = &self.trees;
        let mut writes =
            Together::default().put(&trees.activations, &activation.payment_hash, activation)?;
        if let Some(sale) = &sale {
            books.totals.add(sale);
            writes = trees.put_sale(writes, sale)?;
            writes = writes.put(&trees.totals, TOTALS_KEY, &books.totals)?;
        }
        self.store.write(writes)?;
        self.store.flush_blocking()?;
        if let Some(sale) = &sale {
            self.tell_settled(sale);
        }
        Ok(())
    }

    /// Returns the newest activations first, at most `max` and at most [`ACTIVATIONS_PAGE_MAX`],
    /// and the totals of all paid activations.
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
                if paid.bundle.is_some() {
                    totals.sold_msat += paid.gross_msat;
                }
            }
            all.sort_by_key(|it| std::cmp::Reverse(it.made_ms));
            all.truncate(max.min(ACTIVATIONS_PAGE_MAX));
            Ok((all, totals))
        })
    }
}
