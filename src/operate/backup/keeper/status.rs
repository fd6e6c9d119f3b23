//! The status of the backups. For the folder, it shows the result of the last listing, so that an
//! unreachable network folder does not delay the answer.

use std::path::{Path, PathBuf};

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::error_chain;
use crate::operate::backup::config::{CHECKS, Config};
use crate::operate::backup::error::io_at;
use crate::operate::backup::folder::{self, Kept};
use crate::operate::backup::made::Made;
use crate::operate::backup::name::name_of;
use crate::operate::backup::remote::Others;

use super::checks::{Checks, Seen};

/// The status of the backups.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BackupStatus {
    /// The folder of the backups.
    #[schema(value_type = String)]
    pub folder: PathBuf,
    /// The number of backups that this data folder made.
    pub count: usize,
    /// The newest backup that this data folder made.
    #[schema(value_type = Option<String>)]
    pub newest: Option<PathBuf>,
    /// The age of the newest backup, in seconds.
    pub age_secs: Option<u64>,
    /// When a channel last became ready or was closed, Unix seconds.
    pub channels_changed_secs: Option<u64>,
    /// Whether the newest backup was made before that change.
    pub is_behind_channels: bool,
    /// The newest backup that was verified, as with `tollhouse backup verify`, and found good.
    #[schema(value_type = Option<String>)]
    pub verified: Option<PathBuf>,
    /// The age of the verified backup, in seconds.
    pub verified_age_secs: Option<u64>,
    /// When the verified backup was checked, Unix seconds.
    pub verified_secs: Option<u64>,
    /// Whether a channel has changed since the verified backup was made, or no backup is verified.
    pub is_verified_behind_channels: bool,
    /// The damage of a backup in the folder that was found bad.
    pub damage: Option<String>,
    /// Why the last attempt to make a backup failed, if it did.
    pub error: Option<String>,
    /// How long a backup has been in the making or under verification, in seconds.
    pub busy_secs: Option<u64>,
    /// The number of backups of this node in the folder that this data folder did not make. They
    /// are never deleted.
    pub others: usize,
    /// The name of the newest backup counted in `others`.
    pub newest_other: Option<String>,
    /// The S3-compatible store, if there is one.
    pub s3: Option<RemoteStatus>,
}

/// The status of the store.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RemoteStatus {
    /// The place of the store.
    pub place: String,
    /// Whether the store holds the newest backup.
    pub has_newest: bool,
    /// How long the store has been known to lack the newest backup, in seconds.
    pub lacks_newest_secs: Option<u64>,
    /// Why sending the newest backup failed, if it did.
    pub error: Option<String>,
    /// The number of backups of this node in the store that this data folder did not make. They are
    /// never deleted.
    pub others: usize,
    /// The name of the newest of them.
    pub newest_other: Option<String>,
    /// The name of the backup that was last fetched back and found good.
    pub verified: Option<String>,
    /// When that backup was checked, Unix seconds.
    pub verified_secs: Option<u64>,
    /// The damage found in the last backup fetched from the store; cleared when a good one is
    /// fetched.
    pub damage: Option<String>,
}

/// A backup that this data folder made.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) kept: Kept,
    /// The properties of its file; `None` if the file was deleted meanwhile.
    pub(super) seen: Option<Seen>,
}

/// The content of the folder when it was last read.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// The backups that this data folder made, the newest first.
    pub(super) own: Vec<Own>,
    /// The other backups of this node.
    pub(super) others: Others,
    /// The names of all backups that this data folder made.
    pub(super) made: Made,
    /// Why the folder could not be read.
    error: Option<String>,
}

impl Listing {
    /// Reads the folder and separates this data folder's own backups. Blocks on the disk, and
    /// without end if the folder is on an unreachable machine.
    pub(super) fn of(folder: &Path, made: Made, node_id: &str) -> Self {
        match folder::of(folder, node_id) {
            Ok(kept) => {
                let is_own = |kept: &Kept| made.has_file(&kept.path);
                let (own, others): (Vec<_>, Vec<_>) = kept.into_iter().partition(is_own);
                let seen = |kept: Kept| Own {
                    seen: Seen::of(&kept.path),
                    kept,
                };
                Self {
                    own: own.into_iter().map(seen).collect(),
                    others: Others {
                        count: others.len(),
                        newest: others.first().map(|newest| name_of(&newest.path)),
                    },
                    made,
                    error: None,
                }
            }
            Err(error) => Self {
                made,
                error: Some(error_chain::chain(&io_at("look into", folder)(error))),
                ..Self::default()
            },
        }
    }

    /// The status of the folder, without the store, failed attempts and work in progress.
    pub(super) fn status(
        &self,
        folder: &Path,
        checks: &Checks,
        channels_changed_secs: Option<u64>,
        now_secs: u64,
    ) -> BackupStatus {
        let newest = self.own.first();
        let is_good = |own: &&Own| {
            own.seen
                .as_ref()
                .is_some_and(|seen| checks.folder.is_good(seen))
        };
        let verified = self.own.iter().find(is_good);
        let made_secs = |own: &Own| own.kept.made_secs(now_secs).unwrap_or(now_secs);
        let is_before_change = |own: Option<&Own>| {
            channels_changed_secs
                .is_some_and(|changed| own.map(made_secs).is_none_or(|made| made < changed))
        };
        let age_secs = |own: &Own| now_secs - made_secs(own);
        let bad = checks.folder.bad.as_ref().filter(|bad| {
            let is_it = |own: &Own| own.seen.as_ref() == Some(&bad.seen);
            self.own.iter().any(is_it)
        });
        BackupStatus {
            folder: folder.to_owned(),
            count: self.own.len(),
            newest: newest.map(|newest| newest.kept.path.clone()),
            age_secs: newest.map(age_secs),
            channels_changed_secs,
            is_behind_channels: is_before_change(newest),
            verified: verified.map(|verified| verified.kept.path.clone()),
            verified_age_secs: verified.map(age_secs),
            verified_secs: verified
                .and(checks.folder.good.as_ref())
                .map(|good| good.secs),
            is_verified_behind_channels: is_before_change(verified),
            damage: bad.map(|bad| {
                let then = if bad.is_replaced {
                    "another one was made"
                } else {
                    "no other one could be made yet"
                };
                format!("{}; {then}", bad.why)
            }),
            error: self.error.clone(),
            busy_secs: None,
            others: self.others.count,
            newest_other: self.others.newest.clone(),
            s3: None,
        }
    }
}

/// The status of the backups while the program is not running. Blocks on the disk.
pub fn at_rest(
    config: &Config,
    data_dir: &Path,
    node_folder: &Path,
    node_id: &str,
    now_secs: u64,
) -> BackupStatus {
    let made = Made::open_or_older(data_dir, node_folder);
    let listing = Listing::of(&config.folder, made, node_id);
    let checks = Checks::open(&data_dir.join(CHECKS));
    listing.status(&config.folder, &checks, None, now_secs)
}
