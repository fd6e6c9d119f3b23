//! How the node is reached: route hints and inbound capacity out of its channels, chosen as LDK chooses them.

use std::collections::BTreeMap;
use std::path::Path;

use bitcoin::secp256k1::PublicKey;
use ldk_node::ChannelDetails;
use lightning::routing::gossip::RoutingFees;
use lightning::routing::router::{RouteHint, RouteHintHop};

use crate::clock::Clock;
use crate::invoice::{Inbound, Reach, Unready};
use crate::room;

use super::chain;

/// Hints in an invoice: each makes it some 80 characters longer.
const HINTS_MAX: usize = 3;

/// Confirmations after which gossip of a channel may be relied on (BOLT 7: announced at 6).
const ANNOUNCED_CONFIRMATIONS: u32 = 7;

/// How the node is reached now. Takes locks of the node's, and looks at the disk that its folder is on.
pub(super) fn now(ldk: &ldk_node::Node, clock: &Clock, folder: &Path) -> Reach {
    if !room::is_there(folder, room::SELL_BYTES) {
        return Reach::Unready(Unready::DiskFull);
    }
    let seen_secs = ldk.status().latest_lightning_wallet_sync_timestamp;
    chain::judged(of(&ldk.list_channels()), seen_secs, clock.unix_secs())
}

/// What these channels can receive.
fn of(channels: &[ChannelDetails]) -> Reach {
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
    let is_known = |channel: &&&ChannelDetails| {
        channel.is_announced
            && channel
                .confirmations
                .is_some_and(|n| n >= ANNOUNCED_CONFIRMATIONS)
    };
    let announced: Vec<_> = usable.iter().filter(is_known).copied().collect();
    if !announced.is_empty() {
        return ready(Vec::new(), &announced);
    }
    let hints = hints(&usable);
    if hints.is_empty() {
        // Usable, but the peer has not told yet what it forwards for.
        return Reach::Unready(Unready::NoChannel);
    }
    let is_hinted = |channel: &&&ChannelDetails| {
        hints
            .iter()
            .any(|hint| hint.0[0].src_node_id == channel.counterparty_node_id)
    };
    // A peer forwards over whichever of its channels has room, so all those of a hinted peer count.
    let findable: Vec<_> = usable.iter().filter(is_hinted).copied().collect();
    ready(hints, &findable)
}

/// What arrives over the channels that payers can find. A channel takes no more at once than it allows in flight (LDK's
/// default is a tenth of its size), however much room it has.
fn ready(hints: Vec<RouteHint>, findable: &[&ChannelDetails]) -> Reach {
    let takes = |channel: &&ChannelDetails| {
        let in_flight_max = channel.inbound_htlc_maximum_msat.unwrap_or(u64::MAX);
        channel.inbound_capacity_msat.min(in_flight_max)
    };
    let minima = findable
        .iter()
        .map(|channel| channel.inbound_htlc_minimum_msat);
    Reach::Ready(Inbound {
        hints,
        capacity_msat: findable.iter().map(takes).sum(),
        htlc_minimum_msat: minima.min().unwrap_or(0),
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
