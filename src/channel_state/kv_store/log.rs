//! SQLite's write-ahead log, as far as it is on the disk.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::base::error_chain;

/// The log.
pub(super) struct Log {
    /// Its file, and the database's. `None` on a file system where there can be no log: then SQLite waits for the disk itself,
    /// at every write.
    files: Option<Files>,
    /// How many writes are in it.
    written: AtomicU64,
    /// How many of them are on the disk. Held during a sync, so that nobody takes one for good that ended after another had
    /// failed; who has waited finds its write on the disk already, or shares the next sync.
    synced: Mutex<u64>,
    /// Up to where a sync was begun that nobody waits for.
    begun: AtomicU64,
    /// Whether such a one is about to begin.
    is_about_to_begin: AtomicBool,
    /// Whether a write or a sync failed: what it was to write may be lost, and the next one would not say so.
    has_failed: AtomicBool,
    /// Hears of the first failure.
    complaint: Complaint,
}

/// What a write is promised to be in.
struct Files {
    /// The log. As long as a connection is open SQLite neither deletes nor replaces it.
    log: File,
    /// Where the database and the log are found again, and which files those are. The database is looked at from outside:
    /// whoever opens and closes it lets go of SQLite's locks.
    named: [(PathBuf, Identity); 2],
    /// How the log is synced.
    syncing: Syncing,
}

/// Which file it is: its device, and its number there.
type Identity = (u64, u64);

/// What tells a log from the one that was in its file before: in its header, and in that of each of its pages.
pub(super) type Salts = [u8; 8];

/// Has what was written to a file on the disk when it returns. A test has one that fails, or one that takes note.
pub(super) type Syncing = Box<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// Where it is said that the node's state cannot be written any more, and why.
pub(crate) type Complaint = watch::Sender<Option<String>>;

/// How many writes were in the log behind one of them.
#[derive(Clone, Copy)]
#[must_use = "a write is on the disk when `sync` has been called with its place"]
pub(super) struct Place(u64);

/// An earlier one failed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("an earlier write to the node's database failed")]
struct FailedBefore;

impl Log {
    /// The log of this database, on the disk together with its name.
    pub(super) fn of(database: &Path, complaint: Complaint, syncing: Syncing) -> io::Result<Self> {
        let files = Files::of(database, syncing)?;
        if let Some(folder) = database.parent() {
            File::open(folder)?.sync_all()?;
        }
        files.sync()?;
        Ok(Self::new(Some(files), complaint))
    }

    /// Where there is none.
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

    /// Fails for good once a write has.
    pub(super) fn look(&self) -> io::Result<()> {
        if self.has_failed.load(Ordering::Acquire) {
            return Err(io::Error::other(FailedBefore));
        }
        Ok(())
    }

    /// A write failed: from here on there are none.
    pub(super) fn fail(&self, why: &dyn std::error::Error) {
        self.has_failed.store(true, Ordering::Release);
        self.complaint.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(|| error_chain::chain(why));
            is_first
        });
    }

    /// What stands there as salts; nothing behind the log's end.
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

    /// Something was written; called with the connection held, so that places have the order of the log.
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
        // Read before the sync begins: what comes in during it is not counted.
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

    /// Has a thread sync the log up to this place. If that fails, whoever writes next is told. Until then the log is not to be
    /// deleted: `open` holds what keeps it.
    pub(super) fn begin_sync(self: &Arc<Self>, place: Place, open: impl Send + 'static) {
        self.begun.fetch_max(place.0, Ordering::AcqRel);
        if self.is_about_to_begin.swap(true, Ordering::AcqRel) {
            // It takes this place along: it looks how far to go when it begins.
            return;
        }
        let log = Arc::clone(self);
        // Nobody waits for its end.
        drop(tokio::task::spawn_blocking(move || {
            log.is_about_to_begin.swap(false, Ordering::AcqRel);
            let begun = log.begun.load(Ordering::Acquire);
            log.sync(Place(begun)).ok();
            drop(open);
        }));
    }
}

impl Drop for Log {
    /// What nobody waited for: the program may note a good end now.
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

    /// Syncs the log, which still has its name, as has the database: of a file that was deleted nothing is found again, and in one
    /// that was moved nobody looks.
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

    /// The log of a database that was not written to.
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
        // No device can be synced.
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
