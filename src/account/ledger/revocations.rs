//! Revoked tokens. The table is read at every paid request and changed by the operator.

use crate::protocol::l402::TokenId;

use super::error::LedgerError;
use super::journal::Line;
use super::record::{RevocationRecord, Revoked};
use super::revoked::REVOCATION_REASON_CHARS_MAX;
use super::state::Ledger;

impl Ledger {
    /// Whether this token is revoked for this service.
    pub fn is_revoked(&self, token_id: &TokenId, service: &str) -> bool {
        self.revocations.look(|table| {
            table.tokens.contains(&token_id.0)
                || table
                    .services
                    .get(service)
                    .is_some_and(|secs| token_id.minted_secs() <= *secs)
        })
    }

    /// Returns the first second that a new token for this service may carry as its mint time. A
    /// token minted in the second of a revocation carries the next second, so that it is not
    /// revoked.
    pub fn mintable_secs(&self, service: &str) -> u64 {
        let revoked_secs = self
            .revocations
            .look(|table| table.services.get(service).copied());
        revoked_secs.map_or(0, |secs| secs + 1)
    }

    /// Revokes one token with all its copies, or all tokens of a service that were minted until
    /// now. On return, the revocation survives a power cut. The sales stay in the ledger. Blocks on
    /// the disk.
    pub fn revoke(&self, what: Revoked, reason: &str) -> Result<RevocationRecord, LedgerError> {
        // A clock that is set back must not make revoked tokens valid again.
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

    /// Returns the time of the last revocation, in Unix seconds.
    pub fn revoked_secs(&self) -> Result<Option<u64>, LedgerError> {
        let revocations = self.revocations()?.into_iter();
        Ok(revocations.map(|it| it.revoked_ms / 1_000).max())
    }

    /// Returns all revocations.
    pub fn revocations(&self) -> Result<Vec<RevocationRecord>, LedgerError> {
        self.using(|| {
            let entries = self.trees.revocations.iter();
            entries.map(|entry| Ok(entry?.1)).collect()
        })
    }
}
