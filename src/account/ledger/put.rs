//! Writes a sale into the tables.

use super::super::store::{Store, StoreError, Together};
use super::record::{SaleRecord, Totals};
use super::state::{TOTALS_KEY, Trees};

pub(super) fn put_sale(
    store: &Store,
    trees: &Trees,
    sale: &SaleRecord,
    totals: &Totals,
) -> Result<(), StoreError> {
    let writes = trees.put_sale(Together::default(), sale)?;
    store.write(writes.put(&trees.totals, TOTALS_KEY, totals)?)
}
