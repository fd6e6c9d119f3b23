//! Free space and free inodes on the disk. The program sells only while the disk has space for the
//! node's state and the ledger.

use std::path::Path;

/// The free bytes that a start needs. A store that is opened on a full disk damages its files.
pub const START_BYTES: u64 = 16_000_000;

/// The free bytes that selling needs. They hold the writes already under way: SQLite's log (4 MB
/// and a channel's monitor), a dump of the ledger beside the old dump (about 30 MB for a hundred
/// thousand sales), and a backup of both.
pub const SELL_BYTES: u64 = 100_000_000;

/// The free bytes below which the doctor warns, because the disk may be full within days.
pub const CALM_BYTES: u64 = 1_000_000_000;

/// The free inodes that a start needs. Without free inodes, writes fail as on a full disk.
pub const START_FILES: u64 = 100;
/// The free inodes that selling needs. Some dozens of files are created at once.
pub const SELL_FILES: u64 = 500;
/// The free inodes below which the doctor warns.
pub const CALM_FILES: u64 = 2_000;

/// The free bytes on the disk of this folder, or of its nearest existing parent; `None` if unknown.
pub fn left(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// The number of files that can still be created on this disk; `None` if unknown, or if the file
/// system does not count inodes.
pub fn files_left(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    (stat.f_files > 0).then_some(stat.f_favail)
}

/// Whether the disk has enough space for the data of a sale.
pub fn sells(folder: &Path) -> bool {
    is_there(folder, SELL_BYTES) && files_left(folder).is_none_or(|left| left >= SELL_FILES)
}

/// Whether the disk has this much free space. Unknown free space counts as enough.
pub fn is_there(folder: &Path, bytes: u64) -> bool {
    left(folder).is_none_or(|left| left >= bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_made_yet_has_the_room_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("a/b");
        assert!(left(&missing).unwrap() > 0);
        assert!(is_there(&missing, 1));
        assert!(!is_there(&missing, u64::MAX));
    }
}
