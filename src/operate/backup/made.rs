//! The list of backups that this data folder made. Only these are ever deleted. Other backups of
//! the same node may be all that is left of its channels: the node may have been recreated from its
//! seed words, restored from an older backup, or reset to an older copy of its folder.
//!
//! Each backup contains the list, so a restore brings it back. Backups that are not in the list
//! were made later or elsewhere. Older programs kept no list and wrote names without a mark. If an
//! older program made the node, names without a mark belong to this data folder.

use std::io;
use std::path::Path;

use crate::base::error_chain;
use crate::base::secret_file::{self, SecretFileError};
use crate::node::made as node_made;

use super::error::{BackupError, io_at};

/// The file in the data folder, with one name per line, the newest last.
pub(super) const FILE: &str = "backup.made";

/// The first line of the file, if names without a mark belong to this data folder.
const UNMARKED: &str = "all that have no mark";

/// The number of hyphens in a name without a mark. A mark adds one more.
const UNMARKED_HYPHENS: usize = 2;

/// The maximum number of names in the list: 70 bytes each, 290 KB in all. They last eleven years
/// with one backup a day, or one year with ten a day. Older names then count as made elsewhere, and
/// their backups are never deleted.
const NAMES_MAX: usize = 4_096;

/// The content of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    /// The names, the newest last.
    names: Vec<String>,
    /// Whether names without a mark belong to this data folder.
    has_unmarked: bool,
}

impl Made {
    /// Reads the list. If the list cannot be read, it counts as empty: then no backup is deleted,
    /// which is always safe.
    pub(super) fn open(data_dir: &Path) -> Self {
        Self::read(data_dir).unwrap_or_else(|error| {
            tracing::warn!(
                "Backups that were made before are not let go any more: {}",
                error_chain::chain(&error)
            );
            Self::default()
        })
    }

    /// Reads the list and fails if it is unreadable. Callers that write the list must not replace
    /// an unreadable one.
    pub(super) fn read(data_dir: &Path) -> Result<Self, BackupError> {
        let path = data_dir.join(FILE);
        match secret_file::read(&path) {
            Ok(text) => Ok(Self {
                names: text
                    .lines()
                    .filter(|line| *line != UNMARKED)
                    .map(str::to_owned)
                    .collect(),
                has_unmarked: text.lines().any(|line| line == UNMARKED),
            }),
            Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            // The inner error says what to do.
            Err(error) => Err(io_at("read", &path)(io::Error::other(error))),
        }
    }

    /// Reads the list as it will be after `adopt`, without writing it.
    pub(super) fn open_or_older(data_dir: &Path, node_folder: &Path) -> Self {
        if is_older(data_dir, node_folder) {
            Self::older()
        } else {
            Self::open(data_dir)
        }
    }

    /// Records that an older program made backups here, if this is the first start after the
    /// upgrade. Blocks on the disk.
    pub(super) fn adopt(data_dir: &Path, node_folder: &Path) -> Result<(), BackupError> {
        if is_older(data_dir, node_folder) {
            Self::older().write(data_dir)?;
        }
        Ok(())
    }

    fn older() -> Self {
        Self {
            names: Vec::new(),
            has_unmarked: true,
        }
    }

    /// Adds a name to the list. Blocks on the disk.
    pub(super) fn note(data_dir: &Path, name: &str) -> Result<(), BackupError> {
        let mut made = Self::read(data_dir)?;
        if made.has(name) {
            return Ok(());
        }
        made.names.push(name.to_owned());
        let too_many = made.names.len().saturating_sub(NAMES_MAX);
        made.names.drain(..too_many);
        made.write(data_dir)
    }

    fn write(&self, data_dir: &Path) -> Result<(), BackupError> {
        let path = data_dir.join(FILE);
        let unmarked = self.has_unmarked.then_some(UNMARKED);
        let names = self.names.iter().map(String::as_str);
        let lines: Vec<_> = unmarked.into_iter().chain(names).collect();
        secret_file::replace(&path, &lines.join("\n")).map_err(io_at("write", &path))
    }

    /// Whether the backup of this name was made by this data folder.
    pub(super) fn has(&self, name: &str) -> bool {
        let is_unmarked = name.matches('-').count() == UNMARKED_HYPHENS;
        (self.has_unmarked && is_unmarked) || self.names.iter().any(|made| made == name)
    }

    /// Whether this file's backup was made by this data folder.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| self.has(name))
    }
}

/// Whether the last program that ran here kept no list. Then there is a node, but neither a list
/// nor the mark that this program writes beside each node. A node that this program recreated
/// beside the backups of a lost one has that mark.
fn is_older(data_dir: &Path, node_folder: &Path) -> bool {
    !data_dir.join(FILE).exists()
        && node_made::is_there(node_folder)
        && !node_made::mark(node_folder).exists()
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::channel_state::copy;

    const OLDER: &str = "tollhouse-0202020202020202-20000229T000000Z.backup";
    const MARKED: &str = "tollhouse-0202020202020202-20000229T000000Z-ab000102.backup";

    #[test]
    fn what_an_older_program_made_is_let_go_as_before_and_a_node_begun_anew_has_made_none() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, node) = (folder.path(), folder.path().join("node"));
        let is_own = || {
            Made::adopt(folder, &node).unwrap();
            let made = Made::open(folder);
            assert_eq!(made, Made::open_or_older(folder, &node));
            (made.has(OLDER), made.has(MARKED))
        };
        assert_eq!(is_own(), (false, false), "before there is a node");
        std::fs::create_dir(&node).unwrap();
        std::fs::write(node.join(copy::FILE), "").unwrap();
        // The mark that this program writes beside a node.
        std::fs::write(node_made::mark(&node), "").unwrap();
        assert_eq!(is_own(), (false, false), "begun anew");
        std::fs::remove_file(node_made::mark(&node)).unwrap();
        assert!(Made::open_or_older(folder, &node).has(OLDER));
        assert!(!Made::open(folder).has(OLDER), "looking changes nothing");
        assert_eq!(is_own(), (true, false), "the first start");

        std::fs::write(node_made::mark(&node), "").unwrap();
        let many: Vec<_> = (0..NAMES_MAX).map(|name| name.to_string()).collect();
        let many = format!("{UNMARKED}\n{}", many.join("\n"));
        secret_file::replace(&folder.join(FILE), &many).unwrap();
        Made::note(folder, MARKED).unwrap();
        assert_eq!(is_own(), (true, true), "and ever after");
        assert_eq!(Made::open(folder).names.len(), NAMES_MAX);
        // A list without the line for unmarked names, as a restore writes it.
        std::fs::remove_file(node_made::mark(&node)).unwrap();
        secret_file::replace(&folder.join(FILE), MARKED).unwrap();
        assert_eq!(is_own(), (false, true), "restored");
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        Made::note(folder, "a").unwrap();
        let path = folder.join(FILE);
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Made::open(folder), Made::default());
        let refused = Made::note(folder, "b").unwrap_err();
        let told = error_chain::chain(&refused);
        assert!(told.contains("chmod 600"), "{told}");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(Made::open(folder).names, ["a"]);
    }

    #[test]
    fn what_was_made_is_remembered_up_to_a_number_and_what_cannot_be_read_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(Made::open(folder), Made::default());
        for name in ["a", "b", "a"] {
            Made::note(folder, name).unwrap();
        }
        assert_eq!(Made::open(folder).names, ["a", "b"]);
        assert!(Made::open(folder).has_file(Path::new("/elsewhere/b")));
        assert!(!Made::open(folder).has_file(Path::new("/elsewhere/c")));

        let many: Vec<_> = (0..NAMES_MAX).map(|name| name.to_string()).collect();
        std::fs::write(folder.join(FILE), many.join("\n")).unwrap();
        Made::note(folder, "last").unwrap();
        let made = Made::open(folder);
        assert_eq!(made.names.len(), NAMES_MAX);
        assert!(made.has("last") && made.has("1") && !made.has("0"));

        // Bytes that are not valid UTF-8.
        std::fs::write(folder.join(FILE), [0xff]).unwrap();
        assert_eq!(Made::open(folder), Made::default());
        assert!(Made::note(folder, "next").is_err());
    }
}
