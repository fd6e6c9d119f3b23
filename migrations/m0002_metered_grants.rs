//! Format 2: grants of bytes and seconds, prices in currencies, revocations, free quotas.
//!
//! Differences from format 1:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `challenges` | sequence number of the first (8) | `ChallengeBatch` 2: with grants and rates |
//! | `sales` | payment hash (32) | `SaleRecord` 2: with its grant and rate |
//! | `tokens` | payment hash (32) ‖ token id (32) | `TokenRecord` 2: with bytes and metered time |
//! | `revocations` | `t` ‖ token id (32), or `s` ‖ service | `RevocationRecord` 1: revoked tokens |
//! | `quotas` | SHA-256 of network, quota, service (first 16) | `QuotaRecord` 1: free requests |

use serde::{Deserialize, Serialize};

use super::{Migration, rewrite};

/// Adds the new fields with empty values, and the new trees.
pub(super) const MIGRATION: Migration = Migration {
    version: 2,
    file: "m0002_metered_grants",
    run: |db| {
        // Each record gets two new fields at its end, and a zero byte is the empty value of each:
        // no grant and no rate in a sale, no bytes and no time in a token.
        for tree in ["sales", "tokens"] {
            rewrite(&db.open_tree(tree)?, |rest| Ok([rest, &[0, 0]].concat()))?;
        }
        rewrite(&db.open_tree("challenges")?, challenges)?;
        for tree in ["revocations", "quotas"] {
            db.open_tree(tree)?;
        }
        Ok(())
    },
};

/// A challenge in format 1, its fields in order.
type Old = ([u8; 32], [u8; 32], String, String, u64, u64, u64);

/// A challenge in format 2, without a grant or a rate. The types of these two values do not matter,
/// because both are `None`.
#[derive(Serialize, Deserialize)]
struct New(Old, Option<()>, Option<()>);

fn challenges(rest: &[u8]) -> Result<Vec<u8>, postcard::Error> {
    // Challenges only describe possible future sales. An unreadable batch is dropped, because it
    // must not stop the program from starting.
    let batch: Vec<Old> = postcard::from_bytes(rest).unwrap_or_default();
    let batch: Vec<_> = batch.into_iter().map(|old| New(old, None, None)).collect();
    postcard::to_stdvec(&batch)
}
