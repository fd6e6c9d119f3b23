//! Tests of the store with a long log, from which pages are moved to the file or cannot be moved.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rusqlite::OpenFlags;
use tempfile::TempDir;

use super::super::database;
use super::moving::{HELD_FROM, LENGTHS_MAX};
use super::*;

/// The length of a long log: 32 pages.
const LOG_BYTES: u32 = 32 * 1_024;
/// The length of a page in the log, with its header.
const FRAME: usize = 24 + 1_024;

/// A store whose log is long after a few writes.
struct Long {
    folder: TempDir,
    rows: Rows,
    complaint: Complaint,
}

impl Long {
    fn open(beside: Beside) -> Self {
        let folder = tempfile::tempdir().unwrap();
        database::prepare(folder.path()).unwrap();
        let complaint = Complaint::default();
        let ways = Ways {
            beside,
            log_bytes: LOG_BYTES,
            ..Ways::default()
        };
        let rows = Rows::open_with(folder.path(), complaint.clone(), ways).unwrap();
        Self {
            folder,
            rows,
            complaint,
        }
    }

    /// A store that moves pages before its writes return, and the number of its moves.
    fn moving() -> (Self, Arc<AtomicUsize>) {
        let moves = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&moves);
        let store = Self::open(Box::new(move |work| {
            counted.fetch_add(1, Ordering::AcqRel);
            work();
        }));
        (store, moves)
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join(SQLITE_DB_FILE_NAME)
    }

    fn log(&self) -> PathBuf {
        self.database().with_extension("sqlite-wal")
    }

    fn log_bytes(&self) -> u64 {
        self.log().metadata().unwrap().len()
    }

    /// Writes rows of eight pages or a few more, each under its own key.
    fn write(&self, numbers: std::ops::Range<u8>) -> io::Result<()> {
        numbers.into_iter().try_for_each(|number| {
            let value = vec![number; 7_000];
            KVStoreSync::write(&self.rows, "monitors", "", &number.to_string(), value)
        })
    }

    /// Makes every move fail: the mover's connection can only read the file.
    fn break_the_file(&self) {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(self.database(), flags).unwrap();
        let mover = self.rows.0.mover.as_ref().unwrap();
        *mover.connection.lock().unwrap() = connection;
    }

    /// Checks that the store gave this reason and does nothing more.
    fn is_over(&self, why: &str) {
        let said = self.complaint.borrow().clone().unwrap();
        assert!(said.contains(why), "{said}");
        let log = std::fs::read(self.log()).unwrap();
        self.write(0..1).unwrap_err();
        KVStoreSync::read(&self.rows, "monitors", "", "0").unwrap_err();
        self.rows
            .0
            .mover
            .as_ref()
            .unwrap()
            .move_pages(&self.rows.0.log, || ());
        assert!(std::fs::read(self.log()).unwrap() == log);
    }
}

/// Opens a reader of the current state, which reads until it is dropped.
fn read(database: &Path) -> Connection {
    let reader = Connection::open(database).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = format!("SELECT count(*) FROM {KV_TABLE_NAME}");
    reader
        .query_row(&count, [], |row| row.get::<_, u32>(0))
        .unwrap();
    reader
}

/// The numbers that the program finds in a folder.
fn found(folder: &Path) -> Vec<u8> {
    database::prepare(folder).unwrap();
    let rows = Rows::open(folder, Complaint::default()).unwrap();
    let keys = KVStoreSync::list(&rows, "monitors", "").unwrap();
    let mut found: Vec<u8> = keys.iter().map(|key| key.parse().unwrap()).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_log_that_is_long_begins_anew_and_grows_no_more() {
    let (store, moves) = Long::moving();
    store.write(0..200).unwrap();
    assert!(store.log_bytes() < 2 * u64::from(LOG_BYTES));
    // Of 200 writes of eight pages or more, about one in four made the log long.
    let moves = moves.load(Ordering::Acquire);
    assert!((25..=70).contains(&moves), "{moves}");
    // Without its log, the file has all but the last few writes.
    let alone = tempfile::tempdir().unwrap();
    std::fs::copy(store.database(), alone.path().join(SQLITE_DB_FILE_NAME)).unwrap();
    assert!(found(alone.path()).len() > 190);
}

#[test]
fn while_somebody_reads_it_is_tried_again_only_when_the_log_has_grown_as_much_again() {
    let (store, moves) = Long::moving();
    store.write(0..4).unwrap();
    let reader = read(&store.database());
    let before = moves.load(Ordering::Acquire);
    store.write(4..100).unwrap();
    let lengths = store.log_bytes() / u64::from(LOG_BYTES);
    assert!(lengths > 20, "{lengths}");
    let tries = (moves.load(Ordering::Acquire) - before) as u64;
    assert!(tries > 10 && tries <= lengths, "{tries} of {lengths}");
    // All rows are read from the log.
    assert_eq!(
        KVStoreSync::list(&store.rows, "monitors", "")
            .unwrap()
            .len(),
        100
    );
    drop(reader);
    store.write(100..106).unwrap();
    let length = store.log_bytes();
    store.write(106..200).unwrap();
    assert_eq!(store.log_bytes(), length, "it has begun anew");
    assert!(store.complaint.borrow().is_none());
}

#[test]
fn a_log_that_somebody_keeps_for_ever_ends_the_program_before_it_fills_the_disk() {
    let (store, _) = Long::moving();
    store.write(0..1).unwrap();
    let reader = read(&store.database());
    let longest = u64::from(LENGTHS_MAX * LOG_BYTES);
    // SQLite does not write a page that has not changed.
    let mut values = (0_u8..).map(|number| vec![number; 100_000]);
    while KVStoreSync::write(&store.rows, "monitors", "", "1", values.next().unwrap()).is_ok() {
        assert!(store.log_bytes() < longest + longest / 10);
    }
    assert!(store.log_bytes() > longest);
    store.is_over("another program has been reading it for so long");
    drop(reader);
    drop(store.rows);
    assert_eq!(found(store.folder.path()), [0, 1]);
}

#[test]
fn writes_wait_for_a_move_only_where_the_log_is_very_long_and_they_overtake_it() {
    for (lengths, is_waited_for) in [(HELD_FROM - 1, false), (HELD_FROM + 1, true)] {
        let store = Long::open(Box::new(drop));
        let mut numbers = 0..;
        while store.log_bytes() < u64::from(lengths * LOG_BYTES) {
            let number = numbers.next().unwrap();
            store.write(number..number + 1).unwrap();
        }
        // A write during the move leaves a page of the current log behind the moved pages.
        let mut log = std::fs::read(store.log()).unwrap();
        log.extend_from_within(log.len() - FRAME..);
        std::fs::write(store.log(), &log).unwrap();
        let is_held = AtomicBool::new(false);
        let mover = store.rows.0.mover.as_ref().unwrap();
        mover.move_pages(&store.rows.0.log, || is_held.store(true, Ordering::Release));
        assert_eq!(is_held.into_inner(), is_waited_for);
        assert!(store.complaint.borrow().is_none());
    }
}

#[test]
fn many_may_write_while_pages_are_moved_and_a_power_cut_takes_nothing_that_was_promised() {
    let threads = Arc::new(Mutex::new(Vec::new()));
    let started = Arc::clone(&threads);
    let store = Long::open(Box::new(move |work| {
        started.lock().unwrap().push(std::thread::spawn(work));
    }));
    let header = || std::fs::read(store.log()).unwrap()[..32].to_vec();
    store.write(0..1).unwrap();
    let first = header();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let store = &store;
            scope.spawn(move || store.write(50 * writer..50 * (writer + 1)).unwrap());
        }
    });
    for thread in std::mem::take(&mut *threads.lock().unwrap()) {
        thread.join().unwrap();
    }
    assert!(header() != first, "it has begun anew");
    let left = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(store.folder.path()).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
    }
    let all: Vec<u8> = (0..200).collect();
    assert_eq!(found(left.path()), all);
    assert!(store.complaint.borrow().is_none());
}

#[test]
fn a_move_that_fails_is_the_last_thing_that_happens() {
    type Break = fn(&Long);
    let breaks: [(Break, &str); 3] = [
        (Long::break_the_file, "disk I/O error"),
        // The log is shorter than it was.
        (
            |store| {
                let log = File::options().write(true).open(store.log());
                log.unwrap().set_len(8 * FRAME as u64).unwrap();
            },
            "disk I/O error",
        ),
        // The file is empty, and the pages in the log cannot restore it.
        (
            |store| {
                let file = File::options().write(true).open(store.database());
                file.unwrap().set_len(0).unwrap();
            },
            "database disk image is malformed",
        ),
    ];
    for (broken, why) in breaks {
        let is_bad = Arc::new(AtomicBool::new(false));
        let store: Arc<Mutex<Option<Arc<Long>>>> = Arc::default();
        let (told, whose) = (Arc::clone(&is_bad), Arc::clone(&store));
        let long = Arc::new(Long::open(Box::new(move |work| {
            if told.load(Ordering::Acquire) {
                broken(whose.lock().unwrap().as_ref().unwrap());
            }
            work();
        })));
        *store.lock().unwrap() = Some(Arc::clone(&long));
        long.write(0..40).unwrap();
        is_bad.store(true, Ordering::Release);
        // The write that starts the move is in the log. It may succeed or fail.
        let failed = (40..60).find(|number| long.write(*number..number + 1).is_err());
        assert!(failed.is_some(), "{why}");
        long.is_over(&format!(
            "failed to move pages from its log to the file: {why}"
        ));
        store.lock().unwrap().take();
    }
}

#[test]
fn what_was_moved_before_a_move_that_failed_is_moved_anew_by_the_next_start() {
    let (store, _) = Long::moving();
    store.write(0..10).unwrap();
    let reader = read(&store.database());
    let synced = std::fs::read(store.database()).unwrap();
    // Some pages are moved, the file is not synced, and the reader keeps the other pages in the
    // log.
    store.write(10..20).unwrap();
    assert!(std::fs::read(store.database()).unwrap() != synced);
    drop(reader);
    store.break_the_file();
    let failed = (20..40).find(|number| store.write(*number..number + 1).is_err());
    let promised = failed.unwrap();
    store.is_over("failed to move pages");
    let length = store.log_bytes();
    drop(store.rows);
    // The store has neither moved pages since then nor deleted the log.
    let log = store
        .folder
        .path()
        .join(SQLITE_DB_FILE_NAME)
        .with_extension("sqlite-wal");
    assert_eq!(log.metadata().unwrap().len(), length);
    // The unsynced part of the file is lost.
    std::fs::write(store.folder.path().join(SQLITE_DB_FILE_NAME), &synced).unwrap();
    let found = found(store.folder.path());
    assert!(found.len() >= usize::from(promised), "{found:?}");
}
