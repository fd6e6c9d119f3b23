//! Moving pages from the log to the database's file, so that the log begins anew and does not grow for ever.
//!
//! SQLite would do it by itself, in the middle of a write, and would tell nobody of a sync of the file that failed there. Linux
//! takes a page whose writing failed for written: pages that an earlier move brought to the file are then lost, the next sync
//! says that all is well, and the log that had them is written over. Here every failure is the last thing that happens to the
//! store. SQLite begins the log anew only behind a sync of the file that succeeded, so that a write that was under way meanwhile
//! stands in the log, behind all others.
//!
//! It is done over a connection of its own, by one thread at a time, and writes go on meanwhile. SQLite syncs the file only if none
//! came in since it began; it does not say so, which is why the log is looked at here.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};
use tokio::runtime::Handle;

use super::log::{Log, Salts};

/// How long the log is when its pages are moved to the file, which takes each page once, however often it stands in the log: of
/// sixty sales. Reading so much after a kill takes milliseconds.
pub(super) const LOG_BYTES: u32 = 4 * 1024 * 1024;

/// How often it is tried in a row. Of what a try brings to the file the next one brings only what came in since, which takes a
/// fraction of the time, so that most often no write comes in during the second.
const TRIES: u32 = 4;

/// From this length on, in `LOG_BYTES`, writes wait for one more try where all were overtaken, and so for a sync of the file: with
/// tries at four lengths before it, a shop that never rests meets that every 240 sales or less often.
pub(super) const HELD_FROM: u32 = 4;

/// From this length on, in `LOG_BYTES`, it is said that somebody keeps the log: 64 MB, a thousand sales during one read.
const TOLD_FROM: u32 = 16;

/// The longest log, in `LOG_BYTES`: 1 GB, of fifteen thousand sales. A backup's read takes seconds, so whoever kept it so long has
/// forgotten it; the disk fills up, and a start after a kill reads all of it.
pub(super) const LENGTHS_MAX: u32 = 256;

/// Where the salts stand in the log's header.
const HEADER_SALTS: u64 = 16;
/// The header.
const HEADER_BYTES: u64 = 32;
/// Where they stand in the header of each page.
const PAGE_SALTS: u64 = 8;
/// That header.
const PAGE_HEADER_BYTES: u64 = 24;

/// Does something beside whoever asks for it.
pub(super) type Beside = Box<dyn Fn(Box<dyn FnOnce() + Send>) + Send + Sync>;

/// As the program does it.
pub(super) fn beside(work: Box<dyn FnOnce() + Send>) {
    match Handle::try_current() {
        // Nobody waits for its end.
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        // A thread outside of it may wait for the disk.
        Err(_) => work(),
    }
}

/// Whoever moves pages.
pub(super) struct Mover {
    /// Held while pages are moved. A std mutex, because that is done on a thread that may wait for the disk.
    pub(super) connection: Mutex<Connection>,
    /// How long a page is.
    page_bytes: u32,
    /// After how many pages in the log they are moved.
    step: u32,
    /// When they are moved next. A std mutex, held to look at it.
    mark: Mutex<Mark>,
    /// Whether somebody is at it, or about to be.
    is_moving: AtomicBool,
}

/// A place in a log.
#[derive(Default)]
struct Mark {
    /// Which log: one that was begun anew has others.
    salts: Salts,
    /// Up to which page, counted from 1, it is not long.
    page: u32,
    /// From which on it is said that somebody keeps it.
    told_from: u32,
}

/// What a try came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// All that is in the log is in the file, and synced: it begins anew with the next write.
    Moved,
    /// Writes came in meanwhile.
    Overtaken,
    /// Somebody reads an older state, or moves pages by himself.
    Kept,
}

/// Why pages were not moved.
#[derive(Debug, thiserror::Error)]
pub(super) enum MoveError {
    /// The disk failed, or what is there is not what SQLite has written.
    #[error("failed to move pages from its log to the file")]
    Failed(#[source] rusqlite::Error),
    /// The limit.
    #[error(
        "another program has been reading it for so long that its log has {0} bytes: end that program"
    )]
    Kept(u64),
}

impl Mover {
    /// For a database that is open in write-ahead mode.
    pub(super) fn open(path: &Path, page_bytes: u32, log_bytes: u32) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        // At the end all pages are moved over the other connection, or none.
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

    /// Whether the log is long and nobody is at it: then whoever asks has to move pages, and to call [`Mover::end`]. Called after
    /// each write.
    pub(super) fn is_due(&self, log: &Log) -> bool {
        if self.is_moving.load(Ordering::Acquire) {
            return false;
        }
        // What cannot be read SQLite cannot read either, and says why.
        self.is_long(log).unwrap_or(true) && !self.is_moving.swap(true, Ordering::AcqRel)
    }

    /// The next one may move pages.
    pub(super) fn end(&self) {
        self.is_moving.store(false, Ordering::Release);
    }

    /// Moves all pages that nobody needs in the log, or ends everything. `hold` keeps writes out as long as what it returns
    /// lives.
    pub(super) fn move_pages<T>(&self, log: &Log, hold: impl FnOnce() -> T) {
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // After a failure the log is all that is known to be good.
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
        // However the tries ended: a log that goes on is looked at again when it has grown by as much, one that begins anew is
        // another one.
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

    /// Tries once; `pages` is how many the log has, as far as is known.
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
        // A page behind them may have come before the file would have been synced.
        let is_overtaken = self
            .salts(log)
            .and_then(|salts| self.has(log, salts, in_log + 1));
        Ok(if is_overtaken.unwrap_or(true) {
            Tried::Overtaken
        } else {
            Tried::Moved
        })
    }

    /// Whether the log has come to the mark.
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

    /// The log's salts. There is one: something was written.
    fn salts(&self, log: &Log) -> io::Result<Salts> {
        log.salts_at(HEADER_SALTS).map(Option::unwrap_or_default)
    }

    /// Whether this page, counted from 1, is there in the log with these salts. What is left of an older log has others.
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
