//! Watches the inbound liquidity: warns the operator before challenges must be refused, and keeps a
//! bundle ready for a first customer while the node cannot receive payments.

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

/// The inbound liquidity and the prices that it must suffice for.
pub(super) struct Inbound {
    /// Whether the node can receive payments, and how much.
    reach: watch::Receiver<Reach>,
    /// The routes on sale.
    routes: Arc<Live<RouteTable>>,
    /// The offers of guards.
    guarded: Arc<Live<Vec<Offer>>>,
    /// The gate, with the exchange rates for prices in a currency.
    gate: Arc<Gate>,
    /// The number of sales that the inbound liquidity should suffice for.
    low_sales: u32,
    /// Keeps a bundle ready while nothing can be received.
    keeper: Option<Keeper>,
}

impl Inbound {
    /// Builds the watch from the parts of the operator API. `kept` is the grant to keep ready.
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

    /// Watches until `stop` is cancelled.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        let keeper = self.keeper.take();
        let keeping = async {
            if let Some(keeper) = keeper {
                keeper.run(stop.clone()).await;
            }
        };
        tokio::join!(self.warn(stop.clone()), keeping);
    }

    /// Logs when the inbound liquidity becomes low, and when it is enough again.
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
