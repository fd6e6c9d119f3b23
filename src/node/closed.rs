//! Balances of open channels, and money that returns from closed channels. LDK counts both
//! together: the monitor of a closed channel reports our balance until the last part is swept. If
//! the channel's funding never confirms, the monitor reports it forever.
//!
//! The wallet counts a sweep as soon as it has seen the transaction. LDK counts the same money
//! until the transaction is confirmed, and longer. To count no money twice, this module counts it
//! only until the wallet has seen it.

use std::collections::HashSet;
use std::sync::Arc;

use bitcoin::Txid;
use bitcoin::hashes::Hash as _;
use ldk_node::lightning::chain::channelmonitor::BalanceSource;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning::ln::types::ChannelId;
use ldk_node::{BalanceDetails, LightningBalance, PendingSweepBalance};
use serde::Serialize;
use utoipa::ToSchema;

use crate::account::ledger::Ledger;
use crate::account::ledger::record::ChannelRecord;

use super::operation::OperationError;
use super::wallet::{self, OnchainBalance, Wallet};

/// The beginning of the ledger's reason for a cooperative close, in LDK's words. In other reasons,
/// the text of a peer comes after LDK's own words.
const AGREED: &str = "Channel closed because the channel was cooperatively closed";

/// The assumed duration of a wallet sync, in seconds. A sync that ends within this time after a
/// closing may have started before it.
const LOOK_SECS: u64 = 10;

/// The maximum number of repeated reads, each because the wallet synced during the read before.
/// Then the last values are taken. The wallet syncs at most once in ten seconds.
const READS_MAX: usize = 3;

/// Money on chain, and money that is on its way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OnchainMoney {
    /// The wallet's balance.
    #[serde(flatten)]
    pub wallet: OnchainBalance,
    /// The amount from closed channels that is not in the wallet yet.
    pub sweeping_sat: u64,
    /// The block from which the last waiting amount of closed channels can be swept, as far as it
    /// is known. `None` if nothing waits.
    pub sweeping_from_height: Option<u32>,
}

impl Wallet {
    /// The on-chain balance, and the amount that comes back from closed channels.
    pub async fn money(&self, ledger: Arc<Ledger>) -> Result<OnchainMoney, OperationError> {
        let sees_mempool = self.core.config.sees_mempool();
        self.core
            .read("read the balance", move |node| {
                let balance = || wallet::balance(node);
                let (wallet, parts) = stable(balance, || parts(node, &ledger, sees_mempool));
                Ok(OnchainMoney {
                    wallet,
                    sweeping_sat: parts.coming_sat,
                    sweeping_from_height: parts.from_height,
                })
            })
            .await
    }
}

/// The node's money, in sat.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Balances {
    /// The on-chain balance, unconfirmed money included.
    pub onchain_total_sat: u64,
    /// The on-chain balance that can be spent now.
    pub onchain_spendable_sat: u64,
    /// The balance in open channels.
    pub lightning_sat: u64,
    /// The amount from closed channels that the wallet does not count yet. It waits for
    /// confirmations or for a sweep, until the wallet has seen the sweep. No money is in two of
    /// these fields.
    pub closing_sat: u64,
}

/// The node's money, by place.
pub(super) fn balances(node: &ldk_node::Node, ledger: &Ledger, sees_mempool: bool) -> Balances {
    let onchain = || {
        let all = node.list_balances();
        let spendable_sat = all.spendable_onchain_balance_sats;
        (all.total_onchain_balance_sats, spendable_sat)
    };
    let (onchain, parts) = stable(onchain, || parts(node, ledger, sees_mempool));
    Balances {
        onchain_total_sat: onchain.0,
        onchain_spendable_sat: onchain.1,
        lightning_sat: parts.open_sat,
        closing_sat: parts.coming_sat,
    }
}

/// Reads the wallet's balance and the other parts as of the same moment. Reads again if the wallet
/// syncs in between.
fn stable<W: PartialEq>(wallet: impl Fn() -> W, parts: impl Fn() -> Parts) -> (W, Parts) {
    let mut before = wallet();
    for _ in 0..READS_MAX {
        let rest = parts();
        let after = wallet();
        if after == before {
            return (after, rest);
        }
        before = after;
    }
    (before, parts())
}

fn parts(node: &ldk_node::Node, ledger: &Ledger, sees_mempool: bool) -> Parts {
    let all = node.list_balances();
    let synced_secs = node.status().latest_onchain_wallet_sync_timestamp;
    // The wallet's records are as of its last sync. With a bitcoind, the wallet gets mempool
    // transactions without a sync.
    let counts =
        |txid: &Txid| sees_mempool || node.payment(&PaymentId(txid.to_byte_array())).is_some();
    let channels = node.list_channels().into_iter();
    let open: HashSet<ChannelId> = channels.map(|channel| channel.channel_id).collect();
    Parts::of(
        &all,
        |channel_id| {
            if open.contains(channel_id) {
                return Kind::Open;
            }
            // If the ledger cannot be read, the program ends in any case.
            match ledger.channel(&channel_id.0).ok().flatten() {
                None => Kind::GivenUp,
                Some(channel) if !is_agreed(&channel) => Kind::Forced,
                Some(channel) if is_seen(&channel, synced_secs) => Kind::Agreed,
                Some(_) => Kind::Agreeing,
            }
        },
        counts,
    )
}

/// Whether the wallet has synced since the cooperative close of this channel, so that it has the
/// closing transaction.
fn is_seen(channel: &ChannelRecord, synced_secs: Option<u64>) -> bool {
    let closed_secs = channel.closed_ms.unwrap_or(0) / 1_000;
    synced_secs.is_some_and(|synced_secs| synced_secs > closed_secs + LOOK_SECS)
}

fn is_agreed(channel: &ChannelRecord) -> bool {
    let why = channel.reason.as_deref();
    why.is_some_and(|why| why.starts_with(AGREED))
}

/// The state of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// The channel is open.
    Open,
    /// The channel was closed cooperatively. Our balance goes to the wallet, which has seen the
    /// transaction.
    Agreed,
    /// The channel was closed cooperatively, but the wallet has not seen the transaction yet.
    Agreeing,
    /// The channel was force-closed, or closed in an unknown way.
    Forced,
    /// The channel was closed before it was ready. Usually its funding is not confirmed, and
    /// nothing comes back.
    GivenUp,
}

/// The money that the wallet does not count, in sat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parts {
    /// The balance in open channels.
    open_sat: u64,
    /// The amount from closed channels that the wallet does not count.
    coming_sat: u64,
    /// The block from which the last of that amount can be swept.
    from_height: Option<u32>,
}

impl Parts {
    fn of(
        all: &BalanceDetails,
        kind: impl Fn(&ChannelId) -> Kind,
        counts: impl Fn(&Txid) -> bool,
    ) -> Self {
        let mut parts = Self::default();
        let mut not_open_sat = 0;
        for balance in &all.lightning_balances {
            let one = Waiting::of(balance);
            let kind = kind(one.channel_id);
            if kind == Kind::Open {
                continue;
            }
            not_open_sat += one.sat;
            if kind == Kind::GivenUp && !one.is_confirmed {
                continue;
            }
            // The ledger may miss a cooperative close that LDK knows. It happened long ago, while
            // no events were recorded.
            let is_counted = kind == Kind::Agreed || (one.is_agreed && kind != Kind::Agreeing);
            if !is_counted {
                parts.coming_sat += one.sat;
                parts.from_height = parts.from_height.max(one.height);
            }
        }
        let swept = all.pending_balances_from_channel_closures.iter();
        let swept_sat: u64 = swept.map(|swept| swept_sat(swept, &counts)).sum();
        parts.coming_sat += swept_sat;
        parts.open_sat = all
            .total_lightning_balance_sats
            .saturating_sub(not_open_sat);
        parts
    }
}

/// A balance that a monitor reports, as it counts after its channel is closed.
struct Waiting<'a> {
    channel_id: &'a ChannelId,
    /// The amount that is certainly ours, in sat. Amounts that depend on another party's action do
    /// not count.
    sat: u64,
    /// Whether the closing is confirmed.
    is_confirmed: bool,
    /// Whether the closing is known to be cooperative.
    is_agreed: bool,
    /// The block from which the amount can be swept.
    height: Option<u32>,
}

impl<'a> Waiting<'a> {
    fn of(balance: &'a LightningBalance) -> Self {
        use LightningBalance as L;
        let known = |channel_id, sat| Self {
            channel_id,
            sat,
            is_confirmed: true,
            is_agreed: false,
            height: None,
        };
        match balance {
            L::ClaimableOnChannelClose {
                channel_id,
                amount_satoshis,
                ..
            } => Self {
                is_confirmed: false,
                ..known(channel_id, *amount_satoshis)
            },
            L::ClaimableAwaitingConfirmations {
                channel_id,
                amount_satoshis,
                confirmation_height,
                source,
                ..
            } => Self {
                is_agreed: *source == BalanceSource::CoopClose,
                height: Some(*confirmation_height),
                ..known(channel_id, *amount_satoshis)
            },
            L::ContentiousClaimable {
                channel_id,
                amount_satoshis,
                ..
            }
            | L::CounterpartyRevokedOutputClaimable {
                channel_id,
                amount_satoshis,
                ..
            } => known(channel_id, *amount_satoshis),
            L::MaybeTimeoutClaimableHTLC { channel_id, .. }
            | L::MaybePreimageClaimableHTLC { channel_id, .. } => known(channel_id, 0),
        }
    }
}

/// The amount that is being swept, unless the wallet already counts the sweep.
fn swept_sat(balance: &PendingSweepBalance, counts: impl Fn(&Txid) -> bool) -> u64 {
    match balance {
        PendingSweepBalance::PendingBroadcast {
            amount_satoshis, ..
        } => *amount_satoshis,
        PendingSweepBalance::BroadcastAwaitingConfirmation {
            latest_spending_txid,
            amount_satoshis,
            ..
        }
        | PendingSweepBalance::AwaitingThresholdConfirmations {
            latest_spending_txid,
            amount_satoshis,
            ..
        } => match counts(latest_spending_txid) {
            true => 0,
            false => *amount_satoshis,
        },
    }
}

#[cfg(test)]
mod tests {
    use ldk_node::bitcoin::BlockHash;
    use ldk_node::bitcoin::secp256k1::PublicKey;

    use super::*;

    const OPEN: ChannelId = ChannelId([1; 32]);
    const FORCED: ChannelId = ChannelId([2; 32]);
    const AGREED: ChannelId = ChannelId([3; 32]);
    const GIVEN_UP: ChannelId = ChannelId([4; 32]);
    const AGREEING: ChannelId = ChannelId([5; 32]);

    fn peer() -> PublicKey {
        let id = "02eec7245d6b7d2ccb30380bfbe2a3648cd7a942653f5aa340edcea1f283686619";
        id.parse().unwrap()
    }

    fn unconfirmed(channel_id: ChannelId, amount_satoshis: u64) -> LightningBalance {
        LightningBalance::ClaimableOnChannelClose {
            channel_id,
            counterparty_node_id: peer(),
            amount_satoshis,
            transaction_fee_satoshis: 0,
            outbound_payment_htlc_rounded_msat: 0,
            outbound_forwarded_htlc_rounded_msat: 0,
            inbound_claiming_htlc_rounded_msat: 0,
            inbound_htlc_rounded_msat: 0,
        }
    }

    fn confirmed(
        channel_id: ChannelId,
        amount_satoshis: u64,
        confirmation_height: u32,
        source: BalanceSource,
    ) -> LightningBalance {
        LightningBalance::ClaimableAwaitingConfirmations {
            channel_id,
            counterparty_node_id: peer(),
            amount_satoshis,
            confirmation_height,
            source,
        }
    }

    fn parts(balances: Vec<LightningBalance>, swept: Vec<PendingSweepBalance>) -> Parts {
        let sum = balances.iter().map(|balance| Waiting::of(balance).sat);
        let all = BalanceDetails {
            total_onchain_balance_sats: 0,
            spendable_onchain_balance_sats: 0,
            total_anchor_channels_reserve_sats: 0,
            total_lightning_balance_sats: sum.sum(),
            lightning_balances: balances,
            pending_balances_from_channel_closures: swept,
        };
        Parts::of(
            &all,
            |channel_id| match *channel_id {
                OPEN => Kind::Open,
                FORCED => Kind::Forced,
                AGREED => Kind::Agreed,
                AGREEING => Kind::Agreeing,
                _ => Kind::GivenUp,
            },
            |txid| *txid == seen(),
        )
    }

    /// A transaction that the wallet counts.
    fn seen() -> Txid {
        Txid::from_byte_array([1; 32])
    }

    #[test]
    fn force_closed_money_is_on_its_way_from_the_closing_to_the_wallet() {
        let others = || vec![unconfirmed(OPEN, 7)];
        let with = |one| [others(), vec![one]].concat();
        let coming = |coming_sat, from_height| Parts {
            open_sat: 7,
            coming_sat,
            from_height,
        };
        // Right after the closing, in its first block, and during the sweep.
        let closed = with(unconfirmed(FORCED, 100));
        assert_eq!(parts(closed, vec![]), coming(100, None));
        let waits = with(confirmed(
            FORCED,
            100,
            145,
            BalanceSource::HolderForceClosed,
        ));
        assert_eq!(parts(waits, vec![]), coming(100, Some(145)));
        let swept = PendingSweepBalance::PendingBroadcast {
            channel_id: Some(FORCED),
            amount_satoshis: 100,
        };
        assert_eq!(parts(others(), vec![swept]), coming(100, None));
        // Once the wallet has seen the sweep, the money counts in the wallet, confirmed or not.
        for (txid, sat) in [(Txid::all_zeros(), 100), (seen(), 0)] {
            let waits = PendingSweepBalance::BroadcastAwaitingConfirmation {
                channel_id: Some(FORCED),
                latest_broadcast_height: 150,
                latest_spending_txid: txid,
                amount_satoshis: 100,
            };
            assert_eq!(parts(others(), vec![waits]), coming(sat, None));
            let confirmed = PendingSweepBalance::AwaitingThresholdConfirmations {
                channel_id: Some(FORCED),
                latest_spending_txid: txid,
                confirmation_hash: BlockHash::all_zeros(),
                confirmation_height: 151,
                amount_satoshis: 100,
            };
            assert_eq!(parts(others(), vec![confirmed]), coming(sat, None));
        }
    }

    #[test]
    fn what_the_wallet_counts_already_is_not_told_twice() {
        for closed in [
            unconfirmed(AGREED, 100),
            confirmed(AGREED, 100, 6, BalanceSource::CoopClose),
            confirmed(FORCED, 100, 6, BalanceSource::CoopClose),
        ] {
            let parts = parts(vec![closed], vec![]);
            assert_eq!((parts.open_sat, parts.coming_sat), (0, 0));
        }
        for closed in [
            unconfirmed(AGREEING, 100),
            confirmed(AGREEING, 100, 6, BalanceSource::CoopClose),
        ] {
            let parts = parts(vec![closed], vec![]);
            assert_eq!((parts.open_sat, parts.coming_sat), (0, 100));
        }
    }

    #[test]
    fn a_channel_whose_funding_never_confirmed_holds_nothing_when_it_is_closed() {
        let gone = parts(vec![unconfirmed(GIVEN_UP, 100)], vec![]);
        assert_eq!(gone, Parts::default());
        // This channel was closed before it was ready, although its funding was confirmed.
        let source = BalanceSource::HolderForceClosed;
        let there = parts(vec![confirmed(GIVEN_UP, 100, 9, source)], vec![]);
        assert_eq!((there.coming_sat, there.from_height), (100, Some(9)));
    }
}
