//! Work that may block, and the start of a page.

use crate::account::ledger::LedgerError;

use super::fault::Fault;

/// Runs work that reads the ledger's store on a thread that may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LedgerError> + Send + 'static,
) -> Result<T, LedgerError> {
    tokio::task::spawn_blocking(work)
        .await
        .expect("what the operator asks of the books does not panic")
}

/// Decodes the start of a page, which is the `next` of the page before.
pub(super) fn before(next: Option<String>) -> Result<Option<Vec<u8>>, Fault> {
    let before = next.map(hex::decode).transpose();
    before.map_err(|_| Fault::Asked("`before` is the `next` of the page before"))
}
