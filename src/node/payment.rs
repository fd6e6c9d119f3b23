//! An incoming or outgoing payment of the node, as the operator sees it.

use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use serde::Serialize;
use utoipa::ToSchema;

/// The progress of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// The payment is in flight and may still arrive.
    Pending,
    /// The payment arrived.
    Succeeded,
    /// The payment did not arrive, and will not.
    Failed,
}

/// An incoming or outgoing payment of the node. Sales are in the ledger, not here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Payment {
    /// The id of the payment, hex.
    pub payment_id: String,
    /// `bolt11`, `bolt11_jit`, `bolt12`, `spontaneous` or `onchain`.
    pub kind: &'static str,
    /// Whether the payment is outgoing.
    pub is_outbound: bool,
    /// The progress of the payment.
    pub status: Progress,
    /// The amount that arrives, in msat.
    pub amount_msat: Option<u64>,
    /// The fee that was paid, in msat.
    pub fee_msat: Option<u64>,
    /// The payment hash, or the transaction, hex.
    pub hash: Option<String>,
    /// The preimage that proves the payment, hex. Only the payer gets it, to present it for a
    /// purchase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preimage: Option<String>,
    /// The time of the last change, Unix seconds.
    pub updated_secs: u64,
}

/// The payment with its preimage, for its payer.
pub(super) fn with_proof(payment: &PaymentDetails) -> Payment {
    Payment {
        preimage: proof(&payment.kind),
        ..Payment::from(payment)
    }
}

/// The preimage of a payment that arrived.
fn proof(kind: &PaymentKind) -> Option<String> {
    let preimage = match kind {
        PaymentKind::Onchain { .. } => None,
        PaymentKind::Bolt11 { preimage, .. }
        | PaymentKind::Bolt11Jit { preimage, .. }
        | PaymentKind::Bolt12Offer { preimage, .. }
        | PaymentKind::Bolt12Refund { preimage, .. }
        | PaymentKind::Spontaneous { preimage, .. } => *preimage,
    };
    preimage.map(|preimage| hex::encode(preimage.0))
}

impl From<&PaymentDetails> for Payment {
    fn from(payment: &PaymentDetails) -> Self {
        let (kind, hash) = match &payment.kind {
            PaymentKind::Onchain { txid, .. } => ("onchain", Some(txid.to_string())),
            PaymentKind::Bolt11 { hash, .. } => ("bolt11", Some(hash.to_string())),
            PaymentKind::Bolt11Jit { hash, .. } => ("bolt11_jit", Some(hash.to_string())),
            PaymentKind::Bolt12Offer { hash, .. } | PaymentKind::Bolt12Refund { hash, .. } => {
                ("bolt12", hash.map(|hash| hash.to_string()))
            }
            PaymentKind::Spontaneous { hash, .. } => ("spontaneous", Some(hash.to_string())),
        };
        Self {
            payment_id: hex::encode(payment.id.0),
            kind,
            is_outbound: payment.direction == PaymentDirection::Outbound,
            status: match payment.status {
                PaymentStatus::Pending => Progress::Pending,
                PaymentStatus::Succeeded => Progress::Succeeded,
                PaymentStatus::Failed => Progress::Failed,
            },
            amount_msat: payment.amount_msat,
            fee_msat: payment.fee_paid_msat,
            hash,
            preimage: None,
            updated_secs: payment.latest_update_timestamp,
        }
    }
}
