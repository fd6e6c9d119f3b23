//! Invoices of a payer, and waiting until its own payments are no longer in flight.

use anyhow::{Context, Result};
use ldk_node::LightningBalance;
use ldk_node::lightning_invoice::{Bolt11InvoiceDescription, Description};

use super::{INVOICE_EXPIRY_SECS, PAY_DEADLINE, Payer};
use crate::wait::eventually;

impl Payer {
    /// Makes an invoice that others can pay to this node.
    ///
    /// # Errors
    /// When the node cannot make one.
    pub async fn invoice(&self, amount_msat: u64, description: &str) -> Result<String> {
        let description =
            Description::new(description.to_owned()).context("the description is too long")?;
        let description = Bolt11InvoiceDescription::Direct(description);
        let invoice = self
            .blocking(move |node| {
                node.bolt11_payment()
                    .receive(amount_msat, &description, INVOICE_EXPIRY_SECS)
            })
            .await?;
        Ok(invoice.context("failed to make an invoice")?.to_string())
    }

    /// The first block at which a payment in flight can be claimed back; `None` if no payment is in flight.
    #[must_use]
    pub fn takes_back_at(&self) -> Option<u32> {
        let balances = self.node().list_balances().lightning_balances;
        let heights = balances.into_iter().filter_map(|balance| {
            let LightningBalance::MaybeTimeoutClaimableHTLC {
                claimable_height, ..
            } = balance
            else {
                return None;
            };
            Some(claimable_height)
        });
        heights.min()
    }

    /// Waits until both sides have committed to the end of every payment that this node sent. A side that is killed
    /// earlier restarts with the payment in flight.
    ///
    /// # Errors
    /// When a payment stays in flight.
    pub async fn settled(&self) -> Result<()> {
        eventually("payments to be settled", PAY_DEADLINE, || async {
            match self.takes_back_at() {
                None => Ok(Some(())),
                Some(height) => Err(format!(
                    "a payment in flight can be claimed back at block {height}"
                )),
            }
        })
        .await
    }
}
