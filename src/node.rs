//! The Lightning node. This module owns ldk-node, starts and supervises it, and records the
//! payments that it receives in the ledger. It also tells the minter how payers reach the node. No
//! other module gets the handle of ldk-node.

mod address;
mod build;
mod chain;
mod channels;
pub mod closed;
mod coins;
mod config;
mod contested;
mod deposits;
mod door;
mod error;
mod events;
mod invoices;
mod keysends;
pub mod liquidity;
mod log;
pub mod made;
pub mod map;
mod operation;
mod panics;
mod pay_to;
mod payments;
mod peers;
mod reach;
mod recovery;
mod run;
mod standing;
mod start;
pub mod status;
mod stop;
mod strangers;
mod threads;
mod wallet;
mod withdraw;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::account::ledger::Claims;
use crate::base::amount::Msat;
use crate::base::clock::Clock;
use crate::channel_state::kv_store;
use crate::channel_state::vss::{Lost, Pass};
use crate::keys::NodeKeys;
use crate::protocol::invoice::{Reach, Unready};

pub use address::Drawing;
pub use chain::{CLOCK_OFF_SECS, ChainStatus, clock_minutes};
pub use channels::{ChannelOpening, ForceCloseCost};
pub use config::{Config, Gossip, PeersConfig, RESERVE_SAT, Reserve};
pub use error::{NodeError, NodeUnavailable};
pub use invoices::HandInvoice;
pub use operation::{CoinsInUse, OperationError};
pub use payments::{Payable, Paying, Payment, Progress, Sending};
pub use peers::{PeerAddress, host_and_port, node_id};
pub use recovery::{OldChannel, Recovery};
pub use standing::Standing;
pub use status::Status;
pub use strangers::StrangersStatus;
pub use wallet::{Fee, OnchainAmount, OnchainBalance, SentOnchain};
pub use withdraw::{WithdrawConfig, WithdrawError, WithdrawTo, Withdrawal};

/// How often the event loop reads the channels, besides after each event. The node gets no event
/// when a peer reconnects.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// The interval of these reads while the node cannot receive payments, because clients are waiting.
const REFRESH_UNREADY_EVERY: Duration = Duration::from_millis(50);

/// The Lightning node and its current state.
#[derive(Debug)]
pub struct Node {
    config: Config,
    keys: NodeKeys,
    clock: Clock,
    /// Whether and how payments reach the node. The minter reads this.
    reach: watch::Sender<Reach>,
    /// Whether the liquidity provider is connected.
    provider_here: watch::Sender<bool>,
    /// The number of handled events. A task that waits for an event checks again when this number
    /// changes.
    handled: watch::Sender<u64>,
    /// The phase, which the status shows. A `std` mutex: held to copy a few words.
    phase: Mutex<Phase>,
    /// Whether the node runs.
    is_running: watch::Sender<bool>,
    /// The deposit address, once it is known. A `std` mutex: held while the address is drawn, off
    /// the request path.
    deposit: Mutex<Option<String>>,
    /// Held while another address is drawn and counted, so that only one is drawn at a time. A
    /// `std` mutex: held on a thread that may block.
    drawing: Arc<Mutex<()>>,
    /// The channels of peers that the operator did not choose.
    strangers: strangers::Strangers,
    /// The door that lets peers connect; `None` if `node.listen` is empty.
    door: Option<Arc<door::Door>>,
    /// The payments that the node claims on chain. A `std` mutex: held for one check, on a thread
    /// that may block.
    contested: Arc<Mutex<contested::Contested>>,
    /// The records of payments without an invoice (keysend).
    keysends: keysends::Keysends,
    /// The last transaction that was made from the on-chain wallet.
    coins: coins::Coins,
    /// Held during a withdrawal, so that only one runs at a time.
    withdrawing: tokio::sync::Mutex<()>,
    /// The locks that allow one payment and one manual invoice at a time.
    turns: payments::Turns,
    /// The state of the chain source.
    chain: chain::Chain,
    /// Requests a restart of ldk-node. The reasons are: a payment needs a map of the network,
    /// monitors of closed channels can be loaded, or ldk-node's listener died.
    another_wanted: Notify,
    /// The progress of a recovery from a backup.
    recovery: recovery::Progress,
    /// Wakes a recovery: the operator requested a chain sync, or does not want to wait any longer.
    read_chain: Notify,
    /// The number of times that a channel was opened, became ready or was closed since the start.
    channel_changes: watch::Sender<u64>,
    /// The reason why the node's state can no longer be written, once this is the case.
    unwritable: kv_store::Complaint,
    /// The reason to stop all writes, if there is one.
    lost: watch::Sender<Lost>,
    /// The payments that the node is claiming.
    claims: Arc<Claims>,
    /// The right to write to the server that keeps the state; `None` without such a server.
    pass: Option<Arc<Pass>>,
    /// Held during a read for the operator. A read may wait for the node's store, and the lock
    /// ensures that only one thread waits.
    reading: Arc<tokio::sync::Mutex<()>>,
    /// The node's part of the last status. A `std` mutex: held to copy it.
    described: Mutex<Option<Status>>,
}

/// The purpose that a node is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Receiving payments.
    Sell,
    /// Closing the old channels and sweeping their money. The node accepts no new channels.
    Recover,
}

/// The phases of the node.
#[derive(Clone)]
enum Phase {
    /// The node is not built yet.
    Starting,
    /// The node waits, usually for its chain source. Without the chain source, a new node cannot be
    /// built, and no node starts.
    Waiting {
        node: Option<Arc<ldk_node::Node>>,
        why: String,
        since_secs: u64,
    },
    /// The node runs.
    Running {
        node: Arc<ldk_node::Node>,
        since_secs: u64,
    },
    /// The node has stopped.
    Stopped,
}

impl std::fmt::Debug for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "Starting",
            Self::Waiting { .. } => "Waiting",
            Self::Running { .. } => "Running",
            Self::Stopped => "Stopped",
        })
    }
}

impl Node {
    /// Creates a node that is not started yet.
    pub fn new(config: Config, keys: NodeKeys, clock: Clock) -> Self {
        let (reach, _) = watch::channel(Reach::Unready(Unready::Starting));
        let (provider_here, _) = watch::channel(false);
        let vss = config.vss.as_ref();
        let pass = vss.map(|vss| Arc::new(Pass::of(vss, clock.clone())));
        Self {
            strangers: strangers::Strangers::of(&config, &keys),
            door: door::Door::of(&config).map(Arc::new),
            contested: Arc::default(),
            keysends: keysends::Keysends::new(config.peers.keysends_max, &config.folder),
            config,
            keys,
            clock,
            reach,
            provider_here,
            handled: watch::Sender::default(),
            phase: Mutex::new(Phase::Starting),
            is_running: watch::Sender::default(),
            deposit: Mutex::new(None),
            drawing: Arc::default(),
            coins: coins::Coins::default(),
            withdrawing: tokio::sync::Mutex::default(),
            turns: payments::Turns::default(),
            another_wanted: Notify::new(),
            recovery: recovery::Progress::default(),
            read_chain: Notify::new(),
            channel_changes: watch::channel(0).0,
            unwritable: crate::channel_state::kv_store::Complaint::default(),
            lost: watch::channel(Lost::default()).0,
            claims: Arc::default(),
            pass,
            reading: Arc::default(),
            described: Mutex::default(),
            chain: chain::Chain::default(),
        }
    }

    /// Subscribes to the number of times that a channel was opened, became ready or was closed.
    /// After each change the newest backup is out of date.
    pub fn channel_changes(&self) -> watch::Receiver<u64> {
        self.channel_changes.subscribe()
    }

    /// Subscribes to whether and how payments reach the node.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// Subscribes to whether the liquidity provider is connected.
    pub fn provider_here(&self) -> watch::Receiver<bool> {
        self.provider_here.subscribe()
    }

    fn provider_is_here(&self, is_here: bool) {
        self.provider_here
            .send_if_modified(|was_here| std::mem::replace(was_here, is_here) != is_here);
    }

    /// Whether the node can receive this amount now.
    fn takes(&self, amount_msat: u64) -> bool {
        match (&*self.reach.borrow(), Msat::new(amount_msat)) {
            (Reach::Ready(inbound), Some(amount)) => inbound.takes(amount),
            (Reach::Ready(_) | Reach::Unready(_), _) => false,
        }
    }

    fn phase(&self) -> Phase {
        self.phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn enter(&self, phase: Phase) {
        self.is_running
            .send_replace(matches!(phase, Phase::Running { .. }));
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    fn running(&self) -> Result<Arc<ldk_node::Node>, NodeUnavailable> {
        match self.phase() {
            Phase::Running { node, .. } => Ok(node),
            Phase::Starting | Phase::Waiting { .. } | Phase::Stopped => {
                Err(NodeUnavailable::NotRunning)
            }
        }
    }

    /// Builds the node and starts it. Returns `None` if told to stop before the node runs.
    async fn up(
        &self,
        runtime: &tokio::runtime::Handle,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<Option<Arc<ldk_node::Node>>, NodeError> {
        let Some(node) = self.build(purpose, runtime.clone(), stop).await? else {
            return Ok(None);
        };
        if node.node_id() != self.keys.payment_keys().node_id() {
            tracing::error!(
                "The node's keys are not the ones that invoices are made with: nothing is sold"
            );
            self.reach
                .send_replace(Reach::Unready(Unready::KeyMismatch));
            self.waiting(Some(&node), Unready::KeyMismatch.to_string());
            stop.cancelled().await;
            return Ok(None);
        }
        Ok(self.start(&node, stop).await?.then_some(node))
    }

    /// Syncs with the chain now, instead of at the next interval. This takes as long as the chain
    /// source needs.
    pub async fn sync(&self) -> Result<(), NodeUnavailable> {
        let looked = self.look(&self.running()?).await;
        looked.map_err(|error| self.unread(error))?;
        self.read_chain.notify_one();
        Ok(())
    }

    /// Syncs with the chain: fee rates, the outputs that the channels watch, and the wallet.
    async fn look(&self, node: &Arc<ldk_node::Node>) -> Result<(), NodeUnavailable> {
        if let Some(relay) = self.chain.relay() {
            relay.look_afresh();
            self.strangers.look_for_fundings(relay).await;
        }
        let (strangers, is_recovering) = (self.strangers.clone(), self.is_recovering());
        let (node, clock) = (Arc::clone(node), self.clock.clone());
        let folder = self.config.folder.clone();
        let syncing = tokio::task::spawn_blocking(move || {
            node.sync_wallets()?;
            let channels = node.list_channels();
            if !is_recovering {
                // Compares the coins with the channels again, even after another sync in the same
                // second.
                strangers.coins_changed();
                strangers.withhold(&node, &channels);
            }
            Ok::<_, NodeUnavailable>(reach::now(&node, &channels, &strangers, &clock, &folder))
        });
        let looked = match syncing.await {
            Ok(looked) => looked.map(|reach| self.reached(reach)),
            Err(panicked) => Err(NodeUnavailable::Panicked(panicked)),
        };
        self.looked(&looked);
        looked
    }

    /// Tells the minter whether and how payments reach the node, if this has changed.
    fn reached(&self, reach: Reach) {
        let reach = if self.is_recovering() {
            Reach::Unready(Unready::Recovering)
        } else if self.is_clock_behind() {
            Reach::Unready(Unready::ClockBehind)
        } else if let Some(pass) = self.pass.as_ref().filter(|pass| !pass.is_fresh()) {
            // Payments would have to be written to the server, which is not possible now.
            Reach::Unready(pass.unready())
        } else {
            reach
        };
        self.reach.send_if_modified(|current| {
            let is_changed = *current != reach;
            if is_changed {
                tell(current, &reach);
                *current = reach;
            }
            is_changed
        });
    }
}

/// Logs when the node becomes able or unable to receive payments. The capacity changes with every
/// sale, so it is not logged.
fn tell(before: &Reach, after: &Reach) {
    match (before, after) {
        (Reach::Unready(_), Reach::Ready(inbound)) => {
            tracing::info!(
                "The node can be paid: {} msat can arrive",
                inbound.capacity_msat
            );
        }
        (_, Reach::Unready(why)) => tracing::warn!("The node cannot be paid: {why}"),
        (Reach::Ready(_), Reach::Ready(_)) => {}
    }
}
