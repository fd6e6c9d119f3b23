//! Looking through the books.

use std::sync::PoisonError;

use super::record::{SaleRecord, Totals};
use super::{Ledger, LedgerError};

/// The longest page of sales.
pub const SALES_PAGE_MAX: usize = 500;

/// A page of sales, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SalesPage {
    /// The sales.
    pub sales: Vec<SaleRecord>,
    /// Where the next page begins, if there is one.
    pub next: Option<Vec<u8>>,
}

impl Ledger {
    /// Number and sum of the sales.
    pub fn totals(&self) -> Totals {
        self.books
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .totals
    }

    /// The newest sales before `before` (or of all), at most `max` and at most [`SALES_PAGE_MAX`].
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
