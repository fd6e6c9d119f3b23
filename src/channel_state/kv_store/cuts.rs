//! What a power cut leaves of the store. A script of writes is played, and at every moment that matters the files are noted as
//! they were at the last sync and as they are; whatever a disk may hold between the two is then opened as the program opens it.
//! It must hold a beginning of the writes, which goes as far as was promised or further. That is all: a manager is then never
//! newer than the updates and events that were written before it.
//!
//! Only the store's own syncs are seen here, those of the log. SQLite's are taken from its source (`wal.c`), and `strace` shows
//! them: it syncs the log before it moves pages from it to the file, the file before it begins the log anew, and the log's new
//! header before anything is written behind it. Until the log begins anew, the file is taken for not synced: so it is while somebody
//! reads an older state of it, or where its sync has failed. And a disk leaves alone what it held before, even in a sector to which more is written; SQLite, too,
//! builds on that.

mod disk;

use std::path::PathBuf;
use std::sync::mpsc;

use tokio::runtime::{Builder, Runtime};

use super::super::database;
use super::*;
use disk::{Dice, Disk, Table, databases, logs, some};

/// After so many bytes the log is folded into the file: a few writes, so that it happens many times.
const FOLDED_AFTER: u32 = 48 * 1_024;
/// Payments of a part of the script, from a start to a good end.
const PAYMENTS: usize = 4;

/// Where a row stands.
type Row = [&'static str; 3];

/// Keys of updates.
const NUMBERS: [&str; 4] = ["1", "2", "3", "4"];

/// How the script writes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// By the call that returns when it is on the disk.
    Called,
    /// By the future that ends when it is.
    Awaited,
    /// By a call or a future that promises nothing, and whose sync does not come.
    Left,
}

/// A step of the script. Without a value the row is taken out.
#[derive(Clone, Debug)]
struct Write {
    row: Row,
    value: Option<Vec<u8>>,
    how: How,
}

/// A part of the script: payments, as ldk-node writes them, with what else it writes at times. Every value is another one, so that
/// it says how far a disk has come.
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

/// All parts.
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

/// What the store holds after none of the writes, after one, and so on. A removal takes something out.
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

/// A moment at which the power may go.
struct Moment {
    /// What is on the disk for sure.
    sure: Arc<Disk>,
    /// What was in the files before the last write. Pages that were moved are from a part of the log that is on the disk.
    before: Arc<Disk>,
    /// What is in the files. Of what makes the difference anything may be on the disk, too.
    now: Arc<Disk>,
    /// How many of the writes were promised.
    promised: usize,
    /// How many were begun.
    begun: usize,
}

/// Who looks on while the script is played.
struct Witness {
    /// Where.
    folder: PathBuf,
    /// What is on the disk for sure, so far.
    sure: Arc<Disk>,
    /// What was in the files when they were looked at last.
    last: Arc<Disk>,
    /// How many of the writes are promised, so far.
    promised: usize,
    /// How many are begun.
    begun: usize,
    /// What was noted.
    moments: Vec<Moment>,
    /// The files are about to go.
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

    /// Has the store's syncs noted.
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

    /// Has pages moved at once, behind the write that has made the log long and before its sync, and that noted.
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

    /// What nobody waits for is tried out at the next sync, together with what follows it; unless pages are moved now.
    fn note_if_moved(&mut self) {
        let now = Disk::of(&self.folder);
        if now.database != self.last.database || now.header() != self.last.header() {
            self.note();
        }
    }

    /// Notes that the power may go now.
    fn note(&mut self) -> Arc<Disk> {
        let now = Arc::new(Disk::of(&self.folder));
        if now.header() != self.sure.header() && !self.sure.log.is_empty() {
            // The log was begun anew, and before that the file was synced.
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
            // Before it moved pages SQLite has synced the log.
            self.log_is_synced(&now);
        }
        self.last = Arc::clone(&now);
        now
    }
}

/// Somebody who reads what is there now, as a backup does, and keeps SQLite from moving what comes later.
fn read(folder: &Path) -> Connection {
    let reader = Connection::open(folder.join(SQLITE_DB_FILE_NAME)).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let count = format!("SELECT count(*) FROM {KV_TABLE_NAME}");
    let count = reader.query_row(&count, [], |row| row.get::<_, u32>(0));
    assert!(count.unwrap() > 0);
    reader
}

/// Plays a part of the script, from an opening to a good end; if it is read meanwhile, for some writes at a time.
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
        // Behind a row that is not written again soon: its pages are moved, and those that are written again are not.
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

/// SQLite folds the log into the file and deletes it, which is found after a power cut or is not. From here on the program may
/// say that it ended well, so everything is promised.
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

/// A runtime whose only thread for what waits is busy until the other part is dropped: a sync does not begin there.
fn stuck() -> (Runtime, mpsc::Sender<()>) {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(1).build().unwrap();
    let (until, waiting) = mpsc::channel();
    drop(runtime.spawn_blocking(move || waiting.recv()));
    (runtime, until)
}

impl Moment {
    /// Whatever may be on the disk.
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
            // The log is on the disk, all of it.
            let mixed = databases(&self.sure.database, &self.now.database, dice);
            found.extend(
                mixed
                    .into_iter()
                    .map(|mixed| disk(mixed, self.now.log.clone())),
            );
        }
        found
    }

    /// How many of the writes this holds, which are as many as were promised or more.
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
    // What the script is for: without it nothing was tried.
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
