//! Puts the status of the node together.

use std::sync::{Arc, PoisonError};

use tokio::time::timeout;

use crate::account::ledger::Ledger;
use crate::protocol::invoice::{Reach, Unready};

use super::core::{Phase, READ_MAX};
use super::facets::Node;
use super::status::Status;
use super::{channels, closed};

impl Node {
    /// The current status of the node. While the node waits for its store, its last known status is
    /// shown.
    pub async fn status(self: &Arc<Self>, ledger: &Arc<Ledger>) -> Status {
        let phase = self.core.phase();
        let described = match &phase {
            Phase::Waiting { node, .. } => match node {
                Some(node) => self.described(node, ledger).await,
                None => Status::default(),
            },
            Phase::Running { node, .. } => self.described(node, ledger).await,
            Phase::Starting | Phase::Stopped => Status::default(),
        };
        let (inbound_msat, unready) = match &*self.reach.now() {
            Reach::Ready(inbound) => (inbound.capacity_msat, None),
            Reach::Unready(why) => (0, Some(why.to_string())),
        };
        let mut status = Status {
            network: self.core.config.preset.clone(),
            p2p: self
                .core
                .config
                .listen
                .iter()
                .map(ToString::to_string)
                .collect(),
            inbound_msat,
            unready,
            recovery: self.recovery.current(),
            unclosed_old_channels: self.recovery.left(),
            store: self.writing.pass.as_ref().map(|pass| pass.status()),
            ..described
        };
        let mut waiting = None;
        match phase {
            Phase::Starting => status.phase = "starting".to_owned(),
            Phase::Stopped => status.phase = "stopped".to_owned(),
            Phase::Waiting {
                why, since_secs, ..
            } => {
                status.phase = format!("waiting: {why}");
                status.since_secs = Some(since_secs);
                waiting = Some((since_secs, why));
            }
            Phase::Running { since_secs, .. } => {
                status.running = true;
                let stuck = if status.is_stuck {
                    ", and waits for its store"
                } else {
                    ""
                };
                status.phase = format!("running{stuck}");
                status.since_secs = Some(since_secs);
            }
        }
        status.chain = self.chain.status(status.lightning_synced_secs);
        if let Some((since_secs, why)) = waiting
            && *self.reach.now() == Reach::Unready(Unready::ChainSourceUnreachable)
        {
            status.chain.degraded_since_secs = Some(since_secs);
            status.chain.complaint = Some(why);
        }
        status
    }

    /// The part of the status that ldk-node reports. While ldk-node waits for its store, its last
    /// report is shown.
    async fn described(
        self: &Arc<Self>,
        ldk: &Arc<ldk_node::Node>,
        ledger: &Arc<Ledger>,
    ) -> Status {
        let (node, ldk) = (Arc::clone(self), Arc::clone(ldk));
        let ledger = Arc::clone(ledger);
        let describing = self.core.in_turn(move || {
            let mut status = Status::default();
            node.describe(&ldk, &ledger, &mut status);
            let mut last = node
                .described
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *last = Some(status.clone());
            status
        });
        match timeout(READ_MAX, describing).await {
            Ok(Ok(status)) => return status,
            Ok(Err(error)) => tracing::error!("Reading what the node has panicked: {error}"),
            Err(_) => {}
        }
        let last = self
            .described
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Status {
            is_stuck: true,
            ..last.clone().unwrap_or_default()
        }
    }

    /// Fills in ldk-node's part of the status. Takes locks of the node.
    fn describe(&self, node: &ldk_node::Node, ledger: &Ledger, status: &mut Status) {
        status.described_secs = Some(self.core.clock.unix_secs());
        let ldk = node.status();
        status.node_id = Some(node.node_id().to_string());
        status.block_height = Some(ldk.current_best_block.height);
        status.lightning_synced_secs = ldk.latest_lightning_wallet_sync_timestamp;
        status.onchain_synced_secs = ldk.latest_onchain_wallet_sync_timestamp;
        status.balances = Some(closed::balances(
            node,
            ledger,
            self.core.config.sees_mempool(),
        ));
        status.deposit_address = self.wallet.deposit_address(node);
        status.peers = self.peers.of(node);
        let channels = node.list_channels();
        status.strangers = self.strangers.status(&channels, self.door.as_deref());
        status.channels = channels::shown(&channels, &self.strangers);
    }
}
