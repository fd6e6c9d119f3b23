//! Backups by themselves: on a schedule, and after every change of the channels; and looked through by themselves.

mod checking;
mod checks;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use super::remote::{Remote, Wanted};
use super::{BackupError, CHECKS, Config, Created, Source, io_at};

use checks::{Checks, Seen};

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
    /// When this run made its last one. A `std` mutex: held to copy a time.
    made_at: Mutex<Option<Instant>>,
    /// The store that they are sent to.
    remote: Option<Remote>,
    /// What came of that. A `std` mutex: held to copy a line or two.
    sent: Mutex<Sent>,
    /// What is known of those that were looked through. A `std` mutex: held while a small file is written, off the threads that
    /// serve requests.
    checks: Mutex<Checks>,
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
    /// How long the store is left alone after the last failure, until when that is, and with which backup; a newer one does not
    /// wait for it.
    pause: Option<(Duration, Instant, PathBuf)>,
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
    /// The name of the backup that was last fetched back and found good.
    pub verified: Option<String>,
    /// When that was, Unix seconds.
    pub verified_secs: Option<u64>,
    /// What was wrong with one that was fetched back, until one is found good.
    pub damage: Option<String>,
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
            checks: Mutex::new(Checks::open(&source.data_dir.join(CHECKS))),
            config,
            source,
            node,
            ledger,
            clock,
            turn: Mutex::new(()),
            failed: Mutex::new(None),
            made_at: Mutex::new(None),
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
        if created.is_ok() {
            *self.made_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
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
        // What is known to be good is not given up for what may not be.
        let spared = self.checks().folder.spared();
        folder::prune(folder, &self.node_id(), self.config.keep, spared.as_deref())
            .map_err(io_at("prune", folder))?;
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
        // Where a server keeps the channels' state, no backup is behind it.
        let is_here = self.source.vss.is_none();
        let channels_changed_secs = changed_ms.filter(|_| is_here).map(|ms| ms / 1_000);
        let (kept, unread) = match self.kept() {
            Ok(kept) => (kept, None),
            Err(error) => (Vec::new(), Some(causes::chain(&error))),
        };
        let newest = kept.first();
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let checks = self.checks().clone();
        let is_good = |kept: &&Kept| {
            let seen = Seen::of(&kept.path);
            seen.is_some_and(|seen| checks.folder.is_good(&seen))
        };
        let verified = kept.iter().find(is_good);
        let now_secs = self.clock.unix_secs();
        let made_secs = |backup: &Kept| backup.made_secs(now_secs).unwrap_or(now_secs);
        let is_before_change = |backup: Option<&Kept>| {
            channels_changed_secs
                .is_some_and(|changed| backup.map(made_secs).is_none_or(|made| made < changed))
        };
        let age_secs = |backup: &Kept| now_secs - made_secs(backup);
        let bad = checks.folder.bad.as_ref().filter(|bad| {
            let is_it = |kept: &Kept| Seen::of(&kept.path).as_ref() == Some(&bad.seen);
            kept.iter().any(is_it)
        });
        Ok(BackupStatus {
            folder: self.config.folder.clone(),
            count: kept.len(),
            newest: newest.map(|newest| newest.path.clone()),
            age_secs: newest.map(age_secs),
            channels_changed_secs,
            is_behind_channels: is_before_change(newest),
            verified: verified.map(|verified| verified.path.clone()),
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
            error: unread.or_else(|| failed.clone()),
            s3: self.remote_status(newest, &checks),
        })
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remote_status(&self, newest: Option<&Kept>, checks: &Checks) -> Option<RemoteStatus> {
        let remote = self.remote.as_ref()?;
        let sent = self.sent();
        let good = checks.store.good.as_ref();
        let newest = newest.map(|newest| &newest.path);
        Some(RemoteStatus {
            place: remote.place(),
            has_newest: newest.is_some() && sent.newest.as_ref() == newest,
            error: sent.error.clone(),
            verified: good.map(|good| good.seen.name.clone()),
            verified_secs: good.map(|good| good.secs),
            damage: checks.store.bad.as_ref().map(|bad| bad.why.clone()),
        })
    }

    /// Sends the newest backup to the store, if it is not known to be there. What fails is tried again with the first look after
    /// a pause, or with the next backup.
    async fn send(self: &Arc<Self>) {
        let Some(remote) = &self.remote else {
            return;
        };
        let Some(path) = self.off(Self::newest_to_send).await.flatten() else {
            return;
        };
        {
            let sent = self.sent();
            let is_paused =
                |(_, until, of): &(_, Instant, PathBuf)| *of == path && Instant::now() < *until;
            if sent.newest.as_ref() == Some(&path) || sent.pause.as_ref().is_some_and(is_paused) {
                return;
            }
        }
        let wanted = self.wanted(&path);
        let held = remote.hold(&path, &wanted).await;
        if held.is_ok() && wanted.sends_again {
            self.off(|backups| backups.note(Checks::sent_again)).await;
        }
        let mut sent = self.sent();
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
                let before = sent.pause.as_ref().filter(|(.., of)| *of == path);
                let pause = longer(before.map(|(pause, ..)| *pause));
                tracing::error!(
                    "Failed to send the newest backup to the store, which is asked again in {} min: {error}",
                    pause.as_secs() / 60
                );
                sent.error = Some(error);
                sent.pause = Some((pause, Instant::now() + pause, path));
            }
        }
    }

    /// The newest backup, unless it is known to be of no use.
    fn newest_to_send(&self) -> Option<PathBuf> {
        let newest = self.kept().unwrap_or_default().into_iter().next()?;
        let is_bad = self.checks().folder.is_bad(&Seen::of(&newest.path)?);
        (!is_bad).then_some(newest.path)
    }

    /// What the store is to hold besides this one.
    fn wanted(&self, path: &Path) -> Wanted {
        let checks = self.checks();
        let is_it = |name: &str| path.ends_with(name);
        let bad = checks.store.bad.as_ref();
        Wanted {
            node_id: self.node_id(),
            keep: self.config.keep,
            spared: checks.store.spared(),
            sends_again: bad.is_some_and(|bad| !bad.is_replaced && is_it(&bad.seen.name)),
        }
    }

    /// Makes backups, and looks through them, until told to stop.
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
                    // It is looked through and sent now; a change of the channels still waits until they are quiet.
                    if !is_due {
                        look_at = Instant::now();
                    }
                    continue;
                }
                () = stop.cancelled() => return,
            }
            let made = self.off(move |backups| backups.create_if(is_due)).await;
            // After a failure it is due again with the next look.
            is_due = !made.unwrap_or(false);
            look_at = Instant::now() + LOOK_EVERY;
            self.off(Self::check).await;
            tokio::select! {
                () = async { self.send().await; self.check_store().await } => {}
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
        let made_at = *self.made_at.lock().unwrap_or_else(PoisonError::into_inner);
        let every = self.config.every;
        // Of one that lies ahead of a clock that was set back nothing is known, unless this run made it: then another one is made.
        let is_recent = |kept: &Kept| match kept.made_secs(now_secs) {
            Some(made_secs) => now_secs - made_secs < every.as_secs(),
            None => made_at.is_some_and(|at| at.elapsed() < every),
        };
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
