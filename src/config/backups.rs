//! The settings of backups.

use std::path::Path;
use std::time::Duration;

use crate::backup;

use super::Meaning;
use super::raw::Raw;

/// More often they would only wear out the disk: each is all of the channel state and the books.
const EVERY_MIN: Duration = Duration::from_secs(60);

impl Meaning<'_> {
    pub(super) fn backups(&mut self, raw: &Raw, data_dir: &Path) -> backup::Config {
        let every = self.span("backup.every", &raw.backup.every);
        if every < EVERY_MIN {
            self.complain("backup.every", "at least 1m");
        }
        let folder = &raw.backup.folder;
        backup::Config {
            folder: if folder.is_empty() {
                data_dir.join("backups")
            } else {
                self.folder.join(folder)
            },
            every,
            keep: self.at_least_one("backup.keep", raw.backup.keep),
        }
    }
}
