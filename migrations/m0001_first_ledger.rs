//! Format 1: the first ledger.
//!
//! Every value begins with the version byte of its own record type, followed by the record in
//! postcard. Integers in keys are big-endian.
//!
//! | tree | key | value |
//! |---|---|---|
//! | (default) | `format` | format version, u32 big-endian, and nothing else |
//! | (default) | `complete` | newest dump that the store fully holds, u64 big-endian; 0 for none |
//! | `challenges` | sequence number of the first (8) | `ChallengeBatch` 1: payable challenges |
//! | `sales` | payment hash (32) | `SaleRecord` 1: a paid invoice |
//! | `sales_by_time` | settled at, Unix ms (8) ‖ payment hash (32) | empty |
//! | `tokens` | payment hash (32) ‖ token id (32) | `TokenRecord` 1: a used token, its use count |
//! | `channels` | channel id (32) | `ChannelRecord` 1: a channel that was once ready, and its end |
//! | `totals` | `sales` | `Totals` 1: number and sum of the sales |

use super::Migration;

/// Creates the trees.
pub(super) const MIGRATION: Migration = Migration {
    version: 1,
    file: "m0001_first_ledger",
    run: |db| {
        for tree in [
            "challenges",
            "sales",
            "sales_by_time",
            "tokens",
            "channels",
            "totals",
        ] {
            db.open_tree(tree)?;
        }
        Ok(())
    },
};
