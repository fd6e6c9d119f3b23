//! Laying a bundle ready: whoever has no channel gets its first one out of what a customer pays for a grant.

use std::sync::Arc;

use crate::account::ledger::Ledger;
use crate::account::ledger::record::{ActivationRecord, BundleRecord};
use crate::base::live::Live;
use crate::node::Node;
use crate::node::liquidity::{ActivateError, Activation};
use crate::protocol::invoice::Invoice;
use crate::sell::gate::{Bundle, Gate};
use crate::sell::route::{Access, NotABundle, Offer, RouteTable};

use super::Admin;

/// Why no bundle was laid ready.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is nothing of this name.
    #[error(
        "nothing is sold on `{0}`: give the path of a route as it stands in the settings, or the service of a guard"
    )]
    NotSold(String),
    /// It cannot be sold ahead.
    #[error("on `{name}`: {why}")]
    NotABundle {
        /// The route.
        name: String,
        /// Why not.
        why: NotABundle,
    },
    /// There is no invoice.
    #[error(transparent)]
    Activate(#[from] ActivateError),
}

/// What it takes to lay one ready.
#[derive(Clone, Debug)]
pub struct Bundles {
    /// Has the invoice made.
    pub node: Arc<Node>,
    /// Where it is entered.
    pub ledger: Arc<Ledger>,
    /// Hands it out.
    pub gate: Arc<Gate>,
    /// What is sold.
    pub routes: Arc<Live<RouteTable>>,
    /// What is sold behind guards.
    pub guarded: Arc<Live<Vec<Offer>>>,
}

impl Bundles {
    /// Of what the operator is told of, too.
    pub fn of(admin: &Admin) -> Self {
        Self {
            node: Arc::clone(&admin.node),
            ledger: Arc::clone(&admin.ledger),
            gate: Arc::clone(&admin.gate),
            routes: Arc::clone(&admin.routes),
            guarded: Arc::clone(&admin.guarded),
        }
    }

    /// What is sold under this name.
    fn sold(&self, name: &str) -> Option<(Arc<str>, Offer)> {
        let routes = self.routes.get();
        let of_route = routes.iter().find_map(|route| match &route.access {
            Access::Paid(offer) if *route.name == *name => {
                Some((route.name.clone(), offer.as_ref().clone()))
            }
            Access::Paid(_) | Access::Free => None,
        });
        let guarded = self.guarded.get();
        let of_guard = || guarded.iter().find(|offer| *offer.service == *name);
        of_route.or_else(|| of_guard().map(|offer| (offer.service.clone(), offer.clone())))
    }

    /// Whether this bundle is what is sold now as this grant of this route; `None` if it is another one.
    pub fn is_of(&self, bundle: &Bundle, route: &str, grant: Option<&str>) -> Option<bool> {
        if *bundle.name != *route {
            return None;
        }
        let (_, offer) = self.sold(route)?;
        let (plan, price) = offer.bundle(grant).ok()?;
        (bundle.plan == plan.name).then(|| bundle.is(plan, price))
    }

    /// Has an invoice made for this grant, whose payment opens a channel, and lays it ready for the next client that asks for the
    /// grant. Talks to the provider: up to twenty seconds.
    pub async fn prepare(
        &self,
        route: &str,
        grant: Option<&str>,
    ) -> Result<ActivationRecord, BundleError> {
        let sold = self.sold(route);
        let (name, offer) = sold.ok_or_else(|| BundleError::NotSold(route.to_owned()))?;
        let bundle = offer.bundle(grant).map_err(|why| BundleError::NotABundle {
            name: name.to_string(),
            why,
        });
        let (plan, price) = bundle?;
        let is_default = std::ptr::eq(plan, offer.default_plan());
        let record = BundleRecord {
            service: offer.service.to_string(),
            route: name.to_string(),
            grant: (!is_default).then(|| plan.name.to_string()),
        };
        let description = crate::sell::gate::describe(&offer.service, &plan.grant, None);
        let asked = Activation {
            amount: price,
            bundle: Some((record, description)),
        };
        let made = self.node.activate(&self.ledger, asked).await?;
        self.gate.lay_ready(Bundle {
            name,
            plan: plan.name.clone(),
            grant: plan.grant,
            price,
            invoice: Invoice {
                bolt11: made.bolt11.clone(),
                payment_hash: made.payment_hash,
                expires_at_secs: made.expires_ms / 1_000,
            },
            is_provider_here: self.node.provider_here(),
        });
        Ok(made)
    }
}
