//! What the operator is told of the backups: of those in the folder by what was found when it was last looked into, so that a folder
//! on a network that is gone keeps nobody waiting.

use std::path::{Path, PathBuf};

use serde::Serialize;
use utoipa::ToSchema;

use crate::base::error_chain;
use crate::operate::backup::create::name_of;
use crate::operate::backup::folder::{self, Kept};
use crate::operate::backup::made::Made;
use crate::operate::backup::remote::Others;
use crate::operate::backup::{CHECKS, Config, io_at};

use super::checks::{Checks, Seen};

/// What the operator is told of the backups.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BackupStatus {
    /// The folder.
    #[schema(value_type = String)]
    pub folder: PathBuf,
    /// How many there are that this data folder has made.
    pub count: usize,
    /// The newest of them.
    #[schema(value_type = Option<String>)]
    pub newest: Option<PathBuf>,
    /// How old that is, in seconds.
    pub age_secs: Option<u64>,
    /// When a channel last became ready or was closed, Unix seconds.
    pub channels_changed_secs: Option<u64>,
    /// Whether the newest was made before that.
    pub is_behind_channels: bool,
    /// The newest that was looked through, as by `tollhouse backup verify`, and found good.
    #[schema(value_type = Option<String>)]
    pub verified: Option<PathBuf>,
    /// How old that is, in seconds.
    pub verified_age_secs: Option<u64>,
    /// When it was last looked through, Unix seconds.
    pub verified_secs: Option<u64>,
    /// Whether a channel has changed since that one was made, or none was found good.
    pub is_verified_behind_channels: bool,
    /// What is wrong with a backup in the folder that was found bad.
    pub damage: Option<String>,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
    /// For how long one is being made or looked through, in seconds.
    pub busy_secs: Option<u64>,
    /// How many backups of this node are in the folder that this data folder did not make; they are never let go.
    pub others: usize,
    /// The name of the newest of them.
    pub newest_other: Option<String>,
    /// The S3-compatible store, if there is one.
    pub s3: Option<RemoteStatus>,
}

/// What the operator is told of the store.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RemoteStatus {
    /// Where it is.
    pub place: String,
    /// Whether it holds the newest backup.
    pub has_newest: bool,
    /// For how long it is known not to hold it, in seconds.
    pub lacks_newest_secs: Option<u64>,
    /// Why not, if it was tried.
    pub error: Option<String>,
    /// How many backups of this node are there that this data folder did not make; they are never let go.
    pub others: usize,
    /// The name of the newest of them.
    pub newest_other: Option<String>,
    /// The name of the backup that was last fetched back and found good.
    pub verified: Option<String>,
    /// When that was, Unix seconds.
    pub verified_secs: Option<u64>,
    /// What was wrong with one that was fetched back, until one is found good.
    pub damage: Option<String>,
}

/// A backup that this data folder has made.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) kept: Kept,
    /// Its file; `None` if it went away under our eyes.
    pub(super) seen: Option<Seen>,
}

/// What was in the folder when it was last looked into.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// What this data folder has made, the newest first.
    pub(super) own: Vec<Own>,
    /// What else there is of this node.
    pub(super) others: Others,
    /// The names of all that this data folder has made.
    pub(super) made: Made,
    /// Why it could not be looked into.
    error: Option<String>,
}

impl Listing {
    /// Looks into it, by what this data folder has made. Blocks on the disk, for ever if that is one of a machine that is gone.
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

    /// What there is to tell of it; nothing yet of the store, of attempts that failed, and of one that is under way.
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

/// What is known of the backups while the program does not run. Blocks on the disk.
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
