//! The status of the node for the operator.

use std::sync::{Arc, PoisonError};

use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::account::ledger::Ledger;
use crate::channel_state::vss::StoreStatus;
use crate::protocol::invoice::{Reach, Unready};

use super::closed::Balances;
use super::door::Door;
use super::operation::{OperationError, READ_MAX};
use super::strangers::Strangers;
use super::{
    ChainStatus, Node, OldChannel, Phase, Recovery, Standing, StrangersStatus, address, closed,
};

/// The current status of the node.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Status {
    /// Whether the node runs.
    pub running: bool,
    /// The node's phase, in words.
    pub phase: String,
    /// The time since which the node runs or waits, Unix seconds.
    pub since_secs: Option<u64>,
    /// The network's name in the settings.
    pub network: String,
    /// The node id, hex.
    pub node_id: Option<String>,
    /// The addresses on which the node accepts peers.
    pub p2p: Vec<String>,
    /// The node's peers, and whether they are connected.
    pub peers: Vec<Peer>,
    /// The node's channels.
    pub channels: Vec<Channel>,
    /// The limits for peers that the operator did not choose, and their current use.
    pub strangers: StrangersStatus,
    /// The node's money.
    pub balances: Option<Balances>,
    /// The address for on-chain deposits.
    pub deposit_address: Option<String>,
    /// The amount that can arrive now, in msat.
    pub inbound_msat: u64,
    /// The reason why nothing can be sold now, and the remedy; `None` while the node can sell.
    pub unready: Option<String>,
    /// The time when the node last read the chain for its channels, Unix seconds.
    pub lightning_synced_secs: Option<u64>,
    /// The time when the node last read the chain for its wallet, Unix seconds.
    pub onchain_synced_secs: Option<u64>,
    /// The height of the best block that the node knows.
    pub block_height: Option<u32>,
    /// The progress of a recovery from a backup, while there is one.
    pub recovery: Option<Recovery>,
    /// The chain source.
    pub chain: ChainStatus,
    /// Old channels that a recovery left unclosed, as found within the last hour.
    pub unclosed_old_channels: Vec<OldChannel>,
    /// The server that keeps the channels' state, if there is one.
    pub store: Option<StoreStatus>,
    /// The time when money, peers and channels were read, Unix seconds.
    pub described_secs: Option<u64>,
    /// Whether the node waits for its store, so that money, peers and channels may be out of date.
    pub is_stuck: bool,
}

/// A peer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Peer {
    /// The peer's node id, hex.
    pub node_id: String,
    /// The peer's address.
    pub address: String,
    /// Whether the peer is connected.
    pub is_connected: bool,
}

/// A channel.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Channel {
    /// The channel's id, hex.
    pub channel_id: String,
    /// The peer's node id, hex.
    pub counterparty: String,
    /// The standing of the channel's peer.
    pub standing: Standing,
    /// Whether nothing is sold over the channel, because the wallet's coins cannot pay for claiming
    /// its payments on chain.
    pub withheld: bool,
    /// Whether payments can arrive over the channel now.
    pub usable: bool,
    /// Whether the channel's funding is locked in.
    pub ready: bool,
    /// Whether the channel is announced to the network.
    pub announced: bool,
    /// The channel's size, in sat.
    pub capacity_sat: u64,
    /// The amount that can arrive over the channel, in msat.
    pub inbound_msat: u64,
    /// The amount that can be sent over the channel, in msat.
    pub outbound_msat: u64,
    /// The number of confirmations of the channel's funding.
    pub confirmations: u32,
}

impl Node {
    /// The current status of the node. While the node waits for its store, its last known status is
    /// shown.
    pub async fn status(self: &Arc<Self>, ledger: &Arc<Ledger>) -> Status {
        let phase = self.phase();
        let described = match &phase {
            Phase::Waiting { node, .. } => match node {
                Some(node) => self.described(node, ledger).await,
                None => Status::default(),
            },
            Phase::Running { node, .. } => self.described(node, ledger).await,
            Phase::Starting | Phase::Stopped => Status::default(),
        };
        let (inbound_msat, unready) = match &*self.reach.borrow() {
            Reach::Ready(inbound) => (inbound.capacity_msat, None),
            Reach::Unready(why) => (0, Some(why.to_string())),
        };
        let mut status = Status {
            network: self.config.preset.clone(),
            p2p: self.config.listen.iter().map(ToString::to_string).collect(),
            inbound_msat,
            unready,
            recovery: self.recovery(),
            unclosed_old_channels: self.left_channels(),
            store: self.pass.as_ref().map(|pass| pass.status()),
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
        status.chain = self.chain_status(status.lightning_synced_secs);
        if let Some((since_secs, why)) = waiting
            && *self.reach.borrow() == Reach::Unready(Unready::ChainSourceUnreachable)
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
        let describing = self.in_turn(move || {
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
        status.described_secs = Some(self.clock.unix_secs());
        let ldk = node.status();
        status.node_id = Some(node.node_id().to_string());
        status.block_height = Some(ldk.current_best_block.height);
        status.lightning_synced_secs = ldk.latest_lightning_wallet_sync_timestamp;
        status.onchain_synced_secs = ldk.latest_onchain_wallet_sync_timestamp;
        status.balances = Some(closed::balances(node, ledger, self.sees_mempool()));
        let mut deposit = self.deposit.lock().unwrap_or_else(PoisonError::into_inner);
        if deposit.is_none() {
            let (folder, relay) = (&self.config.folder, self.chain.relay());
            *deposit = address::deposit(folder, self.config.network, node, relay.map(Arc::as_ref));
        }
        status.deposit_address.clone_from(&deposit);
        drop(deposit);
        status.peers = shown_peers(node, self.door.as_deref());
        let channels = node.list_channels();
        status.strangers = self.strangers.status(&channels, self.door.as_deref());
        let shown = |it| Channel::of(it, &self.strangers);
        status.channels = channels.iter().map(shown).collect();
    }

    /// The node's channels.
    pub async fn channels(&self) -> Result<Vec<Channel>, OperationError> {
        let strangers = self.strangers.clone();
        self.read("list the channels", move |node| {
            let channels = node.list_channels();
            Ok(channels
                .iter()
                .map(|it| Channel::of(it, &strangers))
                .collect())
        })
        .await
    }

    /// The peers that the node knows.
    pub async fn peers(&self) -> Result<Vec<Peer>, OperationError> {
        let door = self.door.clone();
        self.read("list the peers", move |node| {
            Ok(shown_peers(node, door.as_deref()))
        })
        .await
    }
}

impl From<&ldk_node::PeerDetails> for Peer {
    fn from(peer: &ldk_node::PeerDetails) -> Self {
        Self {
            node_id: peer.node_id.to_string(),
            address: peer.address.to_string(),
            is_connected: peer.is_connected,
        }
    }
}

/// The peers with the addresses that they connected from. For ldk-node, they all connect from
/// loopback.
fn shown_peers(node: &ldk_node::Node, door: Option<&Door>) -> Vec<Peer> {
    let address = |peer: &ldk_node::PeerDetails| {
        let door = door.filter(|_| peer.is_connected)?;
        door.address_of(&peer.node_id)
    };
    let shown = |peer: &ldk_node::PeerDetails| match address(peer) {
        None => Peer::from(peer),
        Some(address) => Peer {
            address: address.to_string(),
            ..Peer::from(peer)
        },
    };
    node.list_peers().iter().map(shown).collect()
}

impl Channel {
    fn of(channel: &ldk_node::ChannelDetails, strangers: &Strangers) -> Self {
        Self {
            channel_id: channel.channel_id.to_string(),
            counterparty: channel.counterparty_node_id.to_string(),
            standing: strangers.standings().of_channel(channel),
            withheld: strangers.is_withheld(&channel.channel_id),
            usable: channel.is_usable,
            ready: channel.is_channel_ready,
            announced: channel.is_announced,
            capacity_sat: channel.channel_value_sats,
            inbound_msat: channel.inbound_capacity_msat,
            outbound_msat: channel.outbound_capacity_msat,
            confirmations: channel.confirmations.unwrap_or(0),
        }
    }
}
