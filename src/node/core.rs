//! What all parts of the node share: the settings, the keys, the clock, and the handle of ldk-node
//! with its phase.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinError;
use tokio::time::timeout;

use crate::base::clock::Clock;
use crate::keys::NodeKeys;

use super::config::Config;
use super::error::NodeUnavailable;
use super::operation::OperationError;

/// The longest time that an operation waits for a peer or the chain source. ldk-node itself would
/// wait as long as the peer does not answer.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time that a read may take. Reads take milliseconds. They take longer only while the
/// node waits for its store (a disk or the server of node.vss) and holds locks that reads need.
pub(super) const READ_MAX: Duration = Duration::from_millis(1_500);

/// The state that all facets of the node share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) config: Config,
    pub(super) keys: NodeKeys,
    pub(super) clock: Clock,
    /// The phase, which holds the handle of ldk-node. A `std` mutex: held to copy a few words.
    phase: Mutex<Phase>,
    /// Whether the node runs.
    is_running: watch::Sender<bool>,
    /// Whether the node recovers from a backup.
    is_recovering: AtomicBool,
    /// Requests a restart of ldk-node. The reasons are: a payment needs a map of the network,
    /// monitors of closed channels can be loaded, or ldk-node's listener died.
    restart: Notify,
    /// Held during a read for the operator. A read may wait for the node's store, and the lock
    /// ensures that only one thread waits.
    reading: Arc<tokio::sync::Mutex<()>>,
}

/// The purpose that a node is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Receiving payments.
    Sell,
    /// Closing the old channels and sweeping their money. The node accepts no new channels.
    Recover,
}

/// The phases of the node.
#[derive(Clone)]
pub(super) enum Phase {
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

impl Core {
    /// The core of a node that is not started yet.
    pub(super) fn new(config: Config, keys: NodeKeys, clock: Clock) -> Self {
        Self {
            config,
            keys,
            clock,
            phase: Mutex::new(Phase::Starting),
            is_running: watch::Sender::default(),
            is_recovering: AtomicBool::new(false),
            restart: Notify::new(),
            reading: Arc::default(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Enters a phase. The handle of the phase before is dropped.
    pub(super) fn enter(&self, phase: Phase) {
        self.is_running
            .send_replace(matches!(phase, Phase::Running { .. }));
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
    }

    /// Enters the phase of waiting. A node that waits already keeps the time since which it waits.
    pub(super) fn waiting(&self, node: Option<&Arc<ldk_node::Node>>, why: String) {
        let since_secs = match self.phase() {
            Phase::Waiting { since_secs, .. } => since_secs,
            Phase::Starting | Phase::Running { .. } | Phase::Stopped => self.clock.unix_secs(),
        };
        self.enter(Phase::Waiting {
            node: node.cloned(),
            why,
            since_secs,
        });
    }

    /// Subscribes to whether the node runs.
    pub(super) fn is_running(&self) -> watch::Receiver<bool> {
        self.is_running.subscribe()
    }

    /// The handle of ldk-node, if it runs.
    pub(super) fn running(&self) -> Result<Arc<ldk_node::Node>, NodeUnavailable> {
        match self.phase() {
            Phase::Running { node, .. } => Ok(node),
            Phase::Starting | Phase::Waiting { .. } | Phase::Stopped => {
                Err(NodeUnavailable::NotRunning)
            }
        }
    }

    /// Requests a restart of ldk-node.
    pub(super) fn restart(&self) {
        self.restart.notify_one();
    }

    /// Waits for a request to restart ldk-node.
    pub(super) async fn restart_requested(&self) {
        self.restart.notified().await;
    }

    /// Whether the node recovers from a backup.
    pub(super) fn is_recovering(&self) -> bool {
        self.is_recovering.load(Ordering::Relaxed)
    }

    /// Notes whether the node recovers from a backup.
    pub(super) fn recovers(&self, is_recovering: bool) {
        self.is_recovering.store(is_recovering, Ordering::Relaxed);
    }

    /// Fails during a recovery, when channels must not be used.
    pub(super) fn uses_channels(&self) -> Result<(), NodeUnavailable> {
        if self.is_recovering() {
            return Err(NodeUnavailable::Recovering);
        }
        Ok(())
    }

    /// Runs an operation of the node that may wait for the disk, a peer or the chain source. After
    /// a timeout, the operation continues on its own.
    pub(super) async fn operate<T, E>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Arc<ldk_node::Node>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<OperationError> + Send + 'static,
    {
        let node = self.running().map_err(OperationError::from)?;
        let working = tokio::task::spawn_blocking(move || work(&node));
        match timeout(OPERATION_TIMEOUT, working).await {
            Ok(done) => done.map_err(panicked)?,
            Err(_) => Err(E::from(OperationError::Late {
                what,
                within: OPERATION_TIMEOUT,
            })),
        }
    }

    /// Reads from the node within a short time. Changes nothing.
    pub(super) async fn read<T, E>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Arc<ldk_node::Node>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<OperationError> + Send + 'static,
    {
        let node = self.running().map_err(OperationError::from)?;
        let reading = self.in_turn(move || work(&node));
        match timeout(READ_MAX, reading).await {
            Ok(read) => read.map_err(panicked)?,
            Err(_) => Err(E::from(OperationError::Waits(what))),
        }
    }

    /// Runs reads one at a time, on a thread that may block. A read continues even if its caller no
    /// longer waits, and the next read waits for its turn. So at most one thread waits for the
    /// node, however many requests come.
    pub(super) async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = Arc::clone(&self.reading).lock_owned().await;
        let working = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        working.await
    }
}

fn panicked(error: JoinError) -> OperationError {
    NodeUnavailable::Panicked(error).into()
}
