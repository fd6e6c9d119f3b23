//! ldk-node's SQLite file, made before ldk-node first opens it.

use std::path::Path;

use super::NodeError;

/// The name that ldk-node gives its file.
pub(super) const FILE: &str = "ldk_node_data.sqlite";

/// Switches the file to write-ahead logging: one sync a write instead of four, and a shorter window in which a kill leaves
/// the channel manager behind its monitors. The mode is a property of the file, so ldk-node keeps it.
pub(super) fn prepare(folder: &Path) -> Result<(), NodeError> {
    let path = folder.join(FILE);
    let switch = || {
        let connection = rusqlite::Connection::open(&path)?;
        connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0))
    };
    match switch() {
        Ok(mode) => {
            if mode != "wal" {
                tracing::warn!(
                    "The node's database stays in journal mode {mode}: payments take longer"
                );
            }
            Ok(())
        }
        Err(source) => Err(NodeError::Database { path, source }),
    }
}
