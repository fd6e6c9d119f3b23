//! The Lightning node: owns ldk-node, starts it under supervision, enters what it receives in the ledger, and tells the
//! minter how it is reached. The node's handle never leaves this room.

mod address;
mod chain;
mod database;
mod events;
pub mod keys;
mod log;
mod reach;
mod recovery;
pub mod state;
pub mod status;
mod threads;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bitcoin::Network;
use ldk_node::config::{AnchorChannelsConfig, BackgroundSyncConfig, EsploraSyncConfig};
use ldk_node::lightning::ln::msgs::SocketAddress;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use keys::{NodeKeys, SeedError};
pub use recovery::{OldChannel, Recovery};
pub use state::StateError;
pub use status::Status;

use threads::Threads;

use crate::clock::Clock;
use crate::invoice::{Reach, Unready};
use crate::ledger::{Ledger, LedgerError};

/// How often the node is asked for its channels besides after each event: a peer that comes back makes no event.
const REFRESH_EVERY: Duration = Duration::from_secs(1);

/// The same while it cannot be paid: somebody waits.
const REFRESH_UNREADY_EVERY: Duration = Duration::from_millis(50);

/// The first pause after a failed start; doubled each time up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The longest pause between two starts.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What a peer that opens a channel to a node in recovery would have to see reserved on chain: all the bitcoin there will be.
/// ldk-node has no other way to refuse.
const REFUSE_CHANNELS_SATS: u64 = 21_000_000 * 100_000_000;

/// What the node needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network.
    pub network: Network,
    /// Where ldk-node keeps its state.
    pub folder: PathBuf,
    /// What the node is called in gossip; empty for nothing.
    pub alias: String,
    /// Where peers connect to; empty for nowhere.
    pub listen: Vec<SocketAddr>,
    /// Where the chain is read from.
    pub chain: ChainConfig,
}

/// Where the chain is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainConfig {
    /// Base URL of an Esplora API, without a slash at the end.
    pub esplora: String,
    /// Time between two synchronisations; ldk-node's own minimum is 10 s.
    pub sync_interval: Duration,
}

/// Why the node ended when nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its database cannot be made ready.
    #[error("failed to prepare the node's database {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Its folder cannot be made.
    #[error("failed to make the node's folder")]
    Folder(#[source] std::io::Error),
    /// Its state cannot be read or changed.
    #[error(transparent)]
    State(#[from] StateError),
    /// ldk-node cannot be put together from what is on the disk.
    #[error("failed to build the node")]
    Build(#[source] ldk_node::BuildError),
    /// The wallet gives no address to sweep to.
    #[error("failed to draw an address to sweep to")]
    Sweep(#[source] ldk_node::NodeError),
    /// A settlement could not be entered, so it was not acknowledged.
    #[error("failed to enter what the node received")]
    Ledger(#[from] LedgerError),
    /// ldk-node could not note that an event was handled.
    #[error("failed to acknowledge an event of the node")]
    Acknowledge(#[source] ldk_node::NodeError),
    /// It does not start for a reason that waiting does not mend.
    #[error(
        "failed to start the node (is something else listening on node.listen, or the disk full?)"
    )]
    Start(#[source] ldk_node::NodeError),
    /// Its threads cannot be started.
    #[error("failed to start the node's runtime")]
    Runtime(#[source] std::io::Error),
    /// A step of it panicked.
    #[error("the node panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Why the operator's request to the node failed.
#[derive(Debug, thiserror::Error)]
pub enum NodeUnavailable {
    /// It is not running.
    #[error("the node is not running")]
    NotRunning,
    /// It refused.
    #[error("the node refused")]
    Refused(#[from] ldk_node::NodeError),
    /// It panicked.
    #[error("the node panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// The node and what is known of it.
#[derive(Debug)]
pub struct Node {
    config: Config,
    keys: NodeKeys,
    clock: Clock,
    /// What the minter reads.
    reach: watch::Sender<Reach>,
    /// What the operator reads. A `std` mutex: held to copy a few words.
    phase: Mutex<Phase>,
    /// The deposit address, once it is known. A `std` mutex: held while it is drawn, off the request path.
    deposit: Mutex<Option<String>>,
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
    /// Built, but the last start failed.
    Waiting {
        node: Arc<ldk_node::Node>,
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
        Self {
            config,
            keys,
            clock,
            reach,
            phase: Mutex::new(Phase::Starting),
            deposit: Mutex::new(None),
            recovery: Mutex::new(None),
            is_to_leave: AtomicBool::new(false),
            left: Mutex::default(),
            read_chain: Notify::new(),
            channel_changes: watch::channel(0).0,
        }
    }

    /// Counts channels that were opened, became ready or were closed: each time, the newest backup is out of date.
    pub fn channel_changes(&self) -> watch::Receiver<u64> {
        self.channel_changes.subscribe()
    }

    /// The network.
    pub fn network(&self) -> Network {
        self.config.network
    }

    /// Where ldk-node keeps its state.
    pub fn folder(&self) -> &std::path::Path {
        &self.config.folder
    }

    /// The keys.
    pub fn keys(&self) -> &NodeKeys {
        &self.keys
    }

    /// How the node is reached, now and from now on.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
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
        let ended = self.run_on(threads.handle(), ledger, stop).await;
        self.reach.send_replace(Reach::Unready(Unready::Stopping));
        self.enter(Phase::Stopped);
        ended
    }

    async fn run_on(
        &self,
        runtime: tokio::runtime::Handle,
        ledger: Arc<Ledger>,
        stop: CancellationToken,
    ) -> Result<(), NodeError> {
        if !recovery::run(self, &runtime, &ledger, &stop).await? {
            return Ok(());
        }
        let Some(node) = self.up(&runtime, Purpose::Sell, &stop).await? else {
            return Ok(());
        };
        let ended = events::handle(self, &node, &ledger, &stop).await;
        self.reach.send_replace(Reach::Unready(Unready::Stopping));
        stop_node(&node).await;
        ended
    }

    /// Builds the node and starts it; `None` if told to stop before it ran.
    async fn up(
        &self,
        runtime: &tokio::runtime::Handle,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<Option<Arc<ldk_node::Node>>, NodeError> {
        let (config, runtime) = (self.config.clone(), runtime.clone());
        let seed = self.keys.mnemonic();
        let build = tokio::task::spawn_blocking(move || build(&config, purpose, seed, runtime));
        let node = Arc::new(build.await.map_err(NodeError::Panicked)??);
        if node.node_id() != self.keys.payment_keys().node_id() {
            tracing::error!(
                "The node's keys are not the ones that invoices are made with: nothing is sold"
            );
            self.reach
                .send_replace(Reach::Unready(Unready::KeyMismatch));
            self.waiting(&node, Unready::KeyMismatch.to_string());
            stop.cancelled().await;
            return Ok(None);
        }
        Ok(self.start(&node, stop).await?.then_some(node))
    }

    /// Starts the node, however long its chain source is away; `false` if told to stop before it ran.
    async fn start(
        &self,
        node: &Arc<ldk_node::Node>,
        stop: &CancellationToken,
    ) -> Result<bool, NodeError> {
        let mut pause = RETRY_MIN;
        loop {
            let starting = Arc::clone(node);
            let started = tokio::task::spawn_blocking(move || starting.start()).await;
            match started.map_err(NodeError::Panicked)? {
                Ok(()) => {
                    tracing::info!(node.id = %node.node_id(), "The node is running");
                    self.enter(Phase::Running {
                        node: Arc::clone(node),
                        since_secs: self.clock.unix_secs(),
                    });
                    return Ok(true);
                }
                // The only step of a start that needs the world: fee rates from the chain source. Starting again after
                // any other failure would only add to what the first try left running.
                Err(
                    ldk_node::NodeError::FeerateEstimationUpdateFailed
                    | ldk_node::NodeError::FeerateEstimationUpdateTimeout,
                ) => {}
                Err(error) => return Err(NodeError::Start(error)),
            }
            let why = chain::complaint(&self.config.chain.esplora).await;
            tracing::warn!("The node waits for its chain source: {why}. Next try in {pause:?}");
            self.reach
                .send_replace(Reach::Unready(Unready::ChainSourceUnreachable));
            self.waiting(node, why);
            tokio::select! {
                () = tokio::time::sleep_until(tokio::time::Instant::now() + pause) => {}
                () = stop.cancelled() => return Ok(false),
            }
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    fn waiting(&self, node: &Arc<ldk_node::Node>, why: String) {
        let since_secs = match self.phase() {
            Phase::Waiting { since_secs, .. } => since_secs,
            Phase::Starting | Phase::Running { .. } | Phase::Stopped => self.clock.unix_secs(),
        };
        self.enter(Phase::Waiting {
            node: Arc::clone(node),
            why,
            since_secs,
        });
    }

    /// Reads the chain now, instead of at the next interval. Takes as long as the chain source does.
    pub async fn sync(&self) -> Result<(), NodeUnavailable> {
        let node = self.running()?;
        let syncing = tokio::task::spawn_blocking(move || {
            node.sync_wallets()?;
            Ok::<_, NodeUnavailable>(reach::of(&node.list_channels()))
        });
        let reach = syncing.await.map_err(NodeUnavailable::Panicked)??;
        self.reached(reach);
        self.read_chain.notify_one();
        Ok(())
    }

    /// Tells the minter how the node is reached, if that has changed.
    fn reached(&self, reach: Reach) {
        let reach = if self.is_recovering() {
            Reach::Unready(Unready::Recovering)
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

fn build(
    config: &Config,
    purpose: Purpose,
    mnemonic: ldk_node::bip39::Mnemonic,
    runtime: tokio::runtime::Handle,
) -> Result<ldk_node::Node, NodeError> {
    std::fs::create_dir_all(&config.folder).map_err(NodeError::Folder)?;
    database::prepare(&config.folder)?;
    let interval_secs = config.chain.sync_interval.as_secs();
    let mut builder = ldk_node::Builder::from_config(ldk_node::config::Config {
        storage_dir_path: config.folder.to_string_lossy().into_owned(),
        network: config.network,
        // Without a reserve a merchant who owns nothing on chain can be paid; a force-close is then bumped with what
        // there is.
        anchor_channels_config: Some(AnchorChannelsConfig {
            per_channel_reserve_sats: match purpose {
                Purpose::Sell => 0,
                Purpose::Recover => REFUSE_CHANNELS_SATS,
            },
            ..AnchorChannelsConfig::default()
        }),
        ..ldk_node::config::Config::default()
    });
    builder.set_runtime(runtime);
    builder.set_entropy_bip39_mnemonic(mnemonic, None);
    builder.set_chain_source_esplora(
        config.chain.esplora.clone(),
        Some(EsploraSyncConfig {
            background_sync_config: Some(BackgroundSyncConfig {
                onchain_wallet_sync_interval_secs: interval_secs,
                lightning_wallet_sync_interval_secs: interval_secs,
                ..BackgroundSyncConfig::default()
            }),
        }),
    );
    builder.set_custom_logger(Arc::new(log::ToTracing));
    if !config.alias.is_empty() {
        builder
            .set_node_alias(config.alias.clone())
            .map_err(NodeError::Build)?;
    }
    if !config.listen.is_empty() {
        let addresses = config
            .listen
            .iter()
            .map(|address| SocketAddress::from(*address))
            .collect();
        builder
            .set_listening_addresses(addresses)
            .map_err(NodeError::Build)?;
    }
    builder.build().map_err(NodeError::Build)
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
