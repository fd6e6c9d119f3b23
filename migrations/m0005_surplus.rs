//! Format 5: sums with what arrived besides and what was lost, and when a sale's invoice expired.
//!
//! As format 4, and:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `sales` | payment hash (32) | `SaleRecord` 3: with its invoice's end, and when its payment was lost |
//! | `totals` | `sales` | `Totals` 2: with the sums of the surplus and of what was lost |

use super::{Migration, rewrite_from};

/// Adds the end, empty, and the sum of what stands in the sales.
pub(super) const MIGRATION: Migration = Migration {
    version: 5,
    file: "m0005_surplus",
    run: |db| {
        let sales = db.open_tree("sales")?;
        // Both stand at the record's end, and a zero says that there is none.
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

/// A sale's payment hash, amount and surplus, with which its record begins.
type Beginning = ([u8; 32], u64, u64);
