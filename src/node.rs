//! The Lightning node: owns ldk-node, starts it under supervision, enters what it receives in the ledger, and tells the
//! minter how it is reached. The node's handle never leaves this room.

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

/// How often the node is asked for its channels besides after each event: a peer that comes back makes no event.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// The same while it cannot be paid: somebody waits.
const REFRESH_UNREADY_EVERY: Duration = Duration::from_millis(50);

/// The node and what is known of it.
#[derive(Debug)]
pub struct Node {
    config: Config,
    keys: NodeKeys,
    clock: Clock,
    /// What the minter reads.
    reach: watch::Sender<Reach>,
    /// Whether the liquidity provider is connected.
    provider_here: watch::Sender<bool>,
    /// How many events were handled: who waits for one looks again when it changes.
    handled: watch::Sender<u64>,
    /// What the operator reads. A `std` mutex: held to copy a few words.
    phase: Mutex<Phase>,
    /// Whether it runs.
    is_running: watch::Sender<bool>,
    /// The deposit address, once it is known. A `std` mutex: held while it is drawn, off the request path.
    deposit: Mutex<Option<String>>,
    /// One further address at a time is drawn and counted. A `std` mutex: held meanwhile, on a thread that may block.
    drawing: Arc<Mutex<()>>,
    /// Channels of peers that the operator did not choose.
    strangers: strangers::Strangers,
    /// Where peers connect to, if they do.
    door: Option<Arc<door::Door>>,
    /// Payments that are claimed on chain. A `std` mutex: held for a look, on a thread that may block.
    contested: Arc<Mutex<contested::Contested>>,
    /// Payments without an invoice that are remembered.
    keysends: keysends::Keysends,
    /// What was made out of the on-chain wallet last.
    coins: coins::Coins,
    /// One withdrawal at a time.
    withdrawing: tokio::sync::Mutex<()>,
    /// Paying, and making invoices by hand: one at a time each.
    turns: payments::Turns,
    /// What is known of its chain source.
    chain: chain::Chain,
    /// Somebody wants another node in this one's place: one with a map of the network, which was put off, or with the monitors of
    /// channels that were closed meanwhile.
    another_wanted: Notify,
    /// What is known of recoveries from a backup.
    recovery: recovery::Progress,
    /// Somebody had the chain read.
    read_chain: Notify,
    /// Counts channels that were opened, became ready or were closed since the start.
    channel_changes: watch::Sender<u64>,
    /// Why its state cannot be written any more, once that is so.
    unwritable: kv_store::Complaint,
    /// Whether there is a reason to write nothing more.
    lost: watch::Sender<Lost>,
    /// Which payments it is claiming.
    claims: Arc<Claims>,
    /// The right to write to the server that keeps the state, if one does.
    pass: Option<Arc<Pass>>,
    /// What of the node is read for the operator is read in turn. It may wait for the node's store, and only one thread with it.
    reading: Arc<tokio::sync::Mutex<()>>,
    /// What was read for the status last. A `std` mutex: held to copy it.
    described: Mutex<Option<Status>>,
}

/// What a node is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To be paid.
    Sell,
    /// To have its old channels closed and swept; it takes no new ones.
    Recover,
}

/// How far the node is.
#[derive(Clone)]
enum Phase {
    /// Not built yet.
    Starting,
    /// Its chain source is away, without which it is not built the first time, or does not start.
    Waiting {
        node: Option<Arc<ldk_node::Node>>,
        why: String,
        since_secs: u64,
    },
    /// Running.
    Running {
        node: Arc<ldk_node::Node>,
        since_secs: u64,
    },
    /// Stopped.
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
    /// A node that is not started yet.
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

    /// Counts channels that were opened, became ready or were closed: each time, the newest backup is out of date.
    pub fn channel_changes(&self) -> watch::Receiver<u64> {
        self.channel_changes.subscribe()
    }

    /// How the node is reached, now and from now on.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// Whether the liquidity provider is connected, now and from now on.
    pub fn provider_here(&self) -> watch::Receiver<bool> {
        self.provider_here.subscribe()
    }

    fn provider_is_here(&self, is_here: bool) {
        self.provider_here
            .send_if_modified(|was_here| std::mem::replace(was_here, is_here) != is_here);
    }

    /// Whether so much could arrive now.
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

    /// Builds the node and starts it; `None` if told to stop before it ran.
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

    /// Reads the chain now, instead of at the next interval. Takes as long as the chain source does.
    pub async fn sync(&self) -> Result<(), NodeUnavailable> {
        let looked = self.look(&self.running()?).await;
        looked.map_err(|error| self.unread(error))?;
        self.read_chain.notify_one();
        Ok(())
    }

    /// Reads the chain: fee rates, what the channels watch for, the wallet.
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
                // Also after another read in the same second.
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

    /// Tells the minter how the node is reached, if that has changed.
    fn reached(&self, reach: Reach) {
        let reach = if self.is_recovering() {
            Reach::Unready(Unready::Recovering)
        } else if self.is_clock_behind() {
            Reach::Unready(Unready::ClockBehind)
        } else if let Some(pass) = self.pass.as_ref().filter(|pass| !pass.is_fresh()) {
            // What is paid would have to be written, and cannot be.
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

/// Only changes between payable and not are worth a line; capacity changes with every sale.
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
