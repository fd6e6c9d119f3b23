//! The operator's listener: loopback, behind a token of its own. Nothing of it is ever on the public one.

mod access;
mod backup;
mod reload;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use http::StatusCode;
use serde::{Deserialize, Serialize};

pub use access::AdminToken;
pub use reload::{Reload, Reloaded, Reloads};

use crate::backup::{BackupError, BackupStatus, Backups};
use crate::causes::chain;
use crate::clock::Clock;
use crate::gate::{Gate, Keyring, KeyringError};
use crate::invoice::{Inbound, Reach};
use crate::ledger::record::{ChannelRecord, SaleRecord, Totals};
use crate::ledger::{Ledger, LedgerError, SALES_PAGE_MAX};
use crate::live::Live;
use crate::node::{Node, NodeUnavailable, Status};
use crate::quote::{HookStatus, RateStatus};
use crate::route::{Access, Offer, RouteTable};

/// Closed channels that the status shows; the ledger keeps all of them.
const CLOSURES_SHOWN: usize = 100;

/// Sales on a page, if the caller does not say.
const SALES_PAGE: usize = 100;

/// What the operator asks about.
#[derive(Debug)]
pub struct Admin {
    /// The node.
    pub node: Arc<Node>,
    /// The account.
    pub ledger: Arc<Ledger>,
    /// The decision.
    pub gate: Arc<Gate>,
    /// The keys of the tokens.
    pub keyring: Arc<Keyring>,
    /// What is sold.
    pub routes: Arc<Live<RouteTable>>,
    /// What is sold by handlers of the same program.
    pub guarded: Arc<Live<Vec<Offer>>>,
    /// Backups of all of it.
    pub backups: Arc<Backups>,
    /// Where to ask for the settings to be read again.
    pub reload: Reload,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Where the time comes from.
    pub clock: Clock,
    /// When the program started, Unix seconds.
    pub started_secs: u64,
}

/// The operator's router: every path wants the token.
pub fn router(admin: Admin, token: AdminToken) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/status", get(status))
        .route("/sales", get(sales))
        .route("/sync", post(sync))
        .route("/tokens", get(tokens::list))
        .route("/tokens/{token_id}/revoke", post(tokens::revoke))
        .route("/services/{service}/revoke", post(tokens::revoke_service))
        .route("/revocations", get(tokens::revocations))
        .route("/keys", get(tokens::keys))
        .route("/keys/rotate", post(tokens::rotate))
        .route("/reload", post(reload::reload))
        .route("/backup", post(backup::create))
        .route("/recovery/leave", post(backup::leave))
        .with_state(Arc::new(admin))
        .layer(middleware::from_fn_with_state(
            Arc::new(token),
            access::require,
        ))
}

#[derive(Debug, Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    uptime_secs: u64,
}

/// 200 as long as the process answers.
async fn health(State(admin): State<Arc<Admin>>) -> Json<Health> {
    Json(Health {
        status: "ok",
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: admin.clock.unix_secs().saturating_sub(admin.started_secs),
    })
}

/// Whether a challenge can be paid now.
#[derive(Debug, Serialize)]
struct Ready {
    ready: bool,
    /// Why not.
    reason: Option<String>,
    /// What can arrive now, in msat.
    inbound_msat: u64,
    /// Routes, and services behind guards, whose price cannot be received now.
    unpayable_routes: Vec<String>,
}

/// 200 if every route's price can be paid now, else 503 with the reason.
async fn ready(State(admin): State<Arc<Admin>>) -> Response {
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

#[derive(Debug, Serialize)]
struct StatusBody {
    version: &'static str,
    uptime_secs: u64,
    data_dir: String,
    node: NodeBody,
    sales: Totals,
    backup: BackupStatus,
    /// Challenges that are remembered, paid ones included until they expire.
    challenges_open: usize,
    dry_run: DryRunBody,
    /// What prices in a currency go by.
    rates: Vec<RateStatus>,
    /// Servers that say what a request costs.
    hooks: Vec<HookStatus>,
}

/// What routes that let everybody through would have asked since the start.
#[derive(Debug, Serialize)]
struct DryRunBody {
    requests: u64,
    amount_msat: u64,
}

#[derive(Debug, Serialize)]
struct NodeBody {
    #[serde(flatten)]
    status: Status,
    /// Channels that are no more, the newest first.
    channels_closed: Vec<ChannelRecord>,
}

/// Node, channels, money and sales in one answer.
async fn status(State(admin): State<Arc<Admin>>) -> Result<Json<StatusBody>, Fault> {
    let asked = Arc::clone(&admin);
    // The node's locks and the store's pages: not on a thread that serves requests.
    let (status, channels_closed, sales, backup) = blocking(move || {
        let closed = asked.ledger.closed_channels(CLOSURES_SHOWN)?;
        let backup = asked.backups.status()?;
        Ok((asked.node.status(), closed, asked.ledger.totals(), backup))
    })
    .await?;
    let (quotes, dry_run) = (admin.gate.quotes(), admin.gate.dry_run());
    Ok(Json(StatusBody {
        version: env!("CARGO_PKG_VERSION"),
        uptime_secs: admin.clock.unix_secs().saturating_sub(admin.started_secs),
        data_dir: admin.data_dir.display().to_string(),
        node: NodeBody {
            status,
            channels_closed,
        },
        sales,
        backup,
        challenges_open: admin.ledger.challenge_count(),
        dry_run: DryRunBody {
            requests: dry_run.requests,
            amount_msat: dry_run.amount_msat,
        },
        rates: quotes.rates.status(),
        hooks: quotes.hooks.status(),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SalesQuery {
    /// Sales on the page.
    limit: Option<usize>,
    /// `next` of the page before.
    before: Option<String>,
}

#[derive(Debug, Serialize)]
struct SalesBody {
    sales: Vec<SaleRecord>,
    /// For `before`, if there are more.
    next: Option<String>,
}

/// Sales, the newest first.
async fn sales(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<SalesQuery>,
) -> Result<Json<SalesBody>, Fault> {
    let before = query
        .before
        .map(hex::decode)
        .transpose()
        .map_err(|_| Fault::Asked("`before` is the `next` of the page before"))?;
    let limit = query.limit.unwrap_or(SALES_PAGE).clamp(1, SALES_PAGE_MAX);
    let page = blocking(move || admin.ledger.sales(before.as_deref(), limit)).await?;
    Ok(Json(SalesBody {
        sales: page.sales,
        next: page.next.map(hex::encode),
    }))
}

/// Reads the chain now.
async fn sync(State(admin): State<Arc<Admin>>) -> Result<StatusCode, Fault> {
    admin.node.sync().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("reading for the operator does not panic")
}

/// Why the operator gets no answer.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Asked(&'static str),
    #[error("{0}")]
    Settings(String),
    #[error("the program is stopping")]
    Stopping,
    #[error("no recovery waits for channels to be closed")]
    NotWaiting,
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
    #[error("{}", chain(.0))]
    Backup(#[from] BackupError),
}

impl axum::response::IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Asked(_) => StatusCode::BAD_REQUEST,
            Self::Settings(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Keyring(ref fault) => {
                tracing::error!("Failed to rotate the master key: {}", chain(fault));
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Ledger(ref fault) => {
                tracing::error!(
                    "Failed to read the books for the operator: {}",
                    chain(fault)
                );
                StatusCode::INTERNAL_SERVER_ERROR
            }
            Self::Node(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Backup(BackupError::Recovering) | Self::NotWaiting => StatusCode::CONFLICT,
            Self::Backup(ref fault) => {
                tracing::error!("Failed to make a backup: {}", chain(fault));
                StatusCode::INTERNAL_SERVER_ERROR
            }
        };
        (
            status,
            Json(serde_json::json!({ "error": self.to_string() })),
        )
            .into_response()
    }
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
