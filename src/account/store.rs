//! The database: trees of versioned records, migrations, and a flush that survives a power cut.
//!
//! No other module names a sled type, and this module knows nothing about sales.

mod buffers;
mod error;
mod handle;
pub mod lock;
#[path = "../../migrations/mod.rs"]
pub mod migrations;
pub mod record;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use buffers::let_go_of_buffers;
use migrations::MIGRATIONS;

pub use error::StoreError;
pub use handle::Store;
pub use lock::{DataLock, LockError};
pub use record::{Entry, Record, Together, Tree};

/// The size of sled's page cache. The default is 1 GiB, which is all the memory of some Raspberry
/// Pis. The use counts and challenges, which are read often, are kept in memory elsewhere.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// How often sled writes out data without an explicit flush. A crash loses the unflushed use counts
/// of at most this time.
const FLUSH_EVERY_MS: u64 = 1_000;

/// The most damaged databases that are kept. Repeated damage must not fill the disk.
const DAMAGED_MAX: usize = 8;

/// The key of the format version.
const FORMAT_KEY: &[u8] = b"format";

/// The key of the newest dump whose content is known to be complete in the store.
const COMPLETE_KEY: &[u8] = b"complete";

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the database in this folder and migrates it to the newest format.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let open = || {
            sled::Config::new()
                .path(folder)
                .cache_capacity(CACHE_BYTES)
                .flush_every_ms(Some(FLUSH_EVERY_MS))
                .open()
        };
        let db = calm(|| Ok::<_, StoreError>(open()?))?;
        let file = File::open(folder.join("db")).map_err(StoreError::Io)?;
        let store = Self {
            db,
            file: Arc::new(file),
        };
        store.migrate()?;
        Ok(store)
    }

    fn migrate(&self) -> Result<(), StoreError> {
        let known = MIGRATIONS.last().map_or(0, |migration| migration.version);
        let found = self.format()?;
        if found > known {
            return Err(StoreError::Newer { found, known });
        }
        for migration in MIGRATIONS
            .iter()
            .filter(|migration| migration.version > found)
        {
            (migration.run)(&self.db)?;
            self.db
                .insert(FORMAT_KEY, &migration.version.to_be_bytes())?;
            self.flush_blocking()?;
            tracing::info!(
                store.format = migration.version,
                "Migrated the store to format {}",
                migration.version
            );
        }
        Ok(())
    }

    fn format(&self) -> Result<u32, StoreError> {
        match self.db.get(FORMAT_KEY)? {
            None => Ok(0),
            Some(bytes) => {
                let bytes: [u8; 4] = bytes.as_ref().try_into().map_err(|_| {
                    StoreError::Corrupt("the format version is not four bytes".to_owned())
                })?;
                Ok(u32::from_be_bytes(bytes))
            }
        }
    }

    /// Whether the store was filled from this dump (by its id), or produced the dump. sled silently
    /// opens an empty store if the files are missing, and an older state if its file was truncated.
    pub fn is_complete(&self, dump_id: u64) -> Result<bool, StoreError> {
        let noted = self.db.get(COMPLETE_KEY)?;
        Ok(noted.is_some_and(|noted| noted.as_ref() == dump_id.to_be_bytes()))
    }

    /// Records that the store holds all of this dump, after the data is on disk.
    pub fn mark_complete(&self, dump_id: u64) -> Result<(), StoreError> {
        self.flush_blocking()?;
        self.db.insert(COMPLETE_KEY, &dump_id.to_be_bytes())?;
        self.flush_blocking()
    }

    /// Opens a tree of records of one type.
    pub fn tree<R: Record>(&self, name: &str) -> Result<Tree<R>, StoreError> {
        Ok(Tree::new(self.db.open_tree(name)?))
    }

    /// Writes all data to disk and waits until it would survive a power cut.
    #[expect(
        clippy::disallowed_methods,
        reason = "the name says it: callers are on threads that may block"
    )]
    pub fn flush_blocking(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        // On Linux sled's own flush is `sync_file_range`, which covers neither the drive's cache
        // nor the file's size.
        let synced = self.file.sync_data();
        let_go_of_buffers();
        synced.map_err(StoreError::Io)
    }

    /// Moves a damaged database aside as a whole and returns its new path. Returns `None` if the
    /// database does not exist.
    pub fn set_aside(folder: &Path, unix_secs: u64) -> Result<Option<PathBuf>, StoreError> {
        if damaged_before(folder)? >= DAMAGED_MAX {
            let place = folder.parent().unwrap_or(folder).display();
            return Err(StoreError::Refused(format!(
                "{DAMAGED_MAX} damaged stores are kept in {place} already: look at the disk and the memory of this machine, \
                 then move them away"
            )));
        }
        for attempt in unix_secs.. {
            let mut aside = folder.as_os_str().to_owned();
            aside.push(format!(".corrupt-{attempt}"));
            let aside = PathBuf::from(aside);
            if aside.exists() {
                continue;
            }
            return match std::fs::rename(folder, &aside) {
                Ok(()) => Ok(Some(aside)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(StoreError::Io(error)),
            };
        }
        Ok(None)
    }
}

/// Counts the damaged databases next to this folder.
fn damaged_before(folder: &Path) -> Result<usize, StoreError> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Ok(0);
    };
    let begin = format!("{}.corrupt-", name.to_string_lossy());
    let entries = std::fs::read_dir(parent).map_err(StoreError::Io)?;
    let is_damaged = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(&begin)
    };
    Ok(entries.flatten().filter(is_damaged).count())
}

/// Runs an operation on the database and turns a panic into an error. sled panics on some kinds of
/// damage, which must not stop every start of the program.
pub fn calm<T, E: From<StoreError>>(work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    // After a panic, data that was being changed is not used again: the store is set aside and the
    // ledger is closed.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        let why = why.unwrap_or("no reason given");
        Err(StoreError::Corrupt(format!("the database panicked: {why}")).into())
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Opens the database once it is free: sled's own thread releases it a moment after the handle
    /// is dropped.
    fn once_free<T>(open: impl Fn() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match open() {
                Err(StoreError::Io(_)) if Instant::now() < deadline => std::thread::yield_now(),
                opened => return opened,
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let open = || once_free(|| Ok(sled::open(&path)?)).unwrap();
        drop(Store::open(&path).unwrap());
        open().insert(FORMAT_KEY, &99_u32.to_be_bytes()).unwrap();
        let newest = MIGRATIONS.last().unwrap().version;
        assert!(matches!(
            once_free(|| Store::open(&path)),
            Err(StoreError::Newer { found: 99, known }) if known == newest
        ));
        assert_eq!(
            open().get(FORMAT_KEY).unwrap().unwrap().as_ref(),
            99_u32.to_be_bytes()
        );
    }

    #[test]
    fn migrations_are_listed_in_order_without_a_gap() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1);
        }
    }
}
