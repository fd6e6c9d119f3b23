//! The coins of the on-chain wallet are spent by one transaction after the other.
//!
//! ldk-node's wallet takes no note of what it has signed: until a look at the chain finds the transaction, its coins are as free as they
//! were, and the next one, be it a payment, the funding of a channel or a splice, may be made of the same. One of the two is refused
//! then, or replaced by the other, and nobody is told. So nothing is made out of the wallet before what was made last has been
//! seen. What LDK adds to a transaction that closes a channel is not waited for: it sends that again, of other coins, by itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::Txid;
use bitcoin::hashes::Hash as _;
use ldk_node::{Event, UserChannelId};
use lightning::ln::channelmanager::PaymentId;
use lightning::ln::types::ChannelId;

use crate::chain::ChainSource;
use crate::chain::esplora::Relay;

use super::operation::{CoinsInUse, OperationError};
use super::{Node, Phase};

/// A look at the chain that ends so long after a transaction was sent, and does not find it, means that nobody has it, in seconds: an
/// endpoint has four for its answer, and servers tell each other within a few.
const GONE_AFTER_SECS: u64 = 120;

/// The same of one that somebody has taken, who may show it to fewer than we ask.
const GONE_THOUGH_TAKEN_SECS: u64 = 3 * 3_600;

/// Time between two looks at the chain for the same thing, in seconds: whoever tries again and again would use up the wallet's requests.
const LOOK_EVERY_SECS: u64 = 20;

/// What was made out of the wallet last. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Coins {
    /// Whose turn it is. Held until the transaction is made, also when nobody waits for it any more.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// A `std` mutex: held to copy a few words.
    last: Arc<Mutex<Last>>,
    /// What the chain was looked at for last, and when, Unix seconds. A `std` mutex, too.
    looked: Arc<Mutex<Option<(CoinsInUse, u64)>>>,
}

/// What was made last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Last {
    /// What was sent before the node was started may not have been seen.
    #[default]
    BeforeStart,
    /// Something may have been sent before this time, Unix seconds.
    Unread {
        /// When.
        since_secs: u64,
    },
    /// Nothing that the wallet does not know.
    Seen,
    /// This.
    Sent {
        /// The transaction.
        txid: Txid,
        /// When, Unix seconds.
        at_secs: u64,
        /// What was in the wallet before, in sat.
        before_sat: u64,
    },
    /// The funding of a channel, for which the peer has to say something first.
    Opening {
        /// The channel.
        channel: UserChannelId,
        /// What was in the wallet before, in sat.
        before_sat: u64,
    },
    /// A splice, for which the peer has to say something first.
    Splicing {
        /// The channel.
        channel: ChannelId,
        /// What was in the wallet before, in sat.
        before_sat: u64,
    },
}

/// What the wallet knows.
trait Wallet {
    /// Whether it knows this transaction.
    fn knows(&self, txid: Txid, before_sat: u64) -> bool;
    /// Whether somebody is known to have taken it.
    fn is_taken(&self, txid: Txid) -> bool;
    /// Whether there is this channel, and its funding if that is made.
    fn funding(&self, channel: UserChannelId) -> Option<Option<Txid>>;
    /// When it last read the chain, Unix seconds.
    fn read_secs(&self) -> u64;
}

/// ldk-node's.
struct Ldk<'a> {
    node: &'a ldk_node::Node,
    /// ldk-node enters what it finds in a bitcoind's mempool in its list of payments with the next block only.
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

/// All that is in the wallet, in sat.
pub(super) fn total_sat(node: &ldk_node::Node) -> u64 {
    node.list_balances().total_onchain_balance_sats
}

impl Coins {
    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what was made, or that nothing was.
    pub(super) fn note(&self, last: Last) {
        *self.last() = last;
    }

    /// What was sent and is not known to have been seen.
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

    /// What an event tells of a channel that is being opened, or of a splice that is being agreed on.
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

    /// Its peer has agreed to what was made last, if it is this: the transaction is sent.
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

    /// A channel has its funding.
    fn funded(&self, by: UserChannelId, txid: Txid, at_secs: u64) {
        let is_it = |last| matches!(last, Last::Opening { channel, .. } if channel == by);
        self.agreed(is_it, txid, at_secs);
    }

    /// A splice was agreed on.
    fn spliced(&self, by: ChannelId, txid: Txid, at_secs: u64) {
        let is_it = |last| matches!(last, Last::Splicing { channel, .. } if channel == by);
        self.agreed(is_it, txid, at_secs);
    }

    /// There is no splice of this channel, or none any more.
    fn not_spliced(&self, by: ChannelId, since_secs: u64) {
        let mut last = self.last();
        if matches!(*last, Last::Splicing { channel, .. } if channel == by) {
            *last = Last::Unread { since_secs };
        }
    }

    /// Why nothing can be made now.
    fn in_use(&self, wallet: &impl Wallet, started_secs: u64, now_secs: u64) -> Option<CoinsInUse> {
        let mut last = self.last();
        let (next, why) = judged(*last, wallet, started_secs, now_secs);
        *last = next;
        why
    }

    /// Whether a look at the chain may tell more of this, and is worth its requests now.
    fn may_look(&self, why: CoinsInUse, now_secs: u64) -> bool {
        match why {
            // Their peers have to say something first.
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

/// What has become of what was made last.
fn judged(
    last: Last,
    wallet: &impl Wallet,
    started_secs: u64,
    now_secs: u64,
) -> (Last, Option<CoinsInUse>) {
    let is_read_since = |since_secs| wallet.read_secs() >= since_secs;
    let unread = |since_secs: u64| {
        // A clock that was ahead then is no reason to wait for that day.
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
            // Whether there was a funding before it was given up, the chain tells.
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

impl Node {
    /// Has something made out of the wallet, once what was made before is seen; `work` notes what that is.
    pub(super) async fn spend<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Arc<ldk_node::Node>, &Coins) -> Result<T, OperationError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let turn = Arc::clone(&self.coins.turn).lock_owned().await;
        self.coins_free().await?;
        let (coins, strangers) = (self.coins.clone(), self.strangers.clone());
        self.operate(what, move |node| {
            let _turn = turn;
            let done = work(node, &coins);
            strangers.coins_changed();
            done
        })
        .await
    }

    /// Looks whether what was made before is seen, if need be at the chain: then what the wallet says it holds is true.
    pub(super) async fn coins_free(&self) -> Result<(), OperationError> {
        let Some(why) = self.coins_in_use().await? else {
            return Ok(());
        };
        if !self.coins.may_look(why, self.clock.unix_secs()) {
            return Err(why.into());
        }
        let looked = self.look(&self.running()?).await;
        looked.map_err(|error| self.unread(error))?;
        match self.coins_in_use().await? {
            Some(why) => Err(why.into()),
            None => Ok(()),
        }
    }

    async fn coins_in_use(&self) -> Result<Option<CoinsInUse>, OperationError> {
        let Phase::Running { since_secs, .. } = self.phase() else {
            return Err(super::NodeUnavailable::NotRunning.into());
        };
        let lists_unconfirmed = !matches!(self.config.chain.source, ChainSource::Bitcoind(_));
        let (coins, now_secs) = (self.coins.clone(), self.clock.unix_secs());
        let relay = self.chain.relay().cloned();
        let in_use = self.operate("look at the wallet", move |node| {
            let wallet = Ldk {
                node,
                lists_unconfirmed,
                relay: relay.as_deref(),
            };
            Ok(coins.in_use(&wallet, since_secs, now_secs))
        });
        let in_use = in_use.await?;
        self.keep_sending();
        Ok(in_use)
    }

    /// Has the transaction that is not known to have been seen sent until somebody has it, and no other: coins that are free
    /// again are spent by nothing that comes later.
    pub(super) fn keep_sending(&self) {
        if let Some(relay) = self.chain.relay() {
            relay.keep_sending(self.coins.sent());
        }
    }
}

#[cfg(test)]
mod tests;
