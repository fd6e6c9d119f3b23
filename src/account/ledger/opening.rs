//! Opens the ledger's store and restores the records that only the dump or the journal holds.

use std::io;
use std::path::Path;

use crate::account::store::{Store, StoreError};

use super::error::LedgerError;
use super::journal::{Journal, Line};
use super::put::put_sale;
use super::record::{ChallengeBatch, SaleRecord, TokenRecord};
use super::state::{TOTALS_KEY, Trees};

/// The store, its trees, and the stored challenges with their sequence numbers.
pub(super) type Opened = (Store, Trees, Vec<(u64, ChallengeBatch)>);

/// Opens the store, adds what the journal holds and the store lacks, and reads the challenges. A
/// new store, or one whose rebuild was interrupted, is first filled from the newest dump.
pub(super) fn open_store(
    path: &Path,
    journal: &Journal,
    now_ms: u64,
) -> Result<Opened, LedgerError> {
    let store = Store::open(path)?;
    let trees = Trees {
        challenges: store.tree("challenges")?,
        sales: store.tree("sales")?,
        sales_by_time: store.tree("sales_by_time")?,
        tokens: store.tree("tokens")?,
        channels: store.tree("channels")?,
        totals: store.tree("totals")?,
        revocations: store.tree("revocations")?,
        quotas: store.tree("quotas")?,
        activations: store.tree("activations")?,
    };
    let is_complete = store.is_complete(journal.dump_id())?;
    let mut missing = 0_u64;
    let mut apply = |line: Line| -> Result<(), LedgerError> {
        missing += u64::from(apply(&store, &trees, &line, now_ms)?);
        Ok(())
    };
    let mut damaged = 0;
    if !is_complete {
        damaged += journal.read_dump(&mut apply)?;
    }
    damaged += journal.read(&mut apply)?;
    if damaged > 0 {
        tracing::error!("{damaged} damaged lines in the ledger's journal or dump were passed over");
    }
    if missing > 0 {
        store.flush_blocking()?;
        tracing::warn!(
            "{missing} entries of the ledger's journal were missing in its store and are there again"
        );
    }
    if !is_complete {
        store.mark_complete(journal.dump_id())?;
    }
    let mut stored = Vec::new();
    for entry in trees.challenges.iter() {
        let (key, challenge) = entry?;
        let key: [u8; 8] = key
            .try_into()
            .map_err(|_| StoreError::Corrupt("a challenge's key is not eight bytes".into()))?;
        stored.push((u64::from_be_bytes(key), challenge));
    }
    Ok((store, trees, stored))
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Applies a line to the store if the store lacks it. Returns whether the store lacked it.
fn apply(store: &Store, trees: &Trees, line: &Line, now_ms: u64) -> Result<bool, StoreError> {
    match line {
        Line::Sale(sale) => apply_sale(store, trees, sale),
        Line::Token(token) => {
            let key = TokenRecord::key(&token.payment_hash, &token.token_id);
            // Counts only grow, so that a rebuild does not make a used-up token usable again.
            let stored = trees.tokens.get(&key)?;
            let Some(stored) = stored else {
                trees.tokens.put(&key, token)?;
                return Ok(true);
            };
            let newest = TokenRecord {
                requests: token.requests.max(stored.requests),
                bytes: token.bytes.max(stored.bytes),
                metered_ms: token.metered_ms.max(stored.metered_ms),
                last_used_ms: token.last_used_ms.max(stored.last_used_ms),
                ..stored.clone()
            };
            let is_newer = newest != stored;
            if is_newer {
                trees.tokens.put(&key, &newest)?;
            }
            Ok(is_newer)
        }
        // The reader unpacks packed lines and passes on each line in them.
        Line::Dump(_) | Line::Packed(_) => Ok(false),
        Line::Revocation(revocation) => {
            let stored = trees.revocations.get(&revocation.key())?;
            let is_newer = stored.is_none_or(|stored| stored.revoked_ms < revocation.revoked_ms);
            if is_newer {
                trees.revocations.put(&revocation.key(), revocation)?;
            }
            Ok(is_newer)
        }
        Line::Channel(channel) => {
            let stored = trees.channels.get(&channel.channel_id)?;
            let is_newer = stored
                .is_none_or(|stored| stored.closed_ms.is_none() && channel.closed_ms.is_some());
            if is_newer {
                trees.channels.put(&channel.channel_id, channel)?;
            }
            Ok(is_newer)
        }
        Line::Activation(activation) => {
            let stored = trees.activations.get(&activation.payment_hash)?;
            let is_newer = match stored {
                // A stale activation is missing because it was never paid and was dropped.
                None => !activation.is_stale(now_ms),
                Some(stored) => stored.settled_ms.is_none() && activation.settled_ms.is_some(),
            };
            if is_newer {
                trees
                    .activations
                    .put(&activation.payment_hash, activation)?;
            }
            Ok(is_newer)
        }
    }
}

fn apply_sale(store: &Store, trees: &Trees, sale: &SaleRecord) -> Result<bool, StoreError> {
    let stored = trees.sales.get(&sale.payment_hash)?;
    let mut totals = trees.totals.get(TOTALS_KEY)?.unwrap_or_default();
    let mut sale = sale.clone();
    match stored {
        None => totals.add(&sale),
        Some(stored) => {
            let is_redeemed = stored.redeemed_ms.is_none() && sale.redeemed_ms.is_some();
            let is_lost = stored.lost_ms.is_none() && sale.lost_ms.is_some();
            if stored.surplus_msat >= sale.surplus_msat && !is_redeemed && !is_lost {
                return Ok(false);
            }
            totals.lost_msat += if is_lost { stored.amount_msat } else { 0 };
            sale.lost_ms = stored.lost_ms.or(sale.lost_ms);
            sale.surplus_msat = sale.surplus_msat.max(stored.surplus_msat);
            totals.surplus_msat += sale.surplus_msat - stored.surplus_msat;
            sale.redeemed_ms = stored.redeemed_ms.or(sale.redeemed_ms);
        }
    }
    put_sale(store, trees, &sale, &totals)?;
    Ok(true)
}
