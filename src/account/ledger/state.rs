//! The state of the open ledger.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::sync::watch;

use crate::account::store::{Store, StoreError, Together, Tree};
use crate::base::clock::Clock;

use super::challenges::Challenges;
use super::claims::Claims;
use super::journal::Journal;
use super::quotas::Quotas;
use super::record::{
    ActivationRecord, ChallengeBatch, ChannelRecord, QuotaRecord, RevocationRecord, SaleRecord,
    TokenRecord, Totals,
};
use super::revoked::Revocations;
use super::usage::Usages;

/// The key of the one [`Totals`] record.
pub(super) const TOTALS_KEY: &[u8] = b"sales";

/// The ledger's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder that holds store, journal and dump.
    pub folder: PathBuf,
    /// The maximum number of unpaid challenges in memory.
    pub challenges_max: usize,
    /// The maximum number of networks whose free quotas are counted.
    pub quotas_max: usize,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    /// The database's file.
    pub(super) store: Store,
    /// The trees of `store`.
    pub(super) trees: Trees,
    /// Challenges that may still be paid.
    pub(super) challenges: Challenges,
    /// Counts of the tokens in use.
    pub(super) usages: Usages,
    /// Use of the free quotas by clients without a token.
    pub(super) quotas: Arc<Quotas>,
    /// The payments that the node is claiming; set once the node has started.
    pub(super) claims: OnceLock<Arc<Claims>>,
    /// The number of settled sales, for the requests that wait for one.
    pub(super) settlements: watch::Sender<u64>,
    /// The revoked tokens.
    pub(super) revocations: Revocations,
    /// Set when the store turns out to be damaged: the next write behind ends the program.
    pub(super) is_damaged: AtomicBool,
    /// The file that tells the next start to set the damaged store aside.
    pub(super) damage_note: PathBuf,
    /// Locked while a sale is changed, its journal line included. Holders wait for the disk, so the
    /// request path never takes this lock.
    pub(super) books: Mutex<Books>,
    /// The source of the current time.
    pub(super) clock: Clock,
    /// Marks the sales that were both challenged and settled in this run of the program.
    pub(super) run: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Trees {
    pub(super) challenges: Tree<ChallengeBatch>,
    pub(super) sales: Tree<SaleRecord>,
    pub(super) sales_by_time: Tree<()>,
    pub(super) tokens: Tree<TokenRecord>,
    pub(super) channels: Tree<ChannelRecord>,
    pub(super) totals: Tree<Totals>,
    pub(super) revocations: Tree<RevocationRecord>,
    pub(super) quotas: Tree<QuotaRecord>,
    pub(super) activations: Tree<ActivationRecord>,
}

impl Trees {
    /// Adds a sale to an atomic group of writes.
    pub(super) fn put_sale(
        &self,
        writes: Together,
        sale: &SaleRecord,
    ) -> Result<Together, StoreError> {
        writes.put(&self.sales, &sale.payment_hash, sale)?.put(
            &self.sales_by_time,
            &sale.time_key(),
            &(),
        )
    }
}

#[derive(Debug)]
pub(super) struct Books {
    pub(super) journal: Journal,
    pub(super) totals: Totals,
    /// A write failed. The state on disk is unknown, so nothing more is written.
    pub(super) is_poisoned: bool,
}
