//! How much money has arrived over a channel that a peer has opened.

use ldk_node::ChannelDetails;

/// Our balance in a channel that a peer has opened, where all money was the peer's at first. The
/// reserve that we must keep cannot be sent, but counts.
pub(super) fn arrived_msat(channel: &ChannelDetails) -> u64 {
    let reserve_sat = channel.counterparty_unspendable_punishment_reserve;
    let peers_msat = channel.inbound_capacity_msat + reserve_sat * 1_000;
    (channel.channel_value_sats * 1_000).saturating_sub(peers_msat)
}
