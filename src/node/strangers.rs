//! Channels of strangers: peers that the operator neither trusts nor chose. LDK takes a channel from anybody who asks, so what
//! one may cost is bounded here: how many wait, how many there are, how large they are, and that claiming a payment over one is
//! possible with what the wallet has.
//!
//! ldk-node gives no say before it accepts a channel, so one that goes beyond the bounds is closed when it is pending, long
//! before it can carry a payment: a stranger's channel becomes usable with its sixth confirmation.

mod abandoned;
mod bounds;
mod claims;
mod fundings;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::Txid;
use bitcoin::secp256k1::PublicKey;
use ldk_node::{ChannelDetails, Event};
use lightning::ln::types::ChannelId;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::door::Door;
use super::keys::NodeKeys;
use super::relay::Relay;
use super::standing::{Standing, Standings};
use super::{Config, PeersConfig, Reserve};

use abandoned::Abandoned;
use bounds::{Beyond, Pending};
use claims::{Covered, Types};

/// How long a stranger may take from asking for a channel to naming what funds it.
const BEGUN_WITHIN: Duration = Duration::from_secs(60);

/// The strangers' channels, and what is done about them. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Strangers {
    config: Arc<PeersConfig>,
    /// Coins wanted for each anchor channel, in sat.
    reserve_sat: u64,
    /// Whether a channel that the operator buys wants them, too, and who would open it.
    bought: Option<Arc<Vec<PublicKey>>>,
    standings: Standings,
    /// A `std` mutex: held to compare a few hundred channels, never across an await or a call of ldk-node's.
    state: Arc<Mutex<State>>,
    /// Which of their channels have anchors. A `std` mutex: held while monitors are read, on a thread that may block.
    types: Arc<Mutex<Types>>,
}

/// What is known of the strangers' channels.
#[derive(Debug)]
struct State {
    /// Those that were asked for, and since when.
    unbegun: HashMap<ChannelId, Instant>,
    /// Those that wait for their confirmations.
    pending: HashMap<ChannelId, Pending>,
    /// Those whose payments could not be claimed on chain with the coins there are.
    withheld: HashSet<ChannelId>,
    /// When that was last found out.
    covered: Option<Covered>,
    /// Channels that are being closed.
    closing: HashSet<ChannelId>,
    /// Those that could not be closed, and when that was tried.
    not_closed: HashMap<ChannelId, Instant>,
    /// What funds the channels that there are.
    real: HashSet<Txid>,
    /// Those that ended before their funding was seen.
    abandoned: Abandoned,
    /// All channels that were ever pending or ready, whoever opened them: the end of any other is no change.
    known: HashSet<ChannelId>,
    /// Channels that were closed for being beyond the bounds, since the start.
    closed: u64,
}

/// What strangers may do here, and what they do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct StrangersStatus {
    /// Whether anybody may open a channel, or only trusted peers.
    pub anyone_opens: bool,
    /// Peers that the settings trust, the liquidity providers included.
    pub trusted: usize,
    /// Their channels that wait for confirmations.
    pub pending: usize,
    /// The most that may wait at once.
    pub pending_max: usize,
    /// Their channels in all.
    pub channels: usize,
    /// The most that there may be.
    pub channels_max: usize,
    /// Channels that were closed for being beyond these limits, since the start.
    pub closed: u64,
    /// Channels over which nothing is sold: payments over them could not be claimed on chain with the coins of the wallet.
    pub withheld: usize,
    /// Connections to the Lightning listener.
    pub connections: usize,
    /// The most that there may be.
    pub connections_max: usize,
    /// Connections that were turned away or cut for being beyond the limits, since the start.
    pub connections_refused: u64,
    /// What is wrong with the Lightning listener, if anything is.
    pub listener_fault: Option<String>,
}

impl Strangers {
    /// By these settings, and by what earlier runs left.
    pub(super) fn of(config: &Config, keys: &NodeKeys) -> Self {
        let reserve_sat = super::liquidity::anchors(config).per_channel_reserve_sats;
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

    /// Who the peers are.
    pub(super) fn standings(&self) -> &Standings {
        &self.standings
    }

    /// Whether nothing is to be sold over this channel.
    pub(super) fn is_withheld(&self, channel: &ChannelId) -> bool {
        self.state().withheld.contains(channel)
    }

    /// Notes the channels that a node has when it starts.
    pub(super) fn started(&self, channels: &[ChannelDetails]) {
        let known = channels.iter().filter(|it| it.funding_txo.is_some());
        self.state().known.extend(known.map(|it| it.channel_id));
    }

    /// Whether this event changes the channels so that a backup is out of date. A peer may begin a channel and hang up as
    /// often as it likes: only what was once pending or ready is a change.
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
                // Its peer may end it before anybody looks at the channels.
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

    /// Holds the channels against the bounds, and closes what goes beyond them. Takes locks of the node's.
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
            // Who ends a channel as soon as it waits leaves as much behind as one that is closed.
            let unfunded = ended.iter().filter(|(_, it)| !it.is_in_a_block());
            let unstruck = unfunded.filter(|(id, _)| !state.closing.contains(id));
            if let Some(door) = door {
                unstruck
                    .filter_map(|(_, it)| it.peer)
                    .for_each(|peer| door.strike(&peer));
            }
            // Without somebody who can be asked for one transaction nothing is left out.
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
                door.strike(&channel.counterparty_node_id);
            }
        }
        let left_out = self.state().left_out(now);
        if let Some(relay) = relay.filter(|_| left_out != before) {
            relay.leave_out(left_out);
        }
    }

    /// Channels that strangers have asked for and do not go on with. LDK waits for fifty peers at once, and then takes no more.
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

    /// Closes a channel that carries no payments yet; `true` if that was done. Nothing in it is ours.
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
        // The peer reads why; here it is one line at most for each channel that it has opened.
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

    /// Whether a connection of this peer makes room for nobody.
    pub(super) fn keeps(&self, peer: &PublicKey, channels: &[ChannelDetails]) -> bool {
        let mut theirs = channels
            .iter()
            .filter(|it| it.counterparty_node_id == *peer);
        self.standings.of_peer(peer) != Standing::Stranger || theirs.any(|it| it.is_channel_ready)
    }

    /// What is known, for the operator.
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
    /// With what earlier runs left in this folder.
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
        // Of a channel of before the start the end is a change, too.
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
        assert!(!strangers.keeps(&peer(2), std::slice::from_ref(&theirs)));
        assert!(strangers.keeps(&peer(1), std::slice::from_ref(&theirs)));
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
