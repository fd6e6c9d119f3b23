//! Format 3: payments out of which a liquidity provider opens a channel.
//!
//! Differences from format 2:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `activations` | payment hash (32) | `ActivationRecord` 1: such a payment, the provider's fee |

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
