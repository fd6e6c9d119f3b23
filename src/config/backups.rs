//! The settings of backups.

use std::path::Path;
use std::time::Duration;

use crate::base::{error_chain, secret_file};
use crate::operate::backup;

use super::meaning::Meaning;
use super::raw::{Raw, RawS3};
use super::web_address::is_web_address;

/// The shortest time between backups. Each holds the whole channel state and ledger, so more
/// backups would only wear out the disk.
const EVERY_MIN: Duration = Duration::from_secs(60);

impl Meaning<'_> {
    pub(super) fn backups(&mut self, raw: &Raw, data_dir: &Path) -> backup::Config {
        let every = self.span("backup.every", &raw.backup.every);
        if every < EVERY_MIN {
            self.complain("backup.every", "at least 1m");
        }
        let folder = match raw.backup.folder.as_str() {
            "" => data_dir.join("backups"),
            folder => self.secret("backup.folder", folder),
        };
        backup::Config {
            folder,
            every,
            keep: self.at_least_one("backup.keep", raw.backup.keep),
            s3: raw.backup.s3.as_ref().and_then(|raw| self.s3(raw)),
        }
    }

    fn s3(&mut self, raw: &RawS3) -> Option<backup::S3> {
        let prefix = raw.prefix.clone().unwrap_or_default();
        if !prefix.chars().all(is_plain) {
            self.complain(
                "backup.s3.prefix",
                "letters, digits, `-`, `_`, `.` and `/`, as in \"shop/\"",
            );
        }
        let file = self.secret("backup.s3.secret_key_file", &raw.secret_key_file);
        let secret_key = match secret_file::handed_over_line(&file) {
            Ok(secret_key) => secret_key,
            Err(error) => {
                self.complain("backup.s3.secret_key_file", error_chain::chain(&error));
                return None;
            }
        };
        let s3 = backup::S3 {
            endpoint: raw.endpoint.clone(),
            region: raw.region.clone(),
            bucket: raw.bucket.clone(),
            prefix,
            access_key: raw.access_key.clone(),
            secret_key,
            is_path_style: raw.path_style.unwrap_or(true),
        };
        if !is_web_address(&raw.endpoint) || raw.bucket.is_empty() || !s3.is_good() {
            self.complain(
                "backup.s3.endpoint",
                "endpoint and bucket make no URL: write \"https://s3.example.com\" and the bucket's name",
            );
        }
        Some(s3)
    }
}

fn is_plain(char: char) -> bool {
    char.is_ascii_alphanumeric() || "-_./".contains(char)
}
