//! Which tokens open nothing any more. Asked at every paid request, changed by hand.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use crate::protocol::l402::TokenId;

use super::journal::Line;
use super::record::{RevocationRecord, Revoked};
use super::{Ledger, LedgerError};

/// The longest reason that is kept, in characters.
pub const REVOCATION_REASON_CHARS_MAX: usize = 200;

/// What was revoked. A `std` lock: held for a look-up, never across an await.
#[derive(Debug, Default)]
pub(super) struct Revocations(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    tokens: HashSet<[u8; 32]>,
    /// Tokens minted up to this second are revoked, Unix seconds.
    services: HashMap<String, u64>,
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

    fn look<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Ledger {
    /// Whether this token opens nothing of this service any more.
    pub fn is_revoked(&self, token_id: &TokenId, service: &str) -> bool {
        self.revocations.look(|table| {
            table.tokens.contains(&token_id.0)
                || table
                    .services
                    .get(service)
                    .is_some_and(|secs| token_id.minted_secs() <= *secs)
        })
    }

    /// The first second at which a token for this service may say that it was minted: one that is minted in the second of
    /// a revocation is not revoked by it.
    pub fn mintable_secs(&self, service: &str) -> u64 {
        let revoked_secs = self
            .revocations
            .look(|table| table.services.get(service).copied());
        revoked_secs.map_or(0, |secs| secs + 1)
    }

    /// Revokes one token, with all its copies, or all of a service that were minted until now. On return it would survive
    /// a power cut. What was sold stays in the books. Blocks on the disk.
    pub fn revoke(&self, what: Revoked, reason: &str) -> Result<RevocationRecord, LedgerError> {
        // Time that goes back must not give back what was revoked.
        let earlier_ms = match &what {
            Revoked::Token(_) => 0,
            Revoked::Service(service) => self.mintable_secs(service).saturating_sub(1) * 1_000,
        };
        let record = RevocationRecord {
            what,
            revoked_ms: self.clock.unix_ms().max(earlier_ms),
            reason: reason.chars().take(REVOCATION_REASON_CHARS_MAX).collect(),
        };
        self.change(|books| {
            books.journal.append([&Line::Revocation(record.clone())])?;
            books.journal.sync()?;
            self.trees.revocations.put(&record.key(), &record)?;
            Ok(self.store.flush_blocking()?)
        })?;
        self.revocations.enter(&record);
        Ok(record)
    }

    /// The time of the last revocation, Unix seconds.
    pub fn revoked_secs(&self) -> Result<Option<u64>, LedgerError> {
        let revocations = self.revocations()?.into_iter();
        Ok(revocations.map(|it| it.revoked_ms / 1_000).max())
    }

    /// Everything that was revoked.
    pub fn revocations(&self) -> Result<Vec<RevocationRecord>, LedgerError> {
        self.using(|| {
            let entries = self.trees.revocations.iter();
            entries.map(|entry| Ok(entry?.1)).collect()
        })
    }
}
