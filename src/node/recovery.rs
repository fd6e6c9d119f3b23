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
mod proof;
mod searching;
mod sweeping;
mod trail;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::account::ledger::Ledger;
use crate::channel_state::copy::{
    self, Fence, MonitoredChannel, Recovered, Sorted, Stage, StateError,
};

use super::stop::stop_node;
use super::{Node, NodeError, Phase, Purpose, chain, events};
use closing::{Closed, Watched};

pub(super) use after::watch as watch_after;

/// The operator's view of a recovery.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Recovery {
    /// `closing`, `sweeping` or `searching`.
    pub stage: &'static str,
    /// The time of the backup, Unix seconds.
    pub backup_secs: u64,
    /// The current activity, in a sentence.
    pub happening: String,
    /// The next step, in a sentence.
    pub next: &'static str,
    /// The channels that are being resolved.
    pub channels: Vec<OldChannel>,
}

/// A channel from before the restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OldChannel {
    /// The channel's id, hex.
    pub channel_id: String,
    /// The node id of the channel's peer, hex.
    pub counterparty: String,
    /// The output that held the channel's money.
    pub funding: String,
    /// Our balance in the channel when the backup was made. The closing may give more or less.
    pub backup_balance_sat: u64,
    /// The closing transaction, once there is one.
    pub closing_txid: Option<String>,
    /// The number of confirmations of the closing transaction.
    pub confirmations: u32,
    /// The amount that the closing pays at scripts derived from the seed words, in sat. A peer's
    /// closing pays our balance there.
    pub pays_us_sat: Option<u64>,
    /// The block before which an old state of the peer can be punished: 144 blocks after the
    /// closing.
    pub deadline_height: Option<u32>,
    /// Whether the chain source knows the funding transaction. A channel that was being opened may
    /// never have had one.
    pub is_funded: bool,
    /// The output that holds the channel's money now, if a splice has moved it.
    pub moved_to: Option<String>,
}

/// The state of recoveries while the node runs.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The view of the current recovery, if there is one. A `std` mutex: held to copy a few words.
    told: Mutex<Option<Recovery>>,
    /// Whether the operator does not want to wait for old channels that are not closed.
    is_to_leave: AtomicBool,
    /// The old channels that a recovery left unclosed. A `std` mutex: held to copy them.
    left: Mutex<Vec<OldChannel>>,
    /// The last completed recovery. A `std` mutex: held to copy it.
    last: Mutex<Option<Recovered>>,
}

impl Progress {
    fn is_to_leave(&self) -> bool {
        self.is_to_leave.load(Ordering::Relaxed)
    }

    fn left(&self) -> Vec<OldChannel> {
        let left = self.left.lock();
        left.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leave(&self, left: Vec<Watched>) {
        let left = left.into_iter().map(|watched| watched.old).collect();
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }

    fn last(&self) -> Option<Recovered> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, last: Option<Recovered>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }
}

/// The names of the stages that wait for events that may never come.
const CLOSING: &str = "closing";
const SWEEPING: &str = "sweeping";

const CLOSING_NEXT: &str = "When a closing has 6 confirmations, the node sweeps what is ours into its wallet; it goes on when all have.";
const SWEEPING_NEXT: &str = "When everything is swept and confirmed, the chain is searched for channels that the backup does not know.";
const SEARCHING_NEXT: &str =
    "After that recovery ends by itself, and selling begins as soon as there is a channel.";

impl Node {
    /// Whether the node recovers from a backup.
    pub fn is_recovering(&self) -> bool {
        self.recovery().is_some()
    }

    /// Lets a recovery continue without old channels that are not closed, or whose closing is not
    /// found. Returns `false` if the recovery does not wait for any channel.
    pub fn leave_unclosed(&self) -> bool {
        let waits = self
            .recovery()
            .is_some_and(|recovery| [CLOSING, SWEEPING].contains(&recovery.stage));
        if waits {
            self.recovery.is_to_leave.store(true, Ordering::Relaxed);
            self.read_chain.notify_one();
        }
        waits
    }

    /// The old channels that a recovery left unclosed.
    pub(super) fn left_channels(&self) -> Vec<OldChannel> {
        self.recovery.left()
    }

    /// The view of the current recovery, if there is one.
    pub(super) fn recovery(&self) -> Option<Recovery> {
        let told = self.recovery.told.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows the progress of a recovery in the status, and logs it if it has changed.
    fn tell_recovery(&self, recovery: Recovery) {
        let told = self.recovery.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        let is_new = told
            .as_ref()
            .is_none_or(|told| told.happening != recovery.happening);
        if is_new {
            tracing::warn!("Recovery: {} {}", recovery.happening, recovery.next);
        }
        *told = Some(recovery);
    }

    fn recovered(&self) {
        let told = self.recovery.told.lock();
        *told.unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Runs all stages of a recovery, if one is under way in this folder. Returns `false` if told to
/// stop before the end.
pub(super) async fn run(
    node: &Node,
    runtime: &tokio::runtime::Handle,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> Result<bool, NodeError> {
    let folder = node.config.folder.clone();
    loop {
        let Some(fence) = on(folder.clone(), |folder| copy::begin(&folder)).await? else {
            node.recovered();
            after::begin(node, ledger).await?;
            return Ok(true);
        };
        if node.chain.relay().is_none() {
            return Err(NodeError::RecoveryNeedsEsplora);
        }
        let Some(closed) = stage(node, fence, runtime, ledger, stop).await? else {
            return Ok(false);
        };
        go_on(node, fence, closed).await?;
    }
}

/// Starts the next stage, or the first stage again.
async fn go_on(node: &Node, fence: Fence, closed: Closed) -> Result<(), NodeError> {
    let (folder, keys) = (node.config.folder.clone(), node.keys.clone());
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
                // The next stage waits for other events, so the operator's request ends here.
                node.recovery.is_to_leave.store(false, Ordering::Relaxed);
            }
        }
        Stage::Sweeping => on(folder, move |folder| copy::search(&folder, &keys)).await?,
        Stage::Searching => {
            let now = Recovered {
                backup_secs: fence.backup_secs,
                ended_secs: node.clock.unix_secs(),
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
    node: &Node,
    fence: Fence,
    runtime: &tokio::runtime::Handle,
    ledger: &Arc<Ledger>,
    stop: &CancellationToken,
) -> Result<Option<Closed>, NodeError> {
    let channels = match fence.stage {
        Stage::Closing => set_aside(node).await?,
        Stage::Sweeping => {
            let keys = node.keys.clone();
            let loaded = move |folder: PathBuf| copy::loaded(&folder, &keys);
            on(node.config.folder.clone(), loaded).await?
        }
        Stage::Searching => Vec::new(),
    };
    node.tell_recovery(fence.starting(&channels));
    let up = node.up(runtime, Purpose::Recover, stop).await?;
    let Some(ldk) = up else {
        return Ok(None);
    };
    let until = stop.child_token();
    let handling = async {
        let handled = events::handle(node, &ldk, ledger, &until).await;
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
            Stage::Closing => closing::watch(node, fence, channels, ledger, &until).await,
            Stage::Sweeping => {
                let swept = sweeping::watch(node, fence, &channels, &ldk, &until).await;
                swept.map(over)
            }
            Stage::Searching => {
                let searched = searching::watch(node, fence, &ldk, &until).await;
                searched.map(over)
            }
        };
        until.cancel();
        is_over
    };
    let looking = chain::keep(node, &ldk, &until);
    let (handled, is_over, ()) = tokio::join!(handling, watching, looking);
    // The status must not show a stopped node, and the next stage has another node.
    node.enter(Phase::Starting);
    stop_node(&ldk).await;
    handled?;
    is_over
}

/// The channels whose monitors are set aside.
async fn set_aside(node: &Node) -> Result<Vec<MonitoredChannel>, NodeError> {
    let keys = node.keys.clone();
    on(node.config.folder.clone(), move |folder| {
        copy::set_aside(&folder, &keys)
    })
    .await
}

impl Fence {
    /// The view of a recovery at the start of a stage.
    fn starting(&self, channels: &[MonitoredChannel]) -> Recovery {
        match self.stage {
            Stage::Closing => self.closing(
                "The node was restored from a backup and starts without its old channels."
                    .to_owned(),
                channels.iter().map(OldChannel::from).collect(),
            ),
            Stage::Sweeping => self.sweeping("The old channels are closed.".to_owned()),
            Stage::Searching => self.searching("The old channels are swept.".to_owned()),
        }
    }

    fn closing(&self, happening: String, channels: Vec<OldChannel>) -> Recovery {
        Recovery {
            stage: CLOSING,
            backup_secs: self.backup_secs,
            happening,
            next: CLOSING_NEXT,
            channels,
        }
    }

    fn sweeping(&self, happening: String) -> Recovery {
        Recovery {
            stage: SWEEPING,
            backup_secs: self.backup_secs,
            happening,
            next: SWEEPING_NEXT,
            channels: Vec::new(),
        }
    }

    fn searching(&self, happening: String) -> Recovery {
        Recovery {
            stage: "searching",
            backup_secs: self.backup_secs,
            happening,
            next: SEARCHING_NEXT,
            channels: Vec::new(),
        }
    }
}

impl From<&MonitoredChannel> for OldChannel {
    fn from(channel: &MonitoredChannel) -> Self {
        Self {
            channel_id: hex::encode(channel.channel_id),
            counterparty: channel.counterparty.clone(),
            funding: channel.funding.to_string(),
            backup_balance_sat: channel.balance_sat,
            closing_txid: None,
            confirmations: 0,
            pays_us_sat: None,
            deadline_height: None,
            is_funded: true,
            moved_to: None,
        }
    }
}

/// Runs a function on the node's folder, on a thread that may wait for the disk.
async fn on<T: Send + 'static>(
    folder: PathBuf,
    work: impl FnOnce(PathBuf) -> Result<T, StateError> + Send + 'static,
) -> Result<T, NodeError> {
    let worked = tokio::task::spawn_blocking(move || work(folder)).await;
    worked
        .map_err(NodeError::Panicked)?
        .map_err(NodeError::State)
}

/// Waits for the next check: after this time, or earlier if the operator requests a chain sync.
/// Returns `false` if told to stop.
async fn look_again(node: &Node, after: Duration, until: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep_until(tokio::time::Instant::now() + after) => true,
        () = node.read_chain.notified() => true,
        () = until.cancelled() => false,
    }
}
