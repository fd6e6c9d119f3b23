//! Moves pages from the log to the database's file, so that the log restarts and does not grow
//! without limit.
//!
//! SQLite could do this itself within a write, but it would not report a failed sync of the file
//! there. Linux treats a page as written even if writing it failed. Pages that an earlier move
//! brought to the file would then be lost, the next sync would succeed, and SQLite would overwrite
//! the log that has them. Here, every failure ends the store. SQLite restarts the log only after a
//! successful sync of the file. A write that arrives meanwhile is in the log, behind all others.
//!
//! The mover has its own connection and works on one thread at a time, while writes go on. SQLite
//! syncs the file only if no write arrived during the move. It does not report this, so the mover
//! looks at the log.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Handle;

use super::log::{Log, Salts};

/// The log length at which pages are moved: some sixty sales. A move writes each page once, however
/// often the log has it. To read that much after a kill takes milliseconds.
pub(super) const LOG_BYTES: u32 = 4 * 1024 * 1024;

/// The number of tries in a row. Each try writes only the pages that arrived since the previous
/// one. The second try takes a fraction of the time, so in most cases no write arrives during it.
const TRIES: u32 = 4;

/// From this length on, in `LOG_BYTES`, writes wait for one more try, and so for a sync of the
/// file, if writes overtook all tries. Moves are tried at four lengths before, so even a shop
/// without a pause meets this wait at most every 240 sales.
pub(super) const HELD_FROM: u32 = 4;

/// From this length on, in `LOG_BYTES`, a warning says that a program keeps the log from
/// restarting: 64 MB, a thousand sales during one read.
const TOLD_FROM: u32 = 16;

/// The maximum length of the log, in `LOG_BYTES`: 1 GB, fifteen thousand sales. A backup reads for
/// seconds, so a program that reads for so long has probably hung. A longer log would fill the
/// disk, and a start after a kill reads all of it.
pub(super) const LENGTHS_MAX: u32 = 256;

/// The position of the salts in the log's header.
const HEADER_SALTS: u64 = 16;
/// The length of the log's header.
const HEADER_BYTES: u64 = 32;
/// The position of the salts in the header of each page.
const PAGE_SALTS: u64 = 8;
/// The length of the header of each page.
const PAGE_HEADER_BYTES: u64 = 24;

/// Starts work on another thread.
pub(super) type Beside = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// Starts the work on a blocking thread of the runtime. Outside of the runtime, the current thread
/// does it.
pub(super) fn beside(work: Box<dyn FnOnce() + Send>) {
    match Handle::try_current() {
        // The sync is not awaited.
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        // A thread outside the runtime may wait for the disk.
        Err(_) => work(),
    }
}

/// Moves pages from the log to the file.
pub(super) struct Mover {
    /// Held while pages are moved. A `std` mutex, because the thread that holds it may block on the
    /// disk.
    pub(super) connection: Mutex<Connection>,
    /// The page size in bytes.
    page_bytes: u32,
    /// The number of pages in the log at which a move is due.
    step: u32,
    /// The place at which the next move is due. A `std` mutex: held for a look, never across an
    /// await.
    mark: Mutex<Mark>,
    /// Whether a thread moves pages or is about to.
    is_moving: AtomicBool,
}

/// A place in a log.
#[derive(Default)]
struct Mark {
    /// The salts of the log. A restarted log has other salts.
    salts: Salts,
    /// The number of the page, counted from 1, with which the log becomes long.
    page: u32,
    /// The number of pages from which on a warning says that another program keeps the log.
    told_from: u32,
}

/// The result of a try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// All pages in the log are in the file and synced. The log restarts with the next write.
    Moved,
    /// Writes arrived during the try.
    Overtaken,
    /// Another program reads an older state, or moves pages itself.
    Kept,
}

/// Why pages were not moved.
#[derive(Debug, thiserror::Error)]
pub(super) enum MoveError {
    /// The disk failed, or the content is not what SQLite has written.
    #[error("failed to move pages from its log to the file")]
    Failed(#[source] rusqlite::Error),
    /// The log has reached its maximum length.
    #[error(
        "another program has been reading it for so long that its log has {0} bytes: end that program"
    )]
    Kept(u64),
}

impl Mover {
    /// Opens a connection to a database in write-ahead mode.
    pub(super) fn open(path: &Path, page_bytes: u32, log_bytes: u32) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        // On close, the store's other connection moves all pages, or none after a failure.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.execute_batch("PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0")?;
        Ok(Self {
            connection: Mutex::new(connection),
            page_bytes,
            step: log_bytes / page_bytes,
            mark: Mutex::default(),
            is_moving: AtomicBool::new(false),
        })
    }

    /// Whether the log is long and no thread moves pages. If so, the caller must move pages and
    /// then call [`Mover::end`]. Called after each write.
    pub(super) fn is_due(&self, log: &Log) -> bool {
        if self.is_moving.load(Ordering::Acquire) {
            return false;
        }
        // If the log cannot be read, SQLite fails as well, and its error says why.
        self.is_long(log).unwrap_or(true) && !self.is_moving.swap(true, Ordering::AcqRel)
    }

    /// Allows the next move.
    pub(super) fn end(&self) {
        self.is_moving.store(false, Ordering::Release);
    }

    /// Moves all pages that no reader needs in the log; a failure ends the store. `hold` keeps
    /// writes out while its return value lives.
    pub(super) fn move_pages<T>(&self, log: &Log, hold: impl FnOnce() -> T) {
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // After a failure, only the log is known to be good.
        if log.look().is_ok()
            && let Err(error) = self.try_all(&connection, log, hold)
        {
            log.fail(&error);
        }
    }

    fn try_all<T>(
        &self,
        connection: &Connection,
        log: &Log,
        hold: impl FnOnce() -> T,
    ) -> Result<(), MoveError> {
        let mut pages = self.mark().page;
        let mut tried = Tried::Overtaken;
        for _ in 0..TRIES {
            tried = self.try_once(connection, log, &mut pages)?;
            if tried == Tried::Moved {
                break;
            }
        }
        if tried == Tried::Overtaken && pages >= HELD_FROM * self.step {
            let _held = hold();
            tried = self.try_once(connection, log, &mut pages)?;
        }
        let mut mark = self.mark();
        // A log that goes on is looked at again after it has grown by one more step. A restarted
        // log is a new one and gets a new mark.
        mark.page = pages + self.step;
        if tried == Tried::Moved {
            mark.told_from = TOLD_FROM * self.step;
            return Ok(());
        }
        let bytes = u64::from(pages) * (PAGE_HEADER_BYTES + u64::from(self.page_bytes));
        if pages >= LENGTHS_MAX * self.step {
            return Err(MoveError::Kept(bytes));
        }
        if pages >= mark.told_from {
            mark.told_from = 2 * pages;
            tracing::warn!(
                "Another program has been reading the node's database for long: its log has {bytes} bytes and grows until that ends"
            );
        }
        Ok(())
    }

    /// Tries once, and sets `pages` to the number of pages in the log, if SQLite reports it.
    fn try_once(
        &self,
        connection: &Connection,
        log: &Log,
        pages: &mut u32,
    ) -> Result<Tried, MoveError> {
        let asked = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok([row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?])
        });
        let [is_busy, in_log, moved] = match asked {
            Ok(said) => said,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => [1, -1, -1],
            Err(error) => return Err(MoveError::Failed(error)),
        };
        let Ok(in_log) = u32::try_from(in_log) else {
            return Ok(Tried::Kept);
        };
        *pages = in_log;
        if is_busy != 0 || moved < i64::from(in_log) {
            return Ok(Tried::Kept);
        }
        // A page behind these may have arrived before SQLite would have synced the file.
        let is_overtaken = self
            .salts(log)
            .and_then(|salts| self.has(log, salts, in_log + 1));
        Ok(if is_overtaken.unwrap_or(true) {
            Tried::Overtaken
        } else {
            Tried::Moved
        })
    }

    /// Whether the log has reached the mark.
    fn is_long(&self, log: &Log) -> io::Result<bool> {
        let salts = self.salts(log)?;
        let page = {
            let mut mark = self.mark();
            if mark.salts != salts {
                *mark = Mark {
                    salts,
                    page: self.step,
                    told_from: TOLD_FROM * self.step,
                };
            }
            mark.page
        };
        self.has(log, salts, page)
    }

    /// The log's salts, which exist because something was written.
    fn salts(&self, log: &Log) -> io::Result<Salts> {
        log.salts_at(HEADER_SALTS).map(Option::unwrap_or_default)
    }

    /// Whether the log with these salts has this page, counted from 1. Leftover pages of an older
    /// log have other salts.
    fn has(&self, log: &Log, salts: Salts, page: u32) -> io::Result<bool> {
        let bytes = PAGE_HEADER_BYTES + u64::from(self.page_bytes);
        let before = u64::from(page.saturating_sub(1)) * bytes;
        let found = log.salts_at(HEADER_BYTES + before + PAGE_SALTS)?;
        Ok(found == Some(salts))
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
