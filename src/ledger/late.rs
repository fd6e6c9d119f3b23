//! Payments that come after the end of their invoice: LDK takes them for two hours and more. What is sold by time is counted
//! from the payment then, not from the invoice's end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::l402::{Identifier, TokenId};
use crate::store::calm;

use super::record::SaleRecord;
use super::{Claims, Ledger, LedgerError};

/// How long a payment is waited for that the node is claiming: its payer may show the token before the node has told us.
const ENTERED_WITHIN: Duration = Duration::from_secs(10);

impl Ledger {
    /// Knows from now on which payments the node is claiming. The first ones stay.
    pub fn follow(&self, claims: Arc<Claims>) {
        // The node that is started again in this process has the same.
        let _ = self.claims.set(claims);
    }

    fn is_arriving(&self, payment_hash: &[u8; 32]) -> bool {
        let claims = self.claims.get();
        claims.is_some_and(|claims| claims.is_arriving(payment_hash))
    }

    /// How long after the end of its invoice this token was paid, in seconds. The end is the invoice's as far as the token
    /// tells it, for the case that the books do not. Of a token whose time is over, it waits for a payment that is arriving.
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
            // Asked before the books are, which have it when it has arrived.
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

    /// Tells a sale that is on the disk to who waits for it, and puts off the end of its token if that is in use.
    pub(super) fn tell_settled(&self, sale: &SaleRecord) {
        let token_id = sale.token_id.map(TokenId);
        if let Some(usage) = token_id.and_then(|token_id| self.usages.find(&token_id)) {
            usage.be_late(sale.expires_ms.map_or(0, |_| sale.late_secs(u64::MAX)));
        }
        self.settlements.send_modify(|count| *count += 1);
    }
}
