//! How things are: whether the program answers, whether it can be paid, and all that is known of node, channels and sales.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::backup::BackupStatus;
use crate::invoice::{Inbound, Reach};
use crate::ledger::record::{ActivationTotals, ChannelRecord, Totals};
use crate::node::Status;
use crate::quote::{HookStatus, RateStatus};
use crate::resource::ServerStatus;
use crate::route::{Access, Offer, RouteTable};

use super::outlook::{self, Outlook};
use super::{Admin, Fault, blocking};

/// Closed channels that the status shows; the ledger keeps all of them.
const CLOSURES_SHOWN: usize = 100;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Health {
    status: &'static str,
    version: &'static str,
    uptime_secs: u64,
}

/// 200 as long as the process answers.
#[utoipa::path(get, path = "/health", tag = "state", responses((status = 200, body = Health)))]
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: admin.clock.unix_secs().saturating_sub(admin.started_secs),
    })
}

/// Whether a challenge can be paid now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    ready: bool,
    /// Why not.
    reason: Option<String>,
    /// What can arrive now, in msat.
    inbound_msat: u64,
    /// Routes, and services behind guards, whose price cannot be received now.
    unpayable_routes: Vec<String>,
}

/// 200 if every route's price can be paid now, else 503 with the reason.
#[utoipa::path(
    get, path = "/ready", tag = "state",
    responses((status = 200, body = Ready), (status = 503, body = Ready))
)]
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    let reach = admin.node.reach().borrow().clone();
    let ready = match reach {
        Reach::Unready(why) => Ready {
            ready: false,
            reason: Some(why.to_string()),
            inbound_msat: 0,
            unpayable_routes: vec![],
        },
        Reach::Ready(inbound) => {
            let unpayable = unpayable(&admin.routes.get(), &admin.guarded.get(), &inbound);
            let reason = (!unpayable.is_empty()).then(|| {
                format!(
                    "the price of {} cannot be received: {} msat can arrive",
                    unpayable.join(", "),
                    inbound.capacity_msat
                )
            });
            Ready {
                ready: unpayable.is_empty(),
                reason,
                inbound_msat: inbound.capacity_msat,
                unpayable_routes: unpayable,
            }
        }
    };
    let status = if ready.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(ready)).into_response()
}

/// What is sold for more than can be received now.
fn unpayable(routes: &RouteTable, guarded: &[Offer], inbound: &Inbound) -> Vec<String> {
    let of_routes = routes.iter().filter_map(|route| match &route.access {
        Access::Free => None,
        Access::Paid(offer) => Some((&route.name, &**offer)),
    });
    let of_guards = guarded.iter().map(|offer| (&offer.service, offer));
    of_routes
        .chain(of_guards)
        .filter(|(_, offer)| {
            let dearest = offer.dearest();
            dearest.is_some_and(|dearest| !inbound.takes(dearest))
        })
        .map(|(name, _)| name.to_string())
        .collect()
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct StatusBody {
    version: &'static str,
    uptime_secs: u64,
    data_dir: String,
    node: NodeBody,
    sales: Totals,
    backup: BackupStatus,
    /// Payments that opened channels, which are no sales.
    activations: ActivationTotals,
    /// For how many more sales what can arrive suffices.
    outlook: Outlook,
    /// Challenges that are remembered, paid ones included until they expire.
    challenges_open: usize,
    dry_run: DryRunBody,
    /// What prices in a currency go by.
    rates: Vec<RateStatus>,
    /// Servers that say what a request costs.
    hooks: Vec<HookStatus>,
    /// Servers behind what is sold.
    upstreams: Vec<ServerStatus>,
}

/// What routes that let everybody through would have asked since the start.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct DryRunBody {
    requests: u64,
    amount_msat: u64,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeBody {
    #[serde(flatten)]
    status: Status,
    /// Channels that are no more, the newest first.
    channels_closed: Vec<ChannelRecord>,
}

/// Node, channels, money and sales in one answer.
#[utoipa::path(get, path = "/status", tag = "state", responses((status = 200, body = StatusBody)))]
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<StatusBody>, Fault> {
    let asked = Arc::clone(&admin);
    let status = admin.node.status(&admin.ledger).await;
    // The store's pages: not on a thread that serves requests.
    let (node, sales, backup, activations, recent) = blocking(move || {
        let node = NodeBody {
            status,
            channels_closed: asked.ledger.closed_channels(CLOSURES_SHOWN)?,
        };
        let backup = asked.backups.status()?;
        let (_, activations) = asked.ledger.activations(0)?;
        let recent = asked.ledger.sales(None, outlook::RECENT_SALES)?.sales;
        Ok((node, asked.ledger.totals(), backup, activations, recent))
    })
    .await?;
    let outlook = Outlook::of(
        node.status.inbound_msat,
        outlook::dearest(&admin.routes.get(), &admin.guarded.get()),
        outlook::average(&recent),
        admin.low_sales,
    );
    let (quotes, dry_run) = (admin.gate.quotes(), admin.gate.dry_run());
    Ok(Json(StatusBody {
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: admin.clock.unix_secs().saturating_sub(admin.started_secs),
        data_dir: admin.data_dir.display().to_string(),
        node,
        sales,
        backup,
        activations,
        outlook,
        challenges_open: admin.ledger.challenge_count(),
        dry_run: DryRunBody {
            requests: dry_run.requests,
            amount_msat: dry_run.amount_msat,
        },
        rates: quotes.rates.status(),
        hooks: quotes.hooks.status(),
        upstreams: admin.shop.get().resources.status(),
    }))
}

/// Reads the chain now.
#[utoipa::path(post, path = "/sync", tag = "state", responses((status = 204)))]
pub(super) async fn sync(State(admin): State<Arc<Admin>>) -> Result<StatusCode, Fault> {
    admin.node.sync().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Grant;

    #[test]
    fn what_is_guarded_for_more_than_can_arrive_is_not_ready() {
        let offer =
            |service, price: &str| Offer::new(service, price.parse().unwrap(), Grant::default());
        let guarded = [offer("cheap", "10 sat"), offer("dear", "11 sat")];
        let inbound = Inbound {
            capacity_msat: 10_000,
            ..Inbound::default()
        };
        let unpayable = unpayable(&RouteTable::default(), &guarded, &inbound);
        assert_eq!(unpayable, ["dear"]);
    }
}
