//! The limits that the settings set for strangers' channels. Pure.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use bitcoin::Txid;
use bitcoin::secp256k1::PublicKey;
use ldk_node::ChannelDetails;
use lightning::ln::types::ChannelId;
use tokio::time::Instant;

use crate::chain::esplora::Where;

use super::super::config::PeersConfig;

/// The minimum time between two queries for the same transaction, because one sync may directly
/// follow another.
const ASK_EVERY: Duration = Duration::from_secs(10);

/// The maximum time for a funding transaction to confirm, if it was seen, or if the chain source
/// cannot see it before it confirms.
const CONFIRMED_WITHIN: Duration = Duration::from_secs(86_400);

/// A stranger's channel that waits for its confirmations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// The funding transaction.
    pub(super) funding: Txid,
    /// The peer; `None` for a channel that ended in an earlier run.
    pub(super) peer: Option<PublicKey>,
    /// When the channel became known.
    pub(super) since: Instant,
    /// The last known place of the funding transaction; `None` before the first answer.
    pub(super) seen: Option<Where>,
    /// When the chain source was last asked.
    pub(super) asked: Option<Instant>,
    /// When the chain source last answered.
    pub(super) heard: Option<Instant>,
}

impl Pending {
    pub(super) fn new(funding: Txid, since: Instant) -> Self {
        Self {
            funding,
            peer: None,
            since,
            seen: None,
            asked: None,
            heard: None,
        }
    }

    /// A pending channel of this peer.
    pub(super) fn of(peer: PublicKey, funding: Txid, since: Instant) -> Self {
        Self {
            peer: Some(peer),
            ..Self::new(funding, since)
        }
    }

    /// Whether to ask about the funding transaction now.
    pub(super) fn is_to_be_asked(&self, now: Instant) -> bool {
        let is_due = self.asked.is_none_or(|asked| now >= asked + ASK_EVERY);
        is_due && !self.is_in_a_block()
    }

    /// Notes that the funding transaction is being asked about now, and returns its id.
    pub(super) fn ask(&mut self, now: Instant) -> Txid {
        self.asked = Some(now);
        self.funding
    }

    /// Whether the funding transaction is in a block.
    pub(super) fn is_in_a_block(&self) -> bool {
        self.seen == Some(Where::Block)
    }

    fn is_late(&self, config: &PeersConfig, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since);
        match self.seen {
            Some(Where::Nowhere) => waited >= config.pending_timeout,
            None | Some(Where::Mempool) => waited >= CONFIRMED_WITHIN,
            Some(Where::Block) => false,
        }
    }
}

/// The reason for closing a stranger's channel; it is sent to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// Strangers may not open channels.
    NotAnyone,
    /// The channel is too small.
    TooSmall(u64),
    /// The channel is too large.
    TooLarge(u64),
    /// Too many channels of strangers are pending.
    Pending(usize),
    /// Too many channels of this peer are pending.
    PendingOfPeer(usize),
    /// Strangers have too many channels.
    Channels(usize),
    /// This peer has too many channels.
    ChannelsOfPeer(usize),
    /// The peers of this network have too many channels.
    ChannelsOfNetwork(usize),
    /// The funding transaction was not seen, or did not confirm, in time.
    Unfunded,
    /// The coins are reserved for a channel that the operator buys.
    CoinsForBought,
    /// The peer has not named the funding transaction in time.
    NotBegun,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnyone => {
                f.write_str("this node accepts channels only from peers that its operator selected")
            }
            Self::TooSmall(sat) => write!(f, "this node takes channels of {sat} sat or more"),
            Self::TooLarge(sat) => write!(f, "this node takes channels of {sat} sat at most"),
            Self::Pending(max) => write!(
                f,
                "{max} channels of strangers wait for confirmations already"
            ),
            Self::PendingOfPeer(max) => {
                write!(
                    f,
                    "{max} channels of this peer wait for confirmations already"
                )
            }
            Self::Channels(max) => write!(f, "this node has {max} channels of strangers already"),
            Self::ChannelsOfPeer(max) => write!(f, "this peer has {max} channels already"),
            Self::ChannelsOfNetwork(max) => {
                write!(f, "the peers of this network have {max} channels already")
            }
            Self::CoinsForBought => {
                f.write_str("this node has too few coins on chain for another channel with anchors")
            }
            Self::NotBegun => {
                f.write_str("the funding transaction of this channel was not named in time")
            }
            Self::Unfunded => {
                f.write_str("the transaction that funds this channel was not seen in time")
            }
        }
    }
}

/// Updates the pending channels, and returns those that ended before they became ready.
pub(super) fn follow(
    pending: &mut HashMap<ChannelId, Pending>,
    theirs: &[&ChannelDetails],
    now: Instant,
) -> Vec<(ChannelId, Pending)> {
    let of_id: HashMap<_, _> = theirs.iter().map(|it| (it.channel_id, *it)).collect();
    let gone = pending.extract_if(|id, _| of_id.get(id).is_none_or(|it| it.is_channel_ready));
    let gone: Vec<_> = gone.filter(|(id, _)| !of_id.contains_key(id)).collect();
    for channel in theirs.iter().filter(|it| !it.is_channel_ready) {
        let Some(funding) = channel.funding_txo else {
            continue;
        };
        let begun = || Pending::of(channel.counterparty_node_id, funding.txid, now);
        let entry = pending.entry(channel.channel_id).or_insert_with(begun);
        if channel.confirmations.is_some_and(|n| n > 0) {
            entry.seen = Some(Where::Block);
        }
    }
    gone
}

/// The channels that exceed the limits, and why. Ready channels stay, and so do the oldest pending
/// ones.
pub(super) fn beyond<'a>(
    config: &PeersConfig,
    theirs: &[&'a ChannelDetails],
    pending: &HashMap<ChannelId, Pending>,
    network: impl Fn(&PublicKey) -> Option<IpAddr>,
    now: Instant,
) -> Vec<(&'a ChannelDetails, Beyond)> {
    let mut counts = Counts::default();
    for channel in theirs.iter().filter(|it| it.is_channel_ready) {
        counts.add(channel, &network);
    }
    let mut waiting: Vec<_> = theirs
        .iter()
        .filter_map(|channel| Some((*channel, pending.get(&channel.channel_id)?)))
        .collect();
    // Channels that arrived at the same moment keep a fixed order.
    waiting.sort_by_key(|(channel, it)| (it.since, channel.user_channel_id.0));
    let mut beyond = Vec::new();
    for (channel, it) in waiting {
        let why = one(config, channel, it, now).or_else(|| counts.why(config, channel, &network));
        match why {
            Some(why) => beyond.push((channel, why)),
            None => {
                counts.add(channel, &network);
                counts.wait(channel);
            }
        }
    }
    beyond
}

/// The limit that a channel exceeds on its own, regardless of other channels.
fn one(
    config: &PeersConfig,
    channel: &ChannelDetails,
    pending: &Pending,
    now: Instant,
) -> Option<Beyond> {
    let sat = channel.channel_value_sats;
    if !config.anyone_opens {
        Some(Beyond::NotAnyone)
    } else if sat < config.channel_min_sat {
        Some(Beyond::TooSmall(config.channel_min_sat))
    } else if sat > config.channel_max_sat {
        Some(Beyond::TooLarge(config.channel_max_sat))
    } else if pending.is_late(config, now) {
        Some(Beyond::Unfunded)
    } else {
        None
    }
}

/// The numbers of channels that stay, in all and by group.
#[derive(Default)]
struct Counts {
    all: usize,
    waiting: usize,
    of_peer: HashMap<PublicKey, usize>,
    waiting_of_peer: HashMap<PublicKey, usize>,
    of_network: HashMap<IpAddr, usize>,
}

impl Counts {
    fn add(&mut self, channel: &ChannelDetails, network: impl Fn(&PublicKey) -> Option<IpAddr>) {
        let peer = channel.counterparty_node_id;
        self.all += 1;
        *self.of_peer.entry(peer).or_default() += 1;
        if let Some(network) = network(&peer) {
            *self.of_network.entry(network).or_default() += 1;
        }
    }

    fn wait(&mut self, channel: &ChannelDetails) {
        self.waiting += 1;
        *self
            .waiting_of_peer
            .entry(channel.counterparty_node_id)
            .or_default() += 1;
    }

    /// The limit that this channel would exceed, if it stayed as well.
    fn why(
        &self,
        config: &PeersConfig,
        channel: &ChannelDetails,
        network: impl Fn(&PublicKey) -> Option<IpAddr>,
    ) -> Option<Beyond> {
        let peer = channel.counterparty_node_id;
        let of_peer = |counts: &HashMap<_, _>| counts.get(&peer).copied().unwrap_or(0);
        let of_network = network(&peer).and_then(|network| self.of_network.get(&network));
        if of_peer(&self.waiting_of_peer) >= config.pending_per_peer {
            Some(Beyond::PendingOfPeer(config.pending_per_peer))
        } else if of_peer(&self.of_peer) >= config.channels_per_peer {
            Some(Beyond::ChannelsOfPeer(config.channels_per_peer))
        } else if of_network.is_some_and(|count| *count >= config.channels_per_network) {
            Some(Beyond::ChannelsOfNetwork(config.channels_per_network))
        } else if self.waiting >= config.pending_max {
            Some(Beyond::Pending(config.pending_max))
        } else if self.all >= config.channels_max {
            Some(Beyond::Channels(config.channels_max))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;

    use super::super::super::reach::testing::{channel, peer};
    use super::super::testing::config;
    use super::*;

    /// A channel of peer `number` that waits for confirmations.
    fn waiting(number: u8, sat: u64) -> ChannelDetails {
        ChannelDetails {
            is_channel_ready: false,
            is_usable: false,
            confirmations: None,
            funding_txo: Some(bitcoin::OutPoint::new(
                Txid::from_byte_array([number; 32]),
                0,
            )),
            ..channel(number, sat)
        }
    }

    /// The numbers of the channels that are closed this long after they began to wait, and why.
    fn closed(
        config: &PeersConfig,
        channels: &[ChannelDetails],
        seen: Option<Where>,
        after: Duration,
    ) -> Vec<(u8, Beyond)> {
        let theirs: Vec<_> = channels.iter().collect();
        let (mut pending, began) = (HashMap::new(), Instant::now());
        follow(&mut pending, &theirs, began);
        for it in pending.values_mut() {
            it.seen = seen;
        }
        let now = began + after;
        let beyond = beyond(config, &theirs, &pending, |_| None, now);
        beyond
            .into_iter()
            .map(|(channel, why)| (channel.channel_id.0[0], why))
            .collect()
    }

    #[test]
    fn of_channels_that_wait_the_newest_beyond_the_bounds_are_closed() {
        let config = config();
        let channels: Vec<_> = (1..=5).map(|number| waiting(number, 100_000)).collect();
        let soon = Duration::ZERO;
        assert_eq!(
            closed(&config, &channels, Some(Where::Nowhere), soon),
            [(4, Beyond::Pending(3)), (5, Beyond::Pending(3))]
        );
        let second = ChannelDetails {
            channel_id: ChannelId([9; 32]),
            user_channel_id: ldk_node::UserChannelId(9),
            ..waiting(1, 100_000)
        };
        assert_eq!(
            closed(
                &config,
                &[waiting(1, 100_000), second],
                Some(Where::Block),
                soon
            ),
            [(9, Beyond::PendingOfPeer(1))]
        );
    }

    #[test]
    fn those_that_are_ready_count_and_stay() {
        let config = config();
        let mut channels: Vec<_> = (1..=6).map(|number| channel(number, 1_000)).collect();
        channels.push(waiting(7, 100_000));
        assert_eq!(
            closed(&config, &channels, Some(Where::Block), Duration::ZERO),
            [(7, Beyond::Channels(5))]
        );
    }

    #[test]
    fn too_small_too_large_and_unasked_for_are_closed() {
        let soon = Duration::ZERO;
        let closed = |config: &PeersConfig, sat| {
            let channels = [waiting(1, sat)];
            let found = super::tests::closed(config, &channels, None, soon);
            found.into_iter().map(|(_, why)| why).next()
        };
        let anyone = config();
        assert_eq!(closed(&anyone, 19_999), Some(Beyond::TooSmall(20_000)));
        assert_eq!(
            closed(&anyone, 1_000_001),
            Some(Beyond::TooLarge(1_000_000))
        );
        assert_eq!(closed(&anyone, 20_000), None);
        let nobody = PeersConfig {
            anyone_opens: false,
            ..config()
        };
        assert_eq!(closed(&nobody, 20_000), Some(Beyond::NotAnyone));
    }

    #[test]
    fn a_funding_that_nobody_sees_is_waited_for_minutes_and_one_that_is_seen_for_a_day() {
        let (minutes, day) = (Duration::from_secs(600), Duration::from_secs(86_400));
        let just_before = |span: Duration| span - Duration::from_secs(1);
        for (seen, limit) in [
            (Some(Where::Nowhere), minutes),
            (Some(Where::Mempool), day),
            (None, day),
        ] {
            let channels = [waiting(1, 100_000)];
            assert_eq!(closed(&config(), &channels, seen, just_before(limit)), []);
            assert_eq!(
                closed(&config(), &channels, seen, limit),
                [(1, Beyond::Unfunded)]
            );
        }
        let channels = [waiting(1, 100_000)];
        assert_eq!(
            closed(&config(), &channels, Some(Where::Block), day * 9),
            []
        );
    }

    #[test]
    fn the_peers_of_one_network_have_a_share() {
        let config = config();
        let mut channels: Vec<_> = (1..=4).map(|number| channel(number, 100_000)).collect();
        channels.push(waiting(5, 100_000));
        let theirs: Vec<_> = channels.iter().collect();
        let mut pending = HashMap::new();
        follow(&mut pending, &theirs, Instant::now());
        let one = |_: &PublicKey| Some(IpAddr::from([192, 0, 2, 0]));
        let found = beyond(&config, &theirs, &pending, one, Instant::now());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].1, Beyond::ChannelsOfNetwork(4));
        let other = |it: &PublicKey| {
            let last = if *it == peer(5) { 3 } else { 2 };
            Some(IpAddr::from([192, 0, last, 0]))
        };
        assert!(beyond(&config, &theirs, &pending, other, Instant::now()).is_empty());
    }
}
