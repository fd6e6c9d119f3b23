//! Monitors that must not be loaded. A recovery sets them aside, and puts each one back when the
//! closing of its channel is final.

mod older;

use std::collections::HashSet;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, TransactionBehavior};

use crate::keys::NodeKeys;

use super::channel::MonitoredChannel;
use super::error::StateError;
use super::reading::{at, channels, look_again, open};
use super::tables::{ASIDE, FILE, LIVE};

/// Our second table: monitors that can do nothing any more, kept for inspection.
const RETIRED: &str = "tollhouse_retired";

/// The table of a recovery with the keys of the monitors that the recovery has put back.
const PUT_BACK: &str = "CREATE TABLE IF NOT EXISTS tollhouse_put_back (key TEXT PRIMARY KEY);";

/// The namespaces of monitors and their updates.
const MONITOR_NAMESPACES: &str = "('monitors', 'monitor_updates')";

/// The rows of one channel's monitor: the monitor and its pending updates.
const OF_CHANNEL: &str = "(primary_namespace = 'monitors' AND key = ?1) \
    OR (primary_namespace = 'monitor_updates' AND secondary_namespace = ?1)";

/// The decisions about monitors that were set aside, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sorted {
    /// Monitors to load: the closing of their channel is final, and they can find it on the chain.
    pub(crate) put_back: Vec<String>,
    /// Monitors that can do nothing any more. They are kept but never loaded.
    pub(crate) retired: Vec<String>,
}

impl Sorted {
    pub(crate) fn is_empty(&self) -> bool {
        self.put_back.is_empty() && self.retired.is_empty()
    }
}

/// The stage of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No old monitor is loaded until its channel's closing is buried; peers close the channels.
    Closing,
    /// All closings are buried, and loaded monitors sweep our outputs.
    Sweeping,
    /// The node searches for outputs that no monitor knows.
    Searching,
}

impl Stage {
    fn name(self) -> &'static str {
        match self {
            Self::Closing => "closing",
            Self::Sweeping => "sweeping",
            Self::Searching => "searching",
        }
    }
}

/// The mark of a running recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) stage: Stage,
    /// When the backup of this state was made, Unix seconds.
    pub(crate) backup_secs: u64,
    /// The number of monitors that the recovery has put back so far.
    pub(crate) put_back: usize,
}

/// A finished recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// When the backup was made, Unix seconds.
    pub(crate) backup_secs: u64,
    /// When the recovery ended, Unix seconds.
    pub(crate) ended_secs: u64,
}

/// Prepares a copy for a recovery. It deletes the channel manager and sets the monitors aside, so
/// that a program that opens this file cannot sign anything for the old channels. It also makes the
/// wallet search for all its addresses again.
pub fn fence(path: &Path, backup_secs: u64) -> Result<(), StateError> {
    let mut connection = open(path)?;
    let mut change = || {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {ASIDE} AS SELECT * FROM {LIVE} WHERE FALSE;
             INSERT INTO {ASIDE} SELECT * FROM {LIVE} WHERE primary_namespace IN {MONITOR_NAMESPACES};
             DELETE FROM {LIVE} WHERE primary_namespace IN {MONITOR_NAMESPACES};
             DROP TABLE IF EXISTS tollhouse_recovery;
             CREATE TABLE tollhouse_recovery (stage TEXT NOT NULL, backup_secs INTEGER NOT NULL);
             DROP TABLE IF EXISTS tollhouse_put_back;
             {PUT_BACK}"
        ))?;
        forget_manager(&change)?;
        look_again(&change)?;
        let secs = i64::try_from(backup_secs).unwrap_or(i64::MAX);
        change.execute(
            "INSERT INTO tollhouse_recovery VALUES ('closing', ?1)",
            [secs],
        )?;
        change.commit()
    };
    change().map_err(at(path))
}

/// Deletes the channel manager. ldk-node then creates an empty one.
fn forget_manager(connection: &Connection) -> rusqlite::Result<()> {
    let delete = format!("DELETE FROM {LIVE} WHERE primary_namespace = '' AND key = 'manager'");
    connection.execute(&delete, []).map(drop)
}

/// Whether a recovery is under way in this file.
pub(super) fn is_fenced(connection: &Connection) -> rusqlite::Result<bool> {
    is_table(connection, "tollhouse_recovery")
}

/// The recovery that is under way in this folder, if any. Each start of a recovery deletes the
/// channel manager again. A manager that was written since then does not know the old channels, and
/// LDK would broadcast our old state for a monitor without its channel.
pub(crate) fn begin(folder: &Path) -> Result<Option<Fence>, StateError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let mut connection = open(&path)?;
    let mut look = || {
        if !is_fenced(&connection)? {
            return Ok(None);
        }
        let fence = connection.query_row(
            "SELECT stage, backup_secs FROM tollhouse_recovery",
            [],
            |row| Ok((row.get::<_, String>(0)?, secs(row, 1)?)),
        )?;
        older::make_put_back(&mut connection, &fence.0)?;
        let put_back = put_back(&connection)?.len();
        forget_manager(&connection)?;
        Ok(Some((fence, put_back)))
    };
    let Some(((name, backup_secs), put_back)) = look().map_err(at(&path))? else {
        return Ok(None);
    };
    let stages = [Stage::Closing, Stage::Sweeping, Stage::Searching];
    let stage = stages.into_iter().find(|stage| stage.name() == name);
    Ok(Some(Fence {
        stage: stage.ok_or(StateError::Unreadable("stage of the recovery"))?,
        backup_secs,
        put_back,
    }))
}

/// The last finished recovery in this folder, if there was one.
pub(crate) fn recovered(folder: &Path) -> Result<Option<Recovered>, StateError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let connection = open(&path)?;
    let look = || {
        if !is_table(&connection, "tollhouse_recovered")? {
            return Ok(None);
        }
        let sql = "SELECT backup_secs, ended_secs FROM tollhouse_recovered";
        let read = |row: &Row<'_>| {
            Ok(Recovered {
                backup_secs: secs(row, 0)?,
                ended_secs: secs(row, 1)?,
            })
        };
        connection.query_row(sql, [], read).optional()
    };
    look().map_err(at(&path))
}

fn is_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = ?1)",
        [name],
        |row| row.get(0),
    )
}

fn secs(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let secs: i64 = row.get(column)?;
    Ok(u64::try_from(secs).unwrap_or(0))
}

/// The keys of the monitors that this recovery has put back.
fn put_back(connection: &Connection) -> rusqlite::Result<HashSet<String>> {
    let mut statement = connection.prepare("SELECT key FROM tollhouse_put_back")?;
    let keys = statement.query_map([], |row| row.get(0))?;
    keys.collect()
}

/// The channels whose monitors are set aside.
pub(crate) fn set_aside(
    folder: &Path,
    keys: &NodeKeys,
) -> Result<Vec<MonitoredChannel>, StateError> {
    let path = folder.join(FILE);
    if !path.exists() {
        // The node starts for the first time.
        return Ok(Vec::new());
    }
    channels(open(&path)?, ASIDE, keys)
}

/// The channels whose monitors this recovery has put back.
pub(crate) fn loaded(folder: &Path, keys: &NodeKeys) -> Result<Vec<MonitoredChannel>, StateError> {
    let path = folder.join(FILE);
    let put_back = put_back(&open(&path)?).map_err(at(&path))?;
    let mut channels = channels(open(&path)?, LIVE, keys)?;
    channels.retain(|channel| put_back.contains(&channel.key));
    Ok(channels)
}

/// Puts back monitors whose channels' closings are buried, and enters stage `then` in the same
/// transaction. Before a closing is buried, its monitor could make the node broadcast an old state.
/// Monitors that `sorted` does not name stay set aside.
pub(crate) fn sort(folder: &Path, sorted: &Sorted, then: Stage) -> Result<(), StateError> {
    change(folder, |change| {
        sort_out(change, sorted)?;
        for key in &sorted.put_back {
            change.execute(
                "INSERT OR IGNORE INTO tollhouse_put_back VALUES (?1)",
                [key],
            )?;
        }
        enter(change, then)
    })
}

/// Puts back and retires monitors as `sort` does, but after a recovery has ended.
pub(crate) fn sort_left(folder: &Path, sorted: &Sorted) -> Result<(), StateError> {
    change(folder, |change| sort_out(change, sorted))
}

fn sort_out(change: &Transaction<'_>, sorted: &Sorted) -> rusqlite::Result<()> {
    change.execute_batch(&format!(
        "CREATE TABLE IF NOT EXISTS {RETIRED} AS SELECT * FROM {LIVE} WHERE FALSE"
    ))?;
    let retired = &sorted.retired;
    for (keys, to) in [(&sorted.put_back, LIVE), (retired, RETIRED)] {
        keys.iter()
            .try_for_each(|key| pass(change, key, ASIDE, to))?;
    }
    Ok(())
}

/// Moves a channel's monitor from one table to another.
fn pass(change: &Transaction<'_>, key: &str, from: &str, to: &str) -> rusqlite::Result<()> {
    for sql in [
        format!("INSERT OR REPLACE INTO {to} SELECT * FROM {from} WHERE {OF_CHANNEL}"),
        format!("DELETE FROM {from} WHERE {OF_CHANNEL}"),
    ] {
        change.execute(&sql, [key])?;
    }
    Ok(())
}

/// Enters the last stage. Monitors that have not found the closing of their channel are set aside
/// again, because they would broadcast an old state. They are loaded after the recovery, once the
/// chain source proves that their broadcast would come too late.
pub(crate) fn search(folder: &Path, keys: &NodeKeys) -> Result<(), StateError> {
    let open = open_again(folder, keys)?;
    change(folder, |change| {
        open.iter()
            .try_for_each(|key| pass(change, key, LIVE, ASIDE))?;
        enter(change, Stage::Searching)
    })
}

/// Ends the recovery. Monitors of channels that were not closed stay set aside, or are set aside
/// again, until the closing is proven.
pub(crate) fn end(folder: &Path, keys: &NodeKeys, now: Recovered) -> Result<(), StateError> {
    let open = open_again(folder, keys)?;
    let stored = |secs| i64::try_from(secs).unwrap_or(i64::MAX);
    change(folder, |change| {
        open.iter()
            .try_for_each(|key| pass(change, key, LIVE, ASIDE))?;
        change.execute_batch(
            "DROP TABLE tollhouse_recovery;
             DROP TABLE IF EXISTS tollhouse_put_back;
             DROP TABLE IF EXISTS tollhouse_recovered;
             CREATE TABLE tollhouse_recovered (backup_secs INTEGER NOT NULL, ended_secs INTEGER NOT NULL);",
        )?;
        change.execute(
            "INSERT INTO tollhouse_recovered VALUES (?1, ?2)",
            [stored(now.backup_secs), stored(now.ended_secs)],
        )?;
        Ok(())
    })
}

/// The keys of monitors that were put back but have not found the closing of their channel.
fn open_again(folder: &Path, keys: &NodeKeys) -> Result<Vec<String>, StateError> {
    let mut open = loaded(folder, keys)?;
    open.retain(|channel| channel.is_open);
    for channel in &open {
        tracing::error!(
            "Channel {} with {}: its monitor has not found its closing, and is set aside again; after the recovery it is loaded when the chain \
             source proves the closing",
            hex::encode(channel.channel_id),
            channel.counterparty
        );
    }
    Ok(open.into_iter().map(|channel| channel.key).collect())
}

fn enter(change: &Transaction<'_>, stage: Stage) -> rusqlite::Result<()> {
    let update = "UPDATE tollhouse_recovery SET stage = ?1";
    change.execute(update, [stage.name()]).map(drop)
}

fn change(
    folder: &Path,
    make: impl Fn(&Transaction<'_>) -> rusqlite::Result<()>,
) -> Result<(), StateError> {
    let path = folder.join(FILE);
    let mut connection = open(&path)?;
    let mut change = || {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        make(&change)?;
        change.commit()
    };
    change().map_err(at(&path))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{copy, read};
    use super::*;

    /// A state with a manager and the monitors of two channels, one of them with an update.
    fn state(folder: &Path) -> PathBuf {
        let path = folder.join(FILE);
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA user_version = 2;
                 CREATE TABLE {LIVE} (primary_namespace TEXT NOT NULL, secondary_namespace TEXT DEFAULT \"\" NOT NULL,
                     key TEXT NOT NULL, value BLOB, PRIMARY KEY (primary_namespace, secondary_namespace, key));
                 INSERT INTO {LIVE} VALUES ('', '', 'manager', x'00'), ('', '', 'node_metrics', x'00'), ('', '', 'peers', x'00'),
                     ('monitors', '', 'one', x'01'), ('monitor_updates', 'one', '7', x'02'), ('monitors', '', 'two', x'03');"
            ))
            .unwrap();
        path
    }

    /// A state without channels.
    fn empty(folder: &Path) -> PathBuf {
        let path = state(folder);
        let connection = Connection::open(&path).unwrap();
        let empty = format!("DELETE FROM {LIVE}");
        connection.execute_batch(&empty).unwrap();
        path
    }

    fn keys(folder: &Path) -> NodeKeys {
        NodeKeys::open(&folder.join("words"), bitcoin::Network::Regtest).unwrap()
    }

    /// The keys of the rows in this table, with their namespaces.
    fn rows(path: &Path, table: &str) -> Vec<String> {
        let connection = Connection::open(path).unwrap();
        let sql = format!(
            "SELECT primary_namespace || '/' || secondary_namespace || '/' || key FROM {table} ORDER BY 1"
        );
        let mut statement = connection.prepare(&sql).unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn a_fenced_state_gives_its_monitors_back_only_for_what_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, path) = (folder.path(), state(folder.path()));
        assert_eq!(begin(folder).unwrap(), None);
        fence(&path, 42).unwrap();
        assert_eq!(rows(&path, LIVE), ["//peers"]);
        let at_stage = |stage, put_back| {
            Some(Fence {
                stage,
                backup_secs: 42,
                put_back,
            })
        };
        assert_eq!(begin(folder).unwrap(), at_stage(Stage::Closing, 0));

        // Channel `one` is closed, and does not wait for `two`.
        sort(folder, &loading(&["one"]), Stage::Closing).unwrap();
        let with_one = ["//peers", "monitor_updates/one/7", "monitors//one"];
        assert_eq!(rows(&path, LIVE), with_one);
        assert_eq!(rows(&path, ASIDE), ["monitors//two"]);
        // A manager that ldk-node has created meanwhile is deleted at the next start.
        let connection = Connection::open(&path).unwrap();
        let insert = format!("INSERT INTO {LIVE} VALUES ('', '', 'manager', x'05')");
        connection.execute(&insert, []).unwrap();
        assert_eq!(begin(folder).unwrap(), at_stage(Stage::Closing, 1));
        assert_eq!(rows(&path, LIVE), with_one);
        sort(folder, &Sorted::default(), Stage::Sweeping).unwrap();
        assert_eq!(begin(folder).unwrap(), at_stage(Stage::Sweeping, 1));
        change(folder, |change| enter(change, Stage::Searching)).unwrap();
        assert_eq!(begin(folder).unwrap(), at_stage(Stage::Searching, 1));

        // Monitor `two` waits until its channel is closed, even through another backup and its
        // restore.
        let copied = folder.join("copied");
        copy(folder, &copied).unwrap();
        fence(&copied, 43).unwrap();
        let aside = ["monitor_updates/one/7", "monitors//one", "monitors//two"];
        assert_eq!(rows(&copied, ASIDE), aside);
        sort_left(folder, &loading(&["two"])).unwrap();
        assert_eq!(rows(&path, ASIDE), [""; 0]);
    }

    fn loading(keys: &[&str]) -> Sorted {
        Sorted {
            put_back: keys.iter().map(ToString::to_string).collect(),
            retired: Vec::new(),
        }
    }

    #[test]
    fn a_monitor_that_can_do_nothing_is_kept_and_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, path) = (folder.path(), state(folder.path()));
        fence(&path, 42).unwrap();
        let sorted = Sorted {
            put_back: Vec::new(),
            retired: vec!["one".to_owned()],
        };
        sort(folder, &sorted, Stage::Closing).unwrap();
        assert_eq!(rows(&path, LIVE), ["//peers"]);
        assert_eq!(rows(&path, ASIDE), ["monitors//two"]);
        let retired = ["monitor_updates/one/7", "monitors//one"];
        assert_eq!(rows(&path, RETIRED), retired);
    }

    #[test]
    fn a_recovery_that_is_over_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, path) = (folder.path(), empty(folder.path()));
        let keys = keys(folder);
        assert_eq!(recovered(folder).unwrap(), None);
        fence(&path, 42).unwrap();
        sort(folder, &Sorted::default(), Stage::Sweeping).unwrap();
        search(folder, &keys).unwrap();
        let fence = begin(folder).unwrap().unwrap();
        assert_eq!(fence.stage, Stage::Searching);
        let now = Recovered {
            backup_secs: 42,
            ended_secs: 77,
        };
        end(folder, &keys, now).unwrap();
        assert_eq!(begin(folder).unwrap(), None);
        assert_eq!(recovered(folder).unwrap(), Some(now));
    }

    #[test]
    fn monitors_that_are_set_aside_are_looked_through_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = state(folder.path());
        fence(&path, 42).unwrap();
        let found = read(&path, &keys(folder.path()));
        assert!(matches!(found, Err(StateError::Monitors(_))), "{found:?}");
    }

    #[test]
    fn a_state_of_another_schema_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = state(folder.path());
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA user_version = 3").unwrap();
        let refused = fence(&path, 42);
        assert!(
            matches!(refused, Err(StateError::Schema { found: 3 })),
            "{refused:?}"
        );
        assert_eq!(rows(&path, LIVE).len(), 6);
    }
}
