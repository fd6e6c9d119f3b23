//! Backups by themselves: on a schedule, and after every change of the channels.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::causes;
use crate::clock::Clock;
use crate::ledger::{Ledger, LedgerError};
use crate::node::Node;

use super::folder::{self, Kept};
use super::remote::Remote;
use super::{BackupError, Config, Created, Source, io_at};

/// How often the age of the newest is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long the channels must have been quiet: opening one takes several steps within seconds.
const QUIET: Duration = Duration::from_secs(5);

/// How long the first look waits: the node makes its state in the first second of its first run.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(5);

/// How long the store is left alone after it failed once, and each time twice as long, up to the next.
const RETRY_FIRST: Duration = LOOK_EVERY;

/// The longest pause: a store that is down for a day is asked a hundred times, and found again in a quarter of an hour.
const RETRY_MAX: Duration = Duration::from_secs(15 * 60);

/// Makes backups of the running program.
#[derive(Debug)]
pub struct Backups {
    config: Config,
    source: Source,
    node: Arc<Node>,
    ledger: Arc<Ledger>,
    clock: Clock,
    /// One at a time. A `std` mutex: held on a thread that may block, for as long as a backup takes.
    turn: Mutex<()>,
    /// Why the last one failed. A `std` mutex: held to copy a line.
    failed: Mutex<Option<String>>,
    /// The store that they are sent to.
    remote: Option<Remote>,
    /// What came of that. A `std` mutex: held to copy a line or two.
    sent: Mutex<Sent>,
    /// One was made on demand.
    made: Notify,
}

/// What is known of the store.
#[derive(Clone, Debug, Default)]
struct Sent {
    /// The newest backup that it holds for certain.
    newest: Option<PathBuf>,
    /// Why the newest one of all is not there.
    error: Option<String>,
    /// How long the store is left alone after the last failure, and until when that is; a new backup does not wait for it.
    pause: Option<(Duration, Instant)>,
}

/// What the operator is told of the backups.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BackupStatus {
    /// The folder.
    #[schema(value_type = String)]
    pub folder: PathBuf,
    /// How many there are.
    pub count: usize,
    /// The newest.
    #[schema(value_type = Option<String>)]
    pub newest: Option<PathBuf>,
    /// How old that is, in seconds.
    pub age_secs: Option<u64>,
    /// When a channel last became ready or was closed, Unix seconds.
    pub channels_changed_secs: Option<u64>,
    /// Whether the newest was made before that.
    pub is_behind_channels: bool,
    /// Why the last attempt failed, if it did.
    pub error: Option<String>,
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
    /// Why not, if it was tried.
    pub error: Option<String>,
}

impl Backups {
    /// Makes none yet.
    pub fn new(
        config: Config,
        source: Source,
        node: Arc<Node>,
        ledger: Arc<Ledger>,
        clock: Clock,
    ) -> Self {
        Self {
            remote: config.s3.as_ref().and_then(Remote::new),
            sent: Mutex::default(),
            made: Notify::new(),
            config,
            source,
            node,
            ledger,
            clock,
            turn: Mutex::new(()),
            failed: Mutex::new(None),
        }
    }

    fn node_id(&self) -> String {
        self.source.keys.payment_keys().node_id().to_string()
    }

    fn kept(&self) -> Result<Vec<Kept>, BackupError> {
        let folder = &self.config.folder;
        folder::of(folder, &self.node_id()).map_err(io_at("look into", folder))
    }

    /// Makes a backup now, and lets go of the oldest. Blocks on the disk.
    pub fn create(&self) -> Result<Created, BackupError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let created = self.create_one();
        let told = created.as_ref().err().map(|error| causes::chain(error));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = told;
        self.made.notify_one();
        created
    }

    fn create_one(&self) -> Result<Created, BackupError> {
        if self.node.is_recovering() {
            return Err(BackupError::Recovering);
        }
        let folder = &self.config.folder;
        let now_secs = self.clock.unix_secs();
        let created = self.source.create(Some(&self.ledger), now_secs, folder)?;
        folder::prune(folder, &self.node_id(), self.config.keep).map_err(io_at("prune", folder))?;
        tracing::info!(
            "Backed up {} channels and the books to {}",
            created.channels,
            created.file.display()
        );
        Ok(created)
    }

    /// What there is. Blocks on the disk.
    pub fn status(&self) -> Result<BackupStatus, LedgerError> {
        let changed_ms = self.ledger.channel_changed_ms()?;
        let channels_changed_secs = changed_ms.map(|ms| ms / 1_000);
        let (kept, unread) = match self.kept() {
            Ok(kept) => (kept, None),
            Err(error) => (Vec::new(), Some(causes::chain(&error))),
        };
        let newest = kept.first();
        let created_secs = newest.map(|newest| newest.created_secs);
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(BackupStatus {
            folder: self.config.folder.clone(),
            count: kept.len(),
            newest: newest.map(|newest| newest.path.clone()),
            age_secs: created_secs.map(|secs| self.clock.unix_secs().saturating_sub(secs)),
            channels_changed_secs,
            is_behind_channels: channels_changed_secs
                .is_some_and(|changed| created_secs.is_none_or(|created| created < changed)),
            error: unread.or_else(|| failed.clone()),
            s3: self.remote_status(newest),
        })
    }

    fn remote_status(&self, newest: Option<&Kept>) -> Option<RemoteStatus> {
        let remote = self.remote.as_ref()?;
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = newest.map(|newest| &newest.path);
        Some(RemoteStatus {
            place: remote.place(),
            has_newest: newest.is_some() && sent.newest.as_ref() == newest,
            error: sent.error.clone(),
        })
    }

    /// Sends the newest backup to the store, if it is not known to be there. What fails is tried again with the first look after
    /// a pause, or with the next backup.
    async fn send(self: &Arc<Self>, is_new: bool) {
        let Some(remote) = &self.remote else {
            return;
        };
        let pause = self
            .sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pause;
        if !is_new && pause.is_some_and(|(_, until)| Instant::now() < until) {
            return;
        }
        let asked = Arc::clone(self);
        let kept = tokio::task::spawn_blocking(move || asked.kept().unwrap_or_default()).await;
        let newest = kept.ok().and_then(|kept| kept.into_iter().next());
        let Some(Kept { path, .. }) = newest else {
            return;
        };
        let is_there = {
            let known = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            known.newest.as_ref() == Some(&path)
        };
        if is_there {
            return;
        }
        let held = remote.hold(&path, &self.node_id(), self.config.keep).await;
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        match held {
            Ok(()) => {
                tracing::info!("The newest backup is in the store at {}", remote.place());
                *sent = Sent {
                    newest: Some(path),
                    error: None,
                    pause: None,
                };
            }
            Err(error) => {
                let error = causes::chain(&error);
                let pause = longer(sent.pause.map(|(pause, _)| pause));
                tracing::error!(
                    "Failed to send the newest backup to the store, which is asked again in {} min: {error}",
                    pause.as_secs() / 60
                );
                sent.error = Some(error);
                sent.pause = Some((pause, Instant::now() + pause));
            }
        }
    }

    /// Makes backups until told to stop.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.node.channel_changes();
        let mut look_at = Instant::now() + FIRST_LOOK_AFTER;
        let mut is_due = false;
        loop {
            tokio::select! {
                () = sleep_until(look_at) => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    is_due = true;
                    look_at = Instant::now() + QUIET;
                    continue;
                }
                () = self.made.notified() => {
                    tokio::select! {
                        () = self.send(true) => continue,
                        () = stop.cancelled() => return,
                    }
                }
                () = stop.cancelled() => return,
            }
            let backups = Arc::clone(&self);
            let made = tokio::task::spawn_blocking(move || backups.create_if(is_due)).await;
            // After a failure it is due again with the next look.
            is_due = !made.unwrap_or(false);
            look_at = Instant::now() + LOOK_EVERY;
            tokio::select! {
                () = self.send(false) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes a backup if it is due, or if the newest is too old; whether all is well then.
    fn create_if(&self, is_due: bool) -> bool {
        if self.node.is_recovering() {
            return true;
        }
        let now_secs = self.clock.unix_secs();
        let is_recent =
            |kept: &Kept| now_secs.saturating_sub(kept.created_secs) < self.config.every.as_secs();
        let has_recent = self
            .kept()
            .is_ok_and(|kept| kept.first().is_some_and(is_recent));
        if has_recent && !is_due {
            return true;
        }
        match self.create() {
            Ok(_) => true,
            Err(error) => {
                tracing::error!("Failed to make a backup: {}", causes::chain(&error));
                false
            }
        }
    }
}

/// The pause after this one.
fn longer(last: Option<Duration>) -> Duration {
    last.map_or(RETRY_FIRST, |last| (last * 2).min(RETRY_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_is_asked_less_and_less_often() {
        let pauses = std::iter::successors(Some(longer(None)), |last| Some(longer(Some(*last))));
        let minutes: Vec<_> = pauses.take(6).map(|pause| pause.as_secs() / 60).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 15, 15]);
    }
}
