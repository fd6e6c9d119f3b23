//! What the operator is told about the node.

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

/// The node, as it is now.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Status {
    /// Whether it runs.
    pub running: bool,
    /// What it does if it does not run, or since when it does.
    pub phase: String,
    /// Since when, Unix seconds.
    pub since_secs: Option<u64>,
    /// The network, as the settings call it.
    pub network: String,
    /// Its id, hex.
    pub node_id: Option<String>,
    /// Where peers connect to.
    pub p2p: Vec<String>,
    /// Its peers, and whether they are connected.
    pub peers: Vec<Peer>,
    /// Its channels.
    pub channels: Vec<Channel>,
    /// What peers may do that the operator did not choose, and what they do.
    pub strangers: StrangersStatus,
    /// Its money.
    pub balances: Option<Balances>,
    /// Where on-chain money is sent to.
    pub deposit_address: Option<String>,
    /// What can arrive now, in msat.
    pub inbound_msat: u64,
    /// Why nothing can be sold now, and what to do; nothing if it can.
    pub unready: Option<String>,
    /// When it last read the chain for its channels, Unix seconds.
    pub lightning_synced_secs: Option<u64>,
    /// When it last read the chain for its wallet, Unix seconds.
    pub onchain_synced_secs: Option<u64>,
    /// The best block that it knows.
    pub block_height: Option<u32>,
    /// What a recovery from a backup is doing, while there is one.
    pub recovery: Option<Recovery>,
    /// Where it reads the chain.
    pub chain: ChainStatus,
    /// Old channels that a recovery went on without, as they were found within the last hour.
    pub unclosed_old_channels: Vec<OldChannel>,
    /// The server that keeps the channels' state, if one does.
    pub store: Option<StoreStatus>,
    /// When its money, peers and channels were as they are shown, Unix seconds.
    pub described_secs: Option<u64>,
    /// Whether it waits for its store, so that these cannot be shown as they are now.
    pub is_stuck: bool,
}

/// A peer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Peer {
    /// Its id, hex.
    pub node_id: String,
    /// Its address.
    pub address: String,
    /// Whether it is connected.
    pub is_connected: bool,
}

/// A channel.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Channel {
    /// Its id, hex.
    pub channel_id: String,
    /// Who is at the other end, hex.
    pub counterparty: String,
    /// Who that is to the operator.
    pub standing: Standing,
    /// Whether nothing is sold over it, because payments could not be claimed on chain with the coins of the wallet.
    pub withheld: bool,
    /// Whether payments can arrive over it now.
    pub usable: bool,
    /// Whether its funding is locked in.
    pub ready: bool,
    /// Whether it is announced to the network.
    pub announced: bool,
    /// Its size, in sat.
    pub capacity_sat: u64,
    /// What can arrive over it, in msat.
    pub inbound_msat: u64,
    /// What can be sent over it, in msat.
    pub outbound_msat: u64,
    /// Confirmations of its funding.
    pub confirmations: u32,
}

impl Node {
    /// What the node is and has now. While it waits for its store, what it has is shown as it was.
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

    /// What ldk-node says of itself; what it said last, if it waits for its store.
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

    /// Takes locks of the node's.
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

    /// The channels that there are.
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

    /// The peers that it knows.
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

/// The peers, with the addresses that they have connected from: ldk-node sees those come from loopback.
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
