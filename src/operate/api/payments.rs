//! Payments and invoices that the operator makes by hand.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::base::error_chain::chain;
use crate::node::{HandInvoice, OperationError, Payable, Paying, Payment, PaymentError, Sending};

use super::access::Caller;
use super::admin::Admin;
use super::fault::Fault;
use super::following::spent;
use super::spending::{Reserved, SpendingError, Wanted};

/// The number of payments on a page: by default 100, and at most 1,000.
const PAYMENTS_PAGE: usize = 100;
const PAYMENTS_PAGE_MAX: usize = 1_000;

/// The default validity of an invoice made by hand: one hour, as in most wallets.
const EXPIRY_SECS: u32 = 3_600;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PaymentsQuery {
    /// The number of payments on the page.
    limit: Option<usize>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PaymentsBody {
    payments: Vec<Payment>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PayBody {
    /// A BOLT 11 invoice or a BOLT 12 offer.
    to: String,
    /// The amount in msat, required if the invoice or offer names none.
    amount_msat: Option<u64>,
    /// The maximum routing fee, in msat. If omitted: 1 % of the amount plus 10 sat.
    fee_max_msat: Option<u64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InvoiceBody {
    /// The amount in msat. If omitted, the payer chooses it.
    amount_msat: Option<u64>,
    /// The text that the payer's wallet shows.
    #[serde(default)]
    description: String,
    /// How long the invoice can be paid, in seconds. If omitted: one hour.
    expiry_secs: Option<u32>,
}

/// Lists the node's incoming and outgoing payments, the newest first.
///
/// The list does not contain sales, which are in the ledger.
#[utoipa::path(
    get, path = "/payments", tag = "payments", params(PaymentsQuery), responses((status = 200, body = PaymentsBody))
)]
pub(super) async fn list(
    State(admin): State<Arc<Admin>>,
    Query(query): Query<PaymentsQuery>,
) -> Result<Json<PaymentsBody>, Fault> {
    let limit = query.limit.unwrap_or(PAYMENTS_PAGE);
    let payments = admin
        .node
        .payments()
        .list(limit.clamp(1, PAYMENTS_PAGE_MAX))
        .await?;
    Ok(Json(PaymentsBody { payments }))
}

/// Shows one payment.
#[utoipa::path(
    get, path = "/payments/{payment_id}", tag = "payments",
    params(("payment_id" = String, Path, description = "64 hex digits")), responses((status = 200, body = Payment))
)]
pub(super) async fn one(
    State(admin): State<Arc<Admin>>,
    Path(payment_id): Path<String>,
) -> Result<Json<Payment>, Fault> {
    Ok(Json(admin.node.payments().get(&payment_id).await?))
}

/// Pays an invoice or an offer.
///
/// Answers when the payment has succeeded or failed. After one minute the payment is `pending`.
#[utoipa::path(
    post, path = "/payments", tag = "payments", request_body = PayBody,
    responses(
        (status = 200, body = Payment),
        (status = 403, description = "more than is left to this access token"),
        (status = 409, description = "it cannot be paid: expired, paid before, or more than the channels can send"),
        (status = 504, description = "it is not known yet whether it was sent: look at the payments before trying again")
    )
)]
pub(super) async fn pay(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<PayBody>,
) -> Result<Json<Payment>, Fault> {
    let paying = Paying {
        to: body.to,
        amount_msat: body.amount_msat,
        fee_max_msat: body.fee_max_msat,
    };
    let payable = admin.node.payments().payable(paying).await?;
    let most_msat = payable.amount_msat.saturating_add(payable.fee_max_msat);
    let Some(reserved) = reserve(&admin, caller, &payable, most_msat).await? else {
        return Ok(Json(admin.node.payments().pay(payable, |_| {}).await?));
    };
    // If the caller hangs up, the reservation stays. `Following` then settles it, whether or not
    // the payment was sent.
    let reserved = Arc::new(reserved);
    let hearing = Arc::clone(&reserved);
    let paid = admin
        .node
        .payments()
        .pay(payable, move |step| hear(&hearing, step))
        .await;
    if let Some(spent_msat) = spent_by(&paid, most_msat) {
        let settling = tokio::task::spawn_blocking(move || reserved.settle(spent_msat)).await;
        // A write error must not hide the result: the payment is made, and the caller needs its
        // preimage.
        complain(settling.expect("writing a file does not panic"));
    }
    Ok(Json(paid?))
}

/// The amount that was certainly spent; `None` while the payment can still go through.
fn spent_by(paid: &Result<Payment, PaymentError>, most_msat: u64) -> Option<u64> {
    match paid {
        Ok(payment) => spent(payment, most_msat),
        // The payment can still succeed.
        Err(PaymentError::Operation(
            OperationError::Late { .. } | OperationError::Unsure { .. },
        )) => None,
        Err(_) => Some(0),
    }
}

/// Reserves the maximum cost of a payment from the caller's limit. `None` if the caller has no
/// limit.
async fn reserve(
    admin: &Arc<Admin>,
    caller: Caller,
    payable: &Payable,
    most_msat: u64,
) -> Result<Option<Reserved>, Fault> {
    let Some((token_id, max_msat)) = caller.limit else {
        return Ok(None);
    };
    let wanted = Wanted {
        payment_id: payable.payment_id(),
        amount_msat: payable.amount_msat,
        most_msat,
        now_secs: admin.clock.unix_secs(),
    };
    let spending = Arc::clone(&admin.spending);
    let reserving = move || spending.reserve(&token_id, max_msat, wanted);
    let reserved = tokio::task::spawn_blocking(reserving).await;
    Ok(Some(reserved.expect("writing a file does not panic")?))
}

/// Records how far the sending of a payment has come. Blocks.
fn hear(reserved: &Reserved, step: Sending<'_>) {
    complain(match step {
        Sending::Begins => reserved.begin(),
        Sending::Sent(payment_id) => reserved.sent(payment_id),
        Sending::NotSent => reserved.not_sent(),
        Sending::Unsure => reserved.unsure(),
    });
}

/// Logs that the file could not be written. Until a write succeeds, the file counts more than was
/// really spent.
fn complain(noted: Result<(), SpendingError>) {
    if let Err(error) = noted {
        tracing::error!(
            "Failed to record the outcome of an access token's payment: {}",
            chain(&error)
        );
    }
}

/// Makes an invoice that sells nothing.
///
/// Without the scope `admin`, the request fails while ten thousand such invoices are unpaid.
#[utoipa::path(
    post, path = "/invoices", tag = "payments", request_body = InvoiceBody,
    responses((status = 200, body = HandInvoice), (status = 409, description = "enough of them wait for money"))
)]
pub(super) async fn make_invoice(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<InvoiceBody>,
) -> Result<Json<HandInvoice>, Fault> {
    let expiry_secs = body.expiry_secs.unwrap_or(EXPIRY_SECS);
    let by = caller.scope.drawing();
    let invoice =
        admin
            .node
            .payments()
            .invoice(by, body.amount_msat, body.description, expiry_secs);
    Ok(Json(invoice.await?))
}

#[cfg(test)]
mod tests {
    use crate::node::NodeUnavailable;

    use super::*;

    #[test]
    fn a_payment_that_may_still_go_through_stays_reserved() {
        for (paid, spent_msat) in [
            (Err(OperationError::Unsure { what: "pay" }.into()), None),
            (Err(PaymentError::PaidBefore), Some(0)),
            (
                Err(OperationError::from(NodeUnavailable::NotRunning).into()),
                Some(0),
            ),
        ] {
            assert_eq!(spent_by(&paid, 1_100), spent_msat, "{paid:?}");
        }
    }
}
