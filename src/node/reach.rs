//! Route hints and inbound capacity of the node's channels. LDK would hint the three largest
//! channels. Here the operator's own channels come first, so that strangers with larger channels
//! cannot displace them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitcoin::secp256k1::PublicKey;
use ldk_node::ChannelDetails;
use lightning::routing::gossip::RoutingFees;
use lightning::routing::router::{RouteHint, RouteHintHop};
use tokio::sync::watch;

use crate::base::amount::Msat;
use crate::base::clock::Clock;
use crate::base::disk_space;
use crate::channel_state::vss::Pass;
use crate::protocol::invoice::{Inbound, Reach, Unready};

use super::arrived::arrived_msat;
use super::chain::behind;
use super::chain::source::Chain;
use super::core::Core;
use super::standing::Standing;
use super::strangers::Strangers;

/// The maximum number of hints in an invoice. Each makes the invoice about 80 characters longer.
const HINTS_MAX: usize = 3;

/// The number of confirmations after which payers may rely on gossip of a channel (BOLT 7:
/// announced at 6).
const ANNOUNCED_CONFIRMATIONS: u32 = 7;

/// Whether and how payments reach the node, as the minter and the status read it.
#[derive(Debug)]
pub(super) struct Reachability {
    core: Arc<Core>,
    chain: Arc<Chain>,
    /// The right to write to the server that keeps the state; `None` without such a server.
    pass: Option<Arc<Pass>>,
    reach: watch::Sender<Reach>,
}

impl Reachability {
    /// The reach of a node that is not started yet.
    pub(super) fn new(core: &Arc<Core>, chain: &Arc<Chain>, pass: Option<Arc<Pass>>) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            pass,
            reach: watch::channel(Reach::Unready(Unready::Starting)).0,
        }
    }

    /// Subscribes to whether and how payments reach the node.
    pub(super) fn subscribe(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    /// Whether and how payments reach the node now.
    pub(super) fn now(&self) -> watch::Ref<'_, Reach> {
        self.reach.borrow()
    }

    /// Whether the node can receive this amount now.
    pub(super) fn takes(&self, amount_msat: u64) -> bool {
        match (&*self.reach.borrow(), Msat::new(amount_msat)) {
            (Reach::Ready(inbound), Some(amount)) => inbound.takes(amount),
            (Reach::Ready(_) | Reach::Unready(_), _) => false,
        }
    }

    /// Tells the minter that nothing can be paid, and why. Logs nothing.
    pub(super) fn stop(&self, why: Unready) {
        self.reach.send_replace(Reach::Unready(why));
    }

    /// Tells the minter whether and how payments reach the node, if this has changed.
    pub(super) fn set(&self, reach: Reach) {
        let reach = if self.core.is_recovering() {
            Reach::Unready(Unready::Recovering)
        } else if self.chain.is_clock_behind() {
            Reach::Unready(Unready::ClockBehind)
        } else if let Some(pass) = self.pass.as_ref().filter(|pass| !pass.is_fresh()) {
            // Payments would have to be written to the server, which is not possible now.
            Reach::Unready(pass.unready())
        } else {
            reach
        };
        self.reach.send_if_modified(|current| {
            let is_changed = *current != reach;
            if is_changed {
                tell(current, &reach);
                *current = reach;
            }
            is_changed
        });
    }
}

/// Logs when the node becomes able or unable to receive payments. The capacity changes with every
/// sale, so it is not logged.
fn tell(before: &Reach, after: &Reach) {
    match (before, after) {
        (Reach::Unready(_), Reach::Ready(inbound)) => {
            tracing::info!(
                "The node can be paid: {} msat can arrive",
                inbound.capacity_msat
            );
        }
        (_, Reach::Unready(why)) => tracing::warn!("The node cannot be paid: {why}"),
        (Reach::Ready(_), Reach::Ready(_)) => {}
    }
}

/// Whether and how payments reach the node now, over these channels. Checks the free space of the
/// folder's disk.
pub(super) fn now(
    ldk: &ldk_node::Node,
    channels: &[ChannelDetails],
    strangers: &Strangers,
    clock: &Clock,
    folder: &Path,
) -> Reach {
    if !disk_space::sells(folder) {
        return Reach::Unready(Unready::DiskFull);
    }
    let seen_secs = ldk.status().latest_lightning_wallet_sync_timestamp;
    let relied_on: Vec<_> = channels
        .iter()
        .filter(|channel| !strangers.is_withheld(&channel.channel_id))
        .map(|channel| Way {
            tier: Tier::of(channel, strangers.standings().of_channel(channel)),
            channel,
        })
        .collect();
    behind::judged(of(&relied_on), seen_secs, clock.unix_secs())
}

/// The value of a channel for payers that look for a path to the node, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// The operator chose the peer.
    Operators,
    /// The peer is a stranger, and money has arrived over the channel.
    Proven,
    /// The peer is a stranger. Its channel may add to others, and never replaces one.
    Stranger,
}

impl Tier {
    fn of(channel: &ChannelDetails, standing: Standing) -> Self {
        match standing {
            Standing::Trusted | Standing::Chosen => Self::Operators,
            Standing::Stranger if arrived_msat(channel) > 0 => Self::Proven,
            Standing::Stranger => Self::Stranger,
        }
    }
}

/// A channel and its tier.
#[derive(Clone, Copy)]
struct Way<'a> {
    tier: Tier,
    channel: &'a ChannelDetails,
}

/// The reach over these channels.
fn of(ways: &[Way<'_>]) -> Reach {
    let usable: Vec<_> = ways
        .iter()
        .filter(|way| way.channel.is_usable)
        .copied()
        .collect();
    if usable.is_empty() {
        // The operator does not wait for a stranger who is offline.
        let is_waited_for =
            |way: &Way<'_>| way.channel.is_channel_ready && way.tier == Tier::Operators;
        return Reach::Unready(if ways.iter().any(is_waited_for) {
            Unready::PeersOffline
        } else {
            Unready::NoChannel
        });
    }
    let is_announced = |way: &&Way<'_>| {
        let confirmations = way.channel.confirmations;
        way.channel.is_announced && confirmations.is_some_and(|n| n >= ANNOUNCED_CONFIRMATIONS)
    };
    let announced: Vec<_> = usable.iter().filter(is_announced).copied().collect();
    // Private channels are left out of the invoices only if the operator has an announced channel.
    if announced.iter().any(|way| way.tier == Tier::Operators) {
        return ready(Vec::new(), &announced);
    }
    let hints = hints(&usable);
    if hints.is_empty() {
        // The channel is usable, but the peer has not sent its forwarding fees yet.
        return Reach::Unready(Unready::NoChannel);
    }
    let is_hinted = |way: &&Way<'_>| {
        hints
            .iter()
            .any(|hint| hint.0[0].src_node_id == way.channel.counterparty_node_id)
    };
    // A peer forwards over any of its channels with enough room, so all channels of a hinted peer
    // count.
    let findable: Vec<_> = usable.iter().filter(is_hinted).copied().collect();
    ready(hints, &findable)
}

/// The reach over the channels that payers can find. At any time, a channel accepts at most its
/// in-flight limit (by LDK's default a tenth of its size), however much room it has.
fn ready(hints: Vec<RouteHint>, findable: &[Way<'_>]) -> Reach {
    let takes = |way: &Way<'_>| {
        let in_flight_max = way.channel.inbound_htlc_maximum_msat.unwrap_or(u64::MAX);
        way.channel.inbound_capacity_msat.min(in_flight_max)
    };
    let minima = findable
        .iter()
        .map(|way| way.channel.inbound_htlc_minimum_msat);
    Reach::Ready(Inbound {
        hints,
        capacity_msat: findable.iter().map(takes).sum(),
        htlc_minimum_msat: minima.min().unwrap_or(0),
    })
}

/// A hint for the best channel of each peer: the operator's peers first, then the largest channels.
fn hints(usable: &[Way<'_>]) -> Vec<RouteHint> {
    // A better channel has a smaller tier, or more capacity within the same tier.
    let rank = |way: &Way<'_>| {
        (
            way.tier,
            std::cmp::Reverse(way.channel.inbound_capacity_msat),
        )
    };
    let mut best: BTreeMap<PublicKey, (Way<'_>, RouteHintHop)> = BTreeMap::new();
    for way in usable {
        let Some(hop) = hop(way.channel) else {
            continue;
        };
        let entry = best
            .entry(way.channel.counterparty_node_id)
            .or_insert((*way, hop.clone()));
        if rank(way) < rank(&entry.0) {
            *entry = (*way, hop);
        }
    }
    let mut best: Vec<_> = best.into_values().collect();
    best.sort_by_key(|(way, _)| rank(way));
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

/// Channels for tests.
#[cfg(test)]
pub(in crate::node) mod testing {
    use bitcoin::secp256k1::{PublicKey, Secp256k1, SecretKey};
    use ldk_node::config::ChannelConfig;
    use ldk_node::{ChannelDetails, UserChannelId};
    use lightning::ln::types::ChannelId;

    /// The node id of peer `number`.
    pub(in crate::node) fn peer(number: u8) -> PublicKey {
        let secret = SecretKey::from_slice(&[number; 32]).unwrap();
        secret.public_key(&Secp256k1::signing_only())
    }

    /// A usable private channel of this size, with all money on the side of peer `number`.
    pub(in crate::node) fn channel(number: u8, sat: u64) -> ChannelDetails {
        ChannelDetails {
            channel_id: ChannelId([number; 32]),
            counterparty_node_id: peer(number),
            funding_txo: None,
            short_channel_id: Some(u64::from(number)),
            outbound_scid_alias: None,
            inbound_scid_alias: Some(1_000 + u64::from(number)),
            channel_value_sats: sat,
            unspendable_punishment_reserve: None,
            user_channel_id: UserChannelId(u128::from(number)),
            feerate_sat_per_1000_weight: 253,
            outbound_capacity_msat: 0,
            inbound_capacity_msat: sat * 1_000,
            confirmations_required: Some(6),
            confirmations: Some(10),
            is_outbound: false,
            is_channel_ready: true,
            is_usable: true,
            is_announced: false,
            cltv_expiry_delta: Some(144),
            counterparty_unspendable_punishment_reserve: 0,
            counterparty_outbound_htlc_minimum_msat: None,
            counterparty_outbound_htlc_maximum_msat: None,
            counterparty_forwarding_info_fee_base_msat: Some(1_000),
            counterparty_forwarding_info_fee_proportional_millionths: Some(1),
            counterparty_forwarding_info_cltv_expiry_delta: Some(144),
            next_outbound_htlc_limit_msat: 0,
            next_outbound_htlc_minimum_msat: 0,
            force_close_spend_delay: None,
            inbound_htlc_minimum_msat: 1,
            inbound_htlc_maximum_msat: None,
            config: ChannelConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{channel, peer};
    use super::*;

    fn reached(channels: &[(Tier, ChannelDetails)]) -> Reach {
        let ways: Vec<_> = channels
            .iter()
            .map(|(tier, channel)| Way {
                tier: *tier,
                channel,
            })
            .collect();
        of(&ways)
    }

    fn hinted(reach: &Reach) -> Vec<PublicKey> {
        match reach {
            Reach::Ready(inbound) => inbound
                .hints
                .iter()
                .map(|hint| hint.0[0].src_node_id)
                .collect(),
            Reach::Unready(why) => panic!("{why}"),
        }
    }

    #[test]
    fn larger_channels_of_strangers_do_not_push_the_operators_out_of_the_invoices() {
        let mut channels = vec![(Tier::Operators, channel(1, 100_000))];
        channels.extend((2..5).map(|number| (Tier::Stranger, channel(number, 4_000_000))));
        channels.push((Tier::Proven, channel(6, 50_000)));
        let hints = hinted(&reached(&channels));
        assert_eq!(hints[..2], [peer(1), peer(6)]);
        assert_eq!(hints.len(), HINTS_MAX);
    }

    #[test]
    fn a_first_small_payment_proves_a_channel() {
        let unpaid = ChannelDetails {
            counterparty_unspendable_punishment_reserve: 1_000,
            inbound_capacity_msat: 99_000_000,
            ..channel(1, 100_000)
        };
        assert_eq!(Tier::of(&unpaid, Standing::Stranger), Tier::Stranger);
        let paid = ChannelDetails {
            inbound_capacity_msat: 98_990_000,
            ..unpaid
        };
        assert_eq!(arrived_msat(&paid), 10_000);
        assert_eq!(Tier::of(&paid, Standing::Stranger), Tier::Proven);
        assert_eq!(Tier::of(&paid, Standing::Trusted), Tier::Operators);
    }

    #[test]
    fn a_larger_channel_of_the_same_peer_is_its_hint_within_one_tier() {
        let larger = ChannelDetails {
            inbound_scid_alias: Some(77),
            ..channel(1, 200_000)
        };
        let channels = [
            (Tier::Operators, channel(1, 100_000)),
            (Tier::Operators, larger),
        ];
        let Reach::Ready(inbound) = reached(&channels) else {
            panic!("it is reached");
        };
        assert_eq!(inbound.hints[0].0[0].short_channel_id, 77);
        assert_eq!(inbound.capacity_msat, 300_000_000);
    }

    #[test]
    fn an_announced_channel_of_a_stranger_hides_nothing() {
        let announced = ChannelDetails {
            is_announced: true,
            ..channel(2, 21_000)
        };
        let own = (Tier::Operators, channel(1, 2_000_000));
        let reach = reached(&[own.clone(), (Tier::Stranger, announced.clone())]);
        assert_eq!(hinted(&reach), [peer(1), peer(2)]);
        let Reach::Ready(inbound) = reach else {
            panic!("it is reached");
        };
        assert_eq!(inbound.capacity_msat, 2_021_000_000);
        // Payers find the operator's announced channel in the graph, and the stranger's channel
        // adds to it.
        let operators = ChannelDetails {
            is_announced: true,
            ..channel(3, 500_000)
        };
        let reach = reached(&[
            own,
            (Tier::Operators, operators),
            (Tier::Stranger, announced),
        ]);
        let Reach::Ready(inbound) = reach else {
            panic!("it is reached");
        };
        assert_eq!(
            (inbound.hints.len(), inbound.capacity_msat),
            (0, 521_000_000)
        );
    }

    #[test]
    fn a_stranger_who_is_away_is_nobody_that_is_waited_for() {
        let away = |number| ChannelDetails {
            is_usable: false,
            ..channel(number, 100_000)
        };
        let stranger = (Tier::Stranger, away(1));
        assert_eq!(
            reached(std::slice::from_ref(&stranger)),
            Reach::Unready(Unready::NoChannel)
        );
        let proven = (Tier::Proven, away(2));
        assert_eq!(
            reached(&[stranger.clone(), proven]),
            Reach::Unready(Unready::NoChannel)
        );
        let reach = reached(&[stranger, (Tier::Operators, away(2))]);
        assert_eq!(reach, Reach::Unready(Unready::PeersOffline));
    }
}
