//! Recovery after a restore from a backup, which may be older than the last state. An old state
//! must not be broadcast, because the peer may take all of the channel's money. LDK also panics if
//! a peer proves that our state is old. So the node starts without its old channels:
//! - *Closing*: each peer finds its channel unknown and closes it with its own newest state. Once
//!   that closing is buried, the channel's old monitor is loaded again. It finds our outputs for
//!   the sweep, and can punish an old state for a day.
//! - *Sweeping*: all closings are buried, and our remaining outputs are swept into the wallet.
//! - *Searching*: channels opened after the backup have no monitor. Their closings pay us at one of
//!   2,000 scripts, which are derived from the seed words, looked up and swept.
//!
//! Meanwhile the node sells nothing and keeps no channels, but serves earlier sales. The operator
//! can leave channels unclosed. The search for closings goes on for some time after recovery.

mod after;
mod closing;
pub(super) mod progress;
mod proof;
mod searching;
mod sweeping;
mod trail;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::account::ledger::Ledger;
use crate::channel_state::copy::{self, Fence, Recovered, Sorted, Stage};

use super::chain::watch;
use super::core::{Phase, Purpose};
use super::error::NodeError;
use super::events::Events;
use super::start::Starter;
use super::stop::stop_node;
use super::sync::ChainSync;
use closing::Closed;
use progress::{Recoveries, on};

pub(super) use after::watch as watch_after;

/// The parts of the node that a recovery needs.
pub(super) struct Parts<'a> {
    pub(super) recovery: &'a Recoveries,
    pub(super) starter: &'a Starter,
    pub(super) events: &'a Events,
    pub(super) sync: &'a ChainSync,
}

/// Runs all stages of a recovery, if one is under way in this folder. Returns `false` if told to
/// stop before the end.
pub(super) async fn run(
    parts: &Parts<'_>,
    runtime: &tokio::runtime::Handle,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> Result<bool, NodeError> {
    let recovery = parts.recovery;
    let folder = recovery.core.config.folder.clone();
    loop {
        let Some(fence) = on(folder.clone(), |folder| copy::begin(&folder)).await? else {
            recovery.over();
            after::begin(recovery, ledger).await?;
            return Ok(true);
        };
        if recovery.chain.relay().is_none() {
            return Err(NodeError::RecoveryNeedsEsplora);
        }
        let Some(closed) = stage(parts, fence, runtime, ledger, stop).await? else {
            return Ok(false);
        };
        go_on(recovery, fence, closed).await?;
    }
}

/// Starts the next stage, or the first stage again.
async fn go_on(recovery: &Recoveries, fence: Fence, closed: Closed) -> Result<(), NodeError> {
    let (folder, keys) = (
        recovery.core.config.folder.clone(),
        recovery.core.keys.clone(),
    );
    match fence.stage {
        Stage::Closing => {
            let next = if closed.is_over {
                Stage::Sweeping
            } else {
                Stage::Closing
            };
            let sort = move |folder: PathBuf| copy::sort(&folder, &closed.sorted, next);
            on(folder, sort).await?;
            if next == Stage::Sweeping {
                recovery.waits_again();
            }
        }
        Stage::Sweeping => on(folder, move |folder| copy::search(&folder, &keys)).await?,
        Stage::Searching => {
            let now = Recovered {
                backup_secs: fence.backup_secs,
                ended_secs: recovery.core.clock.unix_secs(),
            };
            on(folder, move |folder| copy::end(&folder, &keys, now)).await?;
            tracing::warn!(
                "Recovery is complete: what could be swept of the old channels is in the on-chain wallet. What nobody knows is whether there \
                 are channels that were opened after the backup and that their peers have not closed yet: what such closings pay is searched \
                 for {} days more, while the node sells",
                after::SEARCH_DAYS
            );
        }
    }
    Ok(())
}

/// Runs one stage with its own node. Returns what happens to the monitors, or `None` if told to
/// stop before the end.
async fn stage(
    parts: &Parts<'_>,
    fence: Fence,
    runtime: &tokio::runtime::Handle,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> Result<Option<Closed>, NodeError> {
    let recovery = parts.recovery;
    let channels = match fence.stage {
        Stage::Closing => recovery.set_aside().await?,
        Stage::Sweeping => {
            let keys = recovery.core.keys.clone();
            let loaded = move |folder: PathBuf| copy::loaded(&folder, &keys);
            on(recovery.core.config.folder.clone(), loaded).await?
        }
        Stage::Searching => Vec::new(),
    };
    recovery.tell(fence.starting(&channels));
    let up = parts.starter.up(runtime, Purpose::Recover, stop).await?;
    let Some(ldk) = up else {
        return Ok(None);
    };
    let until = stop.child_token();
    let handling = async {
        let handled = parts.events.handle(&ldk, ledger, &until).await;
        until.cancel();
        handled
    };
    let watching = async {
        let over = |is_over: bool| {
            is_over.then(|| Closed {
                sorted: Sorted::default(),
                is_over,
            })
        };
        let is_over = match fence.stage {
            Stage::Closing => closing::watch(recovery, fence, channels, ledger, &until).await,
            Stage::Sweeping => {
                let swept = sweeping::watch(recovery, fence, &channels, &ldk, &until).await;
                swept.map(over)
            }
            Stage::Searching => {
                let searched = searching::watch(recovery, fence, &ldk, &until).await;
                searched.map(over)
            }
        };
        until.cancel();
        is_over
    };
    let looking = watch::keep(parts.sync, &ldk, &until);
    let (handled, is_over, ()) = tokio::join!(handling, watching, looking);
    // The status must not show a stopped node, and the next stage has another node.
    recovery.core.enter(Phase::Starting);
    stop_node(&ldk).await;
    handled?;
    is_over
}
