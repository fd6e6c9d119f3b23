//! Free space and inodes on the disk. Nothing is sold if the node's state or the ledger could not be written.

use std::path::Path;

/// With less the program does not start: stores that are opened on a full disk tear what they write.
pub const START_BYTES: u64 = 16_000_000;

/// With less nothing is sold, so that there is room for what is under way: SQLite's log (4 MB and a channel's monitor), a dump
/// of the books beside the old one (some 30 MB for a hundred thousand sales), and a backup of both.
pub const SELL_BYTES: u64 = 100_000_000;

/// With less the doctor warns: below it the disk may be full within days.
pub const CALM_BYTES: u64 = 1_000_000_000;

/// The same three limits in files: without free inodes, writing fails as on a full disk.
pub const START_FILES: u64 = 100;
/// See [`SELL_BYTES`]: some dozens of files are created at once.
pub const SELL_FILES: u64 = 500;
/// See [`CALM_BYTES`].
pub const CALM_FILES: u64 = 2_000;

/// What may still be written to the disk of this folder, or of the one that it would be made in; `None` if nobody can tell.
pub fn left(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// How many files can still be created there; `None` if unknown, or if the file system does not count inodes.
pub fn files_left(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    (stat.f_files > 0).then_some(stat.f_favail)
}

/// Whether there is room for the data of a sale.
pub fn sells(folder: &Path) -> bool {
    is_there(folder, SELL_BYTES) && files_left(folder).is_none_or(|left| left >= SELL_FILES)
}

/// Whether there is so much room, as far as anybody can tell.
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
