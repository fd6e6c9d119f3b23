//! Format 5: totals with the surplus and the lost amount, and sales with their invoice's expiry.
//!
//! Differences from format 4:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `sales` | payment hash (32) | `SaleRecord` 3: with the invoice's expiry, the loss's time |
//! | `totals` | `sales` | `Totals` 2: with the sums of the surplus and of the lost payments |

use super::{Migration, rewrite_from};

/// Adds empty fields to the sales, and the sum of their surplus to the totals.
pub(super) const MIGRATION: Migration = Migration {
    version: 5,
    file: "m0005_surplus",
    run: |db| {
        let sales = db.open_tree("sales")?;
        // Both new fields are the last of the record, and a zero byte means `None`.
        rewrite_from(2, &sales, |rest| Ok([rest, &[0, 0]].concat()))?;
        let mut surplus_msat = 0_u64;
        for entry in &sales {
            let (_, value) = entry?;
            let beginning: Beginning = postcard::from_bytes(value.get(1..).unwrap_or_default())
                .map_err(|error| {
                    sled::Error::ReportableBug(format!("a sale cannot be read: {error}"))
                })?;
            surplus_msat = surplus_msat.saturating_add(beginning.2);
        }
        rewrite_from(1, &db.open_tree("totals")?, |rest| {
            Ok([rest, &postcard::to_stdvec(&(surplus_msat, 0_u64))?].concat())
        })
    },
};

/// The payment hash, amount and surplus with which the record of a sale begins.
type Beginning = ([u8; 32], u64, u64);
