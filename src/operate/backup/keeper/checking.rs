//! Verifying this data folder's backups, so that a damaged file is found before it is needed.

use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};

use http::StatusCode;

use crate::base::{disk_space, error_chain};
use crate::operate::backup::create::Staging;
use crate::operate::backup::error::BackupError;
use crate::operate::backup::remote::{Remote, RemoteError};
use crate::operate::backup::verify::{room_wanted, verify};

use super::checks::{Checks, Seen, Verdict};
use super::status::Own;
use super::{Backups, CHECKS};

/// The folder in the data folder that a backup is unpacked to for a check.
const SCRATCH: &str = "backup.check";

/// The folder in the data folder for a backup that was fetched from the store.
const FETCHED: &str = "backup.fetched";

impl Backups {
    /// Verifies the newest backup in the folder if a check is due, and makes another one if it is
    /// bad. Blocks on the disk.
    pub(super) fn check(&self) {
        if self.node.recovery().is_under_way() {
            return;
        }
        let Some(Own {
            kept: newest,
            seen: Some(seen),
        }) = self.newest()
        else {
            return;
        };
        let now_secs = self.clock.unix_secs();
        if !self.checks().is_due(&seen, now_secs) {
            return;
        }
        let verdict = self.look_through(&newest.path);
        self.note(|checks| checks.folder.end(&seen, now_secs, &verdict));
        let file = newest.path.display();
        match verdict {
            Verdict::Good => tracing::info!("The newest backup is good: {file}"),
            Verdict::Unknown(why) => {
                tracing::warn!("The newest backup, {file}, could not be looked through: {why}");
            }
            Verdict::Bad(why) => {
                tracing::error!("The newest backup is of no use, another one is made: {why}");
                self.remake(now_secs);
            }
        }
    }

    /// Makes a backup to replace a bad one.
    fn remake(&self, now_secs: u64) {
        let mut may = false;
        self.note(|checks| may = checks.may_remake(now_secs));
        if !may {
            tracing::error!(
                "No other backup is made now, for the last one was made in the place of a bad one, too: is the disk failing?"
            );
            return;
        }
        match self.create() {
            Ok(_) => self.note(|checks| {
                if let Some(bad) = &mut checks.folder.bad {
                    bad.is_replaced = true;
                }
            }),
            Err(error) => {
                tracing::error!("Failed to make a backup: {}", error_chain::chain(&error))
            }
        }
    }

    /// Fetches the newest backup from the store and verifies it, if a check is due. A bad one is
    /// sent again.
    pub(super) async fn check_store(self: &Arc<Self>) {
        let Some(remote) = &self.remote else {
            return;
        };
        let path = self.sent().newest.clone();
        let Some((path, seen)) = path.and_then(|path| Seen::of(&path).map(|seen| (path, seen)))
        else {
            return;
        };
        let now_secs = self.clock.unix_secs();
        if !self.checks().is_store_due(now_secs) {
            return;
        }
        // Record the check before fetching, so that a program that is killed repeatedly does not
        // fetch the backup at every start.
        let begun = seen.clone();
        self.off(move |backups| backups.note(|checks| checks.store.begin(&begun, now_secs)))
            .await;
        let verdict = self.fetch_and_look(remote, &seen).await;
        let (name, place) = (seen.name.clone(), remote.place());
        match &verdict {
            Verdict::Good => tracing::info!("The backup {name} in the store at {place} is good"),
            Verdict::Unknown(why) => tracing::warn!(
                "The backup {name} in the store at {place} could not be looked through: {why}"
            ),
            Verdict::Bad(why) => {
                tracing::error!(
                    "The backup {name} in the store at {place} is of no use, it is sent again: {why}"
                );
                let mut sent = self.sent();
                if sent.newest.as_ref() == Some(&path) {
                    sent.newest = None;
                }
            }
        }
        let end = move |checks: &mut Checks| {
            checks.store.end(&seen, now_secs, &verdict);
            if verdict == Verdict::Good {
                checks.store.bad = None;
            }
        };
        self.off(move |backups| backups.note(end)).await;
    }

    async fn fetch_and_look(self: &Arc<Self>, remote: &Remote, seen: &Seen) -> Verdict {
        let unknown = |error: &dyn std::error::Error| Verdict::Unknown(error_chain::chain(error));
        if let Some(why) = self.too_little_room(seen.bytes) {
            return Verdict::Unknown(why);
        }
        let staging = match Staging::begin(&self.source.data_dir.join(FETCHED)) {
            Ok(staging) => staging,
            Err(error) => return unknown(&error),
        };
        let file = staging.0.join(&seen.name);
        match remote.fetch(&seen.name, seen.bytes, &file).await {
            Ok(()) => {}
            Err(error @ RemoteError::Longer(_)) => return Verdict::Bad(error_chain::chain(&error)),
            Err(RemoteError::Status { status, said }) if status == StatusCode::NOT_FOUND => {
                return Verdict::Bad(format!("it is not there ({said})"));
            }
            Err(error) => return unknown(&error),
        }
        let looked = self.off(move |backups| {
            let verdict = backups.look_through(&file);
            drop(staging);
            verdict
        });
        looked
            .await
            .unwrap_or_else(|| Verdict::Unknown("looking through it panicked".to_owned()))
    }

    /// Verifies a backup, like `tollhouse backup verify`. Blocks on the disk.
    fn look_through(&self, file: &Path) -> Verdict {
        let bytes = file.metadata().map_or(0, |there| there.len());
        if let Some(why) = self.too_little_room(bytes) {
            return Verdict::Unknown(why);
        }
        // The turn keeps backups from being made or deleted meanwhile, and protects the scratch
        // folder.
        let _turn = self.turn();
        let scratch = self.source.data_dir.join(SCRATCH);
        let look = || {
            let network = Some(self.source.network);
            verify(file, &self.source.keys, network, &scratch, &self.clock)
        };
        // Rebuilding the copy of the ledger would log messages that seem to be about the real
        // ledger.
        let silent = tracing::subscriber::NoSubscriber::default();
        match tracing::subscriber::with_default(silent, look) {
            Ok(_) => Verdict::Good,
            Err(error) if is_of_the_file(&error, file) => Verdict::Bad(error_chain::chain(&error)),
            Err(error) => Verdict::Unknown(error_chain::chain(&error)),
        }
    }

    /// Why there is too little disk space to unpack a backup of this length; `None` if there is
    /// enough.
    fn too_little_room(&self, bytes: u64) -> Option<String> {
        let free = disk_space::left(&self.source.data_dir)?;
        let wanted = room_wanted(bytes);
        (free < wanted).then(|| {
            let (free, wanted) = (free / 1_000_000, wanted / 1_000_000);
            format!("that takes up to {wanted} MB of room, and {free} MB are free: make room")
        })
    }

    /// The results of earlier checks.
    pub(super) fn checks(&self) -> MutexGuard<'_, Checks> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the results and writes them to their file. Blocks on the disk.
    pub(super) fn note(&self, change: impl FnOnce(&mut Checks)) {
        let mut checks = self.checks();
        change(&mut checks);
        if let Err(error) = checks.keep(&self.source.data_dir.join(CHECKS)) {
            tracing::warn!("Failed to note what is known of the backups: {error}");
        }
    }

    /// Runs blocking work on another thread; `None` if it panicked.
    pub(super) async fn off<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Option<T> {
        let backups = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || work(&backups));
        done.await.ok()
    }
}

/// Whether the error is due to the backup itself rather than to the disk that it is unpacked to.
fn is_of_the_file(error: &BackupError, file: &Path) -> bool {
    match error {
        BackupError::Io { path, .. } => path == file,
        BackupError::State(_)
        | BackupError::Ledger(_)
        | BackupError::Seed(_)
        | BackupError::NoBackup(_)
        | BackupError::Newer { .. }
        | BackupError::OtherWords(_)
        | BackupError::Damaged { .. }
        | BackupError::OtherNetwork { .. } => true,
        BackupError::Recovering
        | BackupError::NotOnServer(_)
        | BackupError::NotEmpty(_)
        | BackupError::NotNewest(_)
        | BackupError::Older { .. }
        | BackupError::NotSent(_)
        | BackupError::NotAsked { .. } => false,
    }
}
