//! Updates of monitors that a kill takes back.
//!
//! A kill between an update's write and its sync would cost the channel, for the manager behind it cannot know of a write that
//! has not returned. So an update stands in the log with a mark until it is synced, and the next start takes a marked one back:
//! the manager and the peer have never heard of it, and whoever writes to a store cannot tell that from a kill a moment
//! earlier. LDK's own store in files is no different, which gives a file its name after the sync.
//!
//! Three things are never taken back:
//!
//! - What was marked before this boot of the system. After a power cut it is the mark's removal that may be lost.
//! - What might have been heard of without the peer: LDK hands transactions to the chain before it writes that it closes a
//!   channel. So only updates are marked that are known to change what the monitor holds, and nothing else
//!   ([`is_inward`]).
//! - What a copy of the file holds ([`forget`]): it was taken while the write was under way, and that has ended long since.

use std::io::Read as _;

use ldk_node::io::sqlite_store::KV_TABLE_NAME;
use lightning::util::persist::CHANNEL_MONITOR_UPDATE_PERSISTENCE_PRIMARY_NAMESPACE as UPDATES;
use lightning::util::ser::{BigSize, Readable as _};
use rusqlite::Connection;

/// The table of the marks.
const MARKS: &str = "tollhouse_unsynced";

/// Where Linux says which boot this is.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// In front of an update's steps: the version twice, its number, and how many steps there are.
const HEAD_BYTES: usize = 1 + 1 + 8 + 8;

/// The kinds of steps that hand nothing to anybody, as LDK 0.2 numbers them: commitments of both sides (0, 1, 6, 8), a
/// preimage (2) and the secret that revokes a commitment (3). On a channel that is being closed a preimage lets the monitor
/// claim its money at once; that claim tells the chain what its payer gets to know anyway, and pays to us whatever the monitor
/// knows of it.
const INWARD: [u8; 6] = [0, 1, 2, 3, 6, 8];

/// How updates are marked in this boot.
pub(super) struct Marks {
    /// Names this boot of the system; without one nothing is marked.
    boot: Option<String>,
}

impl Marks {
    /// Takes back what was marked in this boot and says how much of it there was; forgets all marks. Marks are wanted where a
    /// write and its sync are two steps.
    pub(super) fn open(
        connection: &Connection,
        are_wanted: bool,
    ) -> rusqlite::Result<(Self, usize)> {
        let this_boot = std::fs::read_to_string(BOOT).ok();
        connection.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {MARKS} (
                 boot TEXT NOT NULL, secondary_namespace TEXT NOT NULL, key TEXT NOT NULL,
                 PRIMARY KEY ( secondary_namespace, key )
             ) WITHOUT ROWID;"
        ))?;
        let both = connection.unchecked_transaction()?;
        let taken_back = both.execute(
            &format!(
                "DELETE FROM {KV_TABLE_NAME} WHERE primary_namespace=?1 AND EXISTS (
                     SELECT 1 FROM {MARKS} WHERE boot=?2 AND {MARKS}.key={KV_TABLE_NAME}.key
                     AND {MARKS}.secondary_namespace={KV_TABLE_NAME}.secondary_namespace
                 )"
            ),
            (UPDATES, &this_boot),
        )?;
        both.execute(&format!("DELETE FROM {MARKS}"), [])?;
        both.commit()?;
        let boot = this_boot.filter(|_| are_wanted);
        Ok((Self { boot }, taken_back))
    }

    /// Puts an update into the log, with a mark if it can be taken back. Says whether it has one.
    pub(super) fn put(
        &self,
        connection: &Connection,
        channel: &str,
        key: &str,
        update: &[u8],
    ) -> rusqlite::Result<bool> {
        let boot = self.boot.as_deref().filter(|_| is_inward(update));
        let both = connection.unchecked_transaction()?;
        let is_new = both
            .prepare_cached(&format!(
                "INSERT OR IGNORE INTO {KV_TABLE_NAME}
                 (primary_namespace, secondary_namespace, key, value) VALUES (?1, ?2, ?3, ?4)"
            ))?
            .execute((UPDATES, channel, key, update))?
            == 1;
        match boot {
            Some(boot) if is_new => {
                both.prepare_cached(&format!(
                    "INSERT INTO {MARKS} (boot, secondary_namespace, key) VALUES (?1, ?2, ?3)"
                ))?
                .execute((boot, channel, key))?;
            }
            Some(_) | None => {}
        }
        if !is_new {
            // What it replaces could not be put back.
            both.prepare_cached(&format!(
                "UPDATE {KV_TABLE_NAME} SET value=?4
                 WHERE primary_namespace=?1 AND secondary_namespace=?2 AND key=?3"
            ))?
            .execute((UPDATES, channel, key, update))?;
        }
        both.commit()?;
        Ok(is_new && boot.is_some())
    }

    /// The update is on the disk.
    pub(super) fn remove(
        &self,
        connection: &Connection,
        channel: &str,
        key: &str,
    ) -> rusqlite::Result<()> {
        connection
            .prepare_cached(&format!(
                "DELETE FROM {MARKS} WHERE secondary_namespace=?1 AND key=?2"
            ))?
            .execute([channel, key])?;
        Ok(())
    }
}

/// Takes the marks out of a copy.
pub(in crate::node) fn forget(copy: &Connection) -> rusqlite::Result<()> {
    copy.execute_batch(&format!("DROP TABLE IF EXISTS {MARKS}"))
}

/// Whether an update only changes what the monitor holds. What cannot be read is not.
fn is_inward(update: &[u8]) -> bool {
    let Some((head, mut steps)) = update.split_at_checked(HEAD_BYTES) else {
        return false;
    };
    let mut count = [0; 8];
    count.copy_from_slice(&head[HEAD_BYTES - 8..]);
    let count = u64::from_be_bytes(count);
    (0..count).all(|_| step(&mut steps).is_some_and(|kind| INWARD.contains(&kind))) && count > 0
}

/// The kind of the next step, which is a type, a length and as many bytes.
fn step(rest: &mut &[u8]) -> Option<u8> {
    let mut kind = [0];
    rest.read_exact(&mut kind).ok()?;
    let length: BigSize = BigSize::read(rest).ok()?;
    *rest = rest.get(usize::try_from(length.0).ok()?..)?;
    Some(kind[0])
}

#[cfg(test)]
mod tests {
    use ldk_node::io::sqlite_store::SQLITE_DB_FILE_NAME;
    use lightning::util::persist::KVStoreSync;

    use super::super::Rows;
    use super::super::tests::open;
    use super::*;

    /// An update of steps of these kinds.
    fn update(kinds: &[u8]) -> Vec<u8> {
        let mut bytes = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 7];
        bytes.extend((kinds.len() as u64).to_be_bytes());
        for kind in kinds {
            bytes.extend([*kind, 3, 0, 1, 9]);
        }
        bytes
    }

    /// Stops in front of the sync.
    fn killed_in_an_update(folder: &std::path::Path, key: &str, kinds: &[u8]) {
        let rows = open(folder);
        let connection = rows.0.connection.lock().unwrap();
        let marks = &rows.0.marks;
        marks
            .put(&connection, "channel", key, &update(kinds))
            .unwrap();
    }

    fn kept(rows: &Rows) -> Vec<String> {
        let mut kept = KVStoreSync::list(rows, UPDATES, "channel").unwrap();
        kept.sort();
        kept
    }

    #[test]
    fn an_update_that_was_not_synced_is_taken_back_after_a_kill() {
        let folder = tempfile::tempdir().unwrap();
        let rows = open(folder.path());
        KVStoreSync::write(&rows, UPDATES, "channel", "1", update(&[8, 3])).unwrap();
        drop(rows);
        killed_in_an_update(folder.path(), "2", &[8, 3]);
        let rows = open(folder.path());
        assert_eq!(kept(&rows), ["1"]);
        // Written again, it stays; and so does what replaces another.
        for value in [update(&[8]), update(&[6])] {
            KVStoreSync::write(&rows, UPDATES, "channel", "2", value.clone()).unwrap();
            let read = KVStoreSync::read(&rows, UPDATES, "channel", "2").unwrap();
            assert_eq!(read, value);
        }
        drop(rows);
        killed_in_an_update(folder.path(), "2", &[8, 3]);
        assert_eq!(kept(&open(folder.path())), ["1", "2"]);
    }

    #[test]
    fn what_the_chain_may_have_heard_of_is_never_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let closing = [&[4][..], &[8, 4], &[5], &[10], &[12], &[7], &[14], &[]];
        for (number, kinds) in closing.iter().enumerate() {
            killed_in_an_update(folder.path(), &number.to_string(), kinds);
        }
        assert_eq!(kept(&open(folder.path())).len(), closing.len());
        for garbage in [&[][..], &[1; 17], &[1; 18], &update(&[8])[..20]] {
            assert!(!is_inward(garbage), "{garbage:?}");
        }
    }

    #[test]
    fn after_a_power_cut_and_in_a_copy_nothing_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let other_boot = |connection: &Connection| {
            let update = format!("UPDATE {MARKS} SET boot='the boot before'");
            connection.execute(&update, []).map(drop)
        };
        for (key, happens) in [
            ("1", &other_boot as &dyn Fn(&Connection) -> _),
            ("2", &forget),
        ] {
            killed_in_an_update(folder.path(), key, &[8]);
            let connection = Connection::open(folder.path().join(SQLITE_DB_FILE_NAME)).unwrap();
            happens(&connection).unwrap();
        }
        assert_eq!(kept(&open(folder.path())), ["1", "2"]);
    }
}
