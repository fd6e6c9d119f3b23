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
//!   in [`Wait`]. A monitor's write in particular: the peer may be told a new state when it returns.
//! - What survives a power cut is a beginning of the log, never a piece out of the middle: SQLite chains its checksums. So
//!   what was written later and synced has taken everything before it along.
//! - Before SQLite moves pages from the log to the file it syncs the log, and it syncs the file before it begins the log anew
//!   (`synchronous=NORMAL`). What is in neither was never synced. It does so only when we ask, never by itself, and all that fails
//!   there counts as a write that failed ([`moving`]).
//! - Writes of one key stay in order: each is in the log when the call returns, future or not.
//! - After a write or a sync that failed nobody knows what is on the disk: nothing is written any more, nor moved, and the program
//!   ends. So it does when the database or the log has lost its name: nobody would find there what it promises. The next start
//!   moves all that is in the log and syncs it before it writes anything ([`database`](super::database)), but for what another program
//!   keeps in the log by reading an older state just then.
//! - Nothing in this program may open the file or its `-shm` but through SQLite: closing it would let go of the locks of all
//!   connections, and another process's last one would then delete the log.
//!
//! A kill between an update of a monitor and the manager behind it costs the channel, as ever; so does one during the update's
//! sync, for what is in the log is there at the next start. Taking such an update back, as if it had never been written, would
//! save the channel and can cost the money in it. Nothing on the disk tells a kill from the loss of what was not synced (Linux
//! repeats its `boot_id` on some boards, and a disk may go and come back without a boot), and after that loss the peer has heard
//! of the update. Nor is it enough to know that the sync had not ended: LDK's monitor in memory goes by the update before it is
//! written, and a block that comes during the sync can make it send our commitment of that very update to the chain; a monitor
//! without the update would not know that for its own.

mod log;
mod moving;
mod waiting;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ldk_node::io::sqlite_store::{KV_TABLE_NAME, SQLITE_DB_FILE_NAME};
use lightning::io;
use lightning::util::async_poll::AsyncResult;
use lightning::util::persist::{
    CHANNEL_MANAGER_PERSISTENCE_KEY, CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE, KVStore,
    KVStoreSync, NETWORK_GRAPH_PERSISTENCE_KEY, SCORER_PERSISTENCE_KEY,
};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _};

use crate::channel_state::ChannelStateError;

use log::{Log, Place, Syncing};
use moving::{Beside, Mover};
use waiting::{METRICS_KEY, Waiting};

pub(crate) use log::Complaint;

/// The shape of the table, as ldk-node numbers it.
const SHAPE: u32 = 2;

/// The store. Clones share it.
#[derive(Clone)]
pub(crate) struct Rows(Arc<Inner>);

struct Inner {
    /// Moves pages from the log to the file, where there is a log. Dropped before the connection, which folds what is left.
    mover: Option<Mover>,
    /// On which thread.
    beside: Beside,
    /// Held for a read, or for a write into the log, which waits for the disk only when the log begins anew.
    connection: Mutex<Connection>,
    /// What is changed together with the next write, or is lost with a kill.
    waiting: Mutex<Waiting>,
    /// What it writes into. Dropped behind the connection, which keeps its file from being deleted.
    log: Arc<Log>,
}

/// What only a test has otherwise.
struct Ways {
    /// How the log is synced.
    syncing: Syncing,
    /// Where pages are moved.
    beside: Beside,
    /// How long the log is when they are.
    log_bytes: u32,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            syncing: Box::new(File::sync_data),
            beside: Box::new(moving::beside),
            log_bytes: moving::LOG_BYTES,
        }
    }
}

impl Rows {
    /// Opens the file, which is looked at and ready, and makes the table if there is none.
    /// The first write that fails is the last one, and is told to `complaint`.
    pub(crate) fn open(folder: &Path, complaint: Complaint) -> Result<Self, ChannelStateError> {
        Self::open_with(folder, complaint, Ways::default())
    }

    fn open_with(
        folder: &Path,
        complaint: Complaint,
        ways: Ways,
    ) -> Result<Self, ChannelStateError> {
        let path = folder.join(SQLITE_DB_FILE_NAME);
        let failed = |source| ChannelStateError::Database {
            path: path.clone(),
            source,
        };
        let connection = Connection::open(&path).map_err(failed)?;
        let found = connection
            .query_row("PRAGMA user_version", [], |row| row.get::<_, u32>(0))
            .map_err(failed)?;
        if found != 0 && found != SHAPE {
            return Err(ChannelStateError::Shape { path, found });
        }
        connection
            .execute_batch(&format!(
                "PRAGMA wal_autocheckpoint=0;
                 PRAGMA user_version={SHAPE};
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
        let (log, mover) = if mode == "wal" {
            connection
                .execute_batch("PRAGMA synchronous=NORMAL")
                .map_err(failed)?;
            let page_bytes = connection
                .query_row("PRAGMA page_size", [], |row| row.get::<_, u32>(0))
                .map_err(failed)?;
            let mover = Mover::open(&path, page_bytes, ways.log_bytes).map_err(failed)?;
            let log = Log::of(&path, complaint, ways.syncing).map_err(ChannelStateError::Folder)?;
            (log, Some(mover))
        } else {
            (Log::none(complaint), None)
        };
        Ok(Self(Arc::new(Inner {
            mover,
            beside: ways.beside,
            connection: Mutex::new(connection),
            waiting: Mutex::default(),
            log: Arc::new(log),
        })))
    }
}

/// How long a write waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// Until it would survive a power cut.
    Done,
    /// Until a sync has begun. The channel manager: whoever is about to write it again must not be kept from it by the disk,
    /// for until then a kill costs the channels that have moved on. Nobody relies on its being there: a power cut that
    /// takes the last one back finds the one before, which is what a power cut a moment earlier would have found.
    Begun,
    /// Not at all. Scores, graph and metrics are found out again. The queue of events is another matter, and safe by its order
    /// in the log: an event is added before the manager is written that has forgotten it, so it is on the disk when that
    /// one is. An event that is taken out, and comes back after a power cut, is told again, which the books expect.
    Not,
}

impl Wait {
    /// What this row wants.
    fn of(primary: &str, key: &str) -> Self {
        match key {
            _ if !primary.is_empty() => Self::Done,
            CHANNEL_MANAGER_PERSISTENCE_KEY => Self::Begun,
            NETWORK_GRAPH_PERSISTENCE_KEY | SCORER_PERSISTENCE_KEY | "events" | METRICS_KEY => {
                Self::Not
            }
            _ => Self::Done,
        }
    }
}

impl Inner {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> io::Result<T> {
        self.log.look()?;
        work(&self.connection()).map_err(other)
    }

    /// Writes into the log.
    fn enter(
        self: &Arc<Self>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
    ) -> io::Result<Place> {
        let place = self.with(|connection| {
            work(connection).inspect_err(|error| self.log.fail(error))?;
            Ok(self.log.entered())
        })?;
        if let Some(mover) = &self.mover
            && mover.is_due(&self.log)
        {
            let turn = Turn(Arc::clone(self));
            (self.beside)(Box::new(move || turn.take()));
        }
        Ok(place)
    }

    fn read(self: &Arc<Self>, primary: &str, secondary: &str, key: &str) -> io::Result<Vec<u8>> {
        self.write_what_waits()?;
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

    fn list(self: &Arc<Self>, primary: &str, secondary: &str) -> io::Result<Vec<String>> {
        self.write_what_waits()?;
        self.with(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT key FROM {KV_TABLE_NAME} WHERE primary_namespace=?1 AND secondary_namespace=?2"
                ))?
                .query_map([primary, secondary], |row| row.get(0))?
                .collect()
        })
    }

    /// Puts a row into the log. One that is there already stays where it is: replaced, it would be another one, and the index,
    /// the page that it leaves and the list of free pages were written again as well.
    fn put(
        self: &Arc<Self>,
        primary: &str,
        secondary: &str,
        key: &str,
        value: &[u8],
    ) -> io::Result<Place> {
        self.enter(|connection| {
            self.with_what_waits(connection, |connection| {
                put(connection, [primary, secondary, key], value)
            })
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a row out, in the log.
    fn delete(self: &Arc<Self>, primary: &str, secondary: &str, key: &str) -> io::Result<Place> {
        self.enter(|connection| {
            self.with_what_waits(connection, |connection| {
                delete(connection, [primary, secondary, key])
            })
        })
    }

    /// Takes a row out some time. Only an update of a monitor can wait for it: whatever is read of it comes behind the monitor.
    fn delete_some_time(
        self: &Arc<Self>,
        primary: &str,
        secondary: &str,
        key: &str,
    ) -> io::Result<()> {
        if primary != CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE {
            return self.delete(primary, secondary, key).map(drop);
        }
        let row = [primary, secondary, key].map(str::to_owned);
        if self.waiting().delete(row) {
            self.write_what_waits()
        } else {
            Ok(())
        }
    }

    /// Writes what waits, before anybody reads.
    fn write_what_waits(self: &Arc<Self>) -> io::Result<()> {
        if self.waiting().is_empty() {
            return Ok(());
        }
        self.enter(|connection| self.with_what_waits(connection, |_| Ok(0)))
            .map(drop)
    }

    /// Does a write, and before it, in one with it, what waits.
    fn with_what_waits(
        &self,
        connection: &Connection,
        write: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
    ) -> rusqlite::Result<usize> {
        let (stale, metrics) = self.waiting().take();
        if stale.is_empty() && metrics.is_none() {
            return write(connection);
        }
        let together = connection.unchecked_transaction()?;
        for [primary, secondary, key] in &stale {
            delete(&together, [primary, secondary, key])?;
        }
        if let Some(metrics) = metrics {
            put(&together, ["", "", METRICS_KEY], &metrics)?;
        }
        let written = write(&together)?;
        together.commit()?;
        Ok(written)
    }
}

impl Drop for Inner {
    /// The last connection moves what is in the log and deletes it. After a failure the log is all that is known to be good.
    fn drop(&mut self) {
        if self.log.look().is_err() {
            let connection = self.connection();
            let kept = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            // SQLite refuses only what it does not know.
            kept.ok();
        }
    }
}

/// The right to move pages, until it is dropped.
struct Turn(Arc<Inner>);

impl Turn {
    fn take(self) {
        let inner = &self.0;
        if let Some(mover) = &inner.mover {
            mover.move_pages(&inner.log, || inner.connection());
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(mover) = &self.0.mover {
            mover.end();
        }
    }
}

fn put(connection: &Connection, row: [&str; 3], value: &[u8]) -> rusqlite::Result<usize> {
    let [primary, secondary, key] = row;
    connection
        .prepare_cached(&format!(
            "INSERT INTO {KV_TABLE_NAME} (primary_namespace, secondary_namespace, key, value)
             VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (primary_namespace, secondary_namespace, key) DO UPDATE SET value=excluded.value"
        ))?
        .execute((primary, secondary, key, value))
}

fn delete(connection: &Connection, row: [&str; 3]) -> rusqlite::Result<usize> {
    connection
        .prepare_cached(&format!(
            "DELETE FROM {KV_TABLE_NAME}
             WHERE primary_namespace=?1 AND secondary_namespace=?2 AND key=?3"
        ))?
        .execute(row)
}

impl KVStoreSync for Rows {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> io::Result<Vec<u8>> {
        self.0.read(primary, secondary, key)
    }

    fn write(&self, primary: &str, secondary: &str, key: &str, value: Vec<u8>) -> io::Result<()> {
        if self.0.waiting().hold([primary, secondary, key], &value) {
            return Ok(self.0.log.look()?);
        }
        let place = self.0.put(primary, secondary, key, &value)?;
        match Wait::of(primary, key) {
            Wait::Done | Wait::Begun => Ok(self.0.log.sync(place)?),
            Wait::Not => Ok(()),
        }
    }

    fn remove(&self, primary: &str, secondary: &str, key: &str, lazy: bool) -> io::Result<()> {
        if lazy {
            return self.0.delete_some_time(primary, secondary, key);
        }
        let place = self.0.delete(primary, secondary, key)?;
        Ok(self.0.log.sync(place)?)
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
        if self.0.waiting().hold([primary, secondary, key], &value) {
            let held = self.0.log.look().map_err(io::Error::from);
            return Box::pin(std::future::ready(held));
        }
        let written = self.0.put(primary, secondary, key, &value);
        self.then_sync(written, Wait::of(primary, key))
    }

    fn remove(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        lazy: bool,
    ) -> AsyncResult<'static, (), io::Error> {
        if lazy {
            let removed = self.0.delete_some_time(primary, secondary, key);
            return Box::pin(std::future::ready(removed));
        }
        let removed = self.0.delete(primary, secondary, key);
        self.then_sync(removed, Wait::Done)
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
        wait: Wait,
    ) -> AsyncResult<'static, (), io::Error> {
        // With the connection, whose end deletes the log as it should.
        let inner = Arc::clone(&self.0);
        match (written, wait) {
            (Ok(place), Wait::Done) => {
                let syncing = tokio::task::spawn_blocking(move || inner.log.sync(place));
                Box::pin(async move { Ok(syncing.await.map_err(other)??) })
            }
            (Ok(place), Wait::Begun) => {
                self.0.log.begin_sync(place, inner);
                Box::pin(std::future::ready(Ok(())))
            }
            (Ok(_), Wait::Not) => Box::pin(std::future::ready(Ok(()))),
            (Err(error), _) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::Other, error)
}

#[cfg(test)]
mod cuts;
#[cfg(test)]
mod failing;
#[cfg(test)]
mod long;
#[cfg(test)]
mod tests;
