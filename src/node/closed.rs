//! What comes back from channels that were closed, and what is in those that there are. LDK counts both as one: the monitor of a
//! closed channel goes on telling what is ours in it, until the last of it is swept; and for ever, if its funding never confirmed.

use std::collections::HashSet;
use std::sync::Arc;

use ldk_node::lightning::chain::channelmonitor::BalanceSource;
use ldk_node::lightning::ln::types::ChannelId;
use ldk_node::{BalanceDetails, LightningBalance, PendingSweepBalance};
use serde::Serialize;
use utoipa::ToSchema;

use crate::ledger::Ledger;
use crate::ledger::record::ChannelRecord;

use super::Node;
use super::operation::OperationError;
use super::status::Balances;
use super::wallet::{self, OnchainBalance};

/// What the books call a closing in agreement: LDK's words for it. What a peer writes stands behind others.
const AGREED: &str = "Channel closed because the channel was cooperatively closed";

/// Money on the chain, and on its way there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct OnchainMoney {
    /// What there is.
    #[serde(flatten)]
    pub wallet: OnchainBalance,
    /// What comes back from channels that were closed and is not in the wallet yet.
    pub sweeping_sat: u64,
    /// The block from which the last of what waits in closed channels can be swept, as far as that is known; nothing if nothing
    /// waits.
    pub sweeping_from_height: Option<u32>,
}

impl Node {
    /// What there is on the chain, and what comes back from closed channels.
    pub async fn onchain_money(&self, ledger: Arc<Ledger>) -> Result<OnchainMoney, OperationError> {
        self.read("read the balance", move |node| {
            let parts = parts(node, &ledger);
            Ok(OnchainMoney {
                wallet: wallet::balance(node),
                sweeping_sat: parts.coming_sat,
                sweeping_from_height: parts.from_height,
            })
        })
        .await
    }
}

/// The node's money, by where it is.
pub(super) fn balances(node: &ldk_node::Node, ledger: &Ledger) -> Balances {
    let (all, parts) = (node.list_balances(), parts(node, ledger));
    Balances {
        onchain_total_sat: all.total_onchain_balance_sats,
        onchain_spendable_sat: all.spendable_onchain_balance_sats,
        lightning_sat: parts.open_sat,
        closing_sat: parts.closing_sat,
    }
}

fn parts(node: &ldk_node::Node, ledger: &Ledger) -> Parts {
    let all = node.list_balances();
    let channels = node.list_channels().into_iter();
    let open: HashSet<ChannelId> = channels.map(|channel| channel.channel_id).collect();
    Parts::of(&all, |channel_id| {
        if open.contains(channel_id) {
            return Kind::Open;
        }
        // Books that cannot be read end the program in any case.
        match ledger.channel(&channel_id.0).ok().flatten() {
            None => Kind::GivenUp,
            Some(channel) if is_agreed(&channel) => Kind::Agreed,
            Some(_) => Kind::Forced,
        }
    })
}

fn is_agreed(channel: &ChannelRecord) -> bool {
    let why = channel.reason.as_deref();
    why.is_some_and(|why| why.starts_with(AGREED))
}

/// What a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// There.
    Open,
    /// Closed in agreement: what is ours goes to the wallet, which counts it from the moment at which the transaction is seen.
    Agreed,
    /// Closed by force, or in a way that is not known.
    Forced,
    /// Closed before it was ready. As a rule its funding is in no block, and there is nothing to come back.
    GivenUp,
}

/// The money that is not, or not for certain, in the wallet, in sat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Parts {
    /// In channels that are there.
    open_sat: u64,
    /// Of closed ones, and not safe in the wallet yet.
    closing_sat: u64,
    /// Of that, what the wallet does not count.
    coming_sat: u64,
    /// The block from which the last of that can be swept.
    from_height: Option<u32>,
}

impl Parts {
    fn of(all: &BalanceDetails, kind: impl Fn(&ChannelId) -> Kind) -> Self {
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
            parts.closing_sat += one.sat;
            if kind != Kind::Agreed && !one.is_agreed {
                parts.coming_sat += one.sat;
                parts.from_height = parts.from_height.max(one.height);
            }
        }
        let swept = all.pending_balances_from_channel_closures.iter();
        let swept_sat: u64 = swept.map(swept_sat).sum();
        parts.closing_sat += swept_sat;
        parts.coming_sat += swept_sat;
        parts.open_sat = all
            .total_lightning_balance_sats
            .saturating_sub(not_open_sat);
        parts
    }
}

/// What one entry of a monitor means when its channel is closed.
struct Waiting<'a> {
    channel_id: &'a ChannelId,
    /// What is ours in it for certain, in sat. What we may get if somebody else does not, does not count.
    sat: u64,
    /// Whether the closing is in a block.
    is_confirmed: bool,
    /// Whether it is known to be one in agreement.
    is_agreed: bool,
    /// From which block it can be swept.
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

/// What is being swept. With a confirmation it is in the wallet.
fn swept_sat(balance: &PendingSweepBalance) -> u64 {
    match balance {
        PendingSweepBalance::PendingBroadcast {
            amount_satoshis, ..
        }
        | PendingSweepBalance::BroadcastAwaitingConfirmation {
            amount_satoshis, ..
        } => *amount_satoshis,
        PendingSweepBalance::AwaitingThresholdConfirmations { .. } => 0,
    }
}

#[cfg(test)]
mod tests {
    use ldk_node::bitcoin::secp256k1::PublicKey;

    use super::*;

    const OPEN: ChannelId = ChannelId([1; 32]);
    const FORCED: ChannelId = ChannelId([2; 32]);
    const AGREED: ChannelId = ChannelId([3; 32]);
    const GIVEN_UP: ChannelId = ChannelId([4; 32]);

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
        Parts::of(&all, |channel_id| match *channel_id {
            OPEN => Kind::Open,
            FORCED => Kind::Forced,
            AGREED => Kind::Agreed,
            _ => Kind::GivenUp,
        })
    }

    #[test]
    fn force_closed_money_is_on_its_way_from_the_closing_to_the_wallet() {
        let others = || vec![unconfirmed(OPEN, 7)];
        let with = |one| [others(), vec![one]].concat();
        let coming = |coming_sat, from_height| Parts {
            open_sat: 7,
            closing_sat: coming_sat,
            coming_sat,
            from_height,
        };
        // At once, in its first block, and while it is swept.
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
            assert_eq!(parts.closing_sat, 100, "it is not safe yet");
        }
    }

    #[test]
    fn a_channel_whose_funding_never_confirmed_holds_nothing_when_it_is_closed() {
        let gone = parts(vec![unconfirmed(GIVEN_UP, 100)], vec![]);
        assert_eq!(gone, Parts::default());
        // One that was closed before it was ready, and whose funding was in a block all the same.
        let source = BalanceSource::HolderForceClosed;
        let there = parts(vec![confirmed(GIVEN_UP, 100, 9, source)], vec![]);
        assert_eq!((there.coming_sat, there.from_height), (100, Some(9)));
    }
}
