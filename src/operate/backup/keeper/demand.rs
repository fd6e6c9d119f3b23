//! Backups after changes that must not be lost and do not concern channels: revocations and new
//! master keys.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio::time::{Instant, timeout_at};

use super::{BackupError, Backups, Created};

/// The time between two backups made for revocations, so that a hundred revocations make one
/// backup. The right to revoke therefore does not suffice to fill the disk or to displace older
/// backups.
const FOLLOWS_EVERY: Duration = Duration::from_secs(5 * 60);

/// How long a key rotation waits until the store has the backup. A backup has some megabytes.
const SENT_WITHIN: Duration = Duration::from_secs(120);

impl Backups {
    /// Requests a backup for a change that does not concern channels. The backup is made within
    /// seconds, or up to five minutes after the last one.
    pub fn follow(&self) {
        self.lacking.note();
    }

    /// Whether enough time has passed since the last backup for one on request.
    pub(super) fn may_follow(&self) -> bool {
        let made_at = *self
            .made_at
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        made_at.is_none_or(|at| at.elapsed() >= FOLLOWS_EVERY)
    }

    /// Checks after a start whether a revocation or a new key is missing from the newest backup.
    /// Reads the file once. Blocks on the disk.
    pub(super) fn note_what_is_lacking(&self) {
        let now_secs = self.clock.unix_secs();
        let made_secs = self.newest().and_then(|own| own.kept.made_secs(now_secs));
        // An unreadable ledger ends the program elsewhere, so the error is ignored here.
        let revoked_secs = self.ledger.revoked_secs().ok().flatten();
        let key_secs = changed_secs(&self.source.data_dir.join("master.key"));
        let changed_secs = revoked_secs.max(key_secs);
        if made_secs.is_some_and(|made| changed_secs.is_some_and(|changed| changed >= made)) {
            self.lacking.note();
        }
    }

    /// Makes a backup now and, if there is a store, waits until the store has it.
    pub async fn create_and_send(self: &Arc<Self>) -> Result<Created, BackupError> {
        let mut tries = self.lacking.tries.subscribe();
        let backups = Arc::clone(self);
        let created = tokio::task::spawn_blocking(move || backups.create());
        let created = created.await.expect("making a backup does not panic")?;
        if self.remote.is_none() {
            return Ok(created);
        }
        let deadline = Instant::now() + SENT_WITHIN;
        loop {
            if self.sent().newest.as_ref() == Some(&created.file) {
                return Ok(created);
            }
            if !matches!(timeout_at(deadline, tries.changed()).await, Ok(Ok(()))) {
                break;
            }
            if let Some(why) = self.failed_to_send(&created.file) {
                return Err(BackupError::NotSent(why));
            }
        }
        let why = format!(
            "the upload to the store did not finish within {} s",
            SENT_WITHIN.as_secs()
        );
        Err(BackupError::NotSent(why))
    }

    /// Why this backup is not in the store; `None` if sending it has not failed.
    fn failed_to_send(&self, file: &Path) -> Option<String> {
        let sent = self.sent();
        let (.., of) = sent.pause.as_ref()?;
        let is_it = of.as_deref() == Some(file);
        sent.error.clone().filter(|_| is_it)
    }
}

/// When a file was last modified, Unix seconds.
fn changed_secs(path: &Path) -> Option<u64> {
    let changed = path.metadata().ok()?.modified().ok()?;
    Some(changed.duration_since(UNIX_EPOCH).ok()?.as_secs())
}
