//! How the node is reached: route hints and inbound capacity out of its channels, chosen as LDK chooses them.

use std::collections::BTreeMap;

use bitcoin::secp256k1::PublicKey;
use ldk_node::ChannelDetails;
use lightning::routing::gossip::RoutingFees;
use lightning::routing::router::{RouteHint, RouteHintHop};

use crate::invoice::{Inbound, Reach, Unready};

/// Hints in an invoice: each makes it some 80 characters longer.
const HINTS_MAX: usize = 3;

/// Confirmations after which gossip of a channel may be relied on (BOLT 7: announced at 6).
const ANNOUNCED_CONFIRMATIONS: u32 = 7;

/// What these channels can receive.
pub(super) fn of(channels: &[ChannelDetails]) -> Reach {
    let usable: Vec<_> = channels
        .iter()
        .filter(|channel| channel.is_usable)
        .collect();
    if usable.is_empty() {
        let is_any_ready = channels.iter().any(|channel| channel.is_channel_ready);
        return Reach::Unready(if is_any_ready {
            Unready::PeersOffline
        } else {
            Unready::NoChannel
        });
    }
    let is_announced = usable.iter().any(|channel| {
        channel.is_announced
            && channel
                .confirmations
                .is_some_and(|n| n >= ANNOUNCED_CONFIRMATIONS)
    });
    let hints = if is_announced {
        Vec::new()
    } else {
        hints(&usable)
    };
    if hints.is_empty() && !is_announced {
        // Usable, but the peer has not told yet what it forwards for.
        return Reach::Unready(Unready::NoChannel);
    }
    Reach::Ready(Inbound {
        hints,
        capacity_msat: usable
            .iter()
            .map(|channel| channel.inbound_capacity_msat)
            .sum(),
        htlc_minimum_msat: usable
            .iter()
            .map(|channel| channel.inbound_htlc_minimum_msat)
            .min()
            .unwrap_or(0),
    })
}

/// The best channel of each peer, the largest first.
fn hints(usable: &[&ChannelDetails]) -> Vec<RouteHint> {
    let mut best: BTreeMap<PublicKey, (u64, RouteHintHop)> = BTreeMap::new();
    for channel in usable {
        let Some(hop) = hop(channel) else { continue };
        let capacity = channel.inbound_capacity_msat;
        let entry = best
            .entry(channel.counterparty_node_id)
            .or_insert((capacity, hop.clone()));
        if capacity > entry.0 {
            *entry = (capacity, hop);
        }
    }
    let mut best: Vec<_> = best.into_values().collect();
    best.sort_by_key(|(capacity, _)| std::cmp::Reverse(*capacity));
    best.into_iter()
        .take(HINTS_MAX)
        .map(|(_, hop)| RouteHint(vec![hop]))
        .collect()
}

fn hop(channel: &ChannelDetails) -> Option<RouteHintHop> {
    Some(RouteHintHop {
        src_node_id: channel.counterparty_node_id,
        short_channel_id: channel.inbound_scid_alias.or(channel.short_channel_id)?,
        fees: RoutingFees {
            base_msat: channel.counterparty_forwarding_info_fee_base_msat?,
            proportional_millionths: channel
                .counterparty_forwarding_info_fee_proportional_millionths?,
        },
        cltv_expiry_delta: channel.counterparty_forwarding_info_cltv_expiry_delta?,
        htlc_minimum_msat: Some(channel.inbound_htlc_minimum_msat),
        htlc_maximum_msat: channel.inbound_htlc_maximum_msat,
    })
}
