//! Format 2: grants of bytes and seconds, prices in currencies, revocations, free quotas.
//!
//! As format 1, and:
//!
//! | tree | key | value |
//! |---|---|---|
//! | `challenges` | sequence number of the first (8) | `ChallengeBatch` 2: each with its grant and rate |
//! | `sales` | payment hash (32) | `SaleRecord` 2: with its grant and rate |
//! | `tokens` | payment hash (32) ‖ token id (32) | `TokenRecord` 2: with its bytes and metered time |
//! | `revocations` | `t` ‖ token id (32), or `s` ‖ service | `RevocationRecord` 1: tokens that open nothing any more |
//! | `quotas` | beginning of SHA-256 of network, quota and service (16) | `QuotaRecord` 1: what a client without a token has had |

use serde::{Deserialize, Serialize};

use super::{Migration, rewrite};

/// Adds the fields, empty, and the trees.
pub(super) const MIGRATION: Migration = Migration {
    version: 2,
    file: "m0002_metered_grants",
    run: |db| {
        // Both new fields of either record stand at its end, and each is a zero: no grant, no rate; no bytes, no time.
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

/// A challenge as it was, in the order of its fields.
type Old = ([u8; 32], [u8; 32], String, String, u64, u64, u64);

/// A challenge as it is: with no grant and no rate, whose type does not matter where there is none.
#[derive(Serialize, Deserialize)]
struct New(Old, Option<()>, Option<()>);

fn challenges(rest: &[u8]) -> Result<Vec<u8>, postcard::Error> {
    // They only describe sales to come: one that cannot be read is not worth a program that does not start.
    let batch: Vec<Old> = postcard::from_bytes(rest).unwrap_or_default();
    let batch: Vec<_> = batch.into_iter().map(|old| New(old, None, None)).collect();
    postcard::to_stdvec(&batch)
}
