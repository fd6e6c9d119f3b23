//! The second stage: the monitors are loaded, and ldk-node sweeps the outputs that they find into
//! its wallet.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ldk_node::{BalanceDetails, LightningBalance, PendingSweepBalance};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::channel_state::copy::{Fence, MonitoredChannel};
use crate::node::error::NodeError;

use super::progress::Recoveries;

/// The pause between two checks that must both find nothing left. An output that a monitor drops
/// reaches the sweeper a moment later.
const SURE_AFTER: Duration = Duration::from_secs(3);

/// The number of blocks, about six hours, within which a balance must become spendable to be waited
/// for.
const SOON_BLOCKS: u32 = 36;

/// The least output that is waited for, in sat. While fees are high, a smaller one may cost more
/// than it brings (100 vbytes at 50 sat), and ldk-node delays its sweep.
const SMALL_SAT: u64 = 5_000;

/// Watches until nothing of the old channels is left to sweep, or until the operator does not want
/// to wait. Returns `false` if told to stop before.
pub(super) async fn watch(
    recovery: &Recoveries,
    fence: Fence,
    old: &[MonitoredChannel],
    ldk: &Arc<ldk_node::Node>,
    until: &CancellationToken,
) -> Result<bool, NodeError> {
    let ids: HashSet<[u8; 32]> = old.iter().map(|channel| channel.channel_id).collect();
    let mut was_empty = false;
    loop {
        if recovery.is_to_leave() {
            return Ok(true);
        }
        let (asked, ids) = (Arc::clone(ldk), ids.clone());
        let looked = tokio::task::spawn_blocking(move || {
            // Without the sync, a monitor that has not seen the closing would look as if nothing
            // were left.
            asked.sync_wallets()?;
            let height = asked.status().current_best_block.height;
            Ok::<_, ldk_node::NodeError>(Left::of(&asked.list_balances(), height, &ids))
        });
        match looked.await.map_err(NodeError::Panicked)? {
            Ok(left) => {
                if left.is_empty() && was_empty {
                    return Ok(true);
                }
                was_empty = left.is_empty();
                recovery.tell(fence.sweeping(left.happening()));
            }
            Err(error) => {
                was_empty = false;
                let happening = format!("The chain cannot be read ({error}).");
                recovery.tell(fence.sweeping(happening));
            }
        }
        let goes_on = if was_empty {
            // A chain sync that the operator requests must not shorten this pause.
            tokio::select! {
                () = sleep_until(Instant::now() + SURE_AFTER) => true,
                () = until.cancelled() => false,
            }
        } else {
            recovery
                .look_again(recovery.core.config.chain.sync_interval, until)
                .await
        };
        if !goes_on {
            return Ok(false);
        }
    }
}

/// The money that is not in the wallet yet.
#[derive(Debug, Default)]
struct Left {
    /// The number of balances that the recovery waits for, because their monitors still have work
    /// to do.
    waiting: usize,
    /// The sum of these balances, in sat.
    waiting_sat: u64,
    /// The number of outputs that are being swept.
    sweeping: usize,
    /// The sum of these outputs, in sat.
    sweeping_sat: u64,
    /// The number of old channels whose monitors have not found the closing yet.
    unheard: usize,
    /// The amount that takes days or a lower fee rate, in sat. It does not delay selling, because
    /// the danger is over. The node sweeps it later.
    later_sat: u64,
}

impl Left {
    fn of(balances: &BalanceDetails, height: u32, old: &HashSet<[u8; 32]>) -> Self {
        let mut left = Self::default();
        for balance in &balances.lightning_balances {
            if let LightningBalance::ClaimableOnChannelClose { channel_id, .. } = balance {
                // An old channel counts whatever the balance in its monitor: outside of a recovery,
                // the node would broadcast the channel's old state. A channel that a peer has
                // opened during the recovery does not count. It was closed at once, none of its
                // money is ours, and it may never confirm.
                left.unheard += usize::from(old.contains(&channel_id.0));
                continue;
            }
            match awaited_sat(balance, height) {
                (_, 0) => {}
                (true, sat) => {
                    left.waiting += 1;
                    left.waiting_sat += sat;
                }
                (false, sat) => left.later_sat += sat,
            }
        }
        for pending in &balances.pending_balances_from_channel_closures {
            match pending {
                PendingSweepBalance::PendingBroadcast {
                    amount_satoshis, ..
                } if *amount_satoshis < SMALL_SAT => left.later_sat += amount_satoshis,
                PendingSweepBalance::PendingBroadcast {
                    amount_satoshis, ..
                }
                | PendingSweepBalance::BroadcastAwaitingConfirmation {
                    amount_satoshis, ..
                } => {
                    left.sweeping += 1;
                    left.sweeping_sat += amount_satoshis;
                }
                PendingSweepBalance::AwaitingThresholdConfirmations { .. } => {}
            }
        }
        left
    }

    fn is_empty(&self) -> bool {
        self.waiting == 0 && self.sweeping == 0 && self.unheard == 0
    }

    fn happening(&self) -> String {
        match (self.is_empty(), self.later_sat) {
            (true, 0) => "Nothing of the old channels is left to sweep.".to_owned(),
            (true, later_sat) => format!(
                "Nothing of the old channels is left to sweep now; {later_sat} sat wait for a time lock or for lower fees, and the node sweeps \
                 them when it can."
            ),
            (false, _) if self.unheard > 0 => format!(
                "The closings of {} old channels are not found by their monitors yet. If that goes on, `tollhouse backup leave` sets \
                 those aside again.",
                self.unheard
            ),
            (false, _) => format!(
                "{} balances of old channels ({} sat) wait for their confirmations, {} outputs ({} sat) are on their way to the wallet.",
                self.waiting, self.waiting_sat, self.sweeping, self.sweeping_sat
            ),
        }
    }
}

/// Whether the recovery waits for this balance, and its value for us in sat.
fn awaited_sat(balance: &LightningBalance, height: u32) -> (bool, u64) {
    let soon = height + SOON_BLOCKS;
    match balance {
        // Counted separately as unheard.
        LightningBalance::ClaimableOnChannelClose { .. } => (false, 0),
        LightningBalance::ContentiousClaimable {
            amount_satoshis, ..
        }
        | LightningBalance::CounterpartyRevokedOutputClaimable {
            amount_satoshis, ..
        } => (true, *amount_satoshis),
        LightningBalance::ClaimableAwaitingConfirmations {
            amount_satoshis,
            confirmation_height,
            ..
        } => (*confirmation_height <= soon, *amount_satoshis),
        LightningBalance::MaybeTimeoutClaimableHTLC {
            amount_satoshis,
            claimable_height,
            ..
        } => (*claimable_height <= soon, *amount_satoshis),
        // A payment to us whose preimage was not released goes back to its payer.
        LightningBalance::MaybePreimageClaimableHTLC { .. } => (false, 0),
    }
}

#[cfg(test)]
mod tests {
    use ldk_node::lightning::ln::types::ChannelId;

    use super::*;

    fn balances(channel_id: [u8; 32], amount_satoshis: u64) -> BalanceDetails {
        let secret = bitcoin::secp256k1::SecretKey::from_slice(&[1; 32]).unwrap();
        let peer = secret.public_key(&bitcoin::secp256k1::Secp256k1::new());
        let open = LightningBalance::ClaimableOnChannelClose {
            channel_id: ChannelId(channel_id),
            counterparty_node_id: peer,
            amount_satoshis,
            transaction_fee_satoshis: 0,
            outbound_payment_htlc_rounded_msat: 0,
            outbound_forwarded_htlc_rounded_msat: 0,
            inbound_claiming_htlc_rounded_msat: 0,
            inbound_htlc_rounded_msat: 0,
        };
        BalanceDetails {
            total_onchain_balance_sats: 0,
            spendable_onchain_balance_sats: 0,
            total_anchor_channels_reserve_sats: 0,
            total_lightning_balance_sats: amount_satoshis,
            lightning_balances: vec![open],
            pending_balances_from_channel_closures: Vec::new(),
        }
    }

    #[test]
    fn an_old_channel_whose_closing_was_not_found_is_waited_for_also_if_nothing_in_it_is_ours() {
        let old = HashSet::from([[1; 32]]);
        for sat in [0, 1_000] {
            assert!(!Left::of(&balances([1; 32], sat), 100, &old).is_empty());
            // A channel that a peer has opened during the recovery may never confirm.
            assert!(Left::of(&balances([2; 32], sat), 100, &old).is_empty());
        }
    }
}
