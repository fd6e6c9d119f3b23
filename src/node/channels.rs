//! Channel operations of the operator: open, close and splice.

use std::sync::Arc;

use ldk_node::ChannelDetails;
use serde::Serialize;
use utoipa::ToSchema;

use super::channel_error::{AboveChannels, ChannelError};
use super::coins::{Last, total_sat};
use super::core::Core;
use super::operation::{OperationError, refused};
use super::peer_address::PeerAddress;
use super::peers::{dialled, unreachable};
use super::standing::Standing;
use super::strangers::Strangers;
use super::wallet::{FEE, Wallet, above, balance, is_there};
use super::wallet_error::WalletError;

/// The cost of opening a channel in addition to its size.
const FEE_AND_RESERVE: &str = "the fee, and what node.reserve keeps for the channel,";

/// The weight of a commitment transaction with anchors and no payment in flight (BOLT 3).
const COMMITMENT_WEIGHT: u64 = 1_124;

/// The weight that each payment in flight adds to the commitment transaction (BOLT 3).
const HTLC_WEIGHT: u64 = 172;

/// The weight of the transaction that sweeps our balance after the delay: one input with a script
/// path, one output.
const SWEEP_WEIGHT: u64 = 600;

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

/// A channel to be opened.
#[derive(Clone, Debug)]
pub struct ChannelOpening {
    /// The peer.
    pub peer: PeerAddress,
    /// The size in sat. All of it is ours except the pushed amount.
    pub amount_sat: u64,
    /// The amount in msat that the peer gets at the start. The node can receive as much over the
    /// channel.
    pub push_msat: u64,
    /// Whether the channel is announced to the network.
    pub is_announced: bool,
}

/// The cost of force-closing a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ForceCloseCost {
    /// The id of the channel, hex.
    pub channel_id: String,
    /// The amount that comes back, before fees, in sat.
    pub amount_sat: u64,
    /// The number of blocks after the closing is confirmed until the amount can be spent. A block
    /// takes ten minutes on average.
    pub wait_blocks: u16,
    /// The approximate fees of the transactions in sat, at the channel's current fee rate.
    pub fee_sat_about: u64,
    /// Whether the peer is connected. A cooperative close is then possible, and cheaper.
    pub is_peer_connected: bool,
}

/// The channels of the node.
#[derive(Debug)]
pub struct Channels {
    core: Arc<Core>,
    wallet: Arc<Wallet>,
    strangers: Strangers,
}

impl Channels {
    pub(super) fn new(core: &Arc<Core>, wallet: &Arc<Wallet>, strangers: &Strangers) -> Self {
        Self {
            core: Arc::clone(core),
            wallet: Arc::clone(wallet),
            strangers: strangers.clone(),
        }
    }

    /// The node's channels.
    pub async fn list(&self) -> Result<Vec<Channel>, OperationError> {
        let strangers = self.strangers.clone();
        self.core
            .read("list the channels", move |node| {
                Ok(shown(&node.list_channels(), &strangers))
            })
            .await
    }

    /// Opens a channel with money of the on-chain wallet. On return, the request to the peer was
    /// sent. The channel is pending once the funding is broadcast, and the status shows it.
    pub async fn open(&self, opening: ChannelOpening) -> Result<(), ChannelError> {
        self.core.uses_channels().map_err(OperationError::from)?;
        let can_be_announced =
            !self.core.config.alias.is_empty() && !self.core.config.listen.is_empty();
        if opening.is_announced && !can_be_announced {
            return Err(ChannelError::NotAnnounceable);
        }
        self.wallet.check_fee_rate().await?;
        let standings = self.strangers.standings().clone();
        self.wallet
            .spend("open the channel", move |node, coins| {
                if opening.amount_sat == 0 {
                    return Err(WalletError::NoAmount.into());
                }
                is_there(node, opening.amount_sat)?;
                let before_sat = total_sat(node);
                let address = dialled(node, &opening.peer)?;
                standings.choose(opening.peer.node_id);
                let (node_id, sat) = (opening.peer.node_id, opening.amount_sat);
                let push_msat = (opening.push_msat > 0).then_some(opening.push_msat);
                let opened = if opening.is_announced {
                    node.open_announced_channel(node_id, address, sat, push_msat, None)
                } else {
                    node.open_channel(node_id, address, sat, push_msat, None)
                };
                let what = "open the channel (is it too small or too large for the peer?)";
                let channel = opened.map_err(|error| {
                    if error == ldk_node::NodeError::InsufficientFunds {
                        return above(sat, FEE_AND_RESERVE, &balance(node)).into();
                    }
                    unreachable(what, &node_id, error)
                })?;
                coins.note(Last::Opening {
                    channel,
                    before_sat,
                });
                Ok(())
            })
            .await
    }

    /// Closes a channel cooperatively. Its peer must be connected.
    pub async fn close(&self, channel_id: &str) -> Result<(), ChannelError> {
        self.core.uses_channels().map_err(OperationError::from)?;
        let channel_id = channel_id.to_owned();
        self.core
            .operate("close the channel", move |node| {
                let channel = find(node, &channel_id)?;
                let closed =
                    node.close_channel(&channel.user_channel_id, channel.counterparty_node_id);
                Ok(closed.map_err(refused(
                "close the channel in agreement (is the peer connected, and nothing in flight?)",
            ))?)
            })
            .await
    }

    /// The cost of force-closing this channel.
    pub async fn force_close_cost(&self, channel_id: &str) -> Result<ForceCloseCost, ChannelError> {
        let channel_id = channel_id.to_owned();
        self.core
            .read("look at the channel", move |node| {
                let channel = find(node, &channel_id)?;
                let peers = node.list_peers();
                let is_peer = |peer: &&ldk_node::PeerDetails| {
                    peer.node_id == channel.counterparty_node_id && peer.is_connected
                };
                Ok(ForceCloseCost {
                    is_peer_connected: peers.iter().any(|peer| is_peer(&peer)),
                    ..cost(&channel)
                })
            })
            .await
    }

    /// Closes a channel without its peer. Our balance comes back after a delay, and we pay the
    /// fees.
    pub async fn force_close(&self, channel_id: &str) -> Result<(), ChannelError> {
        self.core.uses_channels().map_err(OperationError::from)?;
        let channel_id = channel_id.to_owned();
        self.core
            .operate("close the channel by force", move |node| {
                let channel = find(node, &channel_id)?;
                let closed = node.force_close_channel(
                    &channel.user_channel_id,
                    channel.counterparty_node_id,
                    Some("the operator closed it".to_owned()),
                );
                Ok(closed.map_err(refused("close the channel by force"))?)
            })
            .await
    }

    /// Adds money of the on-chain wallet to a channel, which stays usable meanwhile.
    pub async fn splice_in(&self, channel_id: &str, amount_sat: u64) -> Result<(), ChannelError> {
        self.core.uses_channels().map_err(OperationError::from)?;
        let channel_id = channel_id.to_owned();
        self.wallet.check_fee_rate().await?;
        self.wallet
            .spend("splice in", move |node, coins| {
                if amount_sat == 0 {
                    return Err(WalletError::NoAmount.into());
                }
                let channel = find(node, &channel_id)?;
                if !channel.is_usable {
                    // LDK would wait for the peer, possibly for days, with coins that it selects now.
                    return Err(ChannelError::PeerAway(channel_id));
                }
                is_there(node, amount_sat)?;
                let (id, peer) = (&channel.user_channel_id, channel.counterparty_node_id);
                // Recorded before the peer can answer.
                coins.note(Last::Splicing {
                    channel: channel.channel_id,
                    before_sat: total_sat(node),
                });
                let spliced = node.splice_in(id, peer, amount_sat);
                spliced.map_err(|error| {
                    coins.note(Last::Seen);
                    if error == ldk_node::NodeError::InsufficientFunds {
                        return above(amount_sat, FEE, &balance(node)).into();
                    }
                    refused("splice in (can the peer splice, and is the money confirmed?)")(error)
                        .into()
                })
            })
            .await
    }

    /// Sends money of a channel to an on-chain address. The channel stays usable meanwhile.
    pub async fn splice_out(
        &self,
        channel_id: &str,
        address: &str,
        amount_sat: u64,
    ) -> Result<(), ChannelError> {
        self.core.uses_channels().map_err(OperationError::from)?;
        let address = self.wallet.address(address)?;
        let channel_id = channel_id.to_owned();
        self.core
            .operate("splice out", move |node| {
                if amount_sat == 0 {
                    return Err(WalletError::NoAmount.into());
                }
                let channel = find(node, &channel_id)?;
                let asked_msat = amount_sat.saturating_mul(1_000);
                if asked_msat > channel.outbound_capacity_msat {
                    return Err(AboveChannels {
                        asked_msat,
                        sendable_msat: channel.outbound_capacity_msat,
                    }
                    .into());
                }
                let (id, peer) = (&channel.user_channel_id, channel.counterparty_node_id);
                let spliced = node.splice_out(id, peer, &address, amount_sat);
                Ok(spliced.map_err(refused(
                    "splice out (can the peer splice, and is it connected?)",
                ))?)
            })
            .await
    }
}

/// The channels as the operator sees them.
pub(super) fn shown(channels: &[ChannelDetails], strangers: &Strangers) -> Vec<Channel> {
    let shown = |channel| Channel::of(channel, strangers);
    channels.iter().map(shown).collect()
}

/// Finds the channel with this id, in hex.
fn find(node: &ldk_node::Node, channel_id: &str) -> Result<ChannelDetails, ChannelError> {
    let channels = node.list_channels().into_iter();
    let mut channels = channels.filter(|channel| channel.channel_id.to_string() == channel_id);
    channels
        .next()
        .ok_or_else(|| ChannelError::NoChannel(channel_id.to_owned()))
}

fn cost(channel: &ChannelDetails) -> ForceCloseCost {
    // The opener of a channel pays for its closing. The fee of our sweep is ours in any case.
    let closing_weight = if channel.is_outbound {
        COMMITMENT_WEIGHT + HTLC_WEIGHT
    } else {
        0
    };
    let weight = closing_weight + SWEEP_WEIGHT;
    let rate_per_1000_weight = u64::from(channel.feerate_sat_per_1000_weight);
    ForceCloseCost {
        channel_id: channel.channel_id.to_string(),
        amount_sat: channel.outbound_capacity_msat / 1_000
            + channel.unspendable_punishment_reserve.unwrap_or(0),
        wait_blocks: channel.force_close_spend_delay.unwrap_or(0),
        fee_sat_about: (weight * rate_per_1000_weight).div_ceil(1_000),
        is_peer_connected: false,
    }
}

impl Channel {
    fn of(channel: &ChannelDetails, strangers: &Strangers) -> Self {
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
