//! Watches how much can still arrive, so that an operator hears of it before a challenge is refused, and something is ready for
//! a first customer where nothing can arrive.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bundle::Keeper;
use crate::base::live::Live;
use crate::node::liquidity::KeptReady;
use crate::operate::api::{Admin, Bundles, Turn, Watch, dearest};
use crate::protocol::invoice::Reach;
use crate::sell::gate::Gate;
use crate::sell::route::{Offer, RouteTable};

/// What can arrive, and what is sold.
pub(super) struct Inbound {
    /// How the node is reached.
    reach: watch::Receiver<Reach>,
    /// What is sold.
    routes: Arc<Live<RouteTable>>,
    /// What is sold behind guards.
    guarded: Arc<Live<Vec<Offer>>>,
    /// What a price in a currency goes by.
    gate: Arc<Gate>,
    /// For how many sales there should be room.
    low_sales: u32,
    /// Keeps a bundle ready while nothing can arrive.
    keeper: Option<Keeper>,
}

impl Inbound {
    /// What the operator is told of, too.
    pub(super) fn of(admin: &Admin, kept: Option<KeptReady>) -> Self {
        Self {
            reach: admin.node.reach(),
            routes: Arc::clone(&admin.routes),
            guarded: Arc::clone(&admin.guarded),
            gate: Arc::clone(&admin.gate),
            low_sales: admin.low_sales,
            keeper: kept.map(|kept| Keeper {
                bundles: Bundles::of(admin),
                kept,
                clock: admin.clock.clone(),
            }),
        }
    }

    /// Watches until told to stop.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        let keeper = self.keeper.take();
        let keeping = async {
            if let Some(keeper) = keeper {
                keeper.run(stop.clone()).await;
            }
        };
        tokio::join!(self.warn(stop.clone()), keeping);
    }

    /// Says when it gets low, and when it is enough again.
    async fn warn(mut self, stop: CancellationToken) {
        let mut watch = Watch::default();
        loop {
            let reach = self.reach.borrow_and_update().clone();
            if let Reach::Ready(inbound) = reach {
                let quotes = self.gate.quotes();
                let price = dearest(&self.routes.get(), &self.guarded.get(), &quotes.rates);
                match watch.look(&inbound, price, self.low_sales) {
                    None => {}
                    Some(Turn::Low) => tracing::warn!(
                        "Inbound liquidity is low: {} msat can arrive, which is less than {} sales at the dearest price. Spend or \
                         withdraw what is in the channels, or get another channel (`tollhouse liquidity terms`)",
                        inbound.capacity_msat,
                        self.low_sales
                    ),
                    Some(Turn::Enough) => tracing::info!(
                        "Inbound liquidity is enough again: {} msat can arrive",
                        inbound.capacity_msat
                    ),
                }
            }
            tokio::select! {
                changed = self.reach.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
            }
        }
    }
}
