//! The list of sales.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::account::ledger::SALES_PAGE_MAX;
use crate::account::ledger::record::{SaleRecord, Totals};

use super::admin::Admin;
use super::answering::{before, blocking};
use super::fault::Fault;

/// The default number of sales on a page.
const SALES_PAGE: usize = 100;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct SalesQuery {
    /// The number of sales on the page.
    limit: Option<usize>,
    /// The `next` of the page before.
    before: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SalesBody {
    sales: Vec<SaleRecord>,
    /// The sums over all sales, including the surplus.
    totals: Totals,
    /// The value of `before` for the next page, if there is one.
    next: Option<String>,
}

/// Lists sales, the newest first.
#[utoipa::path(
    get, path = "/sales", tag = "sales", params(SalesQuery), responses((status = 200, body = SalesBody))
)]
pub(super) async fn sales(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<SalesQuery>,
) -> Result<Json<SalesBody>, Fault> {
    let before = before(query.before)?;
    let limit = query.limit.unwrap_or(SALES_PAGE).clamp(1, SALES_PAGE_MAX);
    let looking = move || {
        let page = admin.ledger.sales(before.as_deref(), limit)?;
        Ok((page, admin.ledger.totals()))
    };
    let (page, totals) = blocking(looking).await?;
    Ok(Json(SalesBody {
        sales: page.sales,
        totals,
        next: page.next.map(hex::encode),
    }))
}
