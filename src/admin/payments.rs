//! Payments and invoices by hand, for the operator.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::causes::chain;
use crate::node::{HandInvoice, OperationError, Paying, Payment, Progress};

use super::{Admin, Caller, Fault, SpendingError};

/// Payments on a page, if the caller does not say, and at most.
const PAYMENTS_PAGE: usize = 100;
const PAYMENTS_PAGE_MAX: usize = 1_000;

/// How long an invoice by hand can be paid, if the caller does not say: an hour, as wallets do.
const EXPIRY_SECS: u32 = 3_600;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PaymentsQuery {
    /// Payments on the page.
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
    /// How much, in msat, where it names no amount itself.
    amount_msat: Option<u64>,
    /// What the way there may cost, in msat. Left out: a hundredth of the amount and 10 sat.
    fee_max_msat: Option<u64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct InvoiceBody {
    /// How much, in msat. Left out: whatever the payer likes.
    amount_msat: Option<u64>,
    /// What the payer is shown.
    #[serde(default)]
    description: String,
    /// How long it can be paid, in seconds. Left out: an hour.
    expiry_secs: Option<u32>,
}

/// The node's payments, in and out, the newest first. Sales are not among them: they are in the books.
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
        .payments(limit.clamp(1, PAYMENTS_PAGE_MAX))
        .await?;
    Ok(Json(PaymentsBody { payments }))
}

/// One payment.
#[utoipa::path(
    get, path = "/payments/{payment_id}", tag = "payments",
    params(("payment_id" = String, Path, description = "64 hex digits")), responses((status = 200, body = Payment))
)]
pub(super) async fn one(
    State(admin): State<Arc<Admin>>,
    Path(payment_id): Path<String>,
) -> Result<Json<Payment>, Fault> {
    Ok(Json(admin.node.payment(&payment_id).await?))
}

/// Pays an invoice or an offer, and answers when it has arrived or failed; after a minute it is `pending`.
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
    let payable = admin.node.payable(paying).await?;
    let most_msat = payable.amount_msat.saturating_add(payable.fee_max_msat);
    take(&admin, caller, most_msat).await?;
    // Of a caller that hangs up in between, all that was taken stays taken: it may have been spent.
    let paid = admin.node.pay(payable).await;
    if let Err(fault) = give_back(&admin, caller, unspent(&paid, most_msat)).await {
        // What was paid is paid, and the preimage is what it was paid for.
        tracing::error!(
            "Failed to note that an access token has spent less than was taken from it: {}",
            chain(&fault)
        );
    }
    Ok(Json(paid?))
}

/// What was taken and surely not spent.
fn unspent(paid: &Result<Payment, OperationError>, most_msat: u64) -> u64 {
    match paid {
        Ok(payment) => match payment.status {
            Progress::Pending => 0,
            Progress::Failed => most_msat,
            Progress::Succeeded => {
                let amount_msat = payment.amount_msat.unwrap_or(most_msat);
                let spent_msat = amount_msat.saturating_add(payment.fee_msat.unwrap_or(most_msat));
                most_msat.saturating_sub(spent_msat)
            }
        },
        // It may still happen.
        Err(OperationError::Late { .. } | OperationError::Unsure { .. }) => 0,
        Err(_) => most_msat,
    }
}

/// Takes an amount off what the caller may spend, where that has a limit.
async fn take(admin: &Arc<Admin>, caller: Caller, msat: u64) -> Result<(), Fault> {
    let Some((token_id, max_msat)) = caller.limit else {
        return Ok(());
    };
    let spending = Arc::clone(&admin.spending);
    let taking = move || spending.take(&token_id, max_msat, msat);
    let taken = tokio::task::spawn_blocking(taking).await;
    Ok(taken.expect("writing a file does not panic")?)
}

async fn give_back(admin: &Arc<Admin>, caller: Caller, msat: u64) -> Result<(), SpendingError> {
    let Some((token_id, _)) = caller.limit.filter(|_| msat > 0) else {
        return Ok(());
    };
    let spending = Arc::clone(&admin.spending);
    let giving = move || spending.give_back(&token_id, msat);
    let given = tokio::task::spawn_blocking(giving).await;
    given.expect("writing a file does not panic")
}

/// Makes an invoice that sells nothing. Without the scope `admin` none is made while ten thousand wait for money.
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
    let invoice = admin
        .node
        .invoice_by_hand(by, body.amount_msat, body.description, expiry_secs);
    Ok(Json(invoice.await?))
}

#[cfg(test)]
mod tests {
    use crate::node::NodeUnavailable;

    use super::*;

    #[test]
    fn what_may_have_been_spent_is_not_given_back() {
        let payment = |status, fee_msat| Payment {
            payment_id: String::new(),
            kind: "bolt11",
            is_outbound: true,
            status,
            amount_msat: Some(1_000),
            fee_msat,
            hash: None,
            preimage: None,
            updated_secs: 0,
        };
        for (paid, given_back) in [
            (Ok(payment(Progress::Succeeded, Some(7))), 93),
            (Ok(payment(Progress::Succeeded, None)), 0),
            (Ok(payment(Progress::Pending, None)), 0),
            (Ok(payment(Progress::Failed, None)), 1_100),
            (Err(OperationError::Unsure { what: "pay" }), 0),
            (Err(OperationError::PaidBefore), 1_100),
            (Err(NodeUnavailable::NotRunning.into()), 1_100),
        ] {
            assert_eq!(unspent(&paid, 1_100), given_back, "{paid:?}");
        }
    }
}
