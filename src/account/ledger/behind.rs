//! Writes behind: records that no request waits for go to disk about once a second.

use std::sync::atomic::Ordering;

use crate::account::store::StoreError;

use super::error::LedgerError;
use super::journal::Line;
use super::record::{SaleRecord, TokenRecord};
use super::redeem;
use super::state::{Ledger, Trees};
use super::usage::Unwritten;

/// The age at which a challenge is written behind. Under a flood, newer challenges push it out of
/// the table before that age.
const WRITE_AFTER_MS: u64 = 2_000;

/// The most challenges per write, once a second. At about 200 bytes each, 500 of them make at most
/// 100 KB/s, whatever the load.
const CHALLENGES_PER_WRITE: usize = 500;

/// How often the store receives the count of a token that is in constant use.
const STORE_EVERY_MS: u64 = 10_000;

impl Ledger {
    /// Writes the records that no request waits for. Called about once a second. Blocks on the
    /// disk.
    pub fn write_behind(&self) -> Result<(), LedgerError> {
        if self.is_damaged.load(Ordering::Acquire) {
            return Err(StoreError::Poisoned.into());
        }
        let now = self.clock.moment();
        let made_before_ms = now.unix_ms.saturating_sub(WRITE_AFTER_MS);
        self.write_challenges(made_before_ms, CHALLENGES_PER_WRITE)?;
        self.write_tokens(now.since_boot_ms.saturating_sub(STORE_EVERY_MS))?;
        self.write_quotas()?;
        // Idle counts are forgotten last, because their values are in the store only now.
        self.usages.forget_idle(now);
        self.fold_if_long()
    }

    /// Writes everything and waits for the disk. This is the last call before the program ends.
    pub fn close(&self) -> Result<(), LedgerError> {
        self.write_challenges(u64::MAX, usize::MAX)?;
        self.write_tokens(u64::MAX)?;
        self.write_quotas()?;
        self.change(|books| {
            books.journal.sync()?;
            Ok(self.store.flush_blocking()?)
        })
    }

    fn write_challenges(&self, made_before_ms: u64, max: usize) -> Result<(), LedgerError> {
        let behind = self
            .challenges
            .write_behind(self.clock.unix_ms(), made_before_ms, max);
        self.change(|_| {
            self.trees.challenges.put_all(&behind.put)?;
            self.trees.challenges.remove_below(&behind.remove_below)?;
            Ok(())
        })
    }

    fn write_quotas(&self) -> Result<(), LedgerError> {
        let behind = self.quotas.write_behind(self.clock.moment());
        if behind.was_full {
            tracing::warn!(
                "The table of free quotas is full: newcomers get none until a window ends (ledger.quotas_max)"
            );
        }
        if behind.put.is_empty() && behind.remove.is_empty() {
            return Ok(());
        }
        self.change(|_| {
            self.trees.quotas.put_all(&behind.put)?;
            Ok(self.trees.quotas.remove_all(&behind.remove)?)
        })
    }

    /// Writes each new count to the journal at once, to survive a crash. The store, which is slower
    /// to write, gets a token's count only if its last one is older than `stored_before_ms`.
    pub(super) fn write_tokens(&self, stored_before_ms: u64) -> Result<(), LedgerError> {
        let unwritten = self
            .usages
            .take_unwritten(stored_before_ms, self.clock.since_boot_ms());
        if unwritten.is_empty() {
            return Ok(());
        }
        self.change(|books| {
            let mut entries = Vec::new();
            let mut lines = Vec::with_capacity(unwritten.len());
            for Unwritten {
                token,
                is_for_journal,
                is_for_store,
            } in unwritten
            {
                if is_for_store {
                    lines.extend(self.redeem_sale(&token)?.map(Line::Sale));
                    let key = TokenRecord::key(&token.payment_hash, &token.token_id);
                    entries.push((key, token.clone()));
                }
                if is_for_journal {
                    lines.push(Line::Token(token));
                }
            }
            books.journal.append(&lines)?;
            // At most once a second. With it, a power cut loses no more than a crash.
            books.journal.sync()?;
            Ok(self.trees.tokens.put_all(&entries)?)
        })
    }

    /// Fills in this token's sale from the token's first use. Returns the sale if it was changed.
    fn redeem_sale(&self, token: &TokenRecord) -> Result<Option<SaleRecord>, LedgerError> {
        let sale = self.trees.sales.get(&token.payment_hash)?;
        let Some(mut sale) = sale.filter(|sale| sale.redeemed_ms.is_none()) else {
            return Ok(None);
        };
        redeem(&mut sale, token);
        self.trees.sales.put(&sale.payment_hash, &sale)?;
        Ok(Some(sale))
    }

    fn fold_if_long(&self) -> Result<(), LedgerError> {
        if !self.books()?.journal.is_long() {
            return Ok(());
        }
        // The dump is made from the store, so the store gets all counts first.
        self.write_tokens(u64::MAX)?;
        self.change(|books| {
            // The journal may be emptied only once all of it is on disk in the store.
            self.store.flush_blocking()?;
            let dump = match books.journal.dump(everything(&self.trees)) {
                Ok(dump) => dump,
                // The disk is probably full. The journal is still complete, only longer.
                Err(LedgerError::Journal(error)) => {
                    tracing::error!("Failed to fold the ledger's journal: {error}");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            // Sales that the store lost silently are still in the old dump and the journal.
            if dump.sales != books.totals.count {
                let (found, count) = (dump.sales, books.totals.count);
                let why = format!("it holds {found} sales where {count} were entered");
                return Err(StoreError::Corrupt(why).into());
            }
            books.journal.fold(dump)?;
            Ok(self.store.mark_complete(books.journal.dump_id())?)
        })
    }
}

/// Returns every record that goes into a dump.
fn everything(trees: &Trees) -> impl Iterator<Item = Result<Line, LedgerError>> + use<> {
    let sales = trees.sales.iter().map(|entry| Ok(Line::Sale(entry?.1)));
    let tokens = trees.tokens.iter().map(|entry| Ok(Line::Token(entry?.1)));
    let channels = trees
        .channels
        .iter()
        .map(|entry| Ok(Line::Channel(entry?.1)));
    let revocations = trees.revocations.iter();
    let revocations = revocations.map(|entry| Ok(Line::Revocation(entry?.1)));
    let activations = trees.activations.iter();
    let activations = activations.map(|entry| Ok(Line::Activation(entry?.1)));
    let sold = sales.chain(tokens);
    sold.chain(channels).chain(revocations).chain(activations)
}
