//! The tokens that are revoked.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use super::record::{RevocationRecord, Revoked};

/// The longest reason that is kept, in characters.
pub const REVOCATION_REASON_CHARS_MAX: usize = 200;

/// The table of revocations. It uses a `std` lock, which is held for a look-up and never across an
/// await.
#[derive(Debug, Default)]
pub(super) struct Revocations(RwLock<Table>);

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) tokens: HashSet<[u8; 32]>,
    /// The revocation second of each service, in Unix seconds. Tokens minted up to it are revoked.
    pub(super) services: HashMap<String, u64>,
}

impl Revocations {
    pub(super) fn enter(&self, record: &RevocationRecord) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match &record.what {
            Revoked::Token(token_id) => {
                table.tokens.insert(*token_id);
            }
            Revoked::Service(service) => {
                let secs = record.revoked_ms / 1_000;
                let revoked = table.services.entry(service.clone()).or_default();
                *revoked = secs.max(*revoked);
            }
        }
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
