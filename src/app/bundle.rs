//! Keeps a bundle ready for the next client, as long as the node cannot be paid for it: its payment opens the channel.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::admin::Bundles;
use crate::causes::chain;
use crate::clock::Clock;
use crate::gate::LaidReady;
use crate::invoice::{Reach, Unready};
use crate::ledger::LedgerError;
use crate::node::liquidity::KeptReady;

/// How often it is looked whether one is wanted.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Time between two invoices, at least: the provider is asked for some hundred a day at the most, even if each of them is
/// taken by somebody who does not pay, and whoever got the last one has had this time for it.
const MADE_EVERY: Duration = Duration::from_secs(900);

/// What is kept ready, and with what.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Lays it ready.
    pub(super) bundles: Bundles,
    /// What.
    pub(super) kept: KeptReady,
    /// Where the time comes from.
    pub(super) clock: Clock,
}

impl Keeper {
    /// Looks after it until told to stop.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return,
            }
            if Instant::now() < not_before || !self.is_wanted() {
                continue;
            }
            match self.is_time().await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error) => {
                    // The books end the program themselves.
                    tracing::warn!("Failed to look for old activations: {}", chain(&error));
                    return;
                }
            }
            not_before = Instant::now() + MADE_EVERY;
            let (route, grant) = (&self.kept.route, self.kept.grant.as_deref());
            let made = tokio::select! {
                made = self.bundles.prepare(route, grant) => made,
                () = stop.cancelled() => return,
            };
            if let Err(error) = made {
                let minutes = MADE_EVERY.as_secs() / 60;
                tracing::warn!(
                    "No bundle of {route} is ready for a first customer, tried again in {minutes} minutes: {}",
                    chain(&error)
                );
            }
        }
    }

    /// Whether a client could not buy it now, for a reason that a channel would mend, and nothing is ready for it.
    fn is_wanted(&self) -> bool {
        let (route, grant) = (&self.kept.route, self.kept.grant.as_deref());
        let price = self.bundles.price(route, grant);
        let lacks_channel = match &*self.bundles.node.reach().borrow() {
            Reach::Ready(inbound) => price.is_some_and(|price| !inbound.takes(price)),
            Reach::Unready(Unready::NoChannel | Unready::NoInboundCapacity) => true,
            Reach::Unready(
                Unready::Starting
                | Unready::ChainSourceUnreachable
                | Unready::Behind
                | Unready::PeersOffline
                | Unready::KeyMismatch
                | Unready::Recovering
                | Unready::DiskFull
                | Unready::ClockBehind
                | Unready::Stopping,
            ) => false,
        };
        let now_ms = self.clock.unix_ms();
        let is_laid = |laid: LaidReady| {
            let is_to_be_had = laid.handed_ms.is_none() && now_ms < laid.until_secs * 1_000;
            is_to_be_had && Some(laid.price) == price
        };
        lacks_channel && !self.bundles.gate.laid_ready().is_some_and(is_laid)
    }

    /// Whether the last invoice, also of an earlier run of the program, was made long enough ago, and has been with its client
    /// for long enough.
    async fn is_time(&self) -> Result<bool, LedgerError> {
        let ledger = Arc::clone(&self.bundles.ledger);
        let newest = tokio::task::spawn_blocking(move || ledger.activations(1)).await;
        let (newest, _) = newest.expect("reading the books is calm")?;
        let made_ms = newest.first().map(|it| it.made_ms);
        let handed_ms = self.bundles.gate.laid_ready().and_then(|it| it.handed_ms);
        let last_ms = made_ms.max(handed_ms);
        let now_ms = self.clock.unix_ms();
        let every_ms = u64::try_from(MADE_EVERY.as_millis()).unwrap_or(u64::MAX);
        Ok(last_ms.is_none_or(|last_ms| now_ms.abs_diff(last_ms) >= every_ms))
    }
}
