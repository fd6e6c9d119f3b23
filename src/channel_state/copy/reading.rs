//! Opens the database file and reads its channels.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::keys::NodeKeys;

use super::channel::MonitoredChannel;
use super::error::StateError;
use super::rows;
use super::tables::{BUSY_TIMEOUT, LIVE, SCHEMA_VERSION};

pub(super) fn channels(
    connection: Connection,
    table: &'static str,
    keys: &NodeKeys,
) -> Result<Vec<MonitoredChannel>, StateError> {
    let monitors = rows::monitors(connection, table, keys).map_err(StateError::Monitors)?;
    Ok(monitors.iter().map(MonitoredChannel::of).collect())
}

/// Makes ldk-node search for wallet addresses beyond those that the backup knows, because it may
/// have given out more since then. ldk-node does this only if it has never synced its wallet.
pub(super) fn look_again(connection: &Connection) -> rusqlite::Result<()> {
    let delete =
        format!("DELETE FROM {LIVE} WHERE primary_namespace = '' AND key = 'node_metrics'");
    connection.execute(&delete, []).map(drop)
}

/// Opens the file for reading and writing, if this program knows its schema.
pub(super) fn open(path: &Path) -> Result<Connection, StateError> {
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

pub(super) fn at(path: &Path) -> impl Fn(rusqlite::Error) -> StateError + use<'_> {
    |source| StateError::Database {
        path: path.to_owned(),
        source,
    }
}
