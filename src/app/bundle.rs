//! Keeps a bundle ready for the next client while the node has no channel. Paying for the bundle
//! opens the first channel.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::account::ledger::record::ActivationRecord;
use crate::account::ledger::{ACTIVATIONS_PAGE_MAX, LedgerError};
use crate::base::clock::Clock;
use crate::base::error_chain::chain;
use crate::node::liquidity::KeptReady;
use crate::operate::api::Bundles;
use crate::protocol::invoice::{Reach, Unready};

/// Time between two checks whether a bundle is wanted.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Minimum time between two invoices. The client that got the last one has this long to pay it.
const MADE_EVERY: Duration = Duration::from_secs(900);

/// The most unpaid invoices in a day, the operator's own included. After that, no more are made.
/// LDK's providers refuse a customer who has ten unpaid invoices, for a bundle or for the operator.
/// Any client can cause an invoice by asking, so bundles must not use up the ten.
const UNPAID_PER_DAY: usize = 6;

const DAY_MS: u64 = 86_400_000;

/// Keeps one grant ready as a bundle.
#[derive(Debug)]
pub(super) struct Keeper {
    /// Makes the invoice and lays the bundle ready.
    pub(super) bundles: Bundles,
    /// The grant to keep ready.
    pub(super) kept: KeptReady,
    /// The time source.
    pub(super) clock: Clock,
}

impl Keeper {
    /// Checks at regular times whether a bundle is wanted, until `stop` is cancelled.
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
                    tracing::warn!("Failed to look for old activations: {}", chain(&error));
                    continue;
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

    /// Whether the node has no channel and needs a new bundle. The first bundle is made before any
    /// client asks. A later bundle is made only after a client has missed the previous one.
    fn is_wanted(&self) -> bool {
        if *self.bundles.node.reach().borrow() != Reach::Unready(Unready::NoChannel) {
            return false;
        }
        let Some(laid) = self.bundles.gate.laid_ready() else {
            return true;
        };
        if laid.is_gone(self.clock.unix_secs()) {
            return laid.was_missed;
        }
        // A ready bundle that the operator made for another grant stays. A bundle that is no longer
        // sold on these terms is replaced, since no client receives it.
        let (route, grant) = (&self.kept.route, self.kept.grant.as_deref());
        self.bundles.is_of(&laid.bundle, route, grant) == Some(false)
    }

    /// Whether enough time has passed since the last invoice was made, also by an earlier run, and
    /// since the last bundle was handed out, and whether the number of unpaid invoices is below the
    /// limit.
    async fn is_time(&self) -> Result<bool, LedgerError> {
        let ledger = Arc::clone(&self.bundles.ledger);
        let newest = tokio::task::spawn_blocking(move || ledger.activations(ACTIVATIONS_PAGE_MAX));
        let (newest, _) = newest.await.expect("reading the books is calm")?;
        let laid = self.bundles.gate.laid_ready();
        let handed_ms = laid.and_then(|laid| laid.handed_ms);
        Ok(may_make(&newest, handed_ms, self.clock.unix_ms()))
    }
}

/// Whether another invoice may be made now. `activations` are in the ledger's order, newest first.
/// `handed_ms` is when the last bundle was handed out. An invoice dated in the future was made
/// while the clock was wrong, and does not count.
fn may_make(activations: &[ActivationRecord], handed_ms: Option<u64>, now_ms: u64) -> bool {
    let made_within = |within_ms: u64| {
        let past = activations.iter().filter(move |it| it.made_ms <= now_ms);
        past.filter(move |it| now_ms - it.made_ms < within_ms)
    };
    let every_ms = u64::try_from(MADE_EVERY.as_millis()).unwrap_or(u64::MAX);
    let was_handed = handed_ms.is_some_and(|handed_ms| now_ms.abs_diff(handed_ms) < every_ms);
    let unpaid = made_within(DAY_MS).filter(|it| it.settled_ms.is_none());
    !was_handed && made_within(every_ms).next().is_none() && unpaid.count() < UNPAID_PER_DAY
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const MINUTE_MS: u64 = 60_000;

    fn made(ago_ms: u64, is_paid: bool) -> ActivationRecord {
        let made_ms = NOW_MS - ago_ms;
        ActivationRecord {
            payment_hash: [0; 32],
            gross_msat: 0,
            fee_msat: 0,
            net_msat: 0,
            provider: String::new(),
            bolt11: String::new(),
            made_ms,
            expires_ms: made_ms + 60 * MINUTE_MS,
            settled_ms: is_paid.then_some(made_ms),
            bundle: None,
        }
    }

    #[test]
    fn the_provider_is_asked_a_few_times_a_day_whoever_asks_us() {
        let may = |activations: &[ActivationRecord]| may_make(activations, None, NOW_MS);
        assert!(may(&[]));
        assert!(!may(&[made(14 * MINUTE_MS, false)]));
        assert!(may(&[made(15 * MINUTE_MS, false)]));
        let hours = |count: u64, is_paid| -> Vec<_> {
            (1..=count)
                .map(|hour| made(hour * 60 * MINUTE_MS, is_paid))
                .collect()
        };
        assert!(may(&hours(5, false)));
        assert!(!may(&hours(6, false)));
        assert!(
            may(&hours(20, true)),
            "what was paid has cost nobody anything"
        );
        let yesterday: Vec<_> = (0..9).map(|_| made(DAY_MS, false)).collect();
        assert!(may(&yesterday));
        // The clock was ahead when this invoice was made.
        let ahead = ActivationRecord {
            made_ms: NOW_MS + DAY_MS,
            ..made(0, false)
        };
        assert!(may(&[ahead]));
    }

    #[test]
    fn whoever_was_given_one_has_time_to_pay_it() {
        let may = |handed_ago| may_make(&[], Some(NOW_MS - handed_ago * MINUTE_MS), NOW_MS);
        assert!(!may(0));
        assert!(!may(14));
        assert!(may(15));
    }
}
