//! Reads the sold tokens that may still be valid, to show the effect of new settings.

use crate::protocol::l402::TokenId;

use super::error::LedgerError;
use super::record::{SaleRecord, TokenRecord};
use super::sales::SALES_PAGE_MAX;
use super::state::Ledger;

/// The most sales that are read, the newest first. Reading them takes about a second.
const SALES_MAX: usize = 100_000;

/// A sale whose token is not revoked and whose payment was not lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// The sale.
    pub sale: SaleRecord,
    /// The token's use so far; `None` if the token was never used.
    pub used: Option<TokenRecord>,
}

impl Ledger {
    /// Calls `each` for every such sale that was settled at this time or later. Returns whether all
    /// sales were read; at most `SALES_MAX` are.
    pub fn each_living(
        &self,
        settled_from_ms: u64,
        mut each: impl FnMut(&Living),
    ) -> Result<bool, LedgerError> {
        let mut before = None;
        let mut looked_at = 0;
        loop {
            let page = self.sales(before.as_deref(), SALES_PAGE_MAX)?;
            for sale in page.sales {
                if sale.settled_ms < settled_from_ms {
                    return Ok(true);
                }
                looked_at += 1;
                if let Some(living) = self.living(sale)? {
                    each(&living);
                }
            }
            match page.next {
                None => return Ok(true),
                Some(_) if looked_at >= SALES_MAX => return Ok(false),
                next => before = next,
            }
        }
    }

    fn living(&self, sale: SaleRecord) -> Result<Option<Living>, LedgerError> {
        let (Some(token_id), Some(service), None) = (sale.token_id, &sale.service, sale.lost_ms)
        else {
            return Ok(None);
        };
        if self.is_revoked(&TokenId(token_id), service) {
            return Ok(None);
        }
        let key = TokenRecord::key(&sale.payment_hash, &token_id);
        let used = self.using(|| Ok(self.trees.tokens.get(&key)?))?;
        Ok(Some(Living { sale, used }))
    }
}
