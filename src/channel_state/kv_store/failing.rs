//! Tests of the store on a disk that fails, and with files that are moved or deleted.

use std::io::Error;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::super::database;
use super::*;

/// The error code `EIO` of a disk that has lost data.
const EIO: i32 = 5;

/// A store whose syncs fail while `fails` is set.
struct Failing {
    folder: TempDir,
    rows: Rows,
    complaint: Complaint,
    fails: Arc<AtomicBool>,
}

impl Failing {
    fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        database::prepare(folder.path()).unwrap();
        let complaint = Complaint::default();
        let fails = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&fails);
        let syncing: Syncing = Box::new(move |file| {
            if told.load(Ordering::Acquire) {
                return Err(Error::from_raw_os_error(EIO));
            }
            file.sync_data()
        });
        let ways = Ways {
            syncing,
            ..Ways::default()
        };
        let rows = Rows::open_with(folder.path(), complaint.clone(), ways).unwrap();
        KVStoreSync::write(&rows, "monitors", "", "a", vec![1]).unwrap();
        Self {
            folder,
            rows,
            complaint,
            fails,
        }
    }

    fn log(&self) -> PathBuf {
        let name = format!("{SQLITE_DB_FILE_NAME}-wal");
        self.folder.path().join(name)
    }

    /// Checks that the store gave this reason and writes nothing more, even though the disk works
    /// again.
    async fn is_over(&self, why: &str) {
        let mut told = self.complaint.subscribe();
        let told = told.wait_for(Option::is_some);
        let told = tokio::time::timeout(Duration::from_secs(10), told).await;
        let told = told.unwrap().unwrap().clone().unwrap();
        assert!(told.contains(why), "{told}");
        self.fails.store(false, Ordering::Release);
        let log = std::fs::read(self.log()).ok();
        for way in WAYS {
            way.go(&self.rows).await.unwrap_err();
        }
        KVStoreSync::read(&self.rows, "monitors", "", "a").unwrap_err();
        assert!(
            std::fs::read(self.log()).ok() == log,
            "something is written"
        );
    }
}

/// A way to write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Call,
    Future,
    Removal,
    /// A write that is not waited for: its failure is reported later.
    Manager,
}

const WAYS: [Way; 4] = [Way::Call, Way::Future, Way::Removal, Way::Manager];

impl Way {
    async fn go(self, rows: &Rows) -> io::Result<()> {
        match self {
            Self::Call => KVStoreSync::write(rows, "monitors", "", "a", vec![2]),
            Self::Future => KVStore::write(rows, "monitors", "", "a", vec![3]).await,
            Self::Removal => KVStoreSync::remove(rows, "monitors", "", "a", false),
            Self::Manager => KVStore::write(rows, "", "", "manager", vec![4]).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_sync_of_the_log_that_failed_nothing_is_promised_or_written() {
    for way in WAYS {
        let store = Failing::open();
        store.fails.store(true, Ordering::Release);
        let done = way.go(&store.rows).await;
        assert_eq!(done.is_ok(), way == Way::Manager, "{way:?}: {done:?}");
        store.is_over("os error 5").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_for_a_sync_that_fails_are_told() {
    let store = Failing::open();
    store.fails.store(true, Ordering::Release);
    let writers: Vec<_> = (0..20)
        .map(|_| {
            let rows = store.rows.clone();
            tokio::task::spawn_blocking(move || {
                KVStoreSync::write(&rows, "monitors", "", "a", vec![9])
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap_err();
    }
    store.is_over("os error 5").await;
}

/// Ways to lose a file that is open.
const LOSSES: [fn(&Path) -> std::io::Result<()>; 4] = [
    |path| std::fs::remove_file(path),
    |path| std::fs::rename(path, path.with_extension("away")),
    // Another file with the same bytes takes its path.
    |path| {
        std::fs::copy(path, path.with_extension("other"))?;
        std::fs::rename(path.with_extension("other"), path)
    },
    // The file still has another name, but the next start does not look there.
    |path| {
        std::fs::hard_link(path, path.with_extension("beside"))?;
        std::fs::remove_file(path)
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_has_lost_its_name_takes_no_promise() {
    for loss in LOSSES {
        for is_log in [true, false] {
            for way in WAYS {
                let store = Failing::open();
                let database = store.folder.path().join(SQLITE_DB_FILE_NAME);
                let path = if is_log { store.log() } else { database };
                loss(&path).unwrap();
                let done = way.go(&store.rows).await;
                assert_eq!(done.is_ok(), way == Way::Manager, "{way:?}: {done:?}");
                store.is_over("deleted, moved or replaced").await;
            }
        }
    }
}

#[test]
fn what_is_found_at_the_start_is_on_the_disk_before_anybody_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    database::prepare(folder.path()).unwrap();
    let synced = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&synced);
    let syncing: Syncing = Box::new(move |file| {
        counted.fetch_add(1, Ordering::AcqRel);
        file.sync_data()
    });
    let ways = |syncing| Ways {
        syncing,
        ..Ways::default()
    };
    let rows = Rows::open_with(folder.path(), Complaint::default(), ways(syncing)).unwrap();
    assert_eq!(synced.load(Ordering::Acquire), 1);
    drop(rows);
    let fails: Syncing = Box::new(|_| Err(Error::from_raw_os_error(EIO)));
    let refused = Rows::open_with(folder.path(), Complaint::default(), ways(fails));
    assert!(matches!(refused.err(), Some(ChannelStateError::Folder(_))));
}

#[test]
fn sqlite_is_asked_for_the_syncs_that_the_store_builds_on_and_moves_nothing_by_itself() {
    let store = Failing::open();
    let mover = store.rows.0.mover.as_ref().unwrap();
    for connection in [&store.rows.0.connection, &mover.connection] {
        let connection = connection.lock().unwrap();
        let asked = |what: &str| connection.query_row(what, [], |row| row.get::<_, u32>(0));
        // NORMAL syncs the log before its pages are moved, the file before the log restarts, and
        // the log's new header.
        assert_eq!(asked("PRAGMA synchronous").unwrap(), 1);
        assert_eq!(asked("PRAGMA wal_autocheckpoint").unwrap(), 0);
    }
}
