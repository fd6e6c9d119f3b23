//! ldk-node's channel state as a file: copied while the node runs, and read without starting a
//! node. Manager, monitors and wallet are rows of one SQLite table, so one read transaction sees
//! all of them at one moment.

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

/// The name of ldk-node's file.
pub const FILE: &str = "ldk_node_data.sqlite";

/// ldk-node's table.
const LIVE: &str = "ldk_node_data";

/// Our table in the same file: monitors that must not be loaded yet. ldk-node does not read it.
const ASIDE: &str = "tollhouse_set_aside";

/// The maximum wait while another connection locks the file. ldk-node's own writes take
/// milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The version of ldk-node's schema that this program knows.
const SCHEMA_VERSION: u32 = 2;

/// Why the channel state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file does not exist: the node was never started.
    #[error("there is no channel state in {0}: the node was never started")]
    Missing(PathBuf),
    /// SQLite returned an error.
    #[error("failed to use the channel state {path}")]
    Database {
        /// The file.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },
    /// SQLite finds the file damaged.
    #[error("the channel state is damaged: {0}")]
    Damaged(String),
    /// Another version of ldk-node wrote the file.
    #[error(
        "the channel state has schema {found}, this program knows {SCHEMA_VERSION}: use the program that wrote it"
    )]
    Schema {
        /// The version in the file.
        found: u32,
    },
    /// The content of a row is invalid.
    #[error("the channel state holds no {0} that can be read")]
    Unreadable(&'static str),
    /// The monitors cannot be read.
    #[error("failed to read the channel monitors (are the words those of this node?)")]
    Monitors(#[source] lightning::io::Error),
}

/// The content of a copy of the channel state.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The network, if the copy has a channel manager.
    pub network: Option<Network>,
    /// The height of the chain that the channel manager knew.
    pub height: Option<u32>,
    /// Channels with a monitor: open channels, and closed ones until LDK archives them.
    pub channels: Vec<MonitoredChannel>,
    /// Old channels with a monitor that is set aside until the peer has closed the channel.
    pub set_aside: Vec<MonitoredChannel>,
    /// Whether a recovery is under way in the copy.
    pub is_recovering: bool,
}

/// A channel, as its monitor knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitoredChannel {
    /// The key of its monitor.
    pub key: String,
    /// The channel's id.
    pub channel_id: [u8; 32],
    /// The node id of the channel's peer, hex.
    pub counterparty: String,
    /// The output that holds the channel's money.
    pub funding: OutPoint,
    /// The number of updates that its monitor has seen.
    pub update_id: u64,
    /// The height of the chain that its monitor knows.
    pub height: u32,
    /// Our balance in it, according to its monitor.
    pub balance_sat: u64,
    /// Whether the channel is open: its monitor has not seen a closing.
    pub is_open: bool,
    /// The funding outputs of pending splices.
    pub splices: Vec<OutPoint>,
}

/// Copies the state of one moment to a new file, even while the node runs.
pub fn copy(folder: &Path, into: &Path) -> Result<(), StateError> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Err(StateError::Missing(folder.to_owned()));
    }
    let copy = || {
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // If the program ends during the copy, this connection must not move the log on close. The
        // next start moves it, and notices if that fails.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        // `VACUUM INTO` is one read transaction over the whole file. In WAL mode, a read does not
        // block writers.
        connection.execute("VACUUM INTO ?1", [into.to_string_lossy()])
    };
    copy().map_err(at(&path)).map(drop)
}

/// Checks a copy with SQLite, and reads its content without starting a node.
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
        // A recovery from this copy needs these channels, too.
        set_aside: channels(open(path)?, ASIDE, keys)?,
        is_recovering,
    })
}

/// Whether each channel has anchors, according to its monitor. Works while the node runs.
pub(crate) fn anchors(
    folder: &Path,
    keys: &NodeKeys,
) -> Result<HashMap<ChannelId, bool>, StateError> {
    let path = folder.join(FILE);
    let open = || {
        let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // For the same reason as in `copy`.
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

/// Parses the beginning of LDK's channel manager: two version bytes, the chain hash, and the height
/// of the best block.
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

/// The funding outputs of all channels with a monitor, loaded or set aside.
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
        // The monitor of an open channel watches its funding output and those of its splices. Each
        // of them is the only watched output of its transaction.
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

/// Prepares a copy for a start without a recovery.
pub fn refresh(path: &Path) -> Result<(), StateError> {
    let connection = open(path)?;
    look_again(&connection).map_err(at(path))
}

/// Makes ldk-node search for wallet addresses beyond those that the backup knows, because it may
/// have given out more since then. ldk-node does this only if it has never synced its wallet.
fn look_again(connection: &Connection) -> rusqlite::Result<()> {
    let delete =
        format!("DELETE FROM {LIVE} WHERE primary_namespace = '' AND key = 'node_metrics'");
    connection.execute(&delete, []).map(drop)
}

/// Opens the file for reading and writing, if this program knows its schema.
fn open(path: &Path) -> Result<Connection, StateError> {
    let open = || {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // A stage must be on the disk before the node starts with it, in any journal mode.
        connection.pragma_update(None, "synchronous", "FULL")?;
        // The failure of a checkpoint during a write would go unnoticed. The log keeps all that was
        // written.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        Ok((connection, found))
    };
    let (connection, found) = open().map_err(at(path))?;
    // Version 0 means that this program made the file, and ldk-node has not opened it yet.
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
