//! Syncs the node with the chain.

use std::sync::Arc;

use tokio::sync::Notify;

use super::chain::source::Chain;
use super::core::Core;
use super::error::NodeUnavailable;
use super::reach::{self, Reachability};
use super::strangers::Strangers;

/// Syncs the node with its chain source.
#[derive(Debug)]
pub(super) struct ChainSync {
    core: Arc<Core>,
    chain: Arc<Chain>,
    reach: Arc<Reachability>,
    strangers: Strangers,
    /// Wakes those who wait for news of the chain, after a sync that the operator requested.
    requested: Notify,
}

impl ChainSync {
    pub(super) fn new(
        core: &Arc<Core>,
        chain: &Arc<Chain>,
        reach: &Arc<Reachability>,
        strangers: &Strangers,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            reach: Arc::clone(reach),
            strangers: strangers.clone(),
            requested: Notify::new(),
        }
    }

    /// The chain source.
    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    /// Syncs with the chain now, instead of at the next interval. This takes as long as the chain
    /// source needs.
    pub(super) async fn now(&self) -> Result<(), NodeUnavailable> {
        self.look_now().await?;
        self.wake();
        Ok(())
    }

    /// Syncs with the chain now, and leaves those asleep who wait for news.
    pub(super) async fn look_now(&self) -> Result<(), NodeUnavailable> {
        let looked = self.look(&self.core.running()?).await;
        looked.map_err(|error| self.chain.unread(error))
    }

    /// Wakes those who wait for news of the chain.
    pub(super) fn wake(&self) {
        self.requested.notify_one();
    }

    /// Waits until the operator requests a sync.
    pub(super) async fn requested(&self) {
        self.requested.notified().await;
    }

    /// Syncs with the chain: fee rates, the outputs that the channels watch, and the wallet.
    pub(super) async fn look(&self, node: &Arc<ldk_node::Node>) -> Result<(), NodeUnavailable> {
        if let Some(relay) = self.chain.relay() {
            relay.look_afresh();
            self.strangers.look_for_fundings(relay).await;
        }
        let (strangers, is_recovering) = (self.strangers.clone(), self.core.is_recovering());
        let (node, clock) = (Arc::clone(node), self.core.clock.clone());
        let folder = self.core.config.folder.clone();
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
            Ok(looked) => looked.map(|reach| self.reach.set(reach)),
            Err(panicked) => Err(NodeUnavailable::Panicked(panicked)),
        };
        self.chain.looked(&looked);
        looked
    }
}
