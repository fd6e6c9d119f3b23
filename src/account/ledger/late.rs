//! Payments that arrive after their invoice has expired: LDK accepts them for two hours and more. A
//! grant of time then counts from the payment, not from the expiry.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::account::store::calm;
use crate::protocol::l402::{Identifier, TokenId};

use super::claims::Claims;
use super::error::LedgerError;
use super::record::SaleRecord;
use super::state::Ledger;

/// How long to wait for a payment that the node is claiming. Its payer may present the token before
/// the payment is recorded.
const ENTERED_WITHIN: Duration = Duration::from_secs(10);

impl Ledger {
    /// Sets the node's claims. Only the first call has an effect.
    pub fn follow(&self, claims: Arc<Claims>) {
        // A node that restarts within this process keeps using the same claims.
        let _ = self.claims.set(claims);
    }

    fn is_arriving(&self, payment_hash: &[u8; 32]) -> bool {
        let claims = self.claims.get();
        claims.is_some_and(|claims| claims.is_arriving(payment_hash))
    }

    /// Returns how many seconds after its invoice expired the token was paid. `end_secs` is the
    /// expiry according to the token; it is used if the ledger does not know the expiry. For an
    /// expired token, waits for a payment that is arriving.
    pub async fn late_secs(
        &self,
        identifier: &Identifier,
        end_secs: u64,
        is_expired: bool,
    ) -> Result<u64, LedgerError> {
        if let Some(usage) = self.usages.find(&identifier.token_id) {
            let late_secs = usage.late_secs();
            if late_secs > 0 || !is_expired {
                return Ok(late_secs);
            }
        }
        let payment_hash = identifier.payment_hash;
        let mut settlements = self.settlements.subscribe();
        let deadline = Instant::now() + ENTERED_WITHIN;
        loop {
            // Checked before the ledger is read: once the payment stops arriving, the ledger
            // already has it.
            let is_awaited = is_expired && self.is_arriving(&payment_hash);
            if let Some(sale) = self.find_sale(payment_hash).await? {
                return Ok(sale.late_secs(end_secs));
            }
            if !is_awaited
                || !matches!(
                    timeout_at(deadline, settlements.changed()).await,
                    Ok(Ok(()))
                )
            {
                return Ok(0);
            }
        }
    }

    async fn find_sale(&self, payment_hash: [u8; 32]) -> Result<Option<SaleRecord>, LedgerError> {
        let sales = self.trees.sales.clone();
        let find = move || calm(|| sales.get(&payment_hash));
        let found = tokio::task::spawn_blocking(find).await;
        self.using(|| Ok(found.expect("reading a record is calm")?))
    }

    /// Notifies the requests that wait for a sale that is now on disk. If its token is in use,
    /// extends the token by the delay of the payment.
    pub(super) fn tell_settled(&self, sale: &SaleRecord) {
        let token_id = sale.token_id.map(TokenId);
        if let Some(usage) = token_id.and_then(|token_id| self.usages.find(&token_id)) {
            usage.be_late(sale.expires_ms.map_or(0, |_| sale.late_secs(u64::MAX)));
        }
        self.settlements.send_modify(|count| *count += 1);
    }
}
