//! ldk-node's channel state as a file: copied while the node runs, and looked into without starting anything. Manager, monitors
//! and wallet are rows of one SQLite table, so one read transaction sees them all as they were at one moment.

mod aside;
mod rows;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bitcoin::constants::ChainHash;
use bitcoin::{Network, OutPoint};
use lightning::chain::channelmonitor::{Balance, ChannelMonitor};
use lightning::ln::types::ChannelId;
use lightning::sign::InMemorySigner;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::keys::NodeKeys;

use aside::is_fenced;

pub use aside::fence;

pub(crate) use aside::{
    Fence, Recovered, Sorted, Stage, begin, end, loaded, recovered, search, set_aside, sort,
    sort_left,
};

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
    /// The block up to which its monitor knows the chain.
    pub height: u32,
    /// What is ours in it, by what its monitor knows.
    pub balance_sat: u64,
    /// Whether its monitor has seen no closing of it.
    pub is_open: bool,
    /// The outputs that its money would go to by splices that were under way.
    pub splices: Vec<OutPoint>,
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
        // A recovery from this copy wants these, too.
        set_aside: channels(open(path)?, ASIDE, keys)?,
        is_recovering,
    })
}

/// Which channels have anchors, as their monitors say; also while the node runs.
pub(crate) fn anchors(
    folder: &Path,
    keys: &NodeKeys,
) -> Result<HashMap<ChannelId, bool>, StateError> {
    let path = folder.join(FILE);
    let open = || {
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // As in `copy`.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(connection)
    };
    let monitors = rows::monitors(open().map_err(at(&path))?, LIVE, keys);
    let monitors = monitors.map_err(StateError::Monitors)?;
    let has_anchors = |monitor: &ChannelMonitor<InMemorySigner>| {
        let features = monitor.channel_type_features();
        features.requires_anchors_zero_fee_htlc_tx()
    };
    let types = monitors.iter().map(|it| (it.channel_id(), has_anchors(it)));
    Ok(types.collect())
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
    Ok(monitors.iter().map(MonitoredChannel::of).collect())
}

/// The funding outputs of all channels that have a monitor, whether it is loaded or set aside.
pub(crate) fn fundings(folder: &Path, keys: &NodeKeys) -> Result<HashSet<OutPoint>, StateError> {
    let path = folder.join(FILE);
    let mut known = channels(open(&path)?, LIVE, keys)?;
    known.extend(channels(open(&path)?, ASIDE, keys)?);
    Ok(known.into_iter().map(|channel| channel.funding).collect())
}

impl MonitoredChannel {
    fn of(monitor: &ChannelMonitor<InMemorySigner>) -> Self {
        let balances = monitor.get_claimable_balances();
        let sat = balances.iter().map(Balance::claimable_amount_satoshis);
        let funding = monitor.get_funding_txo().into_bitcoin_outpoint();
        // Of an open channel a monitor watches its funding, and those of splices, each one output of a transaction.
        let watched = monitor.get_outputs_to_watch().into_iter();
        let splices = watched.filter_map(|(txid, outputs)| match outputs.as_slice() {
            [(vout, _)] if txid != funding.txid => Some(OutPoint::new(txid, *vout)),
            [..] => None,
        });
        Self {
            key: monitor.persistence_key().to_string(),
            channel_id: monitor.channel_id().0,
            counterparty: monitor.get_counterparty_node_id().to_string(),
            funding,
            update_id: monitor.get_latest_update_id(),
            height: monitor.current_best_block().height,
            balance_sat: sat.sum(),
            is_open: balances
                .iter()
                .any(|balance| matches!(balance, Balance::ClaimableOnChannelClose { .. })),
            splices: splices.collect(),
        }
    }
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

    #[test]
    fn a_copy_that_outlives_the_program_leaves_its_log_to_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let log = folder.join(FILE).with_extension("sqlite-wal");
        let connection = Connection::open(folder.join(FILE)).unwrap();
        connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .unwrap();
        let change = "PRAGMA journal_mode = WAL; CREATE TABLE rows (value BLOB); INSERT INTO rows VALUES (x'07')";
        connection.execute_batch(change).unwrap();
        drop(connection);
        let before = std::fs::read(&log).unwrap();
        assert!(!before.is_empty());
        copy(folder, &folder.join("copied")).unwrap();
        assert!(std::fs::read(&log).unwrap() == before);
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
