//! Where ldk-node keeps its state: the table of its own SQLite store, in the same file, written in another way.
//!
//! ldk-node writes a channel's monitor at once and the channel manager a moment later. Killed in between, it closes the
//! channel at the next start, so that moment should be short. Its own store makes it long: it waits for the disk with the
//! connection held, so the manager waits until everybody else's write is on the disk, and it waits for the disk also where
//! nobody relies on it. Here a write goes to the log (write-ahead, [`database`](super::database)) in microseconds, where a
//! kill of the program cannot take it back, and the connection is free again; then whoever needs to know that a power cut
//! cannot take it back either waits for a sync of the log, beside others.
//!
//! Why that is safe:
//!
//! - A write returns, or its future ends, only after a sync of the log that began after it was written, with the exceptions
//!   in [`is_deferrable`]. A monitor's write in particular: the peer may be told a new state when it returns.
//! - What survives a power cut is a beginning of the log, never a piece out of the middle: SQLite chains its checksums. So
//!   what was written later and synced has taken everything before it along.
//! - Before SQLite moves pages from the log to the file it syncs the log, and it syncs the file before it begins the log anew
//!   (`synchronous=NORMAL`). What is in neither was never synced.
//! - Writes of one key stay in order: each is in the log when the call returns, future or not.
//! - After a sync that failed nobody knows what is on the disk: nothing is written any more.

mod marks;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ldk_node::io::sqlite_store::{KV_TABLE_NAME, SQLITE_DB_FILE_NAME};
use lightning::io;
use lightning::util::async_poll::AsyncResult;
use lightning::util::persist::{
    CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE as UPDATES, KVStore, KVStoreSync,
    NETWORK_GRAPH_PERSISTENCE_KEY, SCORER_PERSISTENCE_KEY,
};
use rusqlite::{Connection, OptionalExtension as _};

use super::NodeError;
use marks::Marks;

pub(in crate::node) use marks::forget as forget_marks;

/// The shape of the table, as ldk-node numbers it.
const SHAPE: u32 = 2;

/// The store. Clones share it.
#[derive(Clone)]
pub(super) struct Rows(Arc<Inner>);

struct Inner {
    /// Held for a read, or for a write into the log: never while anybody waits for the disk.
    connection: Mutex<Connection>,
    /// The log. As long as the connection is open SQLite neither deletes nor replaces it. `None` on a file system where there
    /// can be none: then SQLite waits for the disk itself, at every write.
    log: Option<File>,
    /// How many writes are in the log.
    written: AtomicU64,
    /// How many of them are on the disk. Held during a sync, so that nobody takes one for good that ended after another had
    /// failed; who has waited finds its write on the disk already, or shares the next sync.
    synced: Mutex<u64>,
    /// Whether a sync failed: what it was to write may be lost, and the next one would not say so.
    is_failed: AtomicBool,
    /// Updates that a kill takes back.
    marks: Marks,
}

/// How many writes were in the log behind one of them.
#[derive(Clone, Copy)]
#[must_use = "a write is on the disk when `sync` has been called with its place"]
struct Place(u64);

impl Rows {
    /// Opens the file, which is looked at and ready, and makes the table if there is none.
    pub(super) fn open(folder: &Path) -> Result<Self, NodeError> {
        let path = folder.join(SQLITE_DB_FILE_NAME);
        let failed = |source| NodeError::Database {
            path: path.clone(),
            source,
        };
        let connection = Connection::open(&path).map_err(failed)?;
        let found = connection
            .query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))
            .map_err(failed)?;
        if found != 0 && found != SHAPE {
            return Err(NodeError::DatabaseShape { path, found });
        }
        connection
            .execute_batch(&format!(
                "PRAGMA user_version={SHAPE};
                 CREATE TABLE IF NOT EXISTS {KV_TABLE_NAME} (
                     primary_namespace TEXT NOT NULL,
                     secondary_namespace TEXT DEFAULT \"\" NOT NULL,
                     key TEXT NOT NULL CHECK (key <> ''),
                     value BLOB, PRIMARY KEY ( primary_namespace, secondary_namespace, key )
                 );"
            ))
            .map_err(failed)?;
        let mode = connection
            .query_row("PRAGMA journal_mode", [], |row| row.get::<_, String>(0))
            .map_err(failed)?;
        let log = if mode == "wal" {
            let log = log_of(&path).map_err(NodeError::Folder)?;
            connection
                .execute_batch("PRAGMA synchronous=NORMAL")
                .map_err(failed)?;
            Some(log)
        } else {
            None
        };
        let (marks, taken_back) = Marks::open(&connection, log.is_some()).map_err(failed)?;
        if taken_back > 0 {
            tracing::info!(
                "The program was killed while it wrote {taken_back} updates of channels; nobody had heard of them, and they \
                 are taken back"
            );
        }
        Ok(Self(Arc::new(Inner {
            connection: Mutex::new(connection),
            log,
            written: AtomicU64::new(0),
            synced: Mutex::new(0),
            is_failed: AtomicBool::new(false),
            marks,
        })))
    }
}

/// The log's file, on the disk together with its name.
fn log_of(path: &Path) -> std::io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    let log = File::options()
        .read(true)
        .write(true)
        .open(PathBuf::from(name))?;
    log.sync_all()?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(log)
}

/// Whether a write need not be on the disk when it returns.
///
/// Scores, graph and metrics are found out again. The queue of events is another matter, and safe by its order in the log: an
/// event is added before the manager is written that has forgotten it, so it is on the disk when that one is. An event that
/// is taken out, and comes back after a power cut, is told again, which the books expect.
fn is_deferrable(primary: &str, key: &str) -> bool {
    primary.is_empty()
        && matches!(
            key,
            NETWORK_GRAPH_PERSISTENCE_KEY | SCORER_PERSISTENCE_KEY | "events" | "node_metrics"
        )
}

impl Inner {
    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> io::Result<T> {
        if self.is_failed.load(Ordering::Acquire) {
            return Err(unsynced());
        }
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        work(&connection).map_err(other)
    }

    /// Writes into the log.
    fn enter<T>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> io::Result<(T, Place)> {
        self.with(|connection| {
            let done = work(connection)?;
            // Still with the connection held: places have the order of the log.
            Ok((done, Place(self.written.fetch_add(1, Ordering::AcqRel) + 1)))
        })
    }

    fn read(&self, primary: &str, secondary: &str, key: &str) -> io::Result<Vec<u8>> {
        let found = self.with(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT value FROM {KV_TABLE_NAME}
                     WHERE primary_namespace=?1 AND secondary_namespace=?2 AND key=?3"
                ))?
                .query_row([primary, secondary, key], |row| row.get(0))
                .optional()
        })?;
        found.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn list(&self, primary: &str, secondary: &str) -> io::Result<Vec<String>> {
        self.with(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT key FROM {KV_TABLE_NAME} WHERE primary_namespace=?1 AND secondary_namespace=?2"
                ))?
                .query_map([primary, secondary], |row| row.get(0))?
                .collect()
        })
    }

    /// Puts a row into the log.
    fn put(&self, primary: &str, secondary: &str, key: &str, value: &[u8]) -> io::Result<Place> {
        let (_, place) = self.enter(|connection| {
            connection
                .prepare_cached(&format!(
                    "INSERT OR REPLACE INTO {KV_TABLE_NAME}
                     (primary_namespace, secondary_namespace, key, value) VALUES (?1, ?2, ?3, ?4)"
                ))?
                .execute((primary, secondary, key, value))
        })?;
        Ok(place)
    }

    /// Puts an update of a monitor into the log, and onto the disk.
    fn put_update(&self, channel: &str, key: &str, update: &[u8]) -> io::Result<()> {
        let (is_marked, place) =
            self.enter(|connection| self.marks.put(connection, channel, key, update))?;
        self.sync(place)?;
        if is_marked {
            self.with(|connection| self.marks.remove(connection, channel, key))?;
        }
        Ok(())
    }

    /// Takes a row out, in the log.
    fn delete(&self, primary: &str, secondary: &str, key: &str) -> io::Result<Place> {
        let (_, place) = self.enter(|connection| {
            connection
                .prepare_cached(&format!(
                    "DELETE FROM {KV_TABLE_NAME}
                     WHERE primary_namespace=?1 AND secondary_namespace=?2 AND key=?3"
                ))?
                .execute([primary, secondary, key])
        })?;
        Ok(place)
    }

    /// Waits until the log up to this place would survive a power cut.
    fn sync(&self, place: Place) -> io::Result<()> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_failed.load(Ordering::Acquire) {
            return Err(unsynced());
        }
        if *synced >= place.0 {
            return Ok(());
        }
        // Read before the sync begins: what comes in during it is not counted.
        let written = self.written.load(Ordering::Acquire);
        if let Some(Err(error)) = self.log.as_ref().map(File::sync_data) {
            self.is_failed.store(true, Ordering::Release);
            tracing::error!(
                "The disk does not keep what is written to it: {error}. Nothing is written to the node's database any more; \
                 look at the disk, then start the program again"
            );
            return Err(error.into());
        }
        *synced = written;
        Ok(())
    }
}

impl KVStoreSync for Rows {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> io::Result<Vec<u8>> {
        self.0.read(primary, secondary, key)
    }

    fn write(&self, primary: &str, secondary: &str, key: &str, value: Vec<u8>) -> io::Result<()> {
        if primary == UPDATES {
            return self.0.put_update(secondary, key, &value);
        }
        let place = self.0.put(primary, secondary, key, &value)?;
        if is_deferrable(primary, key) {
            return Ok(());
        }
        self.0.sync(place)
    }

    fn remove(&self, primary: &str, secondary: &str, key: &str, lazy: bool) -> io::Result<()> {
        let place = self.0.delete(primary, secondary, key)?;
        if lazy { Ok(()) } else { self.0.sync(place) }
    }

    fn list(&self, primary: &str, secondary: &str) -> io::Result<Vec<String>> {
        self.0.list(primary, secondary)
    }
}

impl KVStore for Rows {
    fn read(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
    ) -> AsyncResult<'static, Vec<u8>, io::Error> {
        let read = self.0.read(primary, secondary, key);
        Box::pin(std::future::ready(read))
    }

    fn write(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        value: Vec<u8>,
    ) -> AsyncResult<'static, (), io::Error> {
        let written = self.0.put(primary, secondary, key, &value);
        self.then_sync(written, is_deferrable(primary, key))
    }

    fn remove(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        lazy: bool,
    ) -> AsyncResult<'static, (), io::Error> {
        let removed = self.0.delete(primary, secondary, key);
        self.then_sync(removed, lazy)
    }

    fn list(&self, primary: &str, secondary: &str) -> AsyncResult<'static, Vec<String>, io::Error> {
        let listed = self.0.list(primary, secondary);
        Box::pin(std::future::ready(listed))
    }
}

impl Rows {
    /// What was written at once is waited for on a thread that may wait for the disk.
    fn then_sync(
        &self,
        written: io::Result<Place>,
        is_deferrable: bool,
    ) -> AsyncResult<'static, (), io::Error> {
        let place = match written {
            Ok(place) if !is_deferrable => place,
            Ok(_) => return Box::pin(std::future::ready(Ok(()))),
            Err(error) => return Box::pin(std::future::ready(Err(error))),
        };
        let inner = Arc::clone(&self.0);
        let syncing = tokio::task::spawn_blocking(move || inner.sync(place));
        Box::pin(async move { syncing.await.unwrap_or_else(|error| Err(other(error))) })
    }
}

fn unsynced() -> io::Error {
    other("an earlier sync of the node's database failed")
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::Other, error)
}

#[cfg(test)]
mod tests {
    use ldk_node::io::sqlite_store::SqliteStore;

    use super::*;

    fn ldk_nodes_own(folder: &Path) -> SqliteStore {
        SqliteStore::new(
            folder.to_owned(),
            Some(SQLITE_DB_FILE_NAME.to_owned()),
            Some(KV_TABLE_NAME.to_owned()),
        )
        .unwrap()
    }

    pub(super) fn open(folder: &Path) -> Rows {
        super::super::database::prepare(folder).unwrap();
        Rows::open(folder).unwrap()
    }

    #[test]
    fn what_is_written_is_read_listed_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let rows = open(folder.path());
        let missing = KVStoreSync::read(&rows, "a", "b", "key").unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        for value in [b"one".to_vec(), b"two".to_vec()] {
            KVStoreSync::write(&rows, "a", "b", "key", value.clone()).unwrap();
            assert_eq!(KVStoreSync::read(&rows, "a", "b", "key").unwrap(), value);
        }
        KVStoreSync::write(&rows, "a", "", "other", vec![]).unwrap();
        assert_eq!(KVStoreSync::list(&rows, "a", "b").unwrap(), ["key"]);
        assert_eq!(KVStoreSync::list(&rows, "c", "").unwrap(), [""; 0]);
        for lazy in [true, false] {
            KVStoreSync::remove(&rows, "a", "b", "key", lazy).unwrap();
        }
        assert_eq!(KVStoreSync::list(&rows, "a", "b").unwrap(), [""; 0]);
    }

    #[tokio::test]
    async fn the_last_call_wins_whatever_order_the_futures_end_in() {
        let folder = tempfile::tempdir().unwrap();
        let rows = open(folder.path());
        let first = KVStore::write(&rows, "a", "", "key", b"first".to_vec());
        let second = KVStore::write(&rows, "a", "", "key", b"second".to_vec());
        second.await.unwrap();
        first.await.unwrap();
        assert_eq!(
            KVStore::read(&rows, "a", "", "key").await.unwrap(),
            b"second"
        );
        // A future that nobody waits for has written all the same.
        drop(KVStore::remove(&rows, "a", "", "key", false));
        assert!(KVStore::list(&rows, "a", "").await.unwrap().is_empty());
    }

    #[test]
    fn ldk_nodes_own_store_reads_what_this_one_wrote_and_the_other_way_round() {
        let folder = tempfile::tempdir().unwrap();
        let rows = open(folder.path());
        KVStoreSync::write(&rows, "", "", "manager", b"ours".to_vec()).unwrap();
        drop(rows);
        let own = ldk_nodes_own(folder.path());
        assert_eq!(KVStoreSync::read(&own, "", "", "manager").unwrap(), b"ours");
        KVStoreSync::write(&own, "", "", "manager", b"theirs".to_vec()).unwrap();
        drop(own);
        let rows = open(folder.path());
        assert_eq!(
            KVStoreSync::read(&rows, "", "", "manager").unwrap(),
            b"theirs"
        );
    }

    #[test]
    fn after_a_sync_that_failed_nothing_is_written_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let mut rows = open(folder.path());
        KVStoreSync::write(&rows, "", "", "manager", vec![1]).unwrap();
        // No device can be synced.
        Arc::get_mut(&mut rows.0).unwrap().log = Some(File::open("/dev/null").unwrap());
        KVStoreSync::write(&rows, "", "", "scorer", vec![1]).unwrap();
        KVStoreSync::write(&rows, "", "", "manager", vec![2]).unwrap_err();
        for key in ["manager", "scorer"] {
            KVStoreSync::write(&rows, "", "", key, vec![3]).unwrap_err();
        }
        let inner = Arc::get_mut(&mut rows.0).unwrap();
        inner.log = Some(log_of(&folder.path().join(SQLITE_DB_FILE_NAME)).unwrap());
        // It would say that all is well.
        KVStoreSync::write(&rows, "", "", "manager", vec![4]).unwrap_err();
    }

    #[test]
    fn a_power_cut_takes_nothing_that_was_promised() {
        let folder = tempfile::tempdir().unwrap();
        let rows = open(folder.path());
        let log = folder.path().join(format!("{SQLITE_DB_FILE_NAME}-wal"));
        let mut promised = Vec::new();
        for number in 0..40_u8 {
            let value = vec![number; 700];
            // Scores are put off; what is synced behind them takes them along.
            KVStoreSync::write(&rows, "", "", "scorer", value.clone()).unwrap();
            KVStoreSync::write(&rows, UPDATES, "channel", &number.to_string(), value).unwrap();
            promised.push(std::fs::metadata(&log).unwrap().len());
        }
        for (number, length) in promised.iter().enumerate() {
            let left = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
            }
            let cut = left.path().join(log.file_name().unwrap());
            File::options()
                .write(true)
                .open(&cut)
                .unwrap()
                .set_len(*length)
                .unwrap();
            let rows = open(left.path());
            let updates = KVStoreSync::list(&rows, UPDATES, "channel").unwrap();
            assert_eq!(updates.len(), number + 1);
            let scores = KVStoreSync::read(&rows, "", "", "scorer").unwrap();
            assert_eq!(usize::from(scores[0]), number);
        }
    }

    #[test]
    fn nothing_that_anybody_relies_on_is_put_off() {
        for (primary, key) in [
            ("", "manager"),
            ("", "output_sweeper"),
            ("", "peers"),
            ("monitors", "events"),
            ("monitor_updates", "node_metrics"),
            ("payments", "scorer"),
            ("bdk_wallet", "indexer"),
        ] {
            assert!(!is_deferrable(primary, key), "{primary}/{key}");
        }
        assert!(is_deferrable("", "events"));
    }
}
