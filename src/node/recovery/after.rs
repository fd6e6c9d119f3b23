//! Work after a recovery: handles the channels that it left unclosed, and finds closings that came
//! after its search.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bitcoin::OutPoint;
use tokio_util::sync::CancellationToken;

use crate::account::ledger::Ledger;
use crate::base::error_chain;
use crate::channel_state::copy::{self, Recovered, Sorted};
use crate::node::error::NodeError;

use super::closing::{self, Watched};
use super::progress::{OldChannel, Recoveries, on};
use super::searching::{self, Search, Swept};

/// The interval of the checks. A closing that pays us can wait, and one that must be punished
/// within a day can wait for an hour.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// The number of days after a recovery in which closings of channels unknown to the backup are
/// searched for. A peer that stays away for three months is not expected to come back.
pub(super) const SEARCH_DAYS: u64 = 90;

/// The number of scripts looked up in each check. All two thousand take 20 hours, and use a sixth
/// of the requests that a public chain source allows.
const SCRIPTS_PER_LOOK: usize = 100;

/// Loads the monitors of channels that a recovery left unclosed and that were closed since. Logs a
/// reminder of the other channels.
pub(super) async fn begin(recovery: &Recoveries, ledger: &Arc<Ledger>) -> Result<(), NodeError> {
    let last = on(recovery.core.config.folder.clone(), |folder| {
        copy::recovered(&folder)
    });
    recovery.ended(last.await?);
    let (mut left, sorted) = look_at_left(recovery).await?;
    if !sorted.is_empty() {
        closing::enter_closed(&left, ledger).await?;
        let sorting = sorted.clone();
        on(recovery.core.config.folder.clone(), move |folder| {
            copy::sort_left(&folder, &sorting)
        })
        .await?;
        left.retain(|watched| !watched.is_in(&sorted));
    }
    for watched in &left {
        tracing::warn!(
            "Channel {} with {} is left unclosed since the recovery: when its peer has closed it, what is ours is swept",
            watched.old.channel_id,
            watched.old.counterparty
        );
    }
    recovery.leave(olds(left));
    Ok(())
}

/// The channels that were left unclosed, and what happens to their monitors now. If the chain
/// source does not answer, the monitors stay set aside.
async fn look_at_left(recovery: &Recoveries) -> Result<(Vec<Watched>, Sorted), NodeError> {
    let channels = recovery.set_aside().await?;
    let mut left: Vec<Watched> = channels.into_iter().map(Watched::new).collect();
    // Only a chain source with an index can tell. The next start with such a source asks again.
    if left.is_empty() || recovery.chain.relay().is_none() {
        return Ok((left, Sorted::default()));
    }
    if let Err(error) = closing::look(recovery, &mut left).await {
        tracing::warn!(
            "The chain source cannot tell where old channels are that were left unclosed, it is asked again within an hour: {}",
            error_chain::chain(&error)
        );
        return Ok((left, Sorted::default()));
    }
    let backup_secs = recovery.last().map(|last| last.backup_secs);
    let now_secs = recovery.core.clock.unix_secs();
    let age_secs = backup_secs.map_or(0, |backup_secs| now_secs.saturating_sub(backup_secs));
    let sorted = closing::sorted(&left, age_secs);
    Ok((left, sorted))
}

/// Checks at each interval, until told to stop or until there is nothing left to check.
pub(in crate::node) async fn watch(
    recovery: &Recoveries,
    ldk: &Arc<ldk_node::Node>,
    until: &CancellationToken,
) {
    let mut search = None;
    loop {
        let is_searching = recovery.last().is_some_and(|last| recovery.searches(last));
        let is_left = !recovery.left().is_empty();
        if recovery.chain.relay().is_none() || !(is_searching || is_left) {
            return;
        }
        if !recovery.look_again(LOOK_EVERY, until).await {
            return;
        }
        let looking = async {
            if is_left && is_another_wanted(recovery).await {
                return true;
            }
            if is_searching {
                let search = search.get_or_insert_with(|| recovery.search_of_this_hour());
                match fundings(recovery).await {
                    Ok(monitored) => {
                        search.pass_over(monitored);
                        go_on(recovery, ldk, search).await;
                    }
                    Err(error) => {
                        let why = error_chain::chain(&error);
                        tracing::warn!("Continuing the search for closings within an hour: {why}");
                    }
                }
            }
            false
        };
        let is_wanted = tokio::select! {
            is_wanted = looking => is_wanted,
            () = until.cancelled() => return,
        };
        if is_wanted {
            // The next node loads the monitors when it starts.
            recovery.core.restart();
            return;
        }
    }
}

/// Whether a channel that was left unclosed is now closed, so that its monitor can be loaded.
async fn is_another_wanted(recovery: &Recoveries) -> bool {
    match look_at_left(recovery).await {
        Ok((left, sorted)) => {
            recovery.leave(olds(left));
            !sorted.is_empty()
        }
        Err(error) => {
            tracing::warn!(
                "Failed to read the monitors that are set aside: {}",
                error_chain::chain(&error)
            );
            false
        }
    }
}

/// The fundings of channels that the search must skip. The node sweeps them itself, now or after it
/// loads their monitors, and both would spend the same outputs.
async fn fundings(recovery: &Recoveries) -> Result<HashSet<OutPoint>, NodeError> {
    let keys = recovery.core.keys.clone();
    on(recovery.core.config.folder.clone(), move |folder| {
        copy::fundings(&folder, &keys)
    })
    .await
}

/// Looks up the scripts with unsettled outputs, and some more.
async fn go_on(recovery: &Recoveries, ldk: &Arc<ldk_node::Node>, search: &mut Search) {
    let seen = search.again_and_again(&recovery.core.keys);
    if let Err(error) = search.go_on(recovery, seen + SCRIPTS_PER_LOOK).await {
        let why = error_chain::chain(&error);
        tracing::info!("Continuing the search for closings within an hour: {why}");
        return;
    }
    if search.found.is_empty() {
        return;
    }
    match searching::sweep(recovery, ldk, &search.found).await {
        Ok(Swept::TooDear) => tracing::info!("After the recovery: {}", Swept::TooDear),
        Ok(swept) => tracing::warn!("After the recovery: {swept}"),
        Err(error) => tracing::warn!("Failed to sweep: {}", error_chain::chain(&error)),
    }
}

fn olds(left: Vec<Watched>) -> Vec<OldChannel> {
    left.into_iter().map(|watched| watched.old).collect()
}

impl Watched {
    fn is_in(&self, sorted: &Sorted) -> bool {
        let key = self.key();
        sorted.put_back.contains(key) || sorted.retired.contains(key)
    }
}

impl Recoveries {
    /// Whether closings are still searched for after this recovery.
    fn searches(&self, last: Recovered) -> bool {
        self.core.clock.unix_secs() < last.ended_secs + SEARCH_DAYS * 86_400
    }

    /// A search that begins at another script each hour, so that all scripts are looked up even if
    /// the program restarts often.
    fn search_of_this_hour(&self) -> Search {
        let hour = usize::try_from(self.core.clock.unix_secs() / 3_600).unwrap_or(0);
        Search::from(&self.core.keys, hour.wrapping_mul(SCRIPTS_PER_LOOK))
    }
}
