//! Syncs the node with the chain, as often as there is something to watch and as the budget allows.
//! Raises an alarm if syncs fail for long.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::chain::ChainSource;
use crate::chain::clock_jump::Clocks;
use crate::node::deposits::Deposits;
use crate::node::error::NodeUnavailable;
use crate::node::sync::ChainSync;

use super::behind;
use super::source::{CLOCK_OFF_SECS, Chain, clock_minutes};

/// How often the loop checks whether a sync is due. A new channel is watched within this time.
const TICK: Duration = Duration::from_secs(5);

/// The interval between syncs with nothing to watch: no channel and no money. It is the time of one
/// block, so a new channel begins with a height that is correct to one block.
const CALM_INTERVAL: Duration = Duration::from_secs(600);

/// The longest interval between syncs, however much one sync costs: three blocks, a quarter of the
/// time that channels can do without the chain.
const INTERVAL_MAX: Duration = Duration::from_secs(1_800);

/// The percentage of the budget that is planned for syncs. The rest is for new blocks, which make a
/// sync more expensive, for syncs that the operator starts, and for broadcasts.
const PLANNED_PERCENT: u64 = 60;

/// The first pause after a failed sync. It doubles up to the usual interval.
const RETRY_MIN: Duration = Duration::from_secs(5);

/// The time without a wallet sync after which an error is logged. If a sync costs nearly the whole
/// hourly budget, every second one fails, and syncs are half an hour apart. In three hours, three
/// should have succeeded.
const WALLET_ALARM: Duration = Duration::from_secs(3 * 3_600);

/// The maximum time for a running sync to end when the program stops. The relay ends it at once,
/// but an Electrum server may hang.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The interval between requests for the newest block's time, if the source gives no other time.
const BLOCK_TIME_EVERY: Duration = Duration::from_secs(3_600);

/// The minimum time between two alarms.
const ALARM_EVERY: Duration = Duration::from_secs(3_600);

/// Syncs with the chain until `stop`.
pub(in crate::node) async fn keep(
    sync: &ChainSync,
    ldk: &Arc<ldk_node::Node>,
    stop: &CancellationToken,
) {
    let chain = sync.chain();
    if let Some(relay) = chain.relay() {
        relay.seen(ldk.status().current_best_block.height);
    }
    // ldk-node itself polls a bitcoind, which belongs to the operator, every two seconds.
    let is_ours = !matches!(chain.core.config.chain.source, ChainSource::Bitcoind(_));
    let mut pace = Pace::default();
    let mut deposits = Deposits::default();
    let (mut looked, mut alarmed): (Option<Instant>, Option<Instant>) = (None, None);
    let mut asked_time: Option<Instant> = None;
    let mut clocks = Clocks::seen(chain.core.clock.unix_secs(), Instant::now());
    loop {
        let now = Instant::now();
        if chain.tell_of_a_clock_that_was_set(&mut clocks, now) {
            // A set clock makes the age of the last sync unknown, so the node syncs again.
            looked = None;
        }
        let due = looked.map_or(now, |at| pace.due(chain, at));
        chain.plan(is_ours.then(|| due.saturating_duration_since(now)));
        if is_ours && now >= due {
            let before = chain.spent();
            let Some(ended) = look(sync, ldk, stop).await else {
                return;
            };
            looked = Some(Instant::now());
            pace.looked(chain.spent() - before, ended.is_ok());
            if let Some(relay) = chain.relay() {
                relay.keep().await;
            }
            tokio::select! {
                () = deposits.look(chain, ldk) => {}
                () = stop.cancelled() => return,
            }
        }
        if asked_time.is_none_or(|at| now >= at + BLOCK_TIME_EVERY) {
            asked_time = Some(now);
            tokio::select! {
                () = chain.block_clock.ask(&chain.core.config) => {}
                () = stop.cancelled() => return,
            }
        }
        if alarmed.is_none_or(|at| now >= at + ALARM_EVERY) && chain.alarm(ldk) {
            alarmed = Some(now);
        }
        tokio::select! {
            () = sleep_until(Instant::now() + TICK) => {}
            () = stop.cancelled() => return,
        }
        pace.is_watching = is_watching(ldk).await;
    }
}

/// Runs one sync; `None` if the program stops meanwhile.
async fn look(
    sync: &ChainSync,
    ldk: &Arc<ldk_node::Node>,
    stop: &CancellationToken,
) -> Option<Result<(), NodeUnavailable>> {
    let mut looking = std::pin::pin!(sync.look(ldk));
    tokio::select! {
        ended = &mut looking => Some(ended),
        () = stop.cancelled() => {
            // The sync needs time to end, because its results go to a store that a stopped node no
            // longer writes.
            if timeout(STOP_GRACE, looking).await.is_err() {
                tracing::warn!("A look at the chain did not end: stopping all the same");
            }
            None
        }
    }
}

/// Whether the chain may have news for the node: it has open or closing channels, or money.
async fn is_watching(ldk: &Arc<ldk_node::Node>) -> bool {
    let ldk = Arc::clone(ldk);
    let asked = tokio::task::spawn_blocking(move || {
        if !ldk.list_channels().is_empty() {
            return true;
        }
        let balances = ldk.list_balances();
        balances.total_onchain_balance_sats > 0
            || !balances.lightning_balances.is_empty()
            || !balances.pending_balances_from_channel_closures.is_empty()
    });
    // If the query fails, the answer is yes.
    asked.await.unwrap_or(true)
}

/// The intervals between syncs.
#[derive(Debug)]
struct Pace {
    is_watching: bool,
    /// The requests of the last successful sync, and of the one before it.
    cost: u64,
    cost_before: u64,
    /// The requests that a sync seems to need, by the failures since the last success.
    wanted: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            // The first sync shows whether there is something to watch.
            is_watching: true,
            cost: 0,
            cost_before: 0,
            wanted: 0,
        }
    }
}

impl Pace {
    fn looked(&mut self, cost: u64, is_done: bool) {
        if is_done {
            (self.cost_before, self.cost) = (self.cost, cost);
            self.wanted = 0;
        } else {
            // A complete sync costs more than this failed one. Doubling soon reaches the real cost.
            self.wanted = self.wanted.max(cost.saturating_mul(2));
        }
    }

    /// The maximum number of requests that the next sync may need.
    fn dearest(&self) -> u64 {
        self.cost.max(self.cost_before).max(self.wanted)
    }

    /// When to sync again after a sync at this time.
    fn due(&self, chain: &Chain, looked: Instant) -> Instant {
        let config = &chain.core.config.chain;
        let budget = match &config.source {
            ChainSource::Esplora {
                requests_per_hour, ..
            } => Some(*requests_per_hour),
            ChainSource::Electrum(_) | ChainSource::Bitcoind(_) => None,
        };
        let failures = chain.looks().failures;
        if failures == 0 {
            return looked + self.pause_of(config.sync_interval, budget);
        }
        let pause = retry(failures).min(config.sync_interval);
        let relay = chain.relay();
        let room = relay.and_then(|relay| relay.room_at(self.dearest()));
        again(looked, pause, room)
    }

    fn pause_of(&self, interval: Duration, budget: Option<usize>) -> Duration {
        let wanted = if self.is_watching {
            interval
        } else {
            interval.max(CALM_INTERVAL)
        };
        let cost = self.cost.max(self.cost_before);
        let affordable_secs = budget.map_or(0, |budget| {
            let planned = (budget as u64 * PLANNED_PERCENT / 100).max(1);
            (cost * 3_600).div_ceil(planned)
        });
        wanted
            .max(Duration::from_secs(affordable_secs))
            .min(INTERVAL_MAX)
    }
}

/// When to sync again after a failed sync. If the next sync's cost is known, the wallet's budget
/// must have room for all of it. Each sync starts from the beginning, and one that runs out of
/// requests has spent those that the next one needs. This wait is limited, because the requests
/// that guard the channels wait, too.
fn again(looked: Instant, pause: Duration, room: Option<Instant>) -> Instant {
    let soon = looked + pause;
    room.map_or(soon, |room| room.clamp(soon, looked + INTERVAL_MAX))
}

/// The pause after this number of failures.
fn retry(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16))
}

impl Chain {
    /// Logs an error if the node has not seen the chain for long, if the clock is wrong, or if the
    /// wallet has not been synced for long. Returns whether it logged one.
    fn alarm(&self, ldk: &ldk_node::Node) -> bool {
        let seen_secs = ldk.status().latest_lightning_wallet_sync_timestamp;
        let behind = behind::since(seen_secs, self.core.clock.unix_secs());
        let is_late = behind.is_some_and(|behind| behind >= behind::ALARM);
        if is_late {
            let minutes = behind.unwrap_or_default().as_secs() / 60;
            let limit = behind::LIMIT.as_secs() / 60;
            tracing::error!(
                "The chain was last seen {minutes} minutes ago: a channel that is closed meanwhile may cost money, and \
                 after {limit} minutes nothing is sold. Is the chain source {} reachable?",
                self.core.config.chain.source
            );
        }
        let is_off = self.tell_of_a_wrong_clock();
        let is_starved = !is_late && self.tell_of_a_starved_wallet(ldk);
        is_late || is_off || is_starved
    }

    /// Logs an error if the wallet has not been synced for long, although the channels have.
    /// Returns whether it did.
    fn tell_of_a_starved_wallet(&self, ldk: &ldk_node::Node) -> bool {
        let seen_secs = ldk.status().latest_onchain_wallet_sync_timestamp;
        let behind = behind::since(seen_secs, self.core.clock.unix_secs());
        let late = behind.filter(|behind| *behind >= WALLET_ALARM);
        if let Some(behind) = late {
            tracing::error!(
                "The on-chain wallet was last read {} minutes ago, while the channels are looked after: on-chain money that arrives \
                 is not seen. Are its addresses too many for node.chain.requests_per_hour?",
                behind.as_secs() / 60
            );
        }
        late.is_some()
    }

    /// Logs a warning if the clock was set since the last comparison. Returns whether it was.
    fn tell_of_a_clock_that_was_set(&self, clocks: &mut Clocks, now: Instant) -> bool {
        let seen = Clocks::seen(self.core.clock.unix_secs(), now);
        let by = clocks.set_by(seen);
        let is_set = by.abs() >= CLOCK_OFF_SECS;
        if is_set {
            *clocks = seen;
            let way = if by > 0 { "forward" } else { "back" };
            tracing::warn!(
                "The clock of this machine was set {way} by {} minutes, or the machine slept. If it is wrong now, set it (NTP): \
                 invoices and tokens live by it",
                clock_minutes(by)
            );
        }
        is_set
    }

    /// Logs an error if the clock is wrong. Returns whether it is.
    fn tell_of_a_wrong_clock(&self) -> bool {
        let behind = self.clock_behind_secs().unwrap_or(0);
        let is_off = behind.abs() >= CLOCK_OFF_SECS;
        if is_off {
            let way = if behind > 0 { "behind" } else { "ahead of" };
            tracing::error!(
                "The clock of this machine is {} minutes {way} that of the chain source: set it (NTP). Invoices and tokens live \
                 by it",
                clock_minutes(behind)
            );
        }
        is_off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn pause(pace: &Pace) -> u64 {
        pace.pause_of(MINUTE, Some(600)).as_secs()
    }

    #[test]
    fn looks_are_as_often_as_there_is_something_to_watch_and_the_budget_allows() {
        let mut pace = Pace::default();
        assert_eq!(pause(&pace), 60);
        pace.is_watching = false;
        assert_eq!(pause(&pace), 600);
        pace.is_watching = true;
        // Of 600 requests per hour, 360 are planned for syncs: one every ten seconds.
        pace.looked(20, true);
        assert_eq!(pause(&pace), 200);
        pace.looked(2, true);
        assert_eq!(pause(&pace), 200, "the dearer one of the last two");
        pace.looked(2, true);
        assert_eq!(pause(&pace), 60);
        pace.looked(10_000, true);
        assert_eq!(pause(&pace), 1_800);
        assert_eq!(pace.pause_of(MINUTE, None), MINUTE);
    }

    #[test]
    fn a_look_that_failed_waits_until_there_is_room_for_all_of_it_and_not_for_ever() {
        let mut pace = Pace::default();
        pace.looked(250, true);
        pace.looked(40, false);
        assert_eq!(pace.dearest(), 250);
        // Without any complete sync, the estimate reaches the real cost in a few steps.
        let mut new = Pace::default();
        for (cost, dearest) in [(40, 80), (3, 80), (80, 160), (160, 320)] {
            new.looked(cost, false);
            assert_eq!(new.dearest(), dearest);
        }
        new.looked(250, true);
        new.looked(250, true);
        assert_eq!(new.dearest(), 250);

        let looked = Instant::now();
        let due = |room_secs: u64| {
            let room = looked + Duration::from_secs(room_secs);
            (again(looked, MINUTE, Some(room)) - looked).as_secs()
        };
        assert_eq!(
            (due(0), due(30), due(900), due(9_000)),
            (60, 60, 900, 1_800)
        );
        assert_eq!(again(looked, MINUTE, None), looked + MINUTE);
    }

    #[test]
    fn a_look_that_failed_is_soon_tried_again() {
        let pauses: Vec<_> = (1..6).map(|failures| retry(failures).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80]);
        assert!(retry(u32::MAX) > INTERVAL_MAX);
    }
}
