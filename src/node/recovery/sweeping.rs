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
            Ok::<_, ldk_node::NodeError>(asked.list_balances())
        });
        match looked.await.map_err(NodeError::Panicked)? {
            Ok(balances) => {
                let left = Left::of(&balances);
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
struct Left {
    /// Balances that monitors still hold.
    waiting: usize,
    /// Their sum, in sat.
    waiting_sat: u64,
    /// Outputs that are being swept.
    sweeping: usize,
    /// Their sum, in sat.
    sweeping_sat: u64,
}

impl Left {
    fn of(balances: &BalanceDetails) -> Self {
        let sweeping: Vec<u64> = balances
            .pending_balances_from_channel_closures
            .iter()
            .filter_map(|pending| match pending {
                PendingSweepBalance::PendingBroadcast {
                    amount_satoshis, ..
                }
                | PendingSweepBalance::BroadcastAwaitingConfirmation {
                    amount_satoshis, ..
                } => Some(*amount_satoshis),
                PendingSweepBalance::AwaitingThresholdConfirmations { .. } => None,
            })
            .collect();
        // In a channel that a peer has opened meanwhile, and that was closed at once, nothing is ours.
        let is_ours = |balance: &&LightningBalance| {
            !matches!(
                balance,
                LightningBalance::ClaimableOnChannelClose {
                    amount_satoshis: 0,
                    ..
                }
            )
        };
        Self {
            waiting: balances.lightning_balances.iter().filter(is_ours).count(),
            waiting_sat: balances.total_lightning_balance_sats,
            sweeping: sweeping.len(),
            sweeping_sat: sweeping.iter().sum(),
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting == 0 && self.sweeping == 0
    }

    fn happening(&self) -> String {
        if self.is_empty() {
            return "Nothing of the old channels is left to sweep.".to_owned();
        }
        format!(
            "{} balances of old channels ({} sat) wait for their time, {} outputs ({} sat) are on their way to the wallet.",
            self.waiting, self.waiting_sat, self.sweeping, self.sweeping_sat
        )
    }
}
