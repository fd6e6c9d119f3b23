//! Channels of strangers: peers that the operator neither trusts nor chose. LDK accepts a channel
//! from any peer that asks. So this module limits their number, including pending ones, and their
//! size. It also makes sure that the wallet's coins suffice to claim a payment over each.
//!
//! ldk-node accepts a channel without a prior check. So Tollhouse closes a channel that exceeds the
//! limits while it is pending. It is usable, and can carry a payment, only after six confirmations.

mod abandoned;
mod bounds;
mod claims;
mod fundings;
mod types;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::Txid;
use bitcoin::secp256k1::PublicKey;
use ldk_node::{ChannelDetails, Event};
use lightning::events::ClosureReason;
use lightning::ln::types::ChannelId;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::chain::esplora::Relay;
use crate::keys::NodeKeys;

use super::config::{Config, PeersConfig, Reserve};
use super::door::{Door, Violation};
use super::liquidity::builder;
use super::standing::{Standing, Standings};
use abandoned::Abandoned;
use bounds::{Beyond, Pending};
use types::{Covered, Types};

/// The maximum time between a stranger's request for a channel and its funding transaction.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// The message that ldk-node sends when it refuses a channel at once.
const REFUSED: &str = "Channel request rejected";

/// The strangers' channels and the limits on them. Clones share the state.
#[derive(Clone, Debug)]
pub(super) struct Strangers {
    config: Arc<PeersConfig>,
    /// The coins that each anchor channel needs, in sat.
    reserve_sat: u64,
    /// The providers, if a channel that the operator buys from them also needs these coins.
    bought: Option<Arc<Vec<PublicKey>>>,
    standings: Standings,
    /// A `std` mutex: held to compare a few hundred channels, never across an await or a node call.
    state: Arc<Mutex<State>>,
    /// The types of the channels. A `std` mutex: held on a thread that may block, to read monitors.
    types: Arc<Mutex<Types>>,
}

/// The state of the strangers' channels.
#[derive(Debug)]
struct State {
    /// Requested channels without a funding transaction, and when they were requested.
    pub(super) unbegun: HashMap<ChannelId, Instant>,
    /// Channels that wait for their confirmations.
    pub(super) pending: HashMap<ChannelId, Pending>,
    /// Channels with payments that the wallet's coins cannot claim on chain.
    pub(super) withheld: HashSet<ChannelId>,
    /// The last comparison of the channels with the coins.
    pub(super) covered: Option<Covered>,
    /// Channels that the node is closing.
    pub(super) closing: HashSet<ChannelId>,
    /// Channels that could not be closed, and when closing them was tried.
    pub(super) not_closed: HashMap<ChannelId, Instant>,
    /// The funding transactions of the existing channels.
    pub(super) real: HashSet<Txid>,
    /// Channels that ended before their funding transaction was seen.
    pub(super) abandoned: Abandoned,
    /// Channels that have been pending or ready and are not closed yet. If any other channel
    /// closes, a backup is not out of date.
    pub(super) known: HashSet<ChannelId>,
    /// The number of channels that were closed for exceeding the limits, since the start.
    pub(super) closed: u64,
}

/// The limits on strangers, and the current numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct StrangersStatus {
    /// Whether any peer may open a channel, or only those that the operator trusts or has dialled.
    pub anyone_opens: bool,
    /// The number of peers that the settings trust, including the liquidity providers.
    pub trusted: usize,
    /// The number of strangers' channels that wait for confirmations.
    pub pending: usize,
    /// The maximum number of strangers' channels that may wait at once.
    pub pending_max: usize,
    /// The number of all strangers' channels.
    pub channels: usize,
    /// The maximum number of strangers' channels.
    pub channels_max: usize,
    /// The number of channels closed for exceeding these limits, since the start.
    pub closed: u64,
    /// The number of channels that sell nothing, because coins to claim payments on chain are
    /// missing.
    pub withheld: usize,
    /// The number of connections to the Lightning listener.
    pub connections: usize,
    /// The maximum number of connections to the Lightning listener.
    pub connections_max: usize,
    /// The number of connections turned away or cut because of the limits, since the start.
    pub connections_refused: u64,
    /// Whether strangers without a confirmed channel are blocked, after too many violations.
    pub shut_out: bool,
    /// The current fault of the Lightning listener, if it has one.
    pub listener_fault: Option<String>,
}

impl Strangers {
    /// Builds the limits from these settings and from the files of earlier runs.
    pub(super) fn of(config: &Config, keys: &NodeKeys) -> Self {
        let reserve_sat = builder::anchors(config).per_channel_reserve_sats;
        let providers: Vec<_> = config.liquidity.providers().map(|it| it.node_id).collect();
        let is_wanted = matches!(config.reserve, Reserve::PerChannel { .. });
        Self {
            config: Arc::new(config.peers.clone()),
            bought: (is_wanted && !providers.is_empty()).then(|| Arc::new(providers)),
            reserve_sat,
            standings: Standings::of(config),
            types: Arc::new(Mutex::new(Types::of(config, keys))),
            state: Arc::new(Mutex::new(State::new(&config.folder))),
        }
    }

    /// The standings of the peers.
    pub(super) fn standings(&self) -> &Standings {
        &self.standings
    }

    /// Whether sales over this channel are withheld.
    pub(super) fn is_withheld(&self, channel: &ChannelId) -> bool {
        self.state().withheld.contains(channel)
    }

    /// Notes the channels that a node has when it starts.
    pub(super) fn started(&self, channels: &[ChannelDetails]) {
        let known = channels.iter().filter(|it| it.funding_txo.is_some());
        self.state().known.extend(known.map(|it| it.channel_id));
    }

    /// Whether this event changes the channels, so that a backup is out of date. Only a channel
    /// that was once pending or ready counts: a peer may request a channel and hang up at will.
    pub(super) fn changes_channels(&self, event: &Event) -> bool {
        match event {
            Event::ChannelPending {
                channel_id,
                counterparty_node_id,
                funding_txo,
                ..
            } => {
                let mut state = self.state();
                state.known.insert(*channel_id);
                // The peer may close the channel before the next check of the channels.
                if self.standings.of_peer(counterparty_node_id) == Standing::Stranger {
                    let (peer, now) = (*counterparty_node_id, Instant::now());
                    let pending = Pending::of(peer, funding_txo.txid, now);
                    state.pending.entry(*channel_id).or_insert(pending);
                }
                true
            }
            Event::ChannelReady { channel_id, .. } => {
                self.state().known.insert(*channel_id);
                true
            }
            Event::ChannelClosed { channel_id, .. } => self.state().known.remove(channel_id),
            Event::SplicePending { .. } => true,
            Event::PaymentReceived { .. }
            | Event::PaymentSuccessful { .. }
            | Event::PaymentFailed { .. }
            | Event::PaymentForwarded { .. }
            | Event::PaymentClaimable { .. }
            | Event::SpliceFailed { .. } => false,
        }
    }

    /// Checks the channels against the limits, and closes those that exceed them. Takes locks of
    /// the node.
    pub(super) fn enforce(
        &self,
        ldk: &ldk_node::Node,
        channels: &[ChannelDetails],
        door: Option<&Door>,
        relay: Option<&Relay>,
    ) {
        self.close_beyond(ldk, channels, door, relay);
        self.withhold(ldk, channels);
    }

    fn close_beyond(
        &self,
        ldk: &ldk_node::Node,
        channels: &[ChannelDetails],
        door: Option<&Door>,
        relay: Option<&Relay>,
    ) {
        let network = |peer: &_| door.and_then(|door| door.network_of(peer));
        let theirs: Vec<_> = self.theirs(channels).collect();
        self.note_types(ldk, channels, &theirs);
        let now = Instant::now();
        let (before, mut beyond) = {
            let mut state = self.state();
            let before = state.left_out(now);
            let ended = bounds::follow(&mut state.pending, &theirs, now);
            // A peer that closes its own pending channel leaves as much data behind as a peer whose
            // channel is closed here. Both count as violations.
            let unfunded = ended.iter().filter(|(_, it)| !it.is_in_a_block());
            let unstruck = unfunded.filter(|(id, _)| !state.closing.contains(id));
            if let Some(door) = door {
                unstruck
                    .filter_map(|(_, it)| it.peer)
                    .for_each(|peer| door.strike(&peer, Violation::Channel));
            }
            // Only the relay can leave transactions out, so the list is kept only with a relay.
            if relay.is_some() {
                state.abandoned.add(ended);
            }
            state.know(channels);
            let beyond = bounds::beyond(&self.config, &theirs, &state.pending, network, now);
            (before, beyond)
        };
        beyond.extend(self.beyond_coins(ldk, channels));
        beyond.extend(self.unbegun(channels, now));
        for (channel, why) in &beyond {
            if self.close(ldk, channel, why)
                && let Some(door) = door
            {
                door.strike(&channel.counterparty_node_id, Violation::Channel);
            }
        }
        let left_out = self.state().left_out(now);
        if let Some(relay) = relay.filter(|_| left_out != before) {
            relay.leave_out(left_out);
        }
    }

    /// Strangers' channels whose funding transaction was not named in time. LDK waits for fifty
    /// peers at once, and then accepts no more.
    fn unbegun<'a>(
        &self,
        channels: &'a [ChannelDetails],
        now: Instant,
    ) -> Vec<(&'a ChannelDetails, Beyond)> {
        let theirs = channels.iter().filter(|it| {
            it.funding_txo.is_none() && self.standings.of_channel(it) == Standing::Stranger
        });
        let theirs: Vec<_> = theirs.collect();
        let mut state = self.state();
        let unbegun = theirs.iter().map(|it| {
            let since = state.unbegun.get(&it.channel_id).copied();
            (it.channel_id, since.unwrap_or(now))
        });
        state.unbegun = unbegun.collect();
        let is_late = |it: &&ChannelDetails| now >= state.unbegun[&it.channel_id] + BEGUN_WITHIN;
        let late = theirs.into_iter().filter(is_late);
        late.map(|it| (it, Beyond::NotBegun)).collect()
    }

    /// Closes a channel that carries no payments yet and holds no money of this node. Returns
    /// whether it did.
    fn close(&self, ldk: &ldk_node::Node, channel: &ChannelDetails, why: &Beyond) -> bool {
        let id = channel.channel_id;
        if !self.state().closing.insert(id) {
            return false;
        }
        let peer = channel.counterparty_node_id;
        let reason = Some(why.to_string());
        if let Err(error) = ldk.force_close_channel(&channel.user_channel_id, peer, reason) {
            tracing::warn!(channel.id = %id, "Failed to close channel {id} of a stranger: {error}");
            self.state().closing.remove(&id);
            return false;
        }
        // The log gets at most one line for each channel that the peer has opened.
        tracing::info!(channel.id = %id, "Closed channel {id} of peer {peer}: {why}");
        self.state().closed += 1;
        true
    }

    /// The strangers' channels among these.
    fn theirs<'a>(
        &'a self,
        channels: &'a [ChannelDetails],
    ) -> impl Iterator<Item = &'a ChannelDetails> {
        let is_theirs = |channel: &&ChannelDetails| {
            channel.funding_txo.is_some()
                && self.standings.of_channel(channel) == Standing::Stranger
        };
        channels.iter().filter(is_theirs)
    }

    /// Returns whether a peer's connection is never cut to make room. A stranger's channel counts
    /// from its first confirmation: it has cost a transaction, and needs both sides to become
    /// ready.
    pub(super) fn keeps(&self, channels: &[ChannelDetails]) -> impl Fn(&PublicKey) -> bool {
        let is_funded = |it: &&ChannelDetails| it.is_channel_ready || it.confirmations > Some(0);
        let funded = channels.iter().filter(is_funded);
        let kept: HashSet<_> = funded.map(|it| it.counterparty_node_id).collect();
        move |peer| self.standings.of_peer(peer) != Standing::Stranger || kept.contains(peer)
    }

    /// Counts a violation by a stranger whose channel ended without a funding transaction, which no
    /// other limit covers. LDK derives two wallet addresses for each, which ldk-node never reuses.
    pub(super) fn given_up(&self, event: &Event, door: &Door) {
        let Event::ChannelClosed {
            counterparty_node_id: Some(peer),
            reason,
            ..
        } = event
        else {
            return;
        };
        if self.standings.of_peer(peer) != Standing::Stranger {
            return;
        }
        match reason {
            // A channel that exceeded the limits was already counted when it was closed.
            Some(ClosureReason::HolderForceClosed { message, .. }) if message == REFUSED => {
                door.strike(peer, Violation::Refused);
            }
            Some(
                ClosureReason::DisconnectedPeer
                | ClosureReason::CounterpartyForceClosed { .. }
                | ClosureReason::ProcessingError { .. }
                | ClosureReason::FundingTimedOut,
            ) => door.strike(peer, Violation::Channel),
            // Other reasons belong to channels with a funding transaction. LDK repeats those after
            // a restart.
            Some(_) | None => {}
        }
    }

    /// The state of the strangers' channels and of the listener, for the operator.
    pub(super) fn status(
        &self,
        channels: &[ChannelDetails],
        door: Option<&Door>,
    ) -> StrangersStatus {
        let theirs: Vec<_> = self.theirs(channels).collect();
        let state = self.state();
        let doors = door.map(Door::status).unwrap_or_default();
        StrangersStatus {
            anyone_opens: self.config.anyone_opens,
            trusted: self.standings.trusted_count(),
            pending: theirs.iter().filter(|it| !it.is_channel_ready).count(),
            pending_max: self.config.pending_max,
            channels: theirs.len(),
            channels_max: self.config.channels_max,
            closed: state.closed,
            withheld: state.withheld.len(),
            connections: doors.connections,
            connections_max: self.config.connections_max,
            connections_refused: doors.refused,
            shut_out: doors.is_shut,
            listener_fault: doors.fault,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn types(&self) -> MutexGuard<'_, Types> {
        self.types.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The state at the start, with the channels of earlier runs from this folder.
    fn new(folder: &Path) -> Self {
        Self {
            unbegun: HashMap::new(),
            pending: HashMap::new(),
            withheld: HashSet::new(),
            covered: None,
            closing: HashSet::new(),
            not_closed: HashMap::new(),
            real: HashSet::new(),
            abandoned: Abandoned::read(folder),
            known: HashSet::new(),
            closed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use bitcoin::hashes::Hash as _;
    use bitcoin::{Network, OutPoint};
    use ldk_node::UserChannelId;

    use super::super::reach::testing::{channel, peer};
    use super::*;

    fn strangers() -> (tempfile::TempDir, Strangers) {
        let folder = tempfile::tempdir().unwrap();
        let keys = NodeKeys::open(&folder.path().join("seed.words"), Network::Regtest).unwrap();
        let strangers = Strangers {
            config: Arc::new(testing::config()),
            reserve_sat: 25_000,
            bought: None,
            standings: Standings::in_folder(folder.path(), Vec::new()),
            types: Arc::new(Mutex::new(Types::in_folder(folder.path(), &keys))),
            state: Arc::new(Mutex::new(State::new(folder.path()))),
        };
        (folder, strangers)
    }

    fn funding(byte: u8) -> OutPoint {
        OutPoint::new(Txid::from_byte_array([byte; 32]), 0)
    }

    fn closed(channel: u8) -> Event {
        Event::ChannelClosed {
            channel_id: ChannelId([channel; 32]),
            user_channel_id: UserChannelId(1),
            counterparty_node_id: Some(peer(1)),
            reason: None,
        }
    }

    #[test]
    fn only_what_was_once_pending_or_ready_changes_the_channels() {
        let (_folder, strangers) = strangers();
        assert!(
            !strangers.changes_channels(&closed(1)),
            "it hung up at once"
        );
        let pending = Event::ChannelPending {
            channel_id: ChannelId([1; 32]),
            user_channel_id: UserChannelId(1),
            former_temporary_channel_id: ChannelId([9; 32]),
            counterparty_node_id: peer(1),
            funding_txo: funding(1),
        };
        assert!(strangers.changes_channels(&pending));
        assert!(strangers.changes_channels(&closed(1)));
        assert!(!strangers.changes_channels(&closed(1)));
        let spliced = Event::SplicePending {
            channel_id: ChannelId([1; 32]),
            user_channel_id: UserChannelId(1),
            counterparty_node_id: peer(1),
            new_funding_txo: funding(2),
        };
        assert!(strangers.changes_channels(&spliced));
        // The end of a channel that existed before the start is a change, too.
        strangers.started(&[ChannelDetails {
            funding_txo: Some(funding(3)),
            ..channel(3, 100_000)
        }]);
        assert!(strangers.changes_channels(&closed(3)));
    }

    #[test]
    fn whoever_the_operator_dialled_is_no_stranger_also_after_a_restart() {
        let (folder, strangers) = strangers();
        let theirs = channel(1, 100_000);
        assert_eq!(strangers.standings.of_channel(&theirs), Standing::Stranger);
        assert!(!strangers.keeps(std::slice::from_ref(&theirs))(&peer(2)));
        assert!(strangers.keeps(std::slice::from_ref(&theirs))(&peer(1)));
        strangers.standings.choose(peer(1));
        let again = Standings::in_folder(folder.path(), vec![peer(2)]);
        assert_eq!(again.of_channel(&theirs), Standing::Chosen);
        assert_eq!(again.of_peer(&peer(2)), Standing::Trusted);
        let ours = ChannelDetails {
            is_outbound: true,
            ..channel(3, 100_000)
        };
        assert_eq!(again.of_channel(&ours), Standing::Chosen);
    }
}

/// Settings for tests.
#[cfg(test)]
pub(in crate::node) mod testing {
    use super::*;

    pub(in crate::node) fn config() -> PeersConfig {
        PeersConfig {
            anyone_opens: true,
            trusted: Vec::new(),
            channel_min_sat: 20_000,
            channel_max_sat: 1_000_000,
            pending_max: 3,
            pending_per_peer: 1,
            pending_timeout: Duration::from_secs(600),
            channels_max: 5,
            channels_per_peer: 2,
            channels_per_network: 4,
            connections_max: 100,
            connections_per_network: 10,
            keysends_max: 10,
        }
    }
}
