//! Spends the coins of the on-chain wallet with one transaction at a time.
//!
//! ldk-node's wallet does not record the transactions that it has signed. Until a sync finds a
//! transaction, its coins count as unspent. So the next payment, channel funding or splice may use
//! the same coins. One of the two transactions is then refused or replaced without notice. So the
//! wallet makes no transaction before the previous one was seen. Closing transactions to which LDK
//! adds coins are an exception: LDK sends them again with other coins if needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::Txid;
use bitcoin::hashes::Hash as _;
use ldk_node::{Event, UserChannelId};
use lightning::ln::channelmanager::PaymentId;
use lightning::ln::types::ChannelId;
use tokio::sync::OwnedMutexGuard;

use crate::chain::ChainSource;
use crate::chain::esplora::Relay;

use super::wallet_error::CoinsInUse;

/// The time in seconds after which a sent transaction counts as lost, if a sync that ends later
/// does not find it. An endpoint has four seconds to answer, and servers relay transactions to each
/// other within a few.
const GONE_AFTER_SECS: u64 = 120;

/// The time in seconds after which a transaction counts as lost although an endpoint has accepted
/// it. That endpoint may relay the transaction to servers that we do not ask.
const GONE_THOUGH_TAKEN_SECS: u64 = 3 * 3_600;

/// The least time in seconds between two syncs for the same transaction. Without this limit, a
/// client that keeps retrying would use up the wallet's requests.
const LOOK_EVERY_SECS: u64 = 20;

/// The last transaction that was made from the wallet. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Coins {
    /// Held until the transaction is made, even if the caller no longer waits for it.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// A `std` mutex: held to copy a few words.
    last: Arc<Mutex<Last>>,
    /// The reason for the last extra sync, and its time in Unix seconds. A `std` mutex: held to
    /// copy a few words.
    looked: Arc<Mutex<Option<(CoinsInUse, u64)>>>,
}

/// The state of the last transaction that was made from the wallet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Last {
    /// The node has started, and an earlier transaction may not have been seen yet.
    #[default]
    BeforeStart,
    /// A transaction may have been sent before this time, and the chain was not read since.
    Unread {
        /// The time, Unix seconds.
        since_secs: u64,
    },
    /// The wallet knows every transaction that was sent.
    Seen,
    /// This transaction was sent.
    Sent {
        /// The transaction id.
        txid: Txid,
        /// The time of sending, Unix seconds.
        at_secs: u64,
        /// The wallet's balance before, in sat.
        before_sat: u64,
    },
    /// The funding of a channel, which still needs an answer from the peer.
    Opening {
        /// The channel.
        channel: UserChannelId,
        /// The wallet's balance before, in sat.
        before_sat: u64,
    },
    /// A splice, which still needs an answer from the peer.
    Splicing {
        /// The channel.
        channel: ChannelId,
        /// The wallet's balance before, in sat.
        before_sat: u64,
    },
}

/// The wallet's knowledge of transactions and channels.
trait Wallet {
    /// Whether the wallet knows this transaction.
    fn knows(&self, txid: Txid, before_sat: u64) -> bool;
    /// Whether an endpoint has accepted this transaction.
    fn is_taken(&self, txid: Txid) -> bool;
    /// The funding of this channel. The outer `None` means that the channel does not exist, the
    /// inner `None` that its funding is not made yet.
    fn funding(&self, channel: UserChannelId) -> Option<Option<Txid>>;
    /// The time of the last sync, Unix seconds.
    fn read_secs(&self) -> u64;
}

/// The wallet of ldk-node.
struct Ldk<'a> {
    node: &'a ldk_node::Node,
    /// Whether ldk-node's list of payments contains unconfirmed transactions. With a bitcoind, a
    /// transaction from the mempool enters that list only with the next block.
    lists_unconfirmed: bool,
    relay: Option<&'a Relay>,
}

impl Wallet for Ldk<'_> {
    fn knows(&self, txid: Txid, before_sat: u64) -> bool {
        let is_listed = self.node.payment(&PaymentId(txid.to_byte_array()));
        is_listed.is_some() || !self.lists_unconfirmed && total_sat(self.node) < before_sat
    }

    fn is_taken(&self, txid: Txid) -> bool {
        self.relay.is_some_and(|relay| relay.is_taken(txid))
    }

    fn funding(&self, channel: UserChannelId) -> Option<Option<Txid>> {
        let channels = self.node.list_channels().into_iter();
        let mut found = channels.filter(|it| it.user_channel_id == channel);
        found.next().map(|it| it.funding_txo.map(|txo| txo.txid))
    }

    fn read_secs(&self) -> u64 {
        let status = self.node.status();
        status.latest_onchain_wallet_sync_timestamp.unwrap_or(0)
    }
}

/// The wallet's total balance, in sat.
pub(super) fn total_sat(node: &ldk_node::Node) -> u64 {
    node.list_balances().total_onchain_balance_sats
}

impl Coins {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the state of the last transaction.
    pub(super) fn note(&self, last: Last) {
        *self.last() = last;
    }

    /// The transaction that was sent and not seen yet.
    pub(super) fn sent(&self) -> Option<Txid> {
        match *self.last() {
            Last::Sent { txid, .. } => Some(txid),
            Last::BeforeStart
            | Last::Unread { .. }
            | Last::Seen
            | Last::Opening { .. }
            | Last::Splicing { .. } => None,
        }
    }

    /// Updates the state from an event of a channel that is being opened or spliced.
    pub(super) fn hear(&self, event: &Event, now_secs: u64) {
        match event {
            Event::ChannelPending {
                user_channel_id,
                funding_txo,
                ..
            } => self.funded(*user_channel_id, funding_txo.txid, now_secs),
            Event::SplicePending {
                channel_id,
                new_funding_txo,
                ..
            } => self.spliced(*channel_id, new_funding_txo.txid, now_secs),
            Event::SpliceFailed { channel_id, .. } | Event::ChannelClosed { channel_id, .. } => {
                self.not_spliced(*channel_id, now_secs);
            }
            Event::PaymentSuccessful { .. }
            | Event::PaymentFailed { .. }
            | Event::PaymentReceived { .. }
            | Event::PaymentForwarded { .. }
            | Event::PaymentClaimable { .. }
            | Event::ChannelReady { .. } => {}
        }
    }

    /// Marks the transaction as sent, because the peer has agreed to the channel or splice.
    fn agreed(&self, is_it: impl FnOnce(Last) -> bool, txid: Txid, at_secs: u64) {
        let mut last = self.last();
        if is_it(*last)
            && let Last::Opening { before_sat, .. } | Last::Splicing { before_sat, .. } = *last
        {
            *last = Last::Sent {
                txid,
                at_secs,
                before_sat,
            };
        }
    }

    /// Handles the funding of a channel.
    fn funded(&self, by: UserChannelId, txid: Txid, at_secs: u64) {
        let is_it = |last| matches!(last, Last::Opening { channel, .. } if channel == by);
        self.agreed(is_it, txid, at_secs);
    }

    /// Handles a splice that both sides have agreed on.
    fn spliced(&self, by: ChannelId, txid: Txid, at_secs: u64) {
        let is_it = |last| matches!(last, Last::Splicing { channel, .. } if channel == by);
        self.agreed(is_it, txid, at_secs);
    }

    /// Handles the end of a splice attempt of this channel.
    fn not_spliced(&self, by: ChannelId, since_secs: u64) {
        let mut last = self.last();
        if matches!(*last, Last::Splicing { channel, .. } if channel == by) {
            *last = Last::Unread { since_secs };
        }
    }

    /// Waits until the wallet's transaction before is made.
    pub(super) async fn turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turn).lock_owned().await
    }

    /// The reason why ldk-node's wallet can make no transaction now, if there is one.
    pub(super) fn in_use_of(
        &self,
        node: &ldk_node::Node,
        source: &ChainSource,
        relay: Option<&Relay>,
        started_secs: u64,
        now_secs: u64,
    ) -> Option<CoinsInUse> {
        let wallet = Ldk {
            node,
            lists_unconfirmed: !matches!(source, ChainSource::Bitcoind(_)),
            relay,
        };
        self.in_use(&wallet, started_secs, now_secs)
    }

    /// The reason why no transaction can be made now, if there is one.
    fn in_use(&self, wallet: &impl Wallet, started_secs: u64, now_secs: u64) -> Option<CoinsInUse> {
        let mut last = self.last();
        let (next, why) = judged(*last, wallet, started_secs, now_secs);
        *last = next;
        why
    }

    /// Whether a sync may clear this reason, and is worth its requests now.
    pub(super) fn may_look(&self, why: CoinsInUse, now_secs: u64) -> bool {
        match why {
            // The peers of these channels must answer first.
            CoinsInUse::Opening | CoinsInUse::Splicing(_) => return false,
            CoinsInUse::Sent(_) | CoinsInUse::Unread => {}
        }
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let is_late = looked.is_none_or(|(what, at_secs)| {
            what != why || now_secs.abs_diff(at_secs) >= LOOK_EVERY_SECS
        });
        if is_late {
            *looked = Some((why, now_secs));
        }
        is_late
    }
}

/// Determines the new state, and whether it prevents the next transaction.
fn judged(
    last: Last,
    wallet: &impl Wallet,
    started_secs: u64,
    now_secs: u64,
) -> (Last, Option<CoinsInUse>) {
    let is_read_since = |since_secs| wallet.read_secs() >= since_secs;
    let unread = |since_secs: u64| {
        // If the clock was ahead at that time, the wallet must not wait for a date in the future.
        let since_secs = since_secs.min(now_secs);
        if is_read_since(since_secs) {
            (Last::Seen, None)
        } else {
            (Last::Unread { since_secs }, Some(CoinsInUse::Unread))
        }
    };
    match last {
        Last::Seen => (last, None),
        Last::BeforeStart => unread(started_secs),
        Last::Unread { since_secs } => unread(since_secs),
        Last::Sent {
            txid,
            at_secs,
            before_sat,
        } => {
            let patience_secs = if wallet.is_taken(txid) {
                GONE_THOUGH_TAKEN_SECS
            } else {
                GONE_AFTER_SECS
            };
            if wallet.knows(txid, before_sat) {
                (Last::Seen, None)
            } else if is_read_since(at_secs.min(now_secs).saturating_add(patience_secs)) {
                tracing::warn!(
                    "Transaction {txid} was sent and is nowhere on the chain or on its way there. It is not sent again: look whether it is needed \
                     still"
                );
                (Last::Seen, None)
            } else {
                (last, Some(CoinsInUse::Sent(txid)))
            }
        }
        Last::Opening {
            channel,
            before_sat,
        } => match wallet.funding(channel) {
            // The funding may have been sent before the channel was given up. Only the chain tells.
            None => unread(now_secs),
            Some(None) => (last, Some(CoinsInUse::Opening)),
            Some(Some(txid)) => {
                let sent = Last::Sent {
                    txid,
                    at_secs: now_secs,
                    before_sat,
                };
                judged(sent, wallet, started_secs, now_secs)
            }
        },
        Last::Splicing { channel, .. } => (last, Some(CoinsInUse::Splicing(channel))),
    }
}

#[cfg(test)]
mod tests;
