//! The second stage: the monitors are loaded, and ldk-node sweeps what they find into its wallet.

use std::sync::Arc;
use std::time::Duration;

use ldk_node::{BalanceDetails, LightningBalance, PendingSweepBalance};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::node::state::Fence;
use crate::node::{Node, NodeError};

use super::look_again;

/// What a monitor has let go of, the sweeper has a moment later: nothing must be left on two looks this far apart.
const SURE_AFTER: Duration = Duration::from_secs(3);

/// What ripens within this many blocks, some six hours, is waited for.
const SOON_BLOCKS: u32 = 36;

/// An output of less may cost more than it brings while fees are high (100 vbytes at 50 sat), and ldk-node waits with it.
const SMALL_SAT: u64 = 5_000;

/// Watches until nothing of the old channels is left to sweep; `false` if told to stop before.
pub(super) async fn watch(
    node: &Node,
    fence: Fence,
    ldk: &Arc<ldk_node::Node>,
    until: &CancellationToken,
) -> Result<bool, NodeError> {
    let mut was_empty = false;
    loop {
        let asked = Arc::clone(ldk);
        let looked = tokio::task::spawn_blocking(move || {
            // Without this a monitor that has not heard of its channel's closing would look as if nothing were left.
            asked.sync_wallets()?;
            let height = asked.status().current_best_block.height;
            Ok::<_, ldk_node::NodeError>(Left::of(&asked.list_balances(), height))
        });
        match looked.await.map_err(NodeError::Panicked)? {
            Ok(left) => {
                if left.is_empty() && was_empty {
                    return Ok(true);
                }
                was_empty = left.is_empty();
                node.tell_recovery(fence.sweeping(left.happening()));
            }
            Err(error) => {
                was_empty = false;
                let happening = format!("The chain cannot be read ({error}).");
                node.tell_recovery(fence.sweeping(happening));
            }
        }
        let goes_on = if was_empty {
            // Whoever has the chain read meanwhile must not shorten this.
            tokio::select! {
                () = sleep_until(Instant::now() + SURE_AFTER) => true,
                () = until.cancelled() => false,
            }
        } else {
            look_again(node, node.config.chain.sync_interval, until).await
        };
        if !goes_on {
            return Ok(false);
        }
    }
}

/// What is not in the wallet yet.
#[derive(Debug, Default)]
struct Left {
    /// Balances whose monitors have still something to do that we wait for.
    waiting: usize,
    /// Their sum, in sat.
    waiting_sat: u64,
    /// Outputs that are being swept.
    sweeping: usize,
    /// Their sum, in sat.
    sweeping_sat: u64,
    /// What takes days, or a lower fee rate, in sat: no reason to keep the shop closed, for all that was dangerous is over. The node
    /// sweeps it in its time.
    later_sat: u64,
}

impl Left {
    fn of(balances: &BalanceDetails, height: u32) -> Self {
        let mut left = Self::default();
        for balance in &balances.lightning_balances {
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
        self.waiting == 0 && self.sweeping == 0
    }

    fn happening(&self) -> String {
        match (self.is_empty(), self.later_sat) {
            (true, 0) => "Nothing of the old channels is left to sweep.".to_owned(),
            (true, later_sat) => format!(
                "Nothing of the old channels is left to sweep now; {later_sat} sat wait for a time lock or for lower fees, and the node sweeps \
                 them when it can."
            ),
            (false, _) => format!(
                "{} balances of old channels ({} sat) wait for their confirmations, {} outputs ({} sat) are on their way to the wallet.",
                self.waiting, self.waiting_sat, self.sweeping, self.sweeping_sat
            ),
        }
    }
}

/// Whether we wait for this balance, and what it is worth to us.
fn awaited_sat(balance: &LightningBalance, height: u32) -> (bool, u64) {
    let soon = height + SOON_BLOCKS;
    match balance {
        // The monitor has not heard of the closing. In a channel that a peer has opened meanwhile, and that was closed at once,
        // nothing is ours.
        LightningBalance::ClaimableOnChannelClose {
            amount_satoshis, ..
        }
        | LightningBalance::ContentiousClaimable {
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
        // A payment to us whose preimage was not given away: it goes back to its payer.
        LightningBalance::MaybePreimageClaimableHTLC { .. } => (false, 0),
    }
}
