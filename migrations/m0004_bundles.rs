//! Format 4: bundles whose payment opens a channel.
//!
//! Differences from format 3:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `activations` | payment hash (32) | `ActivationRecord` 2: with the bundle that is bought |

use super::{Migration, rewrite};

/// Adds the new field with an empty value.
pub(super) const MIGRATION: Migration = Migration {
    version: 4,
    file: "m0004_bundles",
    // The new field is the last of the record, and a zero byte means no bundle.
    run: |db| {
        rewrite(&db.open_tree("activations")?, |rest| {
            Ok([rest, &[0]].concat())
        })
    },
};
