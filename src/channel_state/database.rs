//! Checks ldk-node's SQLite file and prepares it before ldk-node opens it.
//!
//! The content of the file cannot be recreated. If a channel's state is lost, or older than the
//! state that the peer has seen, the peer may take all of the channel's money. So a file that is
//! damaged, empty or missing ends the program. A new file is made only where no node existed
//! before. A power cut may tear the end of the write-ahead log, which is harmless: SQLite checks
//! each entry, and an incomplete entry was never acknowledged.

use std::io;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use super::copy::FILE;
use super::error::ChannelStateError;

/// The file's write-ahead log.
const LOG: &str = "ldk_node_data.sqlite-wal";

/// The name of the file that marks a folder in which a node was made.
pub const MADE: &str = "ldk_node_data.made";

/// The table of keys and values in the file.
const TABLE: &str = "ldk_node_data";

/// The page size of a new file. The most frequent rows (manager, monitor updates, metrics) have a
/// hundred to a few thousand bytes, and SQLite writes whole pages. With its usual 4,096 bytes,
/// SQLite would write nearly twice as much for each sale. Smaller pages have no room for a key of
/// the index.
const PAGE_BYTES: u32 = 1_024;

/// Checks the file and switches it to write-ahead logging. A write then needs one sync instead of
/// four, and a kill has less time to leave the channel manager behind its monitors. The mode is
/// stored in the file, so ldk-node keeps it.
pub(crate) fn prepare(folder: &Path) -> Result<(), ChannelStateError> {
    let path = folder.join(FILE);
    let is_made = folder.join(MADE).exists();
    let lost = || ChannelStateError::Lost { path: path.clone() };
    let has_log = bytes(&folder.join(LOG))? > 0;
    // Checked before SQLite opens the file: SQLite makes a new database of an empty file, and
    // deletes its log.
    if bytes(&path)? == 0 && (is_made || has_log) {
        return Err(lost());
    }
    // A file that was cut during a checkpoint still has the moved pages in its log.
    let alone = Some(bytes(&path)?).filter(|_| !has_log);
    let looked = Connection::open(&path).and_then(|connection| look(&connection, alone));
    match looked {
        Ok(Looked::Damaged(why)) => Err(ChannelStateError::Damaged { path, why }),
        Ok(Looked::Empty) if is_made => Err(lost()),
        Ok(Looked::Empty | Looked::Full) => switch(&path),
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                let why = error.to_string();
                Err(ChannelStateError::Damaged { path, why })
            }
            _ => Err(ChannelStateError::Database {
                path,
                source: error,
            }),
        },
    }
}

/// Records that this folder has a node now. From then on its database must exist.
pub(crate) fn note_made(folder: &Path) -> Result<(), ChannelStateError> {
    let path = folder.join(MADE);
    if !path.exists() {
        std::fs::write(&path, "").map_err(ChannelStateError::Folder)?;
    }
    Ok(())
}

/// Whether this folder holds, or once held, a node's database.
pub(crate) fn is_any(folder: &Path) -> bool {
    [FILE, LOG, MADE]
        .iter()
        .any(|name| folder.join(name).exists())
}

/// The result of the check.
enum Looked {
    /// The file holds no state yet.
    Empty,
    /// The file holds a node's state.
    Full,
    /// The file is damaged, for this reason.
    Damaged(String),
}

/// Reads the whole file, which takes some milliseconds per megabyte. `alone` is the length of a
/// file without a log; such a file consists of whole pages.
fn look(connection: &Connection, alone: Option<u64>) -> rusqlite::Result<Looked> {
    // A damaged file must stay as it is. On close, SQLite would move the log into the file and
    // delete the log.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0));
    let found = text("PRAGMA quick_check(1)")?;
    if found != "ok" {
        return Ok(Looked::Damaged(found));
    }
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let page_bytes = count("PRAGMA page_size")?.unsigned_abs();
    if alone.is_some_and(|length| length % page_bytes != 0) {
        return Ok(Looked::Damaged("its last page is not whole".to_owned()));
    }
    let tables = format!("SELECT count(*) FROM sqlite_master WHERE name = '{TABLE}'");
    if count(&tables)? == 0 || count(&format!("SELECT EXISTS (SELECT 1 FROM {TABLE})"))? == 0 {
        return Ok(Looked::Empty);
    }
    Ok(Looked::Full)
}

fn switch(path: &Path) -> Result<(), ChannelStateError> {
    let switch = || {
        let connection = Connection::open(path)?;
        // SQLite does not change the page size of a file with content.
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        let mode =
            connection.query_row("PRAGMA journal_mode=WAL", [], |row| row.get::<_, String>(0))?;
        // Moves the log into the file. After a failed sync, a part of the log may exist only in
        // memory, and writes after that part are lost with it. Closing the connection moves the log
        // too, but does not report a failure.
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        Ok(mode)
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
        Err(source) => Err(ChannelStateError::Database {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The length of a file; 0 if the file does not exist.
fn bytes(path: &Path) -> Result<u64, ChannelStateError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(ChannelStateError::Folder(error)),
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A database in use, and the length of its log after each write.
    fn in_use(writes: u8, value: &[u8]) -> (TempDir, Connection, Vec<u64>) {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        let connection = Connection::open(folder.path().join(FILE)).unwrap();
        let create = format!("CREATE TABLE {TABLE} (key INTEGER PRIMARY KEY, value BLOB)");
        connection.execute(&create, []).unwrap();
        let mut ends = vec![bytes(&folder.path().join(LOG)).unwrap()];
        for key in 0..writes {
            let insert = format!("INSERT INTO {TABLE} VALUES (?1, ?2)");
            connection.execute(&insert, (key, value)).unwrap();
            ends.push(bytes(&folder.path().join(LOG)).unwrap());
        }
        note_made(folder.path()).unwrap();
        (folder, connection, ends)
    }

    /// Copies the files as a power cut would leave them.
    fn cut(folder: &Path, file: &str, damage: impl Fn(&mut Vec<u8>)) -> TempDir {
        let left = tempfile::tempdir().unwrap();
        for name in [FILE, LOG, MADE] {
            if let Ok(mut bytes) = std::fs::read(folder.join(name)) {
                if name == file {
                    damage(&mut bytes);
                }
                std::fs::write(left.path().join(name), bytes).unwrap();
            }
        }
        left
    }

    fn rows(folder: &Path) -> u64 {
        let connection = Connection::open(folder.join(FILE)).unwrap();
        let count = format!("SELECT count(*) FROM {TABLE}");
        connection.query_row(&count, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_log_torn_anywhere_opens_with_every_write_that_was_whole() {
        let (folder, _connection, ends) = in_use(5, &[7; 5_000]);
        let (first, last) = (ends[1], ends[5]);
        for at in (first..=last).step_by(509).chain(ends[1..].iter().copied()) {
            let whole = ends[1..].iter().filter(|end| **end <= at).count() as u64;
            let kept = usize::try_from(at).unwrap();
            let truncated = cut(folder.path(), LOG, |log| log.truncate(kept));
            // The file may have grown before its bytes were written, and a sector may hold any
            // bytes.
            let empty = cut(folder.path(), LOG, |log| log[kept..].fill(0));
            let garbled = cut(folder.path(), LOG, |log| log[kept..].fill(0xa5));
            for left in [truncated, empty, garbled] {
                prepare(left.path()).unwrap();
                assert_eq!(rows(left.path()), whole, "torn at {at} of {last}");
            }
        }
    }

    #[test]
    fn what_is_in_the_log_is_moved_at_the_start_also_while_another_program_has_it_open() {
        let (folder, _connection, _) = in_use(5, &[7; 5_000]);
        let alone = || cut(folder.path(), LOG, Vec::clear);
        assert!(prepare(alone().path()).is_err(), "it is in the log");
        prepare(folder.path()).unwrap();
        assert_eq!(rows(alone().path()), 5);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_is_refused_and_left_as_it_is() {
        let (folder, connection, _) = in_use(30, &[7; 3_000]);
        drop(connection);
        let length = bytes(&folder.path().join(FILE)).unwrap();
        assert_eq!(bytes(&folder.path().join(LOG)).unwrap(), 0, "it is folded");
        for at in (0..length).step_by(2_039) {
            let kept = usize::try_from(at).unwrap();
            let left = cut(folder.path(), FILE, |file| file.truncate(kept));
            let before = std::fs::read(left.path().join(FILE)).unwrap();
            let refused = prepare(left.path()).unwrap_err();
            assert!(
                matches!(
                    refused,
                    ChannelStateError::Lost { .. } | ChannelStateError::Damaged { .. }
                ),
                "cut at {at} of {length}: {refused:?}"
            );
            assert_eq!(std::fs::read(left.path().join(FILE)).unwrap(), before);
        }
        prepare(folder.path()).unwrap();
        assert_eq!(rows(folder.path()), 30);
    }

    #[test]
    fn a_cut_file_whose_log_is_there_keeps_its_log() {
        let (folder, _connection, _) = in_use(5, &[7; 5_000]);
        for kept in [0, 100, 4_095] {
            let left = cut(folder.path(), FILE, |file| file.truncate(kept));
            let log = std::fs::read(left.path().join(LOG)).unwrap();
            if let Err(refused) = prepare(left.path()) {
                let text = refused.to_string();
                assert!(text.contains("backup"), "{text}");
                assert_eq!(std::fs::read(left.path().join(LOG)).unwrap(), log);
            } else {
                // The log contains all pages of the file.
                assert_eq!(rows(left.path()), 5, "cut to {kept}");
            }
        }
    }

    #[test]
    fn a_file_of_larger_pages_keeps_them_and_is_refused_where_it_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        let connection = Connection::open(&path).unwrap();
        let create = format!("CREATE TABLE {TABLE} (value BLOB); INSERT INTO {TABLE} VALUES (1)");
        connection.execute_batch(&create).unwrap();
        drop(connection);
        prepare(folder.path()).unwrap();
        let length = bytes(&path).unwrap();
        assert_eq!(length % 4_096, 0, "SQLite's own size");
        let kept = usize::try_from(length).unwrap() - 1_024;
        let left = cut(folder.path(), FILE, |file| file.truncate(kept));
        let refused = prepare(left.path()).unwrap_err();
        assert!(
            matches!(refused, ChannelStateError::Damaged { .. }),
            "{refused:?}"
        );
        assert_eq!(rows(folder.path()), 1);
    }

    #[test]
    fn a_new_node_is_made_only_where_there_was_none() {
        let new = tempfile::tempdir().unwrap();
        prepare(new.path()).unwrap();
        // The program was killed before ldk-node wrote anything.
        prepare(new.path()).unwrap();
        let (folder, connection, _) = in_use(1, b"state");
        drop(connection);
        let path = folder.path().join(FILE);
        for gone in [
            |path: &Path| std::fs::remove_file(path),
            |path: &Path| std::fs::write(path, ""),
        ] {
            gone(&path).unwrap();
            let refused = prepare(folder.path()).unwrap_err();
            assert!(
                matches!(refused, ChannelStateError::Lost { .. }),
                "{refused:?}"
            );
        }
        // The file is replaced by an empty database.
        drop(Connection::open(&path).unwrap());
        std::fs::copy(new.path().join(FILE), &path).unwrap();
        let refused = prepare(folder.path()).unwrap_err();
        assert!(
            matches!(refused, ChannelStateError::Lost { .. }),
            "{refused:?}"
        );
    }
}
