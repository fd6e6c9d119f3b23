//! SQLite's write-ahead log, and the part of it that is synced to the disk.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::base::error_chain;

/// The write-ahead log.
pub(super) struct Log {
    /// The files of the log and the database. `None` on a file system that cannot have a log:
    /// SQLite then waits for the disk at every write.
    files: Option<Files>,
    /// The number of writes in the log.
    written: AtomicU64,
    /// The number of writes that are synced. The lock is held during a sync, so that a caller that
    /// waited sees whether that sync failed. If it succeeded, the caller's write is already synced,
    /// or the next sync covers it together with other writes.
    synced: Mutex<u64>,
    /// The highest place for which `begin_sync` has requested a sync.
    begun: AtomicU64,
    /// Whether the requested sync is about to begin.
    is_about_to_begin: AtomicBool,
    /// Whether a write or a sync failed. Its data may be lost, and a later sync would not report
    /// that.
    has_failed: AtomicBool,
    /// Receives the first failure.
    complaint: Complaint,
}

/// The files that must survive for a synced write to survive.
struct Files {
    /// The log's file. While a connection is open, SQLite neither deletes nor replaces it.
    log: File,
    /// The paths of the database and the log, with the identity of each file. The database is never
    /// opened for this check: closing it would release SQLite's locks.
    named: [(PathBuf, Identity); 2],
    /// How the log is synced.
    syncing: Syncing,
}

/// The identity of a file: its device and its inode number.
type Identity = (u64, u64);

/// Random bytes that distinguish a log from the previous log in the same file. The log's header and
/// the header of each of its pages contain them.
pub(super) type Salts = [u8; 8];

/// Syncs the data of a file to the disk. Tests use versions that fail or that record the sync.
pub(super) type Syncing = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// The channel that reports why the node's state can no longer be written.
pub(crate) type Complaint = watch::Sender<Option<String>>;

/// The position of a write in the log: the number of writes up to and including it.
#[derive(Clone, Copy)]
#[must_use = "a write is on the disk when `sync` has been called with its place"]
pub(super) struct Place(u64);

/// An earlier write or sync failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("an earlier write to the node's database failed")]
struct FailedBefore;

impl Log {
    /// Opens the log of this database, and syncs the log and its folder.
    pub(super) fn of(database: &Path, complaint: Complaint, syncing: Syncing) -> io::Result<Self> {
        let files = Files::of(database, syncing)?;
        if let Some(folder) = database.parent() {
            File::open(folder)?.sync_all()?;
        }
        files.sync()?;
        Ok(Self::new(Some(files), complaint))
    }

    /// The state without a write-ahead log.
    pub(super) fn none(complaint: Complaint) -> Self {
        Self::new(None, complaint)
    }

    fn new(files: Option<Files>, complaint: Complaint) -> Self {
        Self {
            files,
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            begun: AtomicU64::new(0),
            is_about_to_begin: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            complaint,
        }
    }

    /// Returns an error once a write or a sync has failed.
    pub(super) fn look(&self) -> io::Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            return Err(io::Error::other(FailedBefore));
        }
        Ok(())
    }

    /// Notes a failure. From now on the store rejects all work.
    pub(super) fn fail(&self, why: &dyn std::error::Error) {
        self.has_failed.store(true, Ordering::Release);
        self.complaint.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| error_chain::chain(why));
            is_first
        });
    }

    /// Reads the salts at this position; `None` beyond the end of the log.
    pub(super) fn salts_at(&self, at: u64) -> io::Result<Option<Salts>> {
        let Some(files) = &self.files else {
            return Ok(None);
        };
        let mut salts = Salts::default();
        match files.log.read_exact_at(&mut salts, at) {
            Ok(()) => Ok(Some(salts)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Counts a write. The caller holds the connection, so that places follow the order of the log.
    pub(super) fn entered(&self) -> Place {
        Place(self.written.fetch_add(1, Ordering::AcqRel) + 1)
    }

    /// Waits until the log up to this place would survive a power cut.
    pub(super) fn sync(&self, place: Place) -> io::Result<()> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        self.look()?;
        if *synced >= place.0 {
            return Ok(());
        }
        // Read before the sync begins: writes that arrive during it do not count.
        let written = self.written.load(Ordering::Acquire);
        if let Some(files) = &self.files
            && let Err(error) = files.sync()
        {
            self.fail(&error);
            return Err(error);
        }
        *synced = written;
        Ok(())
    }

    /// Starts a sync up to this place on another thread. If it fails, the next write returns an
    /// error. `open` keeps the log from being deleted before the sync ends.
    pub(super) fn begin_sync(self: &Arc<Self>, place: Place, open: impl Send + 'static) {
        self.begun.fetch_max(place.0, Ordering::AcqRel);
        if self.is_about_to_begin.swap(true, Ordering::AcqRel) {
            // The requested sync covers this place, too, because it reads `begun` when it starts.
            return;
        }
        let log = Arc::clone(self);
        // The work is not awaited.
        drop(tokio::task::spawn_blocking(move || {
            log.is_about_to_begin.swap(false, Ordering::AcqRel);
            let begun = log.begun.load(Ordering::Acquire);
            log.sync(Place(begun)).ok();
            drop(open);
        }));
    }
}

impl Drop for Log {
    /// Syncs the writes that were not waited for, because the program may record a clean end after
    /// this.
    fn drop(&mut self) {
        if let Some(files) = &self.files
            && let Err(error) = (files.syncing)(&files.log)
        {
            tracing::error!("Failed to sync the node's database at the end: {error}");
        }
    }
}

impl Files {
    fn of(database: &Path, syncing: Syncing) -> io::Result<Self> {
        let mut name = database.as_os_str().to_owned();
        name.push("-wal");
        let path = PathBuf::from(name);
        let log = File::options().read(true).write(true).open(&path)?;
        let named = [
            (database.to_owned(), identity(&database.metadata()?)),
            (path, identity(&log.metadata()?)),
        ];
        Ok(Self {
            log,
            named,
            syncing,
        })
    }

    /// Syncs the log and checks that the log and the database are still at their paths. The next
    /// start finds neither a deleted file nor a moved one.
    fn sync(&self) -> io::Result<()> {
        (self.syncing)(&self.log)?;
        for (path, was) in &self.named {
            let is = match path.metadata() {
                Ok(found) => Some(identity(&found)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            if is != Some(*was) {
                let path = path.display();
                return Err(io::Error::other(format!(
                    "somebody has deleted, moved or replaced {path} while it was in use"
                )));
            }
        }
        Ok(())
    }
}

fn identity(file: &Metadata) -> Identity {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// The log of a database without any writes.
    fn log(syncing: Syncing) -> (TempDir, Arc<Log>) {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("database");
        for name in ["database", "database-wal"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let files = Files::of(&database, syncing).unwrap();
        (
            folder,
            Arc::new(Log::new(Some(files), Complaint::default())),
        )
    }

    #[test]
    fn after_a_sync_that_failed_none_is_good() {
        let (_folder, good) = log(Box::new(File::sync_data));
        good.sync(good.entered()).unwrap();
        // The device `/dev/null` cannot be synced.
        let (_folder, bad) = log(Box::new(|_| File::open("/dev/null")?.sync_data()));
        let (first, second) = (bad.entered(), bad.entered());
        bad.look().unwrap();
        bad.sync(first).unwrap_err();
        bad.sync(second).unwrap_err();
        bad.look().unwrap_err();
        let said = bad.complaint.borrow().clone().unwrap();
        assert!(said.contains("Invalid argument"), "{said}");
    }

    #[test]
    fn one_sync_serves_all_that_was_written_before() {
        let (_folder, log) = log(Box::new(File::sync_data));
        let (first, second) = (log.entered(), log.entered());
        log.sync(first).unwrap();
        assert_eq!(*log.synced.lock().unwrap(), 2);
        log.sync(second).unwrap();
        let third = log.entered();
        assert_eq!(*log.synced.lock().unwrap(), 2);
        log.sync(third).unwrap();
        assert_eq!(*log.synced.lock().unwrap(), 3);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_reaches_the_disk_all_the_same() {
        let (_folder, log) = log(Box::new(File::sync_data));
        for _ in 0..50 {
            log.begin_sync(log.entered(), ());
        }
        let all = async {
            while *log.synced.lock().unwrap() < 50 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), all)
            .await
            .unwrap();
    }
}
