//! The names of the backups that this data folder has made. Only those are ever let go: others of the same node may be all that is
//! left of its channels, where it was begun anew from its words, restored from an older backup, or set back to an older copy of its
//! folder. The list is in each backup, and comes back with it: what it does not know was made later, or elsewhere.

use std::io;
use std::path::Path;

use crate::causes;
use crate::secret_file::{self, SecretFileError};

use super::{BackupError, io_at};

/// A name a line, the newest last, in the data folder.
const FILE: &str = "backup.made";

/// Names that are remembered, of 70 bytes each, 290 KB in all: one a day for eleven years, or ten a day for one. Older ones count as
/// made elsewhere then, and stay.
const NAMES_MAX: usize = 4_096;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Made(Vec<String>);

impl Made {
    /// What this data folder has made. If that cannot be read none is let go, which is always safe.
    pub(super) fn open(data_dir: &Path) -> Self {
        let path = data_dir.join(FILE);
        match secret_file::read(&path) {
            Ok(text) => Self(text.lines().map(str::to_owned).collect()),
            Err(SecretFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::default()
            }
            Err(error) => {
                tracing::warn!(
                    "Backups that were made before are not let go any more: {}",
                    causes::chain(&error)
                );
                Self::default()
            }
        }
    }

    /// Notes one more. Blocks on the disk.
    pub(super) fn note(data_dir: &Path, name: &str) -> Result<(), BackupError> {
        let mut made = Self::open(data_dir);
        if made.has(name) {
            return Ok(());
        }
        made.0.push(name.to_owned());
        let too_many = made.0.len().saturating_sub(NAMES_MAX);
        made.0.drain(..too_many);
        let path = data_dir.join(FILE);
        secret_file::replace(&path, &made.0.join("\n")).map_err(io_at("write", &path))
    }

    /// Whether the backup of this name was made by this data folder.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|made| made == name)
    }

    /// The same of a file.
    pub(super) fn has_file(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| self.has(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_remembered_up_to_a_number_and_what_cannot_be_read_is_nobodys() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        assert_eq!(Made::open(folder), Made::default());
        for name in ["a", "b", "a"] {
            Made::note(folder, name).unwrap();
        }
        assert_eq!(Made::open(folder).0, ["a", "b"]);
        assert!(Made::open(folder).has_file(Path::new("/elsewhere/b")));
        assert!(!Made::open(folder).has_file(Path::new("/elsewhere/c")));

        let many: Vec<_> = (0..NAMES_MAX).map(|name| name.to_string()).collect();
        std::fs::write(folder.join(FILE), many.join("\n")).unwrap();
        Made::note(folder, "last").unwrap();
        let made = Made::open(folder);
        assert_eq!(made.0.len(), NAMES_MAX);
        assert!(made.has("last") && made.has("1") && !made.has("0"));

        // Bytes that are no text.
        std::fs::write(folder.join(FILE), [0xff]).unwrap();
        assert_eq!(Made::open(folder), Made::default());
    }
}
