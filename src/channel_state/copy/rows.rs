//! Reads channel monitors from a table, as ldk-node does, but with no means to act for the
//! channels.

use std::sync::{Mutex, PoisonError};

use bitcoin::Transaction;
use lightning::chain::chaininterface::{
    BroadcasterInterface, ConfirmationTarget, FEERATE_FLOOR_SATS_PER_KW, FeeEstimator,
};
use lightning::chain::channelmonitor::ChannelMonitor;
use lightning::io;
use lightning::sign::InMemorySigner;
use lightning::util::logger::{Logger, Record};
use lightning::util::persist::{KVStoreSync, MonitorUpdatingPersister};
use rusqlite::{Connection, OptionalExtension as _};

use crate::keys::NodeKeys;

/// The value that ldk-node uses. It affects only writes.
const PENDING_UPDATES_MAX: u64 = 100;

/// Reads all monitors in this table, with the updates beside them applied.
pub(super) fn monitors(
    connection: Connection,
    table: &'static str,
    keys: &NodeKeys,
) -> io::Result<Vec<ChannelMonitor<InMemorySigner>>> {
    let rows = Rows {
        connection: Mutex::new(connection),
        table,
    };
    if !rows.is_there()? {
        return Ok(Vec::new());
    }
    let (keys, nobody) = (keys.keys_manager(), Nobody);
    let reader = MonitorUpdatingPersister::new(
        &rows,
        &nobody,
        PENDING_UPDATES_MAX,
        &keys,
        &keys,
        &nobody,
        &nobody,
    );
    let monitors = reader.read_all_channel_monitors_with_updates()?;
    Ok(monitors.into_iter().map(|(_, monitor)| monitor).collect())
}

/// A read-only table with the columns of ldk-node's table.
struct Rows {
    /// A `std` mutex, because LDK requires access from any thread. Held for one query.
    connection: Mutex<Connection>,
    table: &'static str,
}

impl Rows {
    fn query<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> io::Result<T> {
        let connection = self
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        query(&connection).map_err(|error| io::Error::new(io::ErrorKind::Other, error.to_string()))
    }

    fn is_there(&self) -> io::Result<bool> {
        self.query(|connection| {
            connection.query_row(
                "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE name = ?1)",
                [self.table],
                |row| row.get(0),
            )
        })
    }
}

/// The error for a write to a table that is only read.
fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "it is only read")
}

impl KVStoreSync for Rows {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> io::Result<Vec<u8>> {
        let sql = format!(
            "SELECT value FROM {} WHERE primary_namespace = ?1 AND secondary_namespace = ?2 AND key = ?3",
            self.table
        );
        let value = self.query(|connection| {
            connection
                .query_row(&sql, [primary, secondary, key], |row| row.get(0))
                .optional()
        })?;
        value.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no such row"))
    }

    fn write(&self, _: &str, _: &str, _: &str, _: Vec<u8>) -> io::Result<()> {
        Err(read_only())
    }

    fn remove(&self, _: &str, _: &str, _: &str, _: bool) -> io::Result<()> {
        Err(read_only())
    }

    fn list(&self, primary: &str, secondary: &str) -> io::Result<Vec<String>> {
        let sql = format!(
            "SELECT key FROM {} WHERE primary_namespace = ?1 AND secondary_namespace = ?2",
            self.table
        );
        self.query(|connection| {
            let mut statement = connection.prepare(&sql)?;
            let keys = statement.query_map([primary, secondary], |row| row.get(0))?;
            keys.collect()
        })
    }
}

/// A logger, broadcaster and fee estimator without any effect, for monitors that are only read.
struct Nobody;

impl Logger for Nobody {
    fn log(&self, _: Record<'_>) {}
}

impl BroadcasterInterface for Nobody {
    fn broadcast_transactions(&self, _: &[&Transaction]) {}
}

impl FeeEstimator for Nobody {
    fn get_est_sat_per_1000_weight(&self, _: ConfirmationTarget) -> u32 {
        FEERATE_FLOOR_SATS_PER_KW
    }
}
