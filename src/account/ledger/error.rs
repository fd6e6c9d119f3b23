//! Why the ledger failed.

use std::io;

use crate::account::store::StoreError;

/// An error of the ledger. A failed write ends the program, because a record that is not on disk
/// must not be acknowledged. A request that cannot read a count is answered with 500. A damaged
/// store then ends the program too, and the next start repairs it.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store failed.
    #[error("failed to use the ledger's store")]
    Store(#[from] StoreError),
    /// The journal or a dump failed.
    #[error("failed to use the ledger's journal")]
    Journal(#[from] io::Error),
}
