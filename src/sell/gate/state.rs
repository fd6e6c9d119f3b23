//! The state that the gate needs for its decisions.

use std::sync::Arc;

use crate::account::ledger::Ledger;
use crate::base::clock::Clock;
use crate::base::live::Live;
use crate::base::sparing::Sparing;
use crate::protocol::invoice::Minter;

use super::bundles::Bundles;
use super::dry_run::DryRuns;
use super::keyring::Keyring;
use super::limit::Limiter;
use super::price::Quotes;
use super::proven::ProvenBefore;

/// The state that the gate needs for its decisions.
#[derive(Debug)]
pub struct Gate {
    /// The keys that tokens are minted and verified with.
    pub(super) keyring: Arc<Keyring>,
    /// A cache of credentials whose proof was checked before.
    pub(super) proven: ProvenBefore,
    /// Makes the invoices.
    pub(super) minter: Minter,
    /// Counts the uses and remembers the challenges.
    pub(super) ledger: Arc<Ledger>,
    /// Limits how often clients may ask.
    pub(super) limiter: Limiter,
    /// The exchange rates and hooks that pricing depends on.
    pub(super) quotes: Live<Quotes>,
    /// Counts the challenges that dry-run routes would have sent.
    pub(super) dry_runs: DryRuns,
    /// The bundle that is ready for sale while the node cannot be paid.
    pub(super) bundles: Bundles,
    /// Limits the log lines that requests can cause.
    pub(super) log: Arc<Sparing>,
    /// The time source.
    pub(super) clock: Clock,
}
