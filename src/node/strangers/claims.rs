//! Checks that payments over strangers' channels could be claimed on chain.
//!
//! The transaction that claims a payment over an anchor channel pays no fee of its own, so the fee
//! comes from the wallet. Without coins there, a peer that learns the preimage and then goes silent
//! can take the payment back. ldk-node accepts no anchor channel while coins are missing. But the
//! operator may spend coins later, and older channels predate this check. Tollhouse sells nothing
//! over such channels and closes them cooperatively. LDK then accepts no payment over them.

use std::collections::HashSet;
use std::time::Duration;

use ldk_node::ChannelDetails;
use lightning::ln::types::ChannelId;
use tokio::time::Instant;

use super::super::arrived::arrived_msat;
use super::super::coins::total_sat;
use super::super::standing::Standing;
use super::Strangers;
use super::bounds::Beyond;
use super::types::Covered;

/// The minimum time between comparisons of the channels with the coins. A comparison takes the
/// locks of all monitors.
const COVERED_EVERY: Duration = Duration::from_secs(10);

/// The minimum time between attempts to close a channel.
const CLOSE_EVERY: Duration = Duration::from_secs(1);

impl Strangers {
    /// Notes the types of the strangers' channels that wait for their confirmations.
    pub(super) fn note_types(
        &self,
        ldk: &ldk_node::Node,
        channels: &[ChannelDetails],
        theirs: &[&ChannelDetails],
    ) {
        let waiting = theirs.iter().filter(|it| !it.is_channel_ready);
        let mut types = self.types();
        let new: Vec<_> = waiting
            .map(|it| it.channel_id)
            .filter(|id| !types.knows(id))
            .collect();
        if new.is_empty() {
            return;
        }
        let has_coins = total_sat(ldk) >= self.reserve_sat;
        let listed: HashSet<_> = channels.iter().map(|it| it.channel_id).collect();
        types.known.retain(|id, _| listed.contains(id));
        for channel in new {
            types.opened(channel, has_coins);
        }
    }

    /// Finds the channels with payments that cannot be claimed, and closes them cooperatively.
    pub(in crate::node) fn withhold(&self, ldk: &ldk_node::Node, channels: &[ChannelDetails]) {
        let theirs: Vec<_> = self.theirs(channels).collect();
        let now = Instant::now();
        self.cover(ldk, channels, &theirs);
        let open: Vec<_> = {
            let mut state = self.state();
            let is_there = |id: &ChannelId| channels.iter().any(|it| it.channel_id == *id);
            state.closing.retain(is_there);
            state.not_closed.retain(|_, at| now < *at + CLOSE_EVERY);
            let is_open = |id: &_| {
                let is_begun = state.closing.contains(id) || state.not_closed.contains_key(id);
                state.withheld.contains(id) && !is_begun
            };
            // While its peer is offline, a channel cannot be closed cooperatively, and carries no
            // payment.
            let open = theirs
                .iter()
                .filter(|it| it.is_usable && is_open(&it.channel_id));
            open.copied().collect()
        };
        for channel in open {
            let (id, peer) = (channel.channel_id, channel.counterparty_node_id);
            match ldk.close_channel(&channel.user_channel_id, peer) {
                Ok(()) => {
                    self.state().closing.insert(id);
                    tracing::info!(channel.id = %id, "Closing channel {id} in agreement with peer {peer}");
                }
                // The next check retries.
                Err(error) => {
                    self.state().not_closed.insert(id, now);
                    tracing::debug!(channel.id = %id, "Failed to close channel {id}: {error}");
                }
            }
        }
    }

    /// Makes the next check compare the channels with the coins, however recent the last comparison
    /// is.
    pub(in crate::node) fn coins_changed(&self) {
        self.state().covered = None;
    }

    /// Whether the node still has to close a channel that it no longer sells over.
    pub(in crate::node) fn has_open_withheld(&self) -> bool {
        let state = self.state();
        state.withheld.iter().any(|id| !state.closing.contains(id))
    }

    /// Compares the channels with the coins, unless the last comparison is recent.
    fn cover(&self, ldk: &ldk_node::Node, channels: &[ChannelDetails], theirs: &[&ChannelDetails]) {
        let now = Instant::now();
        let read_secs = ldk.status().latest_onchain_wallet_sync_timestamp;
        let is_known = |covered: Covered| {
            covered.channels == theirs.len()
                && covered.read_secs == read_secs
                && now < covered.at + COVERED_EVERY
        };
        if self.state().covered.is_some_and(is_known) {
            return;
        }
        let is_read = read_secs.is_some();
        if theirs.is_empty() || self.reserve_sat == 0 || !is_read {
            self.state().withheld.clear();
            return;
        }
        let is_chosen =
            |channel: &&ChannelDetails| self.standings.of_channel(channel) == Standing::Chosen;
        // The coins go first to channels that the operator chose.
        let chosen = channels.iter().filter(is_chosen).count() as u64;
        let covered = (total_sat(ldk) / self.reserve_sat).saturating_sub(chosen);
        let beyond = {
            let mut types = self.types();
            beyond(theirs, covered, |channel| types.has_anchors(channel))
        };
        let mut state = self.state();
        state.covered = Some(Covered {
            at: now,
            channels: theirs.len(),
            read_secs,
        });
        for channel in &beyond {
            let id = channel.channel_id;
            if !state.withheld.insert(id) {
                continue;
            }
            let peer = channel.counterparty_node_id;
            tracing::warn!(
                channel.id = %id,
                "Nothing is sold over channel {id} of peer {peer}, and it will be closed: payments over it could not be \
                 claimed on chain, which needs {} sat in the wallet for each such channel. To keep such channels, send \
                 coins to the deposit address, or name the peer in node.peers.trusted",
                self.reserve_sat
            );
        }
        let beyond: Vec<_> = beyond.iter().map(|channel| channel.channel_id).collect();
        state.withheld.retain(|id| beyond.contains(id));
    }

    /// Anchor channels that wait for confirmations and take the coins that a bought channel would
    /// need.
    pub(super) fn beyond_coins<'a>(
        &self,
        ldk: &ldk_node::Node,
        channels: &'a [ChannelDetails],
    ) -> Vec<(&'a ChannelDetails, Beyond)> {
        let Some(providers) = &self.bought else {
            return Vec::new();
        };
        let is_theirs =
            |channel: &ChannelDetails| providers.contains(&channel.counterparty_node_id);
        if channels.iter().any(is_theirs) {
            return Vec::new();
        }
        let waiting: Vec<_> = {
            let state = self.state();
            let is_waiting = |it: &&ChannelDetails| state.pending.contains_key(&it.channel_id);
            channels.iter().filter(is_waiting).collect()
        };
        if waiting.is_empty() {
            return Vec::new();
        }
        let spendable_sat = ldk.list_balances().spendable_onchain_balance_sats;
        if spendable_sat >= self.reserve_sat {
            return Vec::new();
        }
        let mut types = self.types();
        let anchored = waiting
            .into_iter()
            .filter(|it| types.has_anchors(&it.channel_id));
        anchored.map(|it| (it, Beyond::CoinsForBought)).collect()
    }
}

/// The anchor channels beyond the number that the coins cover. The coins go first to channels over
/// which more has arrived.
fn beyond<'a>(
    theirs: &[&'a ChannelDetails],
    covered: u64,
    mut has_anchors: impl FnMut(&ChannelId) -> bool,
) -> Vec<&'a ChannelDetails> {
    if theirs.len() as u64 <= covered {
        return Vec::new();
    }
    let anchored = theirs.iter().filter(|it| has_anchors(&it.channel_id));
    let mut anchored: Vec<_> = anchored.copied().collect();
    anchored.sort_by_key(|it| {
        let arrived = std::cmp::Reverse(arrived_msat(it));
        (arrived, it.user_channel_id.0)
    });
    let covered = usize::try_from(covered).unwrap_or(usize::MAX);
    anchored.split_off(covered.min(anchored.len()))
}

#[cfg(test)]
mod tests {
    use super::super::super::reach::testing::channel;
    use super::*;

    #[test]
    fn channels_with_anchors_beyond_what_the_coins_cover_are_withheld() {
        let proven = ChannelDetails {
            inbound_capacity_msat: 99_995_000,
            ..channel(3, 100_000)
        };
        let channels = [channel(1, 100_000), channel(2, 100_000), proven];
        let theirs: Vec<_> = channels.iter().collect();
        let beyond = |covered, anchored: &[u8]| -> Vec<u8> {
            let beyond = beyond(&theirs, covered, |id| anchored.contains(&id.0[0]));
            beyond.iter().map(|it| it.channel_id.0[0]).collect()
        };
        assert!(beyond(3, &[1, 2, 3]).is_empty());
        assert_eq!(beyond(1, &[1, 2, 3]), [1, 2]);
        assert_eq!(beyond(0, &[1, 2, 3]), [3, 1, 2]);
        assert_eq!(beyond(0, &[2]), [2]);
        assert!(beyond(0, &[]).is_empty());
    }
}
