//! Tests of what a power cut leaves of the store.
//!
//! A test plays a script of writes. At every relevant moment it notes the files as they were at the
//! last sync and as they are now. It then opens every mix of the two that a disk may hold, in the
//! same way as the program. The mix must hold a prefix of the writes that includes all promised
//! (acknowledged) writes. So a manager is never newer than the updates and events that were written
//! before it.

// The tests see only the store's own syncs, which are those of the log. SQLite's syncs are known
// from its source (`wal.c`) and visible with `strace`. It syncs the log before it moves pages to
// the file, the file before it restarts the log, and the log's new header before it writes pages
// behind it. Until the log restarts, the tests take the file for not synced. That is the case while
// a program reads an older state, or if the file's sync failed. The tests assume, as SQLite does,
// that a disk keeps the bytes that it held before, even in a sector that it partly overwrites.

mod disk;

use std::path::PathBuf;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

use super::super::database;
use super::*;
use disk::{Dice, Disk, Table, databases, logs, some};

/// The log length at which pages are moved: a few writes, so that it happens many times.
const FOLDED_AFTER: u32 = 48 * 1_024;
/// The number of payments in a part of the script. A part goes from a start to a clean stop.
const PAYMENTS: usize = 4;

/// The key of a row, with its namespaces.
type Row = [&'static str; 3];

/// Keys of monitor updates.
const NUMBERS: [&str; 4] = ["1", "2", "3", "4"];

/// How the script performs a write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// A call that returns when the write is on the disk.
    Called,
    /// A future that completes when the write is on the disk.
    Awaited,
    /// A call or a future that promises nothing and whose sync never runs.
    Left,
}

/// A step of the script. Without a value, it deletes the row.
#[derive(Clone, Debug)]
struct Write {
    row: Row,
    value: Option<Vec<u8>>,
    how: How,
}

/// One part of the script: payments as ldk-node writes them, and its occasional other writes. All
/// values of the script differ, so a value shows how many writes a disk holds.
fn part(first: usize) -> Vec<(Row, usize, How)> {
    use How::{Awaited, Called, Left};
    let mut writes = Vec::new();
    for payment in first..first + PAYMENTS {
        let number = NUMBERS[payment % 4];
        writes.push((["monitor_updates", "a", number], 700, Called));
        writes.push((["monitor_updates", "b", number], 300 + 90 * payment, Called));
        if payment % 4 == 3 {
            writes.push((["monitors", "", "a"], 9_000 + 300 * payment, Called));
            writes.push((["monitor_updates", "a", "1"], 0, Left));
            writes.push((["monitor_updates", "a", "2"], 0, Left));
        }
        writes.push((["", "", "events"], 150 * (payment % 5 + 1), Left));
        writes.push((["", "", "manager"], 6_000 + 40 * payment, Left));
        if payment % 2 == 1 {
            writes.push((["payments", "", number], 400, Awaited));
        }
        if payment % 6 == 5 {
            writes.push((["", "", "scorer"], 20_000, Left));
            writes.push((["monitor_updates", "b", "4"], 0, Called));
            writes.push((["monitor_updates", "b", number], 64, Awaited));
        }
    }
    writes
}

/// All parts of the script.
fn script() -> Vec<Vec<Write>> {
    let mut number = 0_u8;
    let mut write = |(row, bytes, how)| {
        number += 1;
        let value = (bytes > 0).then(|| vec![number; bytes]);
        Write { row, value, how }
    };
    [0, PAYMENTS, 2 * PAYMENTS]
        .map(|first| part(first).into_iter().map(&mut write).collect())
        .into()
}

/// The store's content after none of the writes, after the first write, and so on. Each removal
/// finds its row.
fn tables(script: &[Vec<Write>]) -> Vec<Table> {
    let mut tables = vec![Table::new()];
    for write in script.iter().flatten() {
        let mut next = tables.last().unwrap().clone();
        let row = write.row.map(str::to_owned);
        match &write.value {
            Some(value) => next.insert(row, value.clone()),
            None => Some(next.remove(&row).unwrap()),
        };
        tables.push(next);
    }
    tables
}

/// A moment at which the power may fail.
struct Moment {
    /// The content that is certainly on the disk.
    sure: Arc<Disk>,
    /// The content of the files before the last write. Its moved pages come from a part of the log
    /// that is on the disk.
    before: Arc<Disk>,
    /// The current content of the files. The disk may hold any part of the changes, too.
    now: Arc<Disk>,
    /// The number of promised writes.
    promised: usize,
    /// The number of begun writes.
    begun: usize,
}

/// An observer of the files while the script is played.
struct Witness {
    /// The store's folder.
    folder: PathBuf,
    /// The content that is certainly on the disk so far.
    sure: Arc<Disk>,
    /// The content of the files at the last observation.
    last: Arc<Disk>,
    /// The number of promised writes so far.
    promised: usize,
    /// The number of begun writes so far.
    begun: usize,
    /// The noted moments.
    moments: Vec<Moment>,
    /// Whether the store is about to close its files.
    is_over: bool,
}

impl Witness {
    fn of(folder: &Path) -> Arc<Mutex<Self>> {
        let found = Arc::new(Disk::of(folder));
        Arc::new(Mutex::new(Self {
            folder: folder.to_owned(),
            sure: Arc::clone(&found),
            last: found,
            promised: 0,
            begun: 0,
            moments: Vec::new(),
            is_over: false,
        }))
    }

    /// Returns a sync for the store that the witness notes.
    fn syncing(witness: &Arc<Mutex<Self>>) -> Syncing {
        let witness = Arc::clone(witness);
        Box::new(move |file| {
            let before = {
                let mut witness = witness.lock().unwrap();
                if witness.is_over {
                    return Ok(());
                }
                witness.note()
            };
            file.sync_data()?;
            witness.lock().unwrap().log_is_synced(&before);
            Ok(())
        })
    }

    /// Returns a `Beside` that moves pages at once and has the witness note it. The move comes
    /// after the write that made the log long, and before that write's sync.
    fn beside(witness: &Arc<Mutex<Self>>) -> Beside {
        let witness = Arc::clone(witness);
        Box::new(move |work| {
            witness.lock().unwrap().note();
            work();
            witness.lock().unwrap().note_if_moved();
        })
    }

    fn log_is_synced(&mut self, then: &Disk) {
        self.sure = Arc::new(Disk {
            log: then.log.clone(),
            ..Disk::clone(&self.sure)
        });
    }

    /// Notes this moment if pages were moved. All other writes that nothing waits for are tested
    /// with the next sync.
    fn note_if_moved(&mut self) {
        let now = Disk::of(&self.folder);
        if now.database != self.last.database || now.header() != self.last.header() {
            self.note();
        }
    }

    /// Records the current state of the disk as a moment at which the test lets the power fail, and
    /// returns that state.
    fn note(&mut self) -> Arc<Disk> {
        let now = Arc::new(Disk::of(&self.folder));
        if now.header() != self.sure.header() && !self.sure.log.is_empty() {
            // The log was restarted, and SQLite synced the file before that.
            self.sure = Arc::new(Disk {
                database: self.last.database.clone(),
                ..Disk::clone(&self.sure)
            });
        }
        self.moments.push(Moment {
            sure: Arc::clone(&self.sure),
            before: Arc::clone(&self.last),
            now: Arc::clone(&now),
            promised: self.promised,
            begun: self.begun,
        });
        if now.database != self.last.database {
            // SQLite synced the log before it moved pages.
            self.log_is_synced(&now);
        }
        self.last = Arc::clone(&now);
        now
    }
}

/// Opens a reader of the current state, as a backup does. It keeps SQLite from moving later pages.
fn read(folder: &Path) -> Connection {
    let reader = Connection::open(folder.join(SQLITE_DB_FILE_NAME)).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = format!("SELECT count(*) FROM {KV_TABLE_NAME}");
    let count = reader.query_row(&count, [], |row| row.get::<_, u32>(0));
    assert!(count.unwrap() > 0);
    reader
}

/// Plays a part of the script, from an opening to a clean stop. If `is_read` is set, a reader is
/// open during some of the writes.
fn play(folder: &Path, witness: &Arc<Mutex<Witness>>, writes: &[Write], is_read: bool) {
    database::prepare(folder).unwrap();
    let ways = Ways {
        syncing: Witness::syncing(witness),
        beside: Witness::beside(witness),
        log_bytes: FOLDED_AFTER,
    };
    let rows = Rows::open_with(folder, Complaint::default(), ways).unwrap();
    let free = Builder::new_current_thread().build().unwrap();
    let (stuck, until) = stuck();
    let mut reader = None;
    for (number, write) in writes.iter().enumerate() {
        // The reader begins after a row that is not written again soon. The pages of that row are
        // moved, but those of rows that are written again are not.
        match writes[number.saturating_sub(1)].row {
            ["monitors" | "payments", ..] if is_read => reader = Some(read(folder)),
            ["", _, "manager"] => drop(reader.take()),
            _ => {}
        }
        witness.lock().unwrap().begun += 1;
        let [primary, secondary, key] = write.row;
        let done = match (write.how, write.value.clone()) {
            (How::Called, Some(value)) => KVStoreSync::write(&rows, primary, secondary, key, value),
            (How::Called, None) => KVStoreSync::remove(&rows, primary, secondary, key, false),
            (How::Awaited, Some(value)) => {
                free.block_on(async { KVStore::write(&rows, primary, secondary, key, value).await })
            }
            (How::Awaited, None) => free
                .block_on(async { KVStore::remove(&rows, primary, secondary, key, false).await }),
            (How::Left, Some(value)) => stuck
                .block_on(async { KVStore::write(&rows, primary, secondary, key, value).await }),
            (How::Left, None) => stuck
                .block_on(async { KVStore::remove(&rows, primary, secondary, key, true).await }),
        };
        done.unwrap();
        let mut witness = witness.lock().unwrap();
        if write.how == How::Left {
            witness.note_if_moved();
        } else {
            witness.promised = witness.begun;
            witness.note();
        }
    }
    drop(reader);
    drop(until);
    drop(stuck);
    let before = {
        let mut witness = witness.lock().unwrap();
        witness.is_over = true;
        witness.note()
    };
    drop(rows);
    note_the_end(&mut witness.lock().unwrap(), &before);
}

/// Notes the end, at which SQLite moves the log to the file and deletes the log. A power cut may
/// undo the deletion. From here on the program may report a clean end, so all writes are promised.
fn note_the_end(witness: &mut Witness, before: &Arc<Disk>) {
    let after = Arc::new(Disk::of(&witness.folder));
    assert!(after.log.is_empty());
    let folded = Arc::new(Disk {
        database: after.database.clone(),
        ..Disk::clone(before)
    });
    let synced = Arc::new(Disk {
        database: witness.sure.database.clone(),
        ..Disk::clone(before)
    });
    witness.promised = witness.begun;
    for (sure, before, now) in [(&synced, before, &folded), (&after, &after, &after)] {
        witness.moments.push(Moment {
            sure: Arc::clone(sure),
            before: Arc::clone(before),
            now: Arc::clone(now),
            promised: witness.promised,
            begun: witness.begun,
        });
    }
    witness.sure = Arc::clone(&after);
    witness.last = after;
    witness.is_over = false;
}

/// A runtime whose only blocking thread is busy until the sender is dropped, so that no sync begins
/// on it.
fn stuck() -> (Runtime, mpsc::Sender<()>) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(1).build().unwrap();
    let (until, waiting) = mpsc::channel();
    drop(runtime.spawn_blocking(move || waiting.recv()));
    (runtime, until)
}

impl Moment {
    /// All contents that the disk may have.
    fn disks(&self, dice: &mut Dice) -> Vec<Disk> {
        let disk = |database, log| Disk {
            database,
            log,
            index: self.now.index.clone(),
        };
        let mut found = Vec::new();
        for log in logs(&self.sure.log, &self.now.log, dice) {
            let database = some(&self.sure.database, &self.before.database, dice);
            found.push(disk(database, log));
        }
        if self.before.database != self.now.database {
            // The whole log is on the disk.
            let mixed = databases(&self.sure.database, &self.now.database, dice);
            found.extend(
                mixed
                    .into_iter()
                    .map(|mixed| disk(mixed, self.now.log.clone())),
            );
        }
        found
    }

    /// Checks that this disk holds at least the promised writes, and returns how many it holds.
    fn check(&self, disk: &Disk, tables: &[Table]) -> usize {
        let found = disk.opened(self.promised > 0).unwrap();
        let mut good = self.promised..=self.begun;
        good.find(|writes| tables[*writes] == found)
            .unwrap_or_else(|| {
                let other = tables.iter().position(|table| *table == found);
                panic!(
                    "{} writes were promised, {} begun; found are {other:?}",
                    self.promised, self.begun
                )
            })
    }
}

/// All moments of the script.
fn moments(script: &[Vec<Write>]) -> Vec<Moment> {
    let folder = tempfile::tempdir().unwrap();
    database::prepare(folder.path()).unwrap();
    let witness = Witness::of(folder.path());
    for (number, part) in script.iter().enumerate() {
        play(folder.path(), &witness, part, number == 1);
    }
    std::mem::take(&mut witness.lock().unwrap().moments)
}

#[test]
fn a_power_cut_leaves_a_beginning_of_the_writes_with_all_that_was_promised() {
    let script = script();
    let tables = tables(&script);
    let moments = moments(&script);
    let mut dice = Dice(1);
    let mut torn = 0;
    for moment in &moments {
        for disk in moment.disks(&mut dice) {
            let found = moment.check(&disk, &tables);
            torn += usize::from(found > moment.promised && found < moment.begun);
        }
    }
    let is_folded = |moment: &&Moment| moment.before.database != moment.now.database;
    let is_anew = |moment: &&Moment| {
        let headers = (moment.before.header(), moment.now.header());
        headers.0.is_some() && headers.1.is_some() && headers.0 != headers.1
    };
    // If these numbers are small, the script did not test what it is for.
    assert!(torn > 100, "{torn}");
    assert!(moments.iter().filter(is_folded).count() > 6);
    assert!(moments.iter().filter(is_anew).count() > 3);
}

#[test]
fn a_power_cut_at_the_start_after_a_power_cut_takes_nothing_either() {
    let script = script();
    let tables = tables(&script);
    let mut dice = Dice(2);
    let mut number = 0;
    for moment in moments(&script) {
        for disk in moment.disks(&mut dice) {
            number += 1;
            if number % 200 != 0 {
                continue;
            }
            let found = moment.check(&disk, &tables);
            let folder = disk.put(found > 0);
            database::prepare(folder.path()).unwrap();
            let folded = Disk::of(folder.path());
            for database in databases(&disk.database, &folded.database, &mut dice) {
                let disk = Disk {
                    database,
                    ..disk.clone()
                };
                assert!(disk.opened(found > 0).unwrap() == tables[found]);
            }
        }
    }
}

#[test]
fn whoever_shares_a_sync_has_written_before_it_began() {
    let folder = tempfile::tempdir().unwrap();
    database::prepare(folder.path()).unwrap();
    let witness = Witness::of(folder.path());
    let ways = Ways {
        syncing: Witness::syncing(&witness),
        ..Ways::default()
    };
    let rows = Rows::open_with(folder.path(), Complaint::default(), ways).unwrap();
    let sure = std::thread::scope(|scope| {
        let writers = ["a", "b", "c", "d"].map(|channel| {
            let (rows, witness) = (rows.clone(), &witness);
            scope.spawn(move || {
                let mut sure = Vec::new();
                for number in 0..15_u8 {
                    let value = vec![number; 300];
                    KVStoreSync::write(&rows, "monitors", "", channel, value).unwrap();
                    let now = Arc::clone(&witness.lock().unwrap().sure);
                    sure.push((channel, number, now));
                }
                sure
            })
        });
        writers.map(|writer| writer.join().unwrap()).concat()
    });
    for (channel, number, disk) in sure {
        let found = disk.opened(true).unwrap();
        let row = ["monitors", "", channel].map(str::to_owned);
        let value = found.get(&row).expect("what was promised is there");
        assert!(value[0] >= number, "{channel}: {} of {number}", value[0]);
    }
}
