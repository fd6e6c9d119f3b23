//! Payments to a customer, and those of its own that are still under way.

use anyhow::{Context, Result};
use ldk_node::LightningBalance;
use ldk_node::lightning_invoice::{Bolt11InvoiceDescription, Description};

use super::{INVOICE_EXPIRY_SECS, PAY_DEADLINE, Payer};
use crate::wait::eventually;

impl Payer {
    /// An invoice of this node's own, for those who pay it instead.
    ///
    /// # Errors
    /// When the node cannot make one.
    pub async fn invoice(&self, amount_msat: u64, description: &str) -> Result<String> {
        let description =
            Description::new(description.to_owned()).context("too long a description")?;
        let description = Bolt11InvoiceDescription::Direct(description);
        let invoice = self
            .blocking(move |node| {
                node.bolt11_payment()
                    .receive(amount_msat, &description, INVOICE_EXPIRY_SECS)
            })
            .await?;
        Ok(invoice.context("failed to make an invoice")?.to_string())
    }

    /// The block at which the first payment that it sent and that is still under way may be taken back; nothing if none is.
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

    /// Waits until every payment that it sent is signed away by both sides: whoever is killed before has it in flight.
    ///
    /// # Errors
    /// When one stays under way.
    pub async fn settled(&self) -> Result<()> {
        eventually("payments to be settled", PAY_DEADLINE, || async {
            match self.takes_back_at() {
                None => Ok(Some(())),
                Some(height) => Err(format!("one may be taken back at block {height}")),
            }
        })
        .await
    }
}
