//! The operator's endpoints for the on-chain wallet.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::closed::OnchainMoney;
use crate::node::{Fee, OnchainAmount, SentOnchain, Withdrawal};

use super::access::Caller;
use super::admin::Admin;
use super::fault::Fault;

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AddressBody {
    /// The address to send money to.
    address: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SendBody {
    /// The address to send to.
    address: String,
    /// The amount in sat, without the fee. Omit it with `all`.
    amount_sat: Option<u64>,
    /// Whether to send everything that can be spent, less the fee.
    #[serde(default)]
    all: bool,
    /// With `all`: whether to send the reserve for closing channels, too. Without the reserve,
    /// channels cannot be closed safely.
    #[serde(default)]
    reserve_too: bool,
    /// The fee rate in sat per virtual byte. If omitted, the chain source's estimate is used.
    fee_rate_sat_vb: Option<u64>,
    /// The number of blocks within which the transaction should confirm, instead of a fee rate.
    target_blocks: Option<u16>,
}

/// Shows the on-chain balance.
#[utoipa::path(get, path = "/onchain", tag = "wallet", responses((status = 200, body = OnchainMoney)))]
pub(super) async fn balance(State(admin): State<Arc<Admin>>) -> Result<Json<OnchainMoney>, Fault> {
    let ledger = Arc::clone(&admin.ledger);
    Ok(Json(admin.node.wallet().money(ledger).await?))
}

/// Draws a new on-chain address.
///
/// The node asks the chain source about every drawn address from then on. For a single payer, use
/// `deposit_address` of the status instead. Without the scope `admin`, at most ten addresses can be
/// drawn until money arrives on the chain.
#[utoipa::path(
    post, path = "/onchain/address", tag = "wallet",
    responses((status = 200, body = AddressBody), (status = 409, description = "enough of them wait for money"))
)]
pub(super) async fn new_address(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<AddressBody>, Fault> {
    let address = admin
        .node
        .wallet()
        .new_address(caller.scope.drawing())
        .await?;
    Ok(Json(AddressBody { address }))
}

/// Sends money on the chain.
#[utoipa::path(
    post, path = "/onchain/send", tag = "wallet", request_body = SendBody,
    responses(
        (status = 200, body = SentOnchain),
        (status = 409, description = "more than can be spent, refused by the chain source, or what was sent before is not seen yet"),
        (status = 504, description = "made, and not known to be on its way: it is sent again by itself")
    )
)]
pub(super) async fn send(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<SendBody>,
) -> Result<Json<SentOnchain>, Fault> {
    if caller.limit.is_some() {
        // The transaction's fee is not known in advance, so a high fee rate would circumvent the
        // limit.
        return Err(Fault::Limited);
    }
    let amount = match (body.amount_sat, body.all) {
        (Some(sat), false) => OnchainAmount::Sat(sat),
        (None, true) if body.reserve_too => OnchainAmount::AllWithReserve,
        (None, true) => OnchainAmount::All,
        (Some(_), true) | (None, false) => {
            return Err(Fault::Asked("give either `amount_sat` or `\"all\": true`"));
        }
    };
    let fee = match (body.fee_rate_sat_vb, body.target_blocks) {
        (None, None) => Fee::Usual,
        (Some(rate), None) => Fee::SatPerVbyte(rate),
        (None, Some(blocks)) => Fee::Within(blocks),
        (Some(_), Some(_)) => {
            return Err(Fault::Asked(
                "give `fee_rate_sat_vb` or `target_blocks`, not both",
            ));
        }
    };
    let sent = admin.node.wallet().send(&body.address, amount, fee).await?;
    let txid = &sent.txid;
    tracing::info!("Sent on chain by the operator's wish: transaction {txid}");
    Ok(Json(sent))
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WithdrawnBody {
    /// The withdrawals; empty if nothing is above the threshold.
    withdrawn: Vec<Withdrawal>,
}

/// Withdraws the amount above the threshold of the settings now.
///
/// Otherwise the node withdraws it at its next regular check.
#[utoipa::path(
    post, path = "/withdraw", tag = "wallet",
    responses((status = 200, body = WithdrawnBody), (status = 409, description = "the settings have no `[node.withdraw]`"))
)]
pub(super) async fn withdraw(
    State(admin): State<Arc<Admin>>,
) -> Result<Json<WithdrawnBody>, Fault> {
    let withdrawn = admin.node.withdrawals().now().await?;
    Ok(Json(WithdrawnBody { withdrawn }))
}
