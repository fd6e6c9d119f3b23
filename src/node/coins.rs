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

use super::chain::ChainSource;
use super::operation::OperationError;
use super::relay::Relay;
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

/// Why nothing can be made out of the wallet now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoinsInUse {
    /// A transaction is on its way.
    #[error(
        "transaction {0} was sent before and is not seen on the chain yet: try again in a minute or two"
    )]
    Sent(Txid),
    /// A channel is being opened.
    #[error(
        "a channel is being opened, and its peer has not answered yet: try again in a minute, or close it if that peer stays silent"
    )]
    Opening,
    /// A splice is being agreed on.
    #[error(
        "a splice is being agreed on with the peer of channel {0}: try again in a minute or two, or close that channel if its peer \
         stays silent"
    )]
    Splicing(ChannelId),
    /// The chain was not read.
    #[error("what was sent before is not known: the chain was not read since then")]
    Unread,
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

    /// A channel has its funding: this transaction is sent.
    fn funded(&self, by: UserChannelId, txid: Txid, at_secs: u64) {
        let mut last = self.last();
        if let Last::Opening {
            channel,
            before_sat,
        } = *last
            && channel == by
        {
            *last = Last::Sent {
                txid,
                at_secs,
                before_sat,
            };
        }
    }

    /// A splice was agreed on: this transaction is sent.
    fn spliced(&self, by: ChannelId, txid: Txid, at_secs: u64) {
        let mut last = self.last();
        if let Last::Splicing {
            channel,
            before_sat,
            ..
        } = *last
            && channel == by
        {
            *last = Last::Sent {
                txid,
                at_secs,
                before_sat,
            };
        }
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
        let coins = self.coins.clone();
        self.operate(what, move |node| {
            let _turn = turn;
            work(node, &coins)
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
mod tests {
    use super::*;

    #[derive(Default)]
    struct Known {
        txids: Vec<Txid>,
        channels: Vec<(UserChannelId, Option<Txid>)>,
        read_secs: u64,
        is_taken: bool,
    }

    impl Wallet for Known {
        fn knows(&self, txid: Txid, _before_sat: u64) -> bool {
            self.txids.contains(&txid)
        }

        fn is_taken(&self, _txid: Txid) -> bool {
            self.is_taken
        }

        fn funding(&self, channel: UserChannelId) -> Option<Option<Txid>> {
            let mut found = self.channels.iter().filter(|(it, _)| *it == channel);
            found.next().map(|(_, funding)| *funding)
        }

        fn read_secs(&self) -> u64 {
            self.read_secs
        }
    }

    const START: u64 = 1_000;
    const NOW: u64 = 2_000;

    fn txid(byte: u8) -> Txid {
        Txid::from_byte_array([byte; 32])
    }

    fn sent(byte: u8) -> Last {
        Last::Sent {
            txid: txid(byte),
            at_secs: NOW,
            before_sat: 0,
        }
    }

    fn in_use(coins: &Coins, wallet: &Known) -> Option<CoinsInUse> {
        coins.in_use(wallet, START, NOW)
    }

    #[test]
    fn nothing_is_made_before_the_chain_was_read_since_the_start() {
        let (coins, mut wallet) = (Coins::default(), Known::default());
        wallet.read_secs = START - 1;
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
        wallet.read_secs = START;
        assert_eq!(in_use(&coins, &wallet), None);
    }

    #[test]
    fn what_was_sent_is_seen_or_is_nowhere_before_the_next() {
        let (coins, mut wallet) = (Coins::default(), Known::default());
        wallet.read_secs = NOW + GONE_AFTER_SECS - 1;
        coins.note(sent(1));
        let waits = Some(CoinsInUse::Sent(txid(1)));
        assert_eq!(in_use(&coins, &wallet), waits);
        wallet.txids = vec![txid(2)];
        assert_eq!(in_use(&coins, &wallet), waits);
        wallet.txids = vec![txid(1)];
        assert_eq!(in_use(&coins, &wallet), None);
        // Nobody has taken it.
        coins.note(sent(3));
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(3))));
        wallet.read_secs += 1;
        wallet.is_taken = true;
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(3))));
        wallet.is_taken = false;
        assert_eq!(coins.sent(), Some(txid(3)));
        assert_eq!(in_use(&coins, &wallet), None);
        assert_eq!(
            coins.sent(),
            None,
            "what is spent otherwise now is not sent again"
        );
    }

    #[test]
    fn a_clock_that_was_ahead_keeps_the_wallet_closed_for_no_day() {
        let (coins, wallet) = (
            Coins::default(),
            Known {
                read_secs: NOW,
                ..Known::default()
            },
        );
        assert_eq!(coins.in_use(&wallet, NOW + 86_400, NOW), None);
        coins.note(Last::Unread {
            since_secs: NOW + 86_400,
        });
        assert_eq!(in_use(&coins, &wallet), None);
    }

    #[test]
    fn whoever_tries_again_and_again_has_the_chain_looked_at_now_and_then() {
        let coins = Coins::default();
        let sent = |byte| CoinsInUse::Sent(txid(byte));
        assert!(coins.may_look(sent(1), NOW));
        assert!(!coins.may_look(sent(1), NOW + LOOK_EVERY_SECS - 1));
        assert!(coins.may_look(sent(1), NOW + LOOK_EVERY_SECS));
        assert!(coins.may_look(sent(2), NOW + LOOK_EVERY_SECS));
        assert!(!coins.may_look(CoinsInUse::Opening, NOW + 1_000));
    }

    #[test]
    fn a_channel_has_its_funding_before_the_next_thing_is_made() {
        let (coins, mut wallet) = (Coins::default(), Known::default());
        let channel = UserChannelId(7);
        coins.note(Last::Opening {
            channel,
            before_sat: 0,
        });
        wallet.channels = vec![(channel, None)];
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Opening));
        wallet.channels = vec![(channel, Some(txid(1)))];
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(1))));
        // It is closed at once, and the funding still on its way.
        wallet.channels.clear();
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(1))));
        wallet.txids = vec![txid(1)];
        assert_eq!(in_use(&coins, &wallet), None);
        // Given up before anybody looked: only the chain knows.
        coins.note(Last::Opening {
            channel,
            before_sat: 0,
        });
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
        wallet.read_secs = NOW;
        assert_eq!(in_use(&coins, &wallet), None);
    }

    #[test]
    fn a_splice_is_agreed_on_or_given_up_before_the_next_thing_is_made() {
        let (coins, mut wallet) = (Coins::default(), Known::default());
        let (one, other) = (ChannelId([1; 32]), ChannelId([2; 32]));
        let splicing = Last::Splicing {
            channel: one,
            before_sat: 0,
        };
        coins.note(splicing);
        coins.spliced(other, txid(2), NOW);
        coins.not_spliced(other, NOW);
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Splicing(one)));
        coins.spliced(one, txid(1), NOW);
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(1))));
        wallet.txids = vec![txid(1)];
        assert_eq!(in_use(&coins, &wallet), None);
        coins.note(splicing);
        coins.not_spliced(one, NOW);
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
        wallet.read_secs = NOW;
        assert_eq!(in_use(&coins, &wallet), None);
    }
}
