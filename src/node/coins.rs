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
use super::{Node, Phase};

/// A look at the chain that ends so long after a transaction was sent, and does not find it, means that nobody has it, in seconds: an
/// endpoint has four for its answer, and servers tell each other within a few.
const GONE_AFTER_SECS: u64 = 120;

/// How long a peer may take to agree on a splice, in seconds. LDK hangs up on one that is silent in the middle of it.
const SPLICE_SECS: u64 = 600;

/// What was made out of the wallet last. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Coins {
    /// Whose turn it is. Held until the transaction is made, also when nobody waits for it any more.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// A `std` mutex: held to copy a few words.
    last: Arc<Mutex<Last>>,
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
        /// Since when, Unix seconds.
        since_secs: u64,
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
        "a splice is being agreed on with the peer of channel {0}: try again in a minute or two"
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
}

impl Wallet for Ldk<'_> {
    fn knows(&self, txid: Txid, before_sat: u64) -> bool {
        let is_listed = self.node.payment(&PaymentId(txid.to_byte_array()));
        is_listed.is_some() || !self.lists_unconfirmed && total_sat(self.node) < before_sat
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

    /// What an event tells of a splice that is being agreed on.
    pub(super) fn hear(&self, event: &Event, now_secs: u64) {
        match event {
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
            | Event::ChannelPending { .. }
            | Event::ChannelReady { .. } => {}
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
}

/// What has become of what was made last.
fn judged(
    last: Last,
    wallet: &impl Wallet,
    started_secs: u64,
    now_secs: u64,
) -> (Last, Option<CoinsInUse>) {
    let is_read_since = |since_secs| wallet.read_secs() >= since_secs;
    let unread = |since_secs| {
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
            if wallet.knows(txid, before_sat) {
                (Last::Seen, None)
            } else if is_read_since(at_secs.saturating_add(GONE_AFTER_SECS)) {
                tracing::warn!(
                    "Transaction {txid} was sent and is nowhere on the chain or on its way there: look whether it is needed still"
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
        Last::Splicing { since_secs, .. } if now_secs.abs_diff(since_secs) >= SPLICE_SECS => {
            unread(now_secs)
        }
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
        if self.coins_in_use().await?.is_none() {
            return Ok(());
        }
        self.look(&self.running()?).await?;
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
        self.operate("look at the wallet", move |node| {
            let wallet = Ldk {
                node,
                lists_unconfirmed,
            };
            Ok(coins.in_use(&wallet, since_secs, now_secs))
        })
        .await
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
    }

    impl Wallet for Known {
        fn knows(&self, txid: Txid, _before_sat: u64) -> bool {
            self.txids.contains(&txid)
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
        assert_eq!(in_use(&coins, &wallet), None);
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
        let splicing = |since_secs| Last::Splicing {
            channel: one,
            since_secs,
            before_sat: 0,
        };
        coins.note(splicing(NOW));
        coins.spliced(other, txid(2), NOW);
        coins.not_spliced(other, NOW);
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Splicing(one)));
        coins.spliced(one, txid(1), NOW);
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Sent(txid(1))));
        wallet.txids = vec![txid(1)];
        assert_eq!(in_use(&coins, &wallet), None);
        coins.note(splicing(NOW));
        coins.not_spliced(one, NOW);
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
        // Its peer has gone away without a word.
        coins.note(splicing(NOW - SPLICE_SECS));
        assert_eq!(in_use(&coins, &wallet), Some(CoinsInUse::Unread));
        wallet.read_secs = NOW;
        assert_eq!(in_use(&coins, &wallet), None);
    }
}
