//! Format 1: the first ledger.
//!
//! Every value begins with the version byte of its own record type, then postcard; integers in keys are big-endian.
//!
//! | tree | key | value |
//! |---|---|---|
//! | (default) | `format` | format version, u32 big-endian, nothing else |
//! | (default) | `complete` | number of the newest dump of which the store holds everything, u64 big-endian; 0 for none |
//! | `challenges` | sequence number of the first (8) | `ChallengeBatch` 1: challenges that may still be paid |
//! | `sales` | payment hash (32) | `SaleRecord` 1: a paid invoice |
//! | `sales_by_time` | settled at, Unix ms (8) ‖ payment hash (32) | empty |
//! | `tokens` | payment hash (32) ‖ token id (32) | `TokenRecord` 1: a token that was used, and how often |
//! | `channels` | channel id (32) | `ChannelRecord` 1: a channel that was once ready, and how it ended |
//! | `totals` | `sales` | `Totals` 1: number and sum of the sales |

use super::Migration;

/// Makes the trees.
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
