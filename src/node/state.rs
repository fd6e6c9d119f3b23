//! ldk-node's channel state as a file: copied while the node runs, looked into without starting anything, and set aside
//! for a recovery. Manager, monitors and wallet are rows of one SQLite table, so one read transaction sees them all as they
//! were at one moment.

mod rows;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::constants::ChainHash;
use bitcoin::{Network, OutPoint};
use lightning::chain::channelmonitor::Balance;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior};

use super::keys::NodeKeys;

/// The name that ldk-node gives its file.
pub const FILE: &str = "ldk_node_data.sqlite";

/// ldk-node's table.
const LIVE: &str = "ldk_node_data";

/// Our table in the same file: channel monitors that must not be loaded yet. ldk-node does not look at it.
const ASIDE: &str = "tollhouse_set_aside";

/// How long the file may be held by somebody else: ldk-node's own writes take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// ldk-node's schema, which this program knows.
const SCHEMA_VERSION: u32 = 2;

/// Namespaces whose rows are monitors.
const MONITOR_NAMESPACES: &str = "('monitors', 'monitor_updates')";

/// The rows of one channel's monitor: the monitor, and the changes beside it.
const OF_CHANNEL: &str = "(primary_namespace = 'monitors' AND key = ?1) \
    OR (primary_namespace = 'monitor_updates' AND secondary_namespace = ?1)";

/// What went wrong with the channel state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// There is none: the node was never started.
    #[error("there is no channel state in {0}: the node was never started")]
    Missing(PathBuf),
    /// SQLite refused.
    #[error("failed to use the channel state {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite finds the file damaged.
    #[error("the channel state is damaged: {0}")]
    Damaged(String),
    /// Another ldk-node wrote it.
    #[error(
        "the channel state has schema {found}, this program knows {SCHEMA_VERSION}: use the program that wrote it"
    )]
    Schema {
        /// What was found.
        found: u32,
    },
    /// A row is not what it should be.
    #[error("the channel state holds no {0} that can be read")]
    Unreadable(&'static str),
    /// The monitors cannot be read.
    #[error("failed to read the channel monitors (are the words those of this node?)")]
    Monitors(#[source] lightning::io::Error),
}

/// What a copy of the channel state holds.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The network, as far as the channel manager tells it.
    pub network: Option<Network>,
    /// The block up to which the channel manager knew the chain.
    pub height: Option<u32>,
    /// Channels with a monitor: open ones, and closed ones until LDK archives them.
    pub channels: Vec<MonitoredChannel>,
    /// Old channels whose monitors are set aside, until their peers have closed them.
    pub set_aside: Vec<MonitoredChannel>,
    /// Whether a recovery is under way in it.
    pub is_recovering: bool,
}

/// A channel, as its monitor knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitoredChannel {
    /// What its monitor is stored under.
    pub key: String,
    /// Its id.
    pub channel_id: [u8; 32],
    /// Who is at the other end, hex.
    pub counterparty: String,
    /// The output that holds its money.
    pub funding: OutPoint,
    /// How many changes its monitor has seen.
    pub update_id: u64,
    /// What is ours in it, by what its monitor knows.
    pub balance_sat: u64,
}

/// How far a recovery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No monitors are loaded; peers close the channels.
    Closing,
    /// The closings are buried; monitors are loaded and sweep.
    Sweeping,
    /// What no monitor knows of is searched for.
    Searching,
}

/// The mark that a recovery is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) stage: Stage,
    /// When the backup was made that this state came from, Unix seconds.
    pub(super) backup_secs: u64,
}

/// Copies the state to a new file, as it is at one moment, also while the node runs.
pub fn copy(folder: &Path, into: &Path) -> Result<(), StateError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Err(StateError::Missing(folder.to_owned()));
    }
    let copy = || {
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // If the program ends meanwhile its log is the next start's to move, which hears of it if that fails.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // One read transaction over the whole file; in WAL mode it keeps no writer waiting.
        connection.execute("VACUUM INTO ?1", [into.to_string_lossy()])
    };
    copy().map_err(at(&path)).map(drop)
}

/// Looks into a copy: whether SQLite finds it whole, and what can be read without starting a node.
pub fn read(path: &Path, keys: &NodeKeys) -> Result<State, StateError> {
    let connection = open(path)?;
    let sound: String = connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .map_err(at(path))?;
    if sound != "ok" {
        return Err(StateError::Damaged(sound));
    }
    let manager: Option<Vec<u8>> = connection
        .query_row(
            &format!("SELECT value FROM {LIVE} WHERE primary_namespace = '' AND key = 'manager'"),
            [],
            |row| row.get(0),
        )
        .optional()
        .map_err(at(path))?;
    let (network, height) = match &manager {
        Some(manager) => {
            let (network, height) =
                head(manager).ok_or(StateError::Unreadable("channel manager"))?;
            (Some(network), Some(height))
        }
        None => (None, None),
    };
    let is_recovering = is_fenced(&connection).map_err(at(path))?;
    Ok(State {
        network,
        height,
        channels: channels(connection, LIVE, keys)?,
        set_aside: channels(open(path)?, ASIDE, keys)?,
        is_recovering,
    })
}

/// The beginning of LDK's channel manager: two bytes of version, the chain, the height of the best block.
fn head(manager: &[u8]) -> Option<(Network, u32)> {
    let chain = manager.get(2..34)?;
    let height = manager.get(34..38)?.try_into().ok()?;
    let network = [
        Network::Bitcoin,
        Network::Testnet,
        Network::Signet,
        Network::Regtest,
    ]
    .into_iter()
    .find(|network| ChainHash::using_genesis_block(*network).to_bytes() == chain)?;
    Some((network, u32::from_be_bytes(height)))
}

fn channels(
    connection: Connection,
    table: &'static str,
    keys: &NodeKeys,
) -> Result<Vec<MonitoredChannel>, StateError> {
    let monitors = rows::monitors(connection, table, keys).map_err(StateError::Monitors)?;
    let channels = monitors.iter().map(|monitor| {
        let balances = monitor.get_claimable_balances();
        let sat = balances.iter().map(Balance::claimable_amount_satoshis);
        MonitoredChannel {
            key: monitor.persistence_key().to_string(),
            channel_id: monitor.channel_id().0,
            counterparty: monitor.get_counterparty_node_id().to_string(),
            funding: monitor.get_funding_txo().into_bitcoin_outpoint(),
            update_id: monitor.get_latest_update_id(),
            balance_sat: sat.sum(),
        }
    });
    Ok(channels.collect())
}

/// Turns a copy into the beginning of a recovery: the channel manager goes, the monitors are set aside, so that whatever
/// program opens this file can sign nothing for the old channels; and the wallet is to look for all of its addresses again.
pub fn fence(path: &Path, backup_secs: u64) -> Result<(), StateError> {
    let mut connection = open(path)?;
    let mut change = || {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {ASIDE} AS SELECT * FROM {LIVE} WHERE FALSE;
             INSERT INTO {ASIDE} SELECT * FROM {LIVE} WHERE primary_namespace IN {MONITOR_NAMESPACES};
             DELETE FROM {LIVE} WHERE primary_namespace IN {MONITOR_NAMESPACES};
             DROP TABLE IF EXISTS tollhouse_recovery;
             CREATE TABLE tollhouse_recovery (stage TEXT NOT NULL, backup_secs INTEGER NOT NULL);"
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

/// What a copy needs before it is started without a recovery.
pub fn refresh(path: &Path) -> Result<(), StateError> {
    let connection = open(path)?;
    look_again(&connection).map_err(at(path))
}

/// ldk-node asks for addresses beyond those that it knows to have given away only if it never synchronised its wallet; after
/// the backup it may have given away more.
fn look_again(connection: &Connection) -> rusqlite::Result<()> {
    let delete =
        format!("DELETE FROM {LIVE} WHERE primary_namespace = '' AND key = 'node_metrics'");
    connection.execute(&delete, []).map(drop)
}

/// ldk-node makes an empty one where there is none.
fn forget_manager(connection: &Connection) -> rusqlite::Result<()> {
    let delete = format!("DELETE FROM {LIVE} WHERE primary_namespace = '' AND key = 'manager'");
    connection.execute(&delete, []).map(drop)
}

/// Whether a recovery is under way in this file.
fn is_fenced(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row(
        "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'tollhouse_recovery')",
        [],
        |row| row.get(0),
    )
}

/// Whether a recovery is under way in this folder. On each start of one the channel manager is forgotten again: one that was
/// written since knows nothing of the old channels, and LDK would broadcast our old state for monitors that it lacks.
pub(super) fn begin(folder: &Path) -> Result<Option<Fence>, StateError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let connection = open(&path)?;
    let look = || {
        if !is_fenced(&connection)? {
            return Ok(None);
        }
        let fence = connection.query_row(
            "SELECT stage, backup_secs FROM tollhouse_recovery",
            [],
            |row| {
                let stage: String = row.get(0)?;
                let backup_secs: i64 = row.get(1)?;
                Ok((stage, u64::try_from(backup_secs).unwrap_or(0)))
            },
        )?;
        forget_manager(&connection)?;
        Ok(Some(fence))
    };
    match look().map_err(at(&path))? {
        None => Ok(None),
        Some((stage, backup_secs)) => {
            let stage = match &*stage {
                "closing" => Stage::Closing,
                "sweeping" => Stage::Sweeping,
                "searching" => Stage::Searching,
                _ => return Err(StateError::Unreadable("stage of the recovery")),
            };
            Ok(Some(Fence { stage, backup_secs }))
        }
    }
}

/// The channels whose monitors are set aside.
pub(super) fn set_aside(
    folder: &Path,
    keys: &NodeKeys,
) -> Result<Vec<MonitoredChannel>, StateError> {
    let path = folder.join(FILE);
    if !path.exists() {
        // A first start.
        return Ok(Vec::new());
    }
    channels(open(&path)?, ASIDE, keys)
}

/// Puts these channels' monitors back. Only when their closings are buried: until then they could make the node broadcast an old
/// state. The others stay set aside.
pub(super) fn put_back(folder: &Path, keys: &[String]) -> Result<(), StateError> {
    put_back_and(folder, keys, "")
}

/// The same, and goes on to the second stage, at once.
pub(super) fn put_back_and_sweep(folder: &Path, keys: &[String]) -> Result<(), StateError> {
    let sweep = "UPDATE tollhouse_recovery SET stage = 'sweeping';";
    put_back_and(folder, keys, sweep)
}

fn put_back_and(folder: &Path, keys: &[String], then: &str) -> Result<(), StateError> {
    let path = folder.join(FILE);
    let mut connection = open(&path)?;
    let mut change = || {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for key in keys {
            for sql in [
                format!("INSERT OR REPLACE INTO {LIVE} SELECT * FROM {ASIDE} WHERE {OF_CHANNEL}"),
                format!("DELETE FROM {ASIDE} WHERE {OF_CHANNEL}"),
            ] {
                change.execute(&sql, [key])?;
            }
        }
        change.execute_batch(then)?;
        change.commit()
    };
    change().map_err(at(&path))
}

/// Goes on to the last stage.
pub(super) fn search(folder: &Path) -> Result<(), StateError> {
    change_stage(folder, "UPDATE tollhouse_recovery SET stage = 'searching';")
}

/// Takes the fence down. Monitors of channels that nobody has closed stay set aside.
pub(super) fn end(folder: &Path) -> Result<(), StateError> {
    change_stage(folder, "DROP TABLE tollhouse_recovery;")
}

fn change_stage(folder: &Path, sql: &str) -> Result<(), StateError> {
    let path = folder.join(FILE);
    let mut connection = open(&path)?;
    let mut change = || {
        let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        change.execute_batch(sql)?;
        change.commit()
    };
    change().map_err(at(&path))
}

/// Opens the file for reading and writing, if it is of the schema that this program knows.
fn open(path: &Path) -> Result<Connection, StateError> {
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A stage is on the disk before the node starts by it, whatever the journal mode.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Nobody would be told if that failed in the middle of a write; what is written is in the log.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok((connection, found))
    };
    let (connection, found) = open().map_err(at(path))?;
    // 0 is a file that we made ourselves, and that ldk-node has not opened yet.
    if found != SCHEMA_VERSION && found != 0 {
        return Err(StateError::Schema { found });
    }
    Ok(connection)
}

fn at(path: &Path) -> impl Fn(rusqlite::Error) -> StateError + use<'_> {
    |source| StateError::Database {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state with a manager, and monitors of two channels with a change beside one of them.
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

    /// Keys of the rows in this table, with their namespaces.
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
        let at_stage = |stage| {
            Some(Fence {
                stage,
                backup_secs: 42,
            })
        };
        assert_eq!(begin(folder).unwrap(), at_stage(Stage::Closing));

        // What ldk-node makes of its own in the meantime is forgotten with the next start.
        let connection = Connection::open(&path).unwrap();
        let insert = format!("INSERT INTO {LIVE} VALUES ('', '', 'manager', x'05')");
        connection.execute(&insert, []).unwrap();
        put_back_and_sweep(folder, &["one".to_owned()]).unwrap();
        assert_eq!(begin(folder).unwrap(), at_stage(Stage::Sweeping));
        assert_eq!(
            rows(&path, LIVE),
            ["//peers", "monitor_updates/one/7", "monitors//one"]
        );
        search(folder).unwrap();
        assert_eq!(begin(folder).unwrap(), at_stage(Stage::Searching));
        end(folder).unwrap();
        assert_eq!(begin(folder).unwrap(), None);

        // The other waits until its channel is closed, also through another backup and its restore.
        let copied = folder.join("copied");
        copy(folder, &copied).unwrap();
        fence(&copied, 43).unwrap();
        let aside = ["monitor_updates/one/7", "monitors//one", "monitors//two"];
        assert_eq!(rows(&copied, ASIDE), aside);
        put_back(folder, &["two".to_owned()]).unwrap();
        assert_eq!(rows(&path, ASIDE), [""; 0]);
        assert_eq!(begin(folder).unwrap(), None);
    }

    #[test]
    fn a_copy_that_outlives_the_program_leaves_its_log_to_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = state(folder.path());
        let log = path.with_extension("sqlite-wal");
        let connection = Connection::open(&path).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        let change = "PRAGMA journal_mode = WAL; UPDATE ldk_node_data SET value = x'07'";
        connection.execute_batch(change).unwrap();
        drop(connection);
        let before = std::fs::read(&log).unwrap();
        assert!(!before.is_empty());
        copy(folder.path(), &folder.path().join("copied")).unwrap();
        assert!(std::fs::read(&log).unwrap() == before);
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

    #[test]
    fn the_head_of_a_manager_tells_network_and_height() {
        let mut manager = vec![1, 1];
        manager.extend(ChainHash::using_genesis_block(Network::Signet).to_bytes());
        manager.extend(7_u32.to_be_bytes());
        assert_eq!(head(&manager), Some((Network::Signet, 7)));
        manager[2] ^= 1;
        assert_eq!(head(&manager), None);
        assert_eq!(head(&[]), None);
    }
}
