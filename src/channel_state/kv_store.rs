//! The store for ldk-node's state. It uses the same table in the same file as ldk-node's own SQLite
//! store, but it writes in another way.
//!
//! LDK writes a channel's monitor first and the channel manager a moment later. If the program is
//! killed in between, LDK closes the channel at the next start, so this moment must be short.
//! ldk-node's own store holds the connection while it waits for the disk, so the manager waits for
//! all other writes, even for unimportant ones. Here, a write goes to the write-ahead log
//! ([`database`](super::database)) within microseconds. A kill of the program cannot undo it, and
//! the connection is free again. A caller that needs safety from a power cut then waits for a sync
//! of the log. One sync serves all callers that wait.

// Why this is safe:
//
// - A write returns, or its future completes, only after a sync of the log that began after the
//   write. `Wait` lists the exceptions. This matters most for a monitor: once its write returns,
//   the peer may learn of the new state.
// - A power cut leaves a prefix of the log, because SQLite chains its checksums. So a synced write
//   preserves all earlier writes.
// - SQLite syncs the log before it moves pages from the log to the file, and it syncs the file
//   before it restarts the log (`synchronous=NORMAL`). Data that is in neither was never synced.
//   SQLite moves pages only on request, and a failure counts as a failed write (`moving.rs`).
// - Writes of one key stay in order: each is in the log when the call returns, even if the call
//   returns a future.
// - After a failed write or sync, the content of the disk is unknown. The store then neither writes
//   nor moves pages, and the program ends. The same applies if the database or the log was deleted
//   or moved. The next start moves the whole log to the file and syncs the file before it writes
//   anything (`database.rs`). Only pages that another program's read still needs stay in the log.
// - This program must open the file and its `-shm` only through SQLite. Closing any other
//   descriptor would release the locks of all connections. The last connection of another process
//   would then delete the log.
//
// A kill between the write of a monitor update and the next write of the manager still costs the
// channel. So does a kill during the update's sync, because the next start finds the update in the
// log. The store could undo such an update, which would save the channel but could cost the money
// in it. Nothing on the disk distinguishes a kill from a loss of unsynced data, after which the
// peer knows the update. (Linux repeats its `boot_id` on some boards, and a disk may disconnect and
// return without a reboot.) It is not enough either to know that the sync had not ended. LDK's
// monitor in memory applies the update before the store writes it. A block that arrives during the
// sync can make LDK broadcast our commitment of that update. A monitor without the update would not
// recognise this commitment as its own.

mod log;
mod moving;
mod wait;
mod waiting;

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ldk_node::io::sqlite_store::{KV_TABLE_NAME, SQLITE_DB_FILE_NAME};
use lightning::io;
use lightning::util::async_poll::AsyncResult;
use lightning::util::persist::{
    CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE, KVStore, KVStoreSync,
};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension as _};

use super::error::ChannelStateError;
use log::{Log, Place, Syncing};
use moving::{Beside, Mover};
use wait::Wait;
use waiting::{METRICS_KEY, Waiting};

pub(crate) use log::Complaint;

/// The version of the table, as ldk-node numbers it.
const SHAPE: u32 = 2;

/// The store. Clones share it.
#[derive(Clone)]
pub(crate) struct Rows(Arc<Inner>);

struct Inner {
    /// Moves pages from the log to the file; `None` without a log. Dropped before the connection,
    /// which moves the remaining pages when it closes.
    mover: Option<Mover>,
    /// Starts the mover's work.
    beside: Beside,
    /// Held for a read, or for a write to the log. Such a write waits for the disk only when SQLite
    /// restarts the log.
    connection: Mutex<Connection>,
    /// Changes that wait for the next write. A kill loses them.
    waiting: Mutex<Waiting>,
    /// The log that the connection writes to. Dropped after the connection: while that is open,
    /// SQLite does not delete the log's file.
    log: Arc<Log>,
}

/// Settings that only tests change.
struct Ways {
    /// How the log is synced.
    syncing: Syncing,
    /// How the mover's work is started.
    beside: Beside,
    /// The length of the log at which pages are moved, in bytes.
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
    /// Opens the file, which `database::prepare` has checked, and creates the table if it is
    /// missing. After the first failed write the store stops, and `complaint` gets the reason.
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

    /// Writes to the log.
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

    /// Writes a row to the log. An existing row is updated in place. If it were replaced, SQLite
    /// would also rewrite the index, the row's old page and the list of free pages.
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

    /// Deletes a row, in the log.
    fn delete(self: &Arc<Self>, primary: &str, secondary: &str, key: &str) -> io::Result<Place> {
        self.enter(|connection| {
            self.with_what_waits(connection, |connection| {
                delete(connection, [primary, secondary, key])
            })
        })
    }

    /// Deletes a row together with a later write. Only a monitor update can wait for that, because
    /// LDK reads only updates that are newer than the monitor.
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

    /// Writes the waiting changes before a read.
    fn write_what_waits(self: &Arc<Self>) -> io::Result<()> {
        if self.waiting().is_empty() {
            return Ok(());
        }
        self.enter(|connection| self.with_what_waits(connection, |_| Ok(0)))
            .map(drop)
    }

    /// Writes the waiting changes and then `write`, in one transaction.
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
    /// On close, the last connection moves the log to the file and deletes the log. After a failure
    /// this is turned off, because only the log is known to be good.
    fn drop(&mut self) {
        if self.log.look().is_err() {
            let connection = self.connection();
            let kept = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
            // SQLite rejects only options that it does not know.
            kept.ok();
        }
    }
}

/// The right to move pages, which ends when this value is dropped.
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
    /// Waits for the sync of a finished write, as long as `wait` says. A full wait runs on a thread
    /// that may block on the disk.
    fn then_sync(
        &self,
        written: io::Result<Place>,
        wait: Wait,
    ) -> AsyncResult<'static, (), io::Error> {
        // This clone holds the connection, so the log is not deleted before it is synced.
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
