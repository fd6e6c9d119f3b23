//! Builds and starts the node, and retries while its chain source is away.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::chain::{ChainSource, bitcoind};
use crate::channel_state::vss::Pass;
use crate::channel_state::vss::Vss;
use crate::channel_state::vss::lease::{Lease, NoLease};
use crate::channel_state::vss::trouble::Trouble;
use crate::protocol::invoice::Unready;

use super::build::{Unbuilt, build};
use super::chain::source::Chain;
use super::chain::told::{Told, is_new};
use super::core::{Core, Phase, Purpose};
use super::door::Door;
use super::error::NodeError;
use super::reach::Reachability;
use super::writing::Writing;

/// The first pause after a failed start. It doubles each time, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The usual reason to wait.
const SOURCE: Unready = Unready::ChainSourceUnreachable;

/// The longest pause between two starts.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Builds and starts the node.
#[derive(Debug)]
pub(super) struct Starter {
    core: Arc<Core>,
    chain: Arc<Chain>,
    reach: Arc<Reachability>,
    door: Option<Arc<Door>>,
    writing: Writing,
}

impl Starter {
    pub(super) fn new(
        core: &Arc<Core>,
        chain: &Arc<Chain>,
        reach: &Arc<Reachability>,
        door: Option<&Arc<Door>>,
        writing: &Writing,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            reach: Arc::clone(reach),
            door: door.cloned(),
            writing: writing.clone(),
        }
    }

    /// Builds the node and starts it. Returns `None` if told to stop before the node runs.
    pub(super) async fn up(
        &self,
        runtime: &tokio::runtime::Handle,
        purpose: Purpose,
        stop: &CancellationToken,
    ) -> Result<Option<Arc<ldk_node::Node>>, NodeError> {
        let Some(node) = self.build(purpose, runtime.clone(), stop).await? else {
            return Ok(None);
        };
        if node.node_id() != self.core.keys.payment_keys().node_id() {
            tracing::error!(
                "The node's keys are not the ones that invoices are made with: nothing is sold"
            );
            self.reach.stop(Unready::KeyMismatch);
            self.core
                .waiting(Some(&node), Unready::KeyMismatch.to_string());
            stop.cancelled().await;
            return Ok(None);
        }
        Ok(self.start(&node, stop).await?.then_some(node))
    }

    /// Builds the node; `None` if told to stop before that. Without its bitcoind, a new node would
    /// begin at the first block of the chain, so the build waits for bitcoind.
    async fn build(
        &self,
        purpose: Purpose,
        runtime: tokio::runtime::Handle,
        stop: &CancellationToken,
    ) -> Result<Option<Arc<ldk_node::Node>>, NodeError> {
        let mut pause = RETRY_MIN;
        let told = loop {
            let why = match self.told().await {
                Ok(told) => break told,
                Err(why) => why,
            };
            if !self.wait(None, SOURCE, why, &mut pause, stop).await {
                return Ok(None);
            }
        };
        pause = RETRY_MIN;
        loop {
            let (config, told, runtime) = (self.core.config.clone(), told.clone(), runtime.clone());
            let seed = self.core.keys.mnemonic();
            let writing = self.writing.clone();
            let onward = self.door.as_ref().map(|door| door.onward());
            let building = tokio::task::spawn_blocking(move || {
                build(&config, purpose, told, seed, onward, runtime, writing)
            });
            let built = tokio::select! {
                built = building => built,
                // While the server is away, the build itself retries for minutes.
                () = stop.cancelled() => return Ok(None),
            };
            let trouble = match built.map_err(NodeError::Panicked)? {
                Ok(node) => return Ok(Some(Arc::new(node))),
                Err(Unbuilt::Away(trouble)) => trouble,
                Err(Unbuilt::Never(error)) => return Err(error),
            };
            if !self.wait_for_store(trouble, &mut pause, stop).await {
                return Ok(None);
            }
        }
    }

    /// Takes the right to use the server's store, once the server grants it; `None` if told to stop
    /// before that.
    pub(super) async fn lease(
        &self,
        vss: &Vss,
        pass: &Arc<Pass>,
        is_marked: bool,
        stop: &CancellationToken,
    ) -> Result<Option<Lease>, NodeError> {
        let seed = self.core.keys.store_seed();
        let mut pause = RETRY_MIN;
        loop {
            let taken = tokio::select! {
                taken = Lease::take(vss, &self.core.config.folder, is_marked, &seed, pass) => taken,
                () = stop.cancelled() => return Ok(None),
            };
            let trouble = match taken {
                Ok(lease) => return Ok(Some(lease)),
                Err(NoLease::Never(error)) => return Err(error.into()),
                Err(NoLease::Away(trouble)) => trouble,
            };
            if !self.wait_for_store(trouble, &mut pause, stop).await {
                return Ok(None);
            }
        }
    }

    /// Waits until the next request to the server that keeps the state; `false` if told to stop.
    async fn wait_for_store(
        &self,
        trouble: Trouble,
        pause: &mut Duration,
        stop: &CancellationToken,
    ) -> bool {
        let (unready, why) = (trouble.unready(), trouble.to_string());
        if let Some(pass) = &self.writing.pass {
            pass.is_troubled(trouble);
        }
        self.wait(None, unready, why, pause, stop).await
    }

    /// The chain source, in the form that ldk-node needs. An error is a reason to wait.
    async fn told(&self) -> Result<Told, String> {
        match &self.core.config.chain.source {
            ChainSource::Esplora { .. } => {
                let relay = self.chain.relay().ok_or("the relay is not open")?;
                Ok(Told::Esplora(relay.url().to_owned()))
            }
            ChainSource::Electrum(url) => Ok(Told::Electrum(url.clone())),
            ChainSource::Bitcoind(bitcoind) => {
                if is_new(&self.core.config.folder) {
                    let source = &self.core.config.chain.source;
                    let complaint = bitcoind::complaint(source, self.core.config.network).await;
                    complaint.map_or(Ok(()), Err)?;
                }
                let login = bitcoind.login.clone();
                let read = tokio::task::spawn_blocking(move || bitcoind::credentials(&login)).await;
                let credentials = read.map_err(|error| error.to_string())??;
                Ok(Told::Bitcoind(bitcoind.clone(), credentials))
            }
        }
    }

    /// Starts the node, however long its chain source is away; `false` if told to stop before the
    /// node runs. With a relay in front, the chain source is never away.
    async fn start(
        &self,
        node: &Arc<ldk_node::Node>,
        stop: &CancellationToken,
    ) -> Result<bool, NodeError> {
        let mut pause = RETRY_MIN;
        loop {
            // The server is checked first, because ldk-node connects when it starts, and can start
            // again only after a stop.
            if matches!(self.core.config.chain.source, ChainSource::Electrum(_))
                && let Some(why) = tokio::select! {
                    why = bitcoind::complaint(&self.core.config.chain.source, self.core.config.network) => why,
                    () = stop.cancelled() => return Ok(false),
                }
            {
                if !self.wait(Some(node), SOURCE, why, &mut pause, stop).await {
                    return Ok(false);
                }
                continue;
            }
            // Another program may by now own the state that the node was built from.
            if let Some(why) = self.writing.lost.borrow().why() {
                return Err(why.into());
            }
            let starting = Arc::clone(node);
            let started = tokio::task::spawn_blocking(move || starting.start()).await;
            match started.map_err(NodeError::Panicked)? {
                Ok(()) => {
                    tracing::info!(node.id = %node.node_id(), "The node is running");
                    self.core.enter(Phase::Running {
                        node: Arc::clone(node),
                        since_secs: self.core.clock.unix_secs(),
                    });
                    return Ok(true);
                }
                // Only these steps of a start need the network: a connection to an Electrum server,
                // and fee rates from the chain source. After any other failure, a retry would only
                // add to what the first try left running.
                Err(
                    ldk_node::NodeError::ConnectionFailed
                    | ldk_node::NodeError::FeerateEstimationUpdateFailed
                    | ldk_node::NodeError::FeerateEstimationUpdateTimeout,
                ) => {}
                Err(error) => return Err(NodeError::Start(error)),
            }
            let source = &self.core.config.chain.source;
            let complaint = bitcoind::complaint(source, self.core.config.network).await;
            let why =
                complaint.unwrap_or_else(|| "it answers but gave no fee estimates".to_owned());
            if !self.wait(Some(node), SOURCE, why, &mut pause, stop).await {
                return Ok(false);
            }
        }
    }

    /// Waits until the next try; `false` if told to stop.
    async fn wait(
        &self,
        node: Option<&Arc<ldk_node::Node>>,
        unready: Unready,
        why: String,
        pause: &mut Duration,
        stop: &CancellationToken,
    ) -> bool {
        let why = format!("{unready} ({why})");
        tracing::warn!("Next try in {pause:?}: {why}");
        self.reach.stop(unready);
        self.core.waiting(node, why);
        let next = tokio::time::Instant::now() + *pause;
        *pause = (*pause * 2).min(RETRY_MAX);
        tokio::select! {
            () = tokio::time::sleep_until(next) => true,
            () = stop.cancelled() => false,
        }
    }
}
