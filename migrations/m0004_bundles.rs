//! Format 4: bundles whose payment opens a channel.
//!
//! As format 3, and:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `activations` | payment hash (32) | `ActivationRecord` 2: with the bundle that is sold by it |

use super::{Migration, rewrite};

/// Adds the field, empty.
pub(super) const MIGRATION: Migration = Migration {
    version: 4,
    file: "m0004_bundles",
    // It stands at the record's end, and a zero says that there is none.
    run: |db| {
        rewrite(&db.open_tree("activations")?, |rest| {
            Ok([rest, &[0]].concat())
        })
    },
};
