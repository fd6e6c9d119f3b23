//! Bundles: a node without a channel gets its first channel out of a customer's payment for a
//! grant.

use std::sync::Arc;

use crate::account::ledger::Ledger;
use crate::account::ledger::record::{ActivationRecord, BundleRecord};
use crate::base::live::Live;
use crate::node::Node;
use crate::node::liquidity::Activation;
use crate::protocol::invoice::Invoice;
use crate::sell::gate::{Bundle, Gate};
use crate::sell::route::{Access, Offer, RouteTable};

use super::admin::Admin;
use super::bundle_error::BundleError;

/// The parts that prepare a bundle.
#[derive(Clone, Debug)]
pub struct Bundles {
    /// The node, which makes the invoice.
    pub node: Arc<Node>,
    /// The ledger, which records the activation.
    pub ledger: Arc<Ledger>,
    /// The gate, which hands the invoice to a client.
    pub gate: Arc<Gate>,
    /// The routes that are sold.
    pub routes: Arc<Live<RouteTable>>,
    /// The offers that are sold behind guards.
    pub guarded: Arc<Live<Vec<Offer>>>,
}

impl Bundles {
    /// Takes the parts from the operator API.
    pub fn of(admin: &Admin) -> Self {
        Self {
            node: Arc::clone(&admin.node),
            ledger: Arc::clone(&admin.ledger),
            gate: Arc::clone(&admin.gate),
            routes: Arc::clone(&admin.routes),
            guarded: Arc::clone(&admin.guarded),
        }
    }

    /// Finds the offer of this route or guarded service.
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

    /// Whether this bundle still matches the grant that is sold on this route now; `None` if the
    /// bundle is for another route or grant.
    pub fn is_of(&self, bundle: &Bundle, route: &str, grant: Option<&str>) -> Option<bool> {
        if *bundle.name != *route {
            return None;
        }
        let (_, offer) = self.sold(route)?;
        let (plan, price) = offer.bundle(grant).ok()?;
        (bundle.plan == plan.name).then(|| bundle.is(plan, price))
    }

    /// Makes an invoice for this grant whose payment opens a channel. The next client that requests
    /// the grant gets this invoice. Asks the provider, which takes up to twenty seconds.
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
        let made = self.node.liquidity().activate(&self.ledger, asked).await?;
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
            is_provider_here: self.node.liquidity().provider_here(),
        });
        Ok(made)
    }
}
