//! Manual invoices, which sell nothing.

use std::sync::{Arc, PoisonError};

use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use lightning_invoice::{Bolt11InvoiceDescription, Description};
use serde::Serialize;
use utoipa::ToSchema;

use super::address::Drawing;
use super::operation::{OperationError, refused};
use super::payment_error::PaymentError;
use super::payments::Payments;
use crate::base::text;

/// The range of an invoice's expiry, in seconds. Payers need at least a minute. The node keeps an
/// invoice as long as it can be paid, which is at most thirty days.
const EXPIRY_SECS: std::ops::RangeInclusive<u32> = 60..=2_592_000;

/// The time in seconds that an unpaid invoice is kept: the longest expiry and a day. (LDK accepts
/// payments up to two hours late.)
const UNPAID_KEPT_SECS: u64 = 2_592_000 + 86_400;

/// The maximum number of old invoices that are removed at once. Each removal waits for the disk or
/// a server, while a client waits for its invoice.
const REMOVED_MAX: usize = 200;

/// The maximum number of unpaid manual invoices. Beyond it, a client that may only bring money in
/// cannot make another. 10,000 take 4 MB in the node's database, 5 MB in memory and a seventh of a
/// second of each start. Over 31 days they allow 300 a day.
const UNPAID_MAX: usize = 10_000;

/// The longest description in bytes (BOLT 11).
const DESCRIPTION_BYTES_MAX: usize = 639;

/// A manual invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HandInvoice {
    /// The invoice, as payers use it.
    pub bolt11: String,
    /// The payment hash, hex, which is also the id of the payment.
    pub payment_hash: String,
    /// The expiry, Unix seconds.
    pub expires_at_secs: u64,
    /// Whether the node can receive this amount now.
    pub payable_now: bool,
}

impl Payments {
    /// Makes an invoice that sells nothing and that any payer can pay. Also deletes old unpaid
    /// invoices.
    pub async fn invoice(
        &self,
        by: Drawing,
        amount_msat: Option<u64>,
        description: String,
        expiry_secs: u32,
    ) -> Result<HandInvoice, PaymentError> {
        self.core.uses_channels().map_err(OperationError::from)?;
        if description.len() > DESCRIPTION_BYTES_MAX {
            return Err(PaymentError::DescriptionTooLong);
        }
        // The node signs the text that the payer reads. Removing characters silently would change
        // its meaning.
        text::readable(&description)?;
        if !EXPIRY_SECS.contains(&expiry_secs) {
            return Err(PaymentError::Expiry);
        }
        if amount_msat == Some(0) {
            return Err(PaymentError::NoAmount);
        }
        let payable_now = self.reach.takes(amount_msat.unwrap_or(1));
        let now_secs = self.core.clock.unix_secs();
        let expires_at_secs = now_secs + u64::from(expiry_secs);
        // With a wrong clock, no invoice counts as expired.
        let drops_old = self.chain.is_clock_believed();
        let turn = Arc::clone(&self.turns.invoice);
        self.core
            .operate("make an invoice", move |node| {
                let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
                let mut unpaid =
                    node.list_payments_with_filter(|payment| is_unpaid_invoice(payment));
                if drops_old {
                    let over: Vec<_> = unpaid
                        .extract_if(.., |payment| is_long_over(payment, now_secs))
                        .collect();
                    for over in over.iter().take(REMOVED_MAX) {
                        // An invoice that is not removed now is removed with the next invoice.
                        let _ = node.remove_payment(&over.id);
                    }
                }
                may_wait(unpaid.len(), by)?;
                let description =
                    Description::new(description).map_err(|_| PaymentError::DescriptionTooLong)?;
                let description = Bolt11InvoiceDescription::Direct(description);
                let maker = node.bolt11_payment();
                let invoice = match amount_msat {
                    Some(msat) => maker.receive(msat, &description, expiry_secs),
                    None => maker.receive_variable_amount(&description, expiry_secs),
                };
                let invoice = invoice.map_err(refused("make an invoice"))?;
                Ok(HandInvoice {
                    payment_hash: invoice.payment_hash().to_string(),
                    bolt11: invoice.to_string(),
                    expires_at_secs,
                    payable_now,
                })
            })
            .await
    }
}

/// Whether this is an unpaid invoice. Invoices that open channels do not count, because the ledger
/// keeps them.
fn is_unpaid_invoice(payment: &PaymentDetails) -> bool {
    payment.direction == PaymentDirection::Inbound
        && payment.status == PaymentStatus::Pending
        && matches!(payment.kind, PaymentKind::Bolt11 { .. })
}

/// Whether an unpaid invoice can no longer be paid, whatever its expiry. (The record of an unpaid
/// invoice last changed when the invoice was made.)
fn is_long_over(unpaid: &PaymentDetails, now_secs: u64) -> bool {
    now_secs.saturating_sub(unpaid.latest_update_timestamp) > UNPAID_KEPT_SECS
}

/// Fails if there are too many unpaid invoices to make another one.
fn may_wait(unpaid: usize, by: Drawing) -> Result<(), PaymentError> {
    match by {
        Drawing::ByOthers if unpaid >= UNPAID_MAX => Err(PaymentError::InvoicesUnpaid(unpaid)),
        Drawing::ByOthers | Drawing::ByOperator => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ldk_node::lightning::ln::channelmanager::PaymentId;
    use ldk_node::lightning::types::payment::PaymentHash;

    use super::*;

    #[test]
    fn an_unpaid_invoice_is_kept_until_it_can_be_paid_no_more() {
        let unpaid = PaymentDetails {
            id: PaymentId([3; 32]),
            kind: PaymentKind::Bolt11 {
                hash: PaymentHash([3; 32]),
                preimage: None,
                secret: None,
            },
            amount_msat: None,
            fee_paid_msat: None,
            direction: PaymentDirection::Inbound,
            status: PaymentStatus::Pending,
            latest_update_timestamp: 1_000,
        };
        assert!(is_unpaid_invoice(&unpaid));
        let paid = PaymentDetails {
            status: PaymentStatus::Succeeded,
            ..unpaid.clone()
        };
        let ours = PaymentDetails {
            direction: PaymentDirection::Outbound,
            ..unpaid.clone()
        };
        assert!(!is_unpaid_invoice(&paid) && !is_unpaid_invoice(&ours));
        let end_secs = 1_000 + u64::from(*EXPIRY_SECS.end());
        assert!(!is_long_over(&unpaid, end_secs + 2 * 3_600), "LDK's grace");
        assert!(is_long_over(&unpaid, end_secs + 2 * 86_400));
        assert!(!is_long_over(&unpaid, 0), "a clock that was set back");
    }

    #[test]
    fn who_may_only_bring_money_in_makes_invoices_up_to_a_number_that_wait_for_it() {
        assert!(may_wait(UNPAID_MAX - 1, Drawing::ByOthers).is_ok());
        let error = may_wait(UNPAID_MAX, Drawing::ByOthers).unwrap_err();
        assert!(error.to_string().contains("10000 invoices"), "{error}");
        assert!(may_wait(UNPAID_MAX, Drawing::ByOperator).is_ok());
    }
}
