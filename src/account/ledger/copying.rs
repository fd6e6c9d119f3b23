//! Copies of the account, from which it can be opened again: the newest dump and the journal after it. What is not in them
//! is unpaid challenges and free quotas, which nobody has paid for.

use std::io;
use std::path::Path;

use super::record::Totals;
use super::{Config, Ledger, LedgerError, journal};

impl Ledger {
    /// Copies the account to a folder, as it is at one moment, and says what was sold until then. Settlements wait meanwhile;
    /// blocks on the disk. A copy that fails leaves the account as it is.
    pub fn copy_to(&self, folder: &Path) -> Result<Totals, LedgerError> {
        // Counts of use that nobody has written yet belong to it.
        self.write_tokens(u64::MAX)?;
        let books = self.books()?;
        books.journal.copy_to(folder)?;
        Ok(books.totals)
    }

    /// The same of an account that is not open; the caller holds the lock of the data folder.
    pub fn copy_closed(config: &Config, folder: &Path) -> Result<(), LedgerError> {
        match journal::copy(&config.folder, folder, u64::MAX) {
            // Never opened: an empty account.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            copied => Ok(copied?),
        }
    }

    /// When a channel last became ready or was closed, Unix milliseconds.
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
