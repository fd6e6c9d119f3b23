//! Inbound liquidity: the provider's terms, invoices that open a channel when paid, and channels
//! that are ordered.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::account::ledger::ACTIVATIONS_PAGE_MAX;
use crate::account::ledger::record::{ActivationRecord, ActivationTotals};
use crate::base::amount::Msat;
use crate::node::liquidity::{Activation, Order, OrderStatus, Terms};
use crate::node::map::Map;
use crate::sell::gate::LaidReady;

use super::admin::Admin;
use super::answering::blocking;
use super::bundle::Bundles;
use super::fault::Fault;

/// The body of `POST /liquidity/activate`: an amount or a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Activate {
    /// The amount that the customer pays, in sat. The provider deducts its fee from it.
    pub amount_sat: Option<u64>,
    /// The path of a route, as in the settings, or the service of a guard. The next client that
    /// requests its grant there gets the invoice, and buys that grant by paying it.
    pub route: Option<String>,
    /// The name of the route's grant; the default grant if omitted.
    pub grant: Option<String>,
}

/// The answer of `GET /activations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Activations {
    /// Payments that open channels, the newest first.
    pub activations: Vec<ActivationRecord>,
    /// The sums over all payments that were made.
    pub totals: ActivationTotals,
    /// The latest bundle that was prepared since the program started.
    pub laid_ready: Option<LaidReadyBody>,
}

/// A bundle that the next client can buy although the node has no inbound liquidity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LaidReadyBody {
    /// The payment hash of the bundle's invoice.
    pub payment_hash: String,
    /// When clients stop getting this invoice, Unix milliseconds.
    pub until_ms: u64,
    /// When a client got this invoice, Unix milliseconds.
    pub handed_ms: Option<u64>,
}

impl From<LaidReady> for LaidReadyBody {
    fn from(laid: LaidReady) -> Self {
        Self {
            payment_hash: hex::encode(laid.bundle.invoice.payment_hash),
            until_ms: laid.bundle.until_secs() * 1_000,
            handed_ms: laid.handed_ms,
        }
    }
}

/// Shows the liquidity settings and terms without asking a provider.
#[utoipa::path(get, path = "/liquidity", tag = "liquidity", responses((status = 200, body = Terms)))]
pub(super) async fn terms(State(admin): State<Arc<Admin>>) -> Json<Terms> {
    Json(admin.node.liquidity().terms())
}

/// Makes an invoice that opens a channel when paid.
///
/// The answer states the fee and the amount that will arrive. The request asks the provider.
#[utoipa::path(
    post, path = "/liquidity/activate", tag = "liquidity", request_body = Activate,
    responses(
        (status = 200, body = ActivationRecord),
        (status = 404, description = "there is no such route or grant"),
        (status = 409, description = "no provider is set, or it wants more than it may"),
        (status = 422, description = "too small to open a channel that works, or what the grant costs is not known before"),
        (status = 502, description = "the provider is not there, or makes no offer")
    )
)]
pub(super) async fn activate(
    State(admin): State<Arc<Admin>>,
    asked: Result<Json<Activate>, JsonRejection>,
) -> Result<Json<ActivationRecord>, Fault> {
    let wants =
        "send JSON, as in {\"amount_sat\": 50000} or {\"route\": \"/api/*\", \"grant\": \"month\"}";
    let asked = asked.map_err(|_| Fault::Asked(wants))?.0;
    let activation = match (asked.amount_sat, &asked.route) {
        (Some(amount_sat), None) if asked.grant.is_none() => {
            let amount = Msat::from_sat(amount_sat);
            let amount = amount.ok_or(Fault::Asked("there is not that much bitcoin"))?;
            let bundle = None;
            admin
                .node
                .liquidity()
                .activate(&admin.ledger, Activation { amount, bundle })
                .await?
        }
        (None, Some(route)) => {
            Bundles::of(&admin)
                .prepare(route, asked.grant.as_deref())
                .await?
        }
        (Some(_), _) | (None, None) => return Err(Fault::Asked(wants)),
    };
    Ok(Json(activation))
}

/// Orders a channel.
///
/// The request asks the provider. It pays nothing.
#[utoipa::path(
    post, path = "/liquidity/order", tag = "liquidity", request_body = Order, responses((status = 200, body = OrderStatus))
)]
pub(super) async fn order(
    State(admin): State<Arc<Admin>>,
    asked: Result<Json<Order>, JsonRejection>,
) -> Result<Json<OrderStatus>, Fault> {
    let asked = asked.map_err(|_| {
        Fault::Asked(
            "send JSON, as in {\"lsp_balance_sat\": 1000000}; see the settings' order_provider",
        )
    })?;
    Ok(Json(admin.node.liquidity().order_channel(asked.0).await?))
}

/// Shows the state of an order. The request asks the provider.
#[utoipa::path(
    get, path = "/liquidity/orders/{order_id}", tag = "liquidity",
    params(("order_id" = String, Path, description = "as the order said")), responses((status = 200, body = OrderStatus))
)]
pub(super) async fn order_status(
    State(admin): State<Arc<Admin>>,
    Path(order_id): Path<String>,
) -> Result<Json<OrderStatus>, Fault> {
    Ok(Json(admin.node.liquidity().order_status(order_id).await?))
}

/// Lists payments that opened channels, and invoices for them that are still unpaid.
#[utoipa::path(get, path = "/activations", tag = "liquidity", responses((status = 200, body = Activations)))]
pub(super) async fn activations(
    State(admin): State<Arc<Admin>>,
) -> Result<Json<Activations>, Fault> {
    let ledger = Arc::clone(&admin.ledger);
    let read = blocking(move || ledger.activations(ACTIVATIONS_PAGE_MAX));
    let (activations, totals) = read.await?;
    Ok(Json(Activations {
        activations,
        totals,
        laid_ready: admin.gate.laid_ready().map(Into::into),
    }))
}

/// Fetches the network map that outgoing payments need. The node may restart for it.
#[utoipa::path(post, path = "/gossip/fetch", tag = "liquidity", responses((status = 200, body = Map)))]
pub(super) async fn fetch_map(State(admin): State<Arc<Admin>>) -> Result<Json<Map>, Fault> {
    Ok(Json(admin.node.payments().fetch_map().await?))
}
