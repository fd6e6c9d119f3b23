//! Asks about the funding transactions of strangers' channels outside the chain syncs. ldk-node
//! itself would ask about each of them twice in every sync, one after the other. The requests that
//! guard the other channels would have to wait.

use std::sync::Arc;
use std::time::Duration;

use ldk_node::ChannelDetails;
use tokio::time::Instant;

use crate::chain::esplora::{Fundings, Relay, Where};

use super::abandoned::Heard;
use super::{State, Strangers};

/// How long a cached answer about a transaction stays in use.
const FRESH_FOR: Duration = Duration::from_secs(15);

/// The maximum number of concurrent queries for pending channels, and the same number for ended
/// channels.
const ASKED_MAX: usize = 10;

/// The maximum time for which a chain sync waits for the answers. The queries run concurrently.
const ASK_WITHIN: Duration = Duration::from_secs(2);

impl Strangers {
    /// Asks the chain source about the funding transactions of strangers' pending and ended
    /// channels.
    pub(in crate::node) async fn look_for_fundings(&self, relay: &Arc<Relay>) {
        let asked = {
            let mut state = self.state();
            let now = Instant::now();
            relay.leave_out(state.left_out(now));
            state.ask(now)
        };
        if asked.is_empty() {
            return;
        }
        let asking = asked.into_iter().map(|(channel, funding)| async move {
            let asking = tokio::time::timeout(ASK_WITHIN, relay.where_is(funding));
            (channel, funding, asking.await.ok().flatten())
        });
        let answers = futures_util::future::join_all(asking).await;
        let (strangers, relay) = (self.clone(), Arc::clone(relay));
        // `hear` writes to the disk.
        let hearing = tokio::task::spawn_blocking(move || {
            let mut state = strangers.state();
            state.hear(&answers, Instant::now());
            relay.leave_out(state.left_out(Instant::now()));
        });
        if let Err(panicked) = hearing.await {
            tracing::error!(
                "Failed to record the state of channel funding transactions: {panicked}"
            );
        }
    }
}

impl State {
    /// The transactions to ask about now, those that have waited longest first.
    fn ask(&mut self, now: Instant) -> Vec<(lightning::ln::types::ChannelId, bitcoin::Txid)> {
        let due = self.pending.iter_mut();
        let mut due: Vec<_> = due.filter(|(_, it)| it.is_to_be_asked(now)).collect();
        due.sort_by_key(|(_, it)| it.asked);
        let due = due.into_iter().take(ASKED_MAX);
        let mut asked: Vec<_> = due.map(|(id, it)| (*id, it.ask(now))).collect();
        asked.extend(self.abandoned.ask(now, ASKED_MAX));
        asked
    }

    fn hear(&mut self, answers: &[Heard], now: Instant) {
        for (channel, _, seen) in answers {
            if let (Some(pending), Some(_)) = (self.pending.get_mut(channel), seen) {
                pending.seen = *seen;
                pending.heard = Some(now);
            }
        }
        self.abandoned.hear(answers);
    }

    /// Records the funding transactions of the existing channels. A stranger may name one of them
    /// as its own, so the relay must not report them as missing.
    pub(super) fn know(&mut self, channels: &[ChannelDetails]) {
        let is_real = |channel: &&ChannelDetails| {
            let pending = self.pending.get(&channel.channel_id);
            pending.is_none_or(|it| matches!(it.seen, Some(Where::Mempool | Where::Block)))
        };
        let real = channels.iter().filter(is_real);
        self.real = real.filter_map(|it| Some(it.funding_txo?.txid)).collect();
        self.abandoned.purge(&self.real);
    }

    /// Transactions that a sync need not ask about: those with a recent answer, and those of ended
    /// channels that the chain source does not have.
    pub(super) fn left_out(&self, now: Instant) -> Fundings {
        let is_real = |txid: &bitcoin::Txid| self.real.contains(txid);
        let is_fresh = |heard: Option<Instant>| heard.is_some_and(|heard| now < heard + FRESH_FOR);
        let fresh = || self.pending.values().filter(|it| is_fresh(it.heard));
        let unconfirmed = fresh().filter(|it| it.seen != Some(Where::Block));
        let waiting = fresh().filter(|it| it.seen == Some(Where::Nowhere));
        let nowhere = self
            .abandoned
            .fundings()
            .chain(waiting.map(|it| it.funding));
        Fundings {
            unconfirmed: unconfirmed.map(|it| it.funding).collect(),
            nowhere: nowhere.filter(|it| !is_real(it)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use bitcoin::hashes::Hash as _;
    use bitcoin::{OutPoint, Txid};
    use lightning::ln::types::ChannelId;

    use super::super::super::reach::testing::channel;
    use super::super::bounds::Pending;
    use super::*;

    fn txid(byte: u8) -> Txid {
        Txid::from_byte_array([byte; 32])
    }

    fn state(folder: &std::path::Path, waiting: &[(u8, u8)], now: Instant) -> State {
        let mut state = State::new(folder);
        for (number, funding) in waiting {
            let pending = Pending::new(txid(*funding), now);
            state.pending.insert(ChannelId([*number; 32]), pending);
        }
        state
    }

    #[test]
    fn only_what_was_asked_for_just_now_is_left_out_while_it_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut state = state(folder.path(), &[(1, 1), (2, 2), (3, 3)], now);
        assert_eq!(state.ask(now).len(), 3);
        assert_eq!(state.ask(now), [], "looks may follow each other");
        let heard = |number: u8, seen| (ChannelId([number; 32]), txid(number), seen);
        let nowhere = Some(Where::Nowhere);
        state.hear(
            &[
                heard(1, nowhere),
                heard(2, Some(Where::Mempool)),
                heard(3, None),
            ],
            now,
        );
        let left = state.left_out(now);
        assert_eq!(left.unconfirmed, HashSet::from([txid(1), txid(2)]));
        assert_eq!(left.nowhere, HashSet::from([txid(1)]));
        // The chain source has not answered since, and the transaction may have been broadcast.
        let later = state.left_out(now + FRESH_FOR);
        assert_eq!(later, Fundings::default());
    }

    #[test]
    fn the_funding_of_another_channel_is_nobodys_to_leave_out() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let mut state = state(folder.path(), &[(1, 9)], now);
        let real = ChannelDetails {
            funding_txo: Some(OutPoint::new(txid(9), 0)),
            ..channel(2, 100_000)
        };
        state.know(&[real]);
        assert_eq!(state.left_out(now), Fundings::default());
    }
}
