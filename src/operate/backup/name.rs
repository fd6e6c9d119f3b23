//! The names of backups.

use std::path::Path;

/// The file name of a backup.
pub(super) fn name_of(file: &Path) -> String {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
