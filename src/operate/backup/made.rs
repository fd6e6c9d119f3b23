//! The names of the backups that this data folder has made. Only those are ever let go: others of the same node may be all that is
//! left of its channels, where it was begun anew from its words, restored from an older backup, or set back to an older copy of its
//! folder. The list is in each backup, and comes back with it: what it does not know was made later, or elsewhere. Older programs
//! kept no list, and drew no mark for their names: where one has made the node, what has no mark is this data folder's own.

use std::io;
use std::path::Path;

use crate::base::error_chain;
use crate::base::secret_file::{self, SecretFileError};
use crate::node::made as node_made;

use super::{BackupError, io_at};

/// A name a line, the newest last, in the data folder.
const FILE: &str = "backup.made";

/// The first line, where what has no mark in its name is this data folder's own.
const UNMARKED: &str = "all that have no mark";

/// Hyphens in a name without a mark; a mark brings one more.
const UNMARKED_HYPHENS: usize = 2;

/// Names that are remembered, of 70 bytes each, 290 KB in all: one a day for eleven years, or ten a day for one. Older ones count as
/// made elsewhere then, and stay.
const NAMES_MAX: usize = 4_096;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made {
    /// The names, the newest last.
    names: Vec<String>,
    /// Whether those without a mark are among them.
    has_unmarked: bool,
}

impl Made {
    /// What this data folder has made. If that cannot be read none is let go, which is always safe.
    pub(super) fn open(data_dir: &Path) -> Self {
        Self::read(data_dir).unwrap_or_else(|error| {
            tracing::warn!(
                "Backups that were made before are not let go any more: {}",
                error_chain::chain(&error)
            );
            Self::default()
        })
    }

    /// The same where what cannot be read must not be replaced.
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
            // It says what to do about it.
            Err(error) => Err(io_at("read", &path)(io::Error::other(error))),
        }
    }

    /// What counts as made by this data folder, before the first start after that of an older program, too.
    pub(super) fn open_or_older(data_dir: &Path, node_folder: &Path) -> Self {
        if is_older(data_dir, node_folder) {
            Self::older()
        } else {
            Self::open(data_dir)
        }
    }

    /// Notes that an older program made backups here, if this is the first start after it. Blocks on the disk.
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

    /// Notes one more. Blocks on the disk.
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

    /// The same of a file.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| self.has(name))
    }
}

/// Whether the last program that ran here kept no list: there is a node, and neither a list nor the mark that this program makes
/// beside each node. One that this program has begun anew beside the backups of a lost one has that mark.
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
        // What this program makes beside a node.
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
        // A list without that line, as a restore makes it.
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

        // Bytes that are no text.
        std::fs::write(folder.join(FILE), [0xff]).unwrap();
        assert_eq!(Made::open(folder), Made::default());
        assert!(Made::note(folder, "next").is_err());
    }
}
