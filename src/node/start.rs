//! Builds and starts the node, and retries while its chain source is away.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::chain::{ChainSource, bitcoind};
use crate::channel_state::vss::Pass;
use crate::channel_state::vss::Vss;
use crate::channel_state::vss::lease::{Lease, NoLease};
use crate::channel_state::vss::trouble::Trouble;
use crate::protocol::invoice::{Reach, Unready};

use super::build::{Unbuilt, Writing, build};
use super::{Node, NodeError, Phase, Purpose, chain};

/// The first pause after a failed start. It doubles each time, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The usual reason to wait.
const SOURCE: Unready = Unready::ChainSourceUnreachable;

/// The longest pause between two starts.
const RETRY_MAX: Duration = Duration::from_secs(30);

impl Node {
    /// Builds the node; `None` if told to stop before that. Without its bitcoind, a new node would
    /// begin at the first block of the chain, so the build waits for bitcoind.
    pub(super) async fn build(
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
            let (config, told, runtime) = (self.config.clone(), told.clone(), runtime.clone());
            let seed = self.keys.mnemonic();
            let writing = Writing {
                unwritable: self.unwritable.clone(),
                lost: self.lost.clone(),
                claims: Arc::clone(&self.claims),
                pass: self.pass.clone(),
            };
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
        let seed = self.keys.store_seed();
        let mut pause = RETRY_MIN;
        loop {
            let taken = tokio::select! {
                taken = Lease::take(vss, &self.config.folder, is_marked, &seed, pass) => taken,
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
        if let Some(pass) = &self.pass {
            pass.is_troubled(trouble);
        }
        self.wait(None, unready, why, pause, stop).await
    }

    /// The chain source, in the form that ldk-node needs. An error is a reason to wait.
    async fn told(&self) -> Result<chain::Told, String> {
        match &self.config.chain.source {
            ChainSource::Esplora { .. } => {
                let relay = self.chain.relay().ok_or("the relay is not open")?;
                Ok(chain::Told::Esplora(relay.url().to_owned()))
            }
            ChainSource::Electrum(url) => Ok(chain::Told::Electrum(url.clone())),
            ChainSource::Bitcoind(bitcoind) => {
                if chain::is_new(&self.config.folder) {
                    let source = &self.config.chain.source;
                    let complaint = bitcoind::complaint(source, self.config.network).await;
                    complaint.map_or(Ok(()), Err)?;
                }
                let login = bitcoind.login.clone();
                let read = tokio::task::spawn_blocking(move || bitcoind::credentials(&login)).await;
                let credentials = read.map_err(|error| error.to_string())??;
                Ok(chain::Told::Bitcoind(bitcoind.clone(), credentials))
            }
        }
    }

    /// Starts the node, however long its chain source is away; `false` if told to stop before the
    /// node runs. With a relay in front, the chain source is never away.
    pub(super) async fn start(
        &self,
        node: &Arc<ldk_node::Node>,
        stop: &CancellationToken,
    ) -> Result<bool, NodeError> {
        let mut pause = RETRY_MIN;
        loop {
            // The server is checked first, because ldk-node connects when it starts, and can start
            // again only after a stop.
            if matches!(self.config.chain.source, ChainSource::Electrum(_))
                && let Some(why) = tokio::select! {
                    why = bitcoind::complaint(&self.config.chain.source, self.config.network) => why,
                    () = stop.cancelled() => return Ok(false),
                }
            {
                if !self.wait(Some(node), SOURCE, why, &mut pause, stop).await {
                    return Ok(false);
                }
                continue;
            }
            // Another program may by now own the state that the node was built from.
            if let Some(why) = self.lost.borrow().why() {
                return Err(why.into());
            }
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
            let source = &self.config.chain.source;
            let complaint = bitcoind::complaint(source, self.config.network).await;
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
        self.reach.send_replace(Reach::Unready(unready));
        self.waiting(node, why);
        let next = tokio::time::Instant::now() + *pause;
        *pause = (*pause * 2).min(RETRY_MAX);
        tokio::select! {
            () = tokio::time::sleep_until(next) => true,
            () = stop.cancelled() => false,
        }
    }

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
}
