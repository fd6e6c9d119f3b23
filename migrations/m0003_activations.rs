//! Format 3: channels that a liquidity provider opened out of a payment.
//!
//! As format 2, and:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `activations` | payment hash (32) | `ActivationRecord` 1: a payment that opens a channel, and what its provider keeps of it |

use super::Migration;

/// Adds the tree.
pub(super) const MIGRATION: Migration = Migration {
    version: 3,
    file: "m0003_activations",
    run: |db| {
        db.open_tree("activations")?;
        Ok(())
    },
};
