//! Copies of the ledger: the newest dump and the journal after it, from which the ledger can be
//! opened again. A copy leaves out unpaid challenges and free quotas.

use std::io;
use std::path::Path;

use super::error::LedgerError;
use super::journal;
use super::record::Totals;
use super::state::{Config, Ledger};

impl Ledger {
    /// Copies the ledger to a folder as of one moment, and returns the totals of that moment.
    /// Settlements wait meanwhile. A failed copy leaves the ledger unchanged. Blocks on the disk.
    pub fn copy_to(&self, folder: &Path) -> Result<Totals, LedgerError> {
        // The copy includes use counts that were not written yet.
        self.write_tokens(u64::MAX)?;
        let books = self.books()?;
        books.journal.copy_to(folder)?;
        Ok(books.totals)
    }

    /// Like `copy_to`, for a ledger that is not open. The caller holds the lock of the data folder.
    pub fn copy_closed(config: &Config, folder: &Path) -> Result<(), LedgerError> {
        match journal::copy(&config.folder, folder, u64::MAX) {
            // The ledger was never opened, so it is empty.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            copied => Ok(copied?),
        }
    }

    /// Returns when a channel last became ready or was closed, in Unix milliseconds.
    pub fn channel_changed_ms(&self) -> Result<Option<u64>, LedgerError> {
        self.using(|| {
            let mut newest = None;
            for entry in self.trees.channels.iter() {
                let (_, channel) = entry?;
                let changed = channel.closed_ms.max(Some(channel.ready_ms));
                newest = newest.max(changed);
            }
            Ok(newest)
        })
    }
}
