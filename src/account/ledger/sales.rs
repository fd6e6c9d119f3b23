//! Queries of the ledger: sales, used tokens and totals.

use std::sync::PoisonError;

use super::error::LedgerError;
use super::record::{SaleRecord, TokenRecord, Totals};
use super::state::Ledger;

/// The longest page of sales.
pub const SALES_PAGE_MAX: usize = 500;

/// A page of sales, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalesPage {
    /// The sales.
    pub sales: Vec<SaleRecord>,
    /// The start of the next page, if one exists.
    pub next: Option<Vec<u8>>,
}

/// The longest page of tokens.
pub const TOKENS_PAGE_MAX: usize = 500;

/// The tokens to search for. A field that is `None` matches every token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenSearch {
    /// The service of the token.
    pub service: Option<String>,
    /// The hex digits that the token id or payment hash begins with.
    pub begins_with: Option<String>,
}

/// A page of used tokens, in descending order of their payment hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokensPage {
    /// The tokens.
    pub tokens: Vec<TokenRecord>,
    /// The start of the next page, if one exists.
    pub next: Option<Vec<u8>>,
}

impl TokenSearch {
    fn takes(&self, token: &TokenRecord) -> bool {
        let is_of_service = self.service.as_ref().is_none_or(|it| *it == token.service);
        let begins = |bytes: &[u8; 32], digits: &str| hex::encode(bytes).starts_with(digits);
        let begins = |digits: &String| {
            begins(&token.token_id, digits) || begins(&token.payment_hash, digits)
        };
        is_of_service && self.begins_with.as_ref().is_none_or(begins)
    }
}

impl Ledger {
    /// Returns used tokens with keys below `before`, or from the last key on, at most `max` and at
    /// most [`TOKENS_PAGE_MAX`].
    pub fn tokens(
        &self,
        search: &TokenSearch,
        before: Option<&[u8]>,
        max: usize,
    ) -> Result<TokensPage, LedgerError> {
        let max = max.clamp(1, TOKENS_PAGE_MAX);
        self.using(|| {
            let mut page = TokensPage::default();
            let mut last = None;
            for key in self.trees.tokens.keys_before(before) {
                let key = key?;
                let Some(token) = self.trees.tokens.get(&key)? else {
                    continue;
                };
                if !search.takes(&token) {
                    continue;
                }
                if page.tokens.len() == max {
                    page.next = last;
                    break;
                }
                page.tokens.push(token);
                last = Some(key);
            }
            Ok(page)
        })
    }

    /// Returns the number and the sum of the sales.
    pub fn totals(&self) -> Totals {
        self.books
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .totals
    }

    /// Returns the newest sales before `before`, or of all, at most `max` and at most
    /// [`SALES_PAGE_MAX`].
    pub fn sales(&self, before: Option<&[u8]>, max: usize) -> Result<SalesPage, LedgerError> {
        let max = max.clamp(1, SALES_PAGE_MAX);
        self.using(|| {
            let mut page = SalesPage::default();
            let mut last = None;
            for key in self.trees.sales_by_time.keys_before(before) {
                let key = key?;
                if page.sales.len() == max {
                    page.next = last;
                    break;
                }
                if let Some(sale) = self.trees.sales.get(key.get(8..).unwrap_or_default())? {
                    page.sales.push(sale);
                }
                last = Some(key);
            }
            Ok(page)
        })
    }
}
