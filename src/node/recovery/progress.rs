//! The state of a recovery, for the operator and for its stages.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::channel_state::copy::{self, Fence, MonitoredChannel, Recovered, Stage, StateError};
use crate::node::chain::source::Chain;
use crate::node::core::Core;
use crate::node::error::NodeError;
use crate::node::sync::ChainSync;

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

/// The names of the stages that wait for events that may never come.
const CLOSING: &str = "closing";
const SWEEPING: &str = "sweeping";

const CLOSING_NEXT: &str = "When a closing has 6 confirmations, the node sweeps what is ours into its wallet; it goes on when all have.";
const SWEEPING_NEXT: &str = "When everything is swept and confirmed, the chain is searched for channels that the backup does not know.";
const SEARCHING_NEXT: &str =
    "After that recovery ends by itself, and selling begins as soon as there is a channel.";

/// Recoveries from a backup: the current one, and what the last one left.
#[derive(Debug)]
pub struct Recoveries {
    pub(in crate::node) core: Arc<Core>,
    pub(super) chain: Arc<Chain>,
    sync: Arc<ChainSync>,
    /// The view of the current recovery, if there is one. A `std` mutex: held to copy a few words.
    told: Mutex<Option<Recovery>>,
    /// Whether the operator does not want to wait for old channels that are not closed.
    is_to_leave: AtomicBool,
    /// The old channels that a recovery left unclosed. A `std` mutex: held to copy them.
    left: Mutex<Vec<OldChannel>>,
    /// The last completed recovery. A `std` mutex: held to copy it.
    last: Mutex<Option<Recovered>>,
}

impl Recoveries {
    pub(in crate::node) fn new(
        core: &Arc<Core>,
        chain: &Arc<Chain>,
        sync: &Arc<ChainSync>,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            sync: Arc::clone(sync),
            told: Mutex::default(),
            is_to_leave: AtomicBool::new(false),
            left: Mutex::default(),
            last: Mutex::default(),
        }
    }

    /// Whether the node recovers from a backup.
    pub fn is_under_way(&self) -> bool {
        self.core.is_recovering()
    }

    /// Lets a recovery continue without old channels that are not closed, or whose closing is not
    /// found. Returns `false` if the recovery does not wait for any channel.
    pub fn leave_unclosed(&self) -> bool {
        let waits = self
            .current()
            .is_some_and(|recovery| [CLOSING, SWEEPING].contains(&recovery.stage));
        if waits {
            self.is_to_leave.store(true, Ordering::Relaxed);
            self.sync.wake();
        }
        waits
    }

    /// The view of the current recovery, if there is one.
    pub(in crate::node) fn current(&self) -> Option<Recovery> {
        let told = self.told.lock();
        told.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows the progress of a recovery in the status, and logs it if it has changed.
    pub(super) fn tell(&self, recovery: Recovery) {
        self.core.recovers(true);
        let told = self.told.lock();
        let mut told = told.unwrap_or_else(PoisonError::into_inner);
        let is_new = told
            .as_ref()
            .is_none_or(|told| told.happening != recovery.happening);
        if is_new {
            tracing::warn!("Recovery: {} {}", recovery.happening, recovery.next);
        }
        *told = Some(recovery);
    }

    /// Notes that no recovery is under way.
    pub(super) fn over(&self) {
        let told = self.told.lock();
        *told.unwrap_or_else(PoisonError::into_inner) = None;
        self.core.recovers(false);
    }

    /// Whether the operator does not want to wait for old channels that are not closed.
    pub(super) fn is_to_leave(&self) -> bool {
        self.is_to_leave.load(Ordering::Relaxed)
    }

    /// Ends the operator's request, because the next stage waits for other events.
    pub(super) fn waits_again(&self) {
        self.is_to_leave.store(false, Ordering::Relaxed);
    }

    /// The old channels that a recovery left unclosed.
    pub(in crate::node) fn left(&self) -> Vec<OldChannel> {
        let left = self.left.lock();
        left.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn leave(&self, left: Vec<OldChannel>) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }

    /// The last completed recovery.
    pub(super) fn last(&self) -> Option<Recovered> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ended(&self, last: Option<Recovered>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// The channels whose monitors are set aside.
    pub(super) async fn set_aside(&self) -> Result<Vec<MonitoredChannel>, NodeError> {
        let keys = self.core.keys.clone();
        on(self.core.config.folder.clone(), move |folder| {
            copy::set_aside(&folder, &keys)
        })
        .await
    }

    /// Waits for the next check: after this time, or earlier if the operator requests a chain sync.
    /// Returns `false` if told to stop.
    pub(super) async fn look_again(&self, after: Duration, until: &CancellationToken) -> bool {
        tokio::select! {
            () = tokio::time::sleep_until(tokio::time::Instant::now() + after) => true,
            () = self.sync.requested() => true,
            () = until.cancelled() => false,
        }
    }
}

impl Fence {
    /// The view of a recovery at the start of a stage.
    pub(super) fn starting(&self, channels: &[MonitoredChannel]) -> Recovery {
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

    pub(super) fn closing(&self, happening: String, channels: Vec<OldChannel>) -> Recovery {
        Recovery {
            stage: CLOSING,
            backup_secs: self.backup_secs,
            happening,
            next: CLOSING_NEXT,
            channels,
        }
    }

    pub(super) fn sweeping(&self, happening: String) -> Recovery {
        Recovery {
            stage: SWEEPING,
            backup_secs: self.backup_secs,
            happening,
            next: SWEEPING_NEXT,
            channels: Vec::new(),
        }
    }

    pub(super) fn searching(&self, happening: String) -> Recovery {
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
pub(super) async fn on<T: Send + 'static>(
    folder: PathBuf,
    work: impl FnOnce(PathBuf) -> Result<T, StateError> + Send + 'static,
) -> Result<T, NodeError> {
    let worked = tokio::task::spawn_blocking(move || work(folder)).await;
    worked
        .map_err(NodeError::Panicked)?
        .map_err(NodeError::State)
}
