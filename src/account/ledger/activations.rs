//! Activations' place in the account: what a customer paid, what the provider of the channel kept, and what arrived.
//!
//! Unless one pays for a bundle, it is no sale: nothing was bought, and it counts in no total of what was. Activations are
//! entered when the invoice is made, which no challenge waits for, and settled by the node's event; the sale of a bundle is
//! entered in the same write.

use super::journal::Line;
use super::record::{ActivationRecord, ActivationTotals, BundleRecord, SaleRecord};
use super::{Books, Ledger, LedgerError, Payment, TOTALS_KEY};
use crate::account::store::Together;

/// Activations that are shown at once. A node needs a handful in its life.
pub const ACTIVATIONS_PAGE_MAX: usize = 500;

/// How long one that nobody has paid is kept behind its end. LDK refuses the payment two hours after that; the rest is for a
/// program that was stopped before it heard of one.
const UNPAID_KEPT_MS: u64 = 30 * 86_400_000;

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

impl ActivationRecord {
    /// Whether nobody has paid it, nor can any more.
    pub(super) fn is_stale(&self, now_ms: u64) -> bool {
        self.settled_ms.is_none() && self.expires_ms.saturating_add(UNPAID_KEPT_MS) < now_ms
    }
}

impl Ledger {
    /// Enters an activation whose invoice was made. Blocks on the disk: only then may the invoice be given away.
    pub fn open_activation(&self, activation: &ActivationRecord) -> Result<(), LedgerError> {
        self.change(|books| self.write_activation(books, activation, None))
    }

    /// Drops those that nobody has paid nor can pay any more, and says which. By a clock that is right: one that is a month ahead
    /// would drop what may still be paid.
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
            // The journal keeps their lines until it is folded; whoever reads them back passes over them.
            let (keys, hashes): (Vec<_>, Vec<_>) = stale.into_iter().unzip();
            self.trees.activations.remove_all(&keys)?;
            Ok(hashes)
        })
    }

    /// The activation with this payment hash.
    pub fn activation(
        &self,
        payment_hash: &[u8; 32],
    ) -> Result<Option<ActivationRecord>, LedgerError> {
        self.using(|| Ok(self.trees.activations.get(payment_hash)?))
    }

    /// Enters that an activation was paid, and the sale if it was for a bundle; `None` if the books knew that already. One
    /// whose record is gone is entered anew from what the node knows. Blocks on the disk.
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

    /// The sale that this payment is; `None` if it is in the books: a journal that was torn between the two lines has it.
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
        // The challenge's record says the same, if it is still there.
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

    /// Writes an activation, and with it the sale that it is. In the journal the sale comes first: if the end of that is torn,
    /// the payment is told again and its sale is known, while a payment whose sale is lost would not be told again.
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
