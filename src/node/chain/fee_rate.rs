//! The fee rate for a confirmation in time.

use crate::chain::esplora::estimated_fee_rate;
use crate::node::Node;

impl Node {
    /// The fee rate for a confirmation within so many blocks, in sat per virtual byte; `None` if no server tells it.
    pub(in crate::node) async fn fee_rate_within(&self, target_blocks: u16) -> Option<u64> {
        estimated_fee_rate(self.chain.relay()?.url(), target_blocks).await
    }
}
