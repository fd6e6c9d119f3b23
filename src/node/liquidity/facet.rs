//! The state of everything that buys inbound liquidity.

use std::sync::Arc;

use tokio::sync::watch;

use crate::node::chain::source::Chain;
use crate::node::core::Core;
use crate::node::reach::Reachability;

/// Buys inbound liquidity from providers.
#[derive(Debug)]
pub struct Liquidity {
    pub(in crate::node) core: Arc<Core>,
    pub(super) chain: Arc<Chain>,
    pub(super) reach: Arc<Reachability>,
    /// Whether the liquidity provider is connected.
    provider_here: watch::Sender<bool>,
}

impl Liquidity {
    pub(in crate::node) fn new(
        core: &Arc<Core>,
        chain: &Arc<Chain>,
        reach: &Arc<Reachability>,
    ) -> Self {
        Self {
            core: Arc::clone(core),
            chain: Arc::clone(chain),
            reach: Arc::clone(reach),
            provider_here: watch::channel(false).0,
        }
    }

    /// Subscribes to whether the liquidity provider is connected.
    pub fn provider_here(&self) -> watch::Receiver<bool> {
        self.provider_here.subscribe()
    }

    /// Notes whether the liquidity provider is connected.
    pub(in crate::node) fn provider_is_here(&self, is_here: bool) {
        self.provider_here
            .send_if_modified(|was_here| std::mem::replace(was_here, is_here) != is_here);
    }
}
