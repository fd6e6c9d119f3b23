//! A recovery that an older version of this program began.

use rusqlite::{Connection, TransactionBehavior};

use super::{LIVE, PUT_BACK, Stage, is_table};

/// Creates the table with the keys of the monitors that a recovery has put back, if it is missing.
/// Older versions kept no keys, but they put back all monitors at once, and no channel is opened
/// during a recovery. So after the first stage of such a recovery, all loaded monitors were put
/// back.
pub(super) fn make_put_back(connection: &mut Connection, stage: &str) -> rusqlite::Result<()> {
    if is_table(connection, "tollhouse_put_back")? {
        return Ok(());
    }
    let change = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    change.execute_batch(PUT_BACK)?;
    if stage != Stage::Closing.name() {
        let insert = format!(
            "INSERT OR IGNORE INTO tollhouse_put_back SELECT key FROM {LIVE} WHERE primary_namespace = 'monitors'"
        );
        change.execute(&insert, [])?;
    }
    change.commit()
}

#[cfg(test)]
mod tests {
    use super::super::{begin, loaded, put_back};
    use super::*;
    use crate::channel_state::copy::error::StateError;
    use crate::channel_state::copy::tables::FILE;
    use crate::keys::NodeKeys;

    #[test]
    fn a_recovery_that_an_older_program_began_knows_what_was_put_back() {
        for (stage, known) in [
            (Stage::Closing, 0),
            (Stage::Sweeping, 1),
            (Stage::Searching, 1),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path();
            let keys = NodeKeys::open(&folder.join("words"), bitcoin::Network::Regtest).unwrap();
            let connection = Connection::open(folder.join(FILE)).unwrap();
            connection
                .execute_batch(&format!(
                    "CREATE TABLE {LIVE} (primary_namespace TEXT NOT NULL, secondary_namespace TEXT DEFAULT \"\" NOT NULL,
                         key TEXT NOT NULL, value BLOB, PRIMARY KEY (primary_namespace, secondary_namespace, key));
                     INSERT INTO {LIVE} VALUES ('', '', 'peers', x'00'), ('monitors', '', 'one', x'01'), ('monitor_updates', 'one', '7', x'02');
                     CREATE TABLE tollhouse_recovery (stage TEXT NOT NULL, backup_secs INTEGER NOT NULL);
                     INSERT INTO tollhouse_recovery VALUES ('{}', 42);",
                    stage.name()
                ))
                .unwrap();
            // The second call changes nothing, because the table exists.
            for _ in 0..2 {
                let fence = begin(folder).unwrap().unwrap();
                assert_eq!((fence.stage, fence.put_back), (stage, known));
            }
            let is_known = put_back(&connection).unwrap().contains("one");
            assert_eq!(is_known, known == 1);
            // `loaded` reads the row and reports that it is not a monitor.
            let found = loaded(folder, &keys);
            assert!(matches!(found, Err(StateError::Monitors(_))), "{found:?}");
        }
    }
}
