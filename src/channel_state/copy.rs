//! ldk-node's channel state as a file: copied while the node runs, and read without starting a
//! node. Manager, monitors and wallet are rows of one SQLite table, so one read transaction sees
//! all of them at one moment.

mod aside;
mod channel;
mod error;
mod reading;
mod rows;
mod tables;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use bitcoin::constants::ChainHash;
use bitcoin::{Network, OutPoint};
use lightning::chain::channelmonitor::ChannelMonitor;
use lightning::ln::types::ChannelId;
use lightning::sign::InMemorySigner;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use crate::keys::NodeKeys;

use aside::is_fenced;
use reading::{at, channels, look_again, open};
use tables::{ASIDE, BUSY_TIMEOUT, LIVE};

pub use aside::fence;
pub use channel::MonitoredChannel;
pub use error::StateError;
pub use tables::FILE;

pub(crate) use aside::{
    Fence, Recovered, Sorted, Stage, begin, end, loaded, recovered, search, set_aside, sort,
    sort_left,
};

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

/// The funding outputs of all channels with a monitor, loaded or set aside.
pub(crate) fn fundings(folder: &Path, keys: &NodeKeys) -> Result<HashSet<OutPoint>, StateError> {
    let path = folder.join(FILE);
    let mut known = channels(open(&path)?, LIVE, keys)?;
    known.extend(channels(open(&path)?, ASIDE, keys)?);
    Ok(known.into_iter().map(|channel| channel.funding).collect())
}

/// Prepares a copy for a start without a recovery.
pub fn refresh(path: &Path) -> Result<(), StateError> {
    let connection = open(path)?;
    look_again(&connection).map_err(at(path))
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
