//! The Lightning node: owns ldk-node, starts it under supervision, enters what it receives in the ledger, and tells the
//! minter how it is reached. The node's handle never leaves this room.

mod address;
mod build;
mod chain;
mod channels;
mod config;
mod database;
mod error;
mod events;
pub mod keys;
pub mod liquidity;
mod log;
pub mod map;
mod operation;
mod payments;
mod peers;
mod reach;
mod recovery;
pub mod relay;
mod start;
pub mod state;
pub mod status;
mod store;
mod threads;
mod vss;
mod wallet;
mod withdraw;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use address::Drawing;
pub use chain::{
    Bitcoind, CLOCK_OFF_SECS, ChainConfig, ChainSource, ChainStatus, Login, Seen, clock_minutes,
    seen,
};
pub use channels::{ChannelOpening, ForceCloseCost};
pub use config::{Config, Gossip, Reserve};
pub use error::{NodeError, NodeUnavailable};
pub use keys::{NodeKeys, SeedError};
pub use operation::OperationError;
pub use payments::{HandInvoice, Payable, Paying, Payment, Progress};
pub use peers::PeerAddress;
pub use recovery::{OldChannel, Recovery};
pub use state::StateError;
pub use status::Status;
use vss::Lost;
use vss::lease::Pass;
pub use vss::{Headers, MARK as VSS_MARK, Vss};
pub use wallet::{Fee, OnchainAmount, OnchainBalance};
pub use withdraw::{WithdrawConfig, WithdrawError, WithdrawTo, Withdrawal};

use threads::Threads;

use crate::amount::Msat;
use crate::clock::Clock;
use crate::invoice::{Reach, Unready};
use crate::ledger::Ledger;

/// How long a node whose state a server keeps may take to stop, which waits for what is being written: below the time after which
/// supervisors kill.
const STOP_MAX: Duration = Duration::from_secs(30);

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
    /// The deposit address, once it is known. A `std` mutex: held while it is drawn, off the request path.
    deposit: Mutex<Option<String>>,
    /// One further address at a time is drawn and counted. A `std` mutex: held meanwhile, on a thread that may block.
    drawing: Arc<Mutex<()>>,
    /// What is known of its chain source.
    chain: chain::Chain,
    /// Somebody wants a map of the network, which was put off.
    map_wanted: Notify,
    /// What a recovery from a backup is doing, while there is one. A `std` mutex: held to copy a few words.
    recovery: Mutex<Option<Recovery>>,
    /// Whether the operator does not want to wait for old channels that are not closed.
    is_to_leave: AtomicBool,
    /// Old channels that a recovery went on without. A `std` mutex: held to copy a few words.
    left: Mutex<Vec<OldChannel>>,
    /// Somebody had the chain read.
    read_chain: Notify,
    /// Counts channels that were opened, became ready or were closed since the start.
    channel_changes: watch::Sender<u64>,
    /// Why its state cannot be written any more, once that is so.
    unwritable: store::Complaint,
    /// Whether there is a reason to write nothing more.
    lost: watch::Sender<Lost>,
    /// The right to write to the server that keeps the state, while there is a node. A `std` mutex: held to copy it.
    pass: Mutex<Option<Arc<Pass>>>,
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
        Self {
            config,
            keys,
            clock,
            reach,
            provider_here,
            handled: watch::Sender::default(),
            phase: Mutex::new(Phase::Starting),
            deposit: Mutex::new(None),
            drawing: Arc::default(),
            map_wanted: Notify::new(),
            recovery: Mutex::new(None),
            is_to_leave: AtomicBool::new(false),
            left: Mutex::default(),
            read_chain: Notify::new(),
            channel_changes: watch::channel(0).0,
            unwritable: store::Complaint::default(),
            lost: watch::channel(Lost::default()).0,
            pass: Mutex::default(),
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

    /// Builds and starts the node, starts it again as long as its chain source is away, and handles its events until told
    /// to stop. Ends early only by a fault.
    pub async fn run(&self, ledger: Arc<Ledger>, stop: CancellationToken) -> Result<(), NodeError> {
        // Threads of its own: ldk-node waits for its database on them, and requests must not wait with it.
        let threads = Threads::start()?;
        // Also when it ends by a fault, nothing waits for the chain any more.
        let ending = stop.child_token();
        let running = self.rounds(threads.handle(), ledger, &ending);
        let ended = match chain::open(&self.chain, &self.config, &self.clock).await? {
            None => running.await,
            Some((relay, listener)) => tokio::select! {
                ended = running => ended,
                never = relay.run(listener, ending.clone()) => match never {},
            },
        };
        self.reach.send_replace(Reach::Unready(Unready::Stopping));
        self.enter(Phase::Stopped);
        ended
    }

    /// Runs the node, and runs another one in its place when a map of the network is wanted.
    async fn rounds(
        &self,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        stop: &CancellationToken,
    ) -> Result<(), NodeError> {
        loop {
            let round = stop.child_token();
            let running = self.run_on(runtime.clone(), Arc::clone(&ledger), round.clone());
            tokio::pin!(running);
            let ended = tokio::select! {
                ended = &mut running => return ended,
                () = self.map_wanted.notified() => {
                    round.cancel();
                    running.await
                }
            };
            if ended.is_err() || stop.is_cancelled() {
                return ended;
            }
            self.reach.send_replace(Reach::Unready(Unready::Starting));
            // Lets go of the node, whose database the next one opens.
            self.enter(Phase::Starting);
        }
    }

    async fn run_on(
        &self,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        ending: CancellationToken,
    ) -> Result<(), NodeError> {
        // Before anything else opens its database: one that is damaged is left as it is.
        let (folder, vss) = (self.config.folder.clone(), self.config.vss.clone());
        let prepared = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder).map_err(NodeError::Folder)?;
            let is_marked = vss::fits(vss.as_ref(), &folder)?;
            if vss.is_none() {
                database::prepare(&folder)?;
            }
            Ok::<_, NodeError>(is_marked)
        });
        let is_marked = prepared.await.map_err(NodeError::Panicked)??;
        let Some(vss) = &self.config.vss else {
            return self.run_prepared(runtime, ledger, ending).await;
        };
        let Some(lease) = self.lease(vss, is_marked, &ending).await? else {
            return Ok(());
        };
        *self.pass.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease.pass());
        let kept = CancellationToken::new();
        let running = async {
            let ended = self.run_prepared(runtime, ledger, ending).await;
            kept.cancel();
            ended
        };
        let keeping = async {
            if let Err(lost) = lease.keep(&kept).await {
                self.lost.send_replace(lost);
            }
        };
        let (ended, ()) = tokio::join!(running, keeping);
        // A node that was not stopped may still write something.
        if ended.is_ok() {
            lease.give_back().await;
        }
        ended
    }

    async fn run_prepared(
        &self,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        ending: CancellationToken,
    ) -> Result<(), NodeError> {
        if !recovery::run(self, &runtime, &ledger, &ending).await? {
            return Ok(());
        }
        let Some(node) = self.up(&runtime, Purpose::Sell, &ending).await? else {
            return Ok(());
        };
        let handling = async {
            let ended = events::handle(self, &node, &ledger, &ending).await;
            ending.cancel();
            ended
        };
        let withdrawing = async {
            if let Some(config) = &self.config.withdraw {
                self.withdraw(config, &ending).await;
            }
        };
        let watching = chain::keep(self, &node, &ending);
        let (ended, (), ()) = tokio::select! {
            biased;
            why = self.undone() => {
                // LDK panics where it cannot go on, and whoever stops or drops the node after it does, too.
                std::mem::forget(Arc::clone(&node));
                return Err(why);
            }
            ended = async { tokio::join!(handling, watching, withdrawing) } => ended,
        };
        self.reach.send_replace(Reach::Unready(Unready::Stopping));
        if let Err(NodeError::Panicked(_) | NodeError::StateAway) = ended {
            // As above.
            std::mem::forget(node);
            return ended;
        }
        let stopping = stop_node(&node);
        if self.config.vss.is_none() {
            stopping.await;
        } else if timeout(STOP_MAX, stopping).await.is_err() {
            tracing::error!("The node did not stop: its server is away");
            std::mem::forget(node);
            return ended.and(Err(NodeError::StateAway));
        }
        ended
    }

    /// Waits for a reason to end at once, without another write: its state cannot be written, or is another program's.
    async fn undone(&self) -> NodeError {
        let (mut unwritable, mut lost) = (self.unwritable.subscribe(), self.lost.subscribe());
        loop {
            if let Some(why) = unwritable.borrow_and_update().clone() {
                let path = self.config.folder.join(state::FILE);
                return NodeError::Unwritable { path, why };
            }
            if let Some(why) = lost.borrow_and_update().why() {
                return why;
            }
            // The senders are ours.
            tokio::select! {
                _ = unwritable.changed() => {}
                _ = lost.changed() => {}
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
        self.look(&self.running()?).await?;
        self.read_chain.notify_one();
        Ok(())
    }

    /// Reads the chain: fee rates, what the channels watch for, the wallet.
    async fn look(&self, node: &Arc<ldk_node::Node>) -> Result<(), NodeUnavailable> {
        if let Some(relay) = self.chain.relay() {
            relay.look_afresh();
        }
        let (node, clock) = (Arc::clone(node), self.clock.clone());
        let folder = self.config.folder.clone();
        let syncing = tokio::task::spawn_blocking(move || {
            node.sync_wallets()?;
            Ok::<_, NodeUnavailable>(reach::now(&node, &clock, &folder))
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

/// Always before the last handle goes: a running node that is dropped panics.
async fn stop_node(node: &Arc<ldk_node::Node>) {
    let stopping = Arc::clone(node);
    match tokio::task::spawn_blocking(move || stopping.stop()).await {
        Ok(Ok(())) => tracing::info!("The node is stopped"),
        Ok(Err(error)) => tracing::error!("Failed to stop the node: {error}"),
        Err(error) => tracing::error!("Stopping the node panicked: {error}"),
    }
}
