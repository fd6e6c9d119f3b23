//! The backups of the running program. They are made on a schedule and after every change of the
//! channels, and they are verified afterwards.

mod changes;
mod checking;
mod checks;
mod demand;
mod lacking;
mod status;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::account::ledger::{Ledger, LedgerError};
use crate::base::clock::Clock;
use crate::base::error_chain;
use crate::node::Node;

use super::config::{CHECKS, Config, Source};
use super::create::Created;
use super::error::{BackupError, io_at};
use super::folder;
use super::made::Made;
use super::remote::{Others, Remote, Wanted};
use changes::{Changes, QUIET};
use checks::Checks;
use status::{Listing, Own};

pub use status::{BackupStatus, RemoteStatus, at_rest};

/// How often the age of the newest backup is checked.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The delay of the first check. On its first run, the node creates its state within a second.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(5);

/// The pause after the first failed upload to the store. Each further failure doubles the pause.
const RETRY_FIRST: Duration = LOOK_EVERY;

/// The longest pause. A store that is down for a day is tried about a hundred times, and a store
/// that comes back is found within 15 minutes.
const RETRY_MAX: Duration = Duration::from_secs(15 * 60);

/// Makes backups of the running program.
#[derive(Debug)]
pub struct Backups {
    config: Config,
    source: Source,
    node: Arc<Node>,
    ledger: Arc<Ledger>,
    clock: Clock,
    /// Lets one backup be made or verified at a time. A `std` mutex: it is held on a thread that
    /// may block, for as long as a backup takes.
    turn: Mutex<()>,
    /// When the current turn began. A `std` mutex: it is held to copy a time.
    busy_since: Mutex<Option<Instant>>,
    /// The backups in the folder. A `std` mutex: it is held to copy a list.
    listing: Mutex<Listing>,
    /// When this value was created.
    begun: Instant,
    /// Why the last backup failed. A `std` mutex: it is held to copy a line.
    failed: Mutex<Option<String>>,
    /// When this run made its last backup. A `std` mutex: it is held to copy a time.
    made_at: Mutex<Option<Instant>>,
    /// The store that backups are sent to.
    remote: Option<Remote>,
    /// The results of sending. A `std` mutex: it is held to copy a line or two.
    sent: Mutex<Sent>,
    /// The results of verifying. A `std` mutex: it is held while a small file is written, off the
    /// threads that serve requests.
    checks: Mutex<Checks>,
    /// Notified when a backup was made.
    made: Notify,
    /// Changes that the newest backup lacks, other than those of channels.
    lacking: lacking::Lacking,
}

/// The known state of the store.
#[derive(Clone, Debug, Default)]
struct Sent {
    /// The newest backup that the store certainly holds.
    newest: Option<PathBuf>,
    /// Why the newest backup is not in the store.
    error: Option<String>,
    /// The store's backups that this data folder did not make; `None` until the store was asked.
    others: Option<Others>,
    /// The pause after the last failure: its length, its end, and the backup that failed, if there
    /// was one. A newer backup does not wait for the end of the pause.
    pause: Option<(Duration, Instant, Option<PathBuf>)>,
}

/// The exclusive right to make a backup, verify one, or read the folder. The status shows how long
/// it is held.
struct Turn<'a> {
    backups: &'a Backups,
    _held: MutexGuard<'a, ()>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.backups.busy_since() = None;
        if std::thread::panicking() {
            let told = "making or looking through one ended in a panic, of which the log says more";
            *self.backups.failed() = Some(told.to_owned());
        }
    }
}

impl Backups {
    /// Creates the keeper without making a backup.
    pub fn new(
        config: Config,
        source: Source,
        node: Arc<Node>,
        ledger: Arc<Ledger>,
        clock: Clock,
    ) -> Self {
        // This must happen before the node starts: only then does the folder still look as an older
        // program left it.
        if let Err(error) = Made::adopt(&source.data_dir, &source.node_folder) {
            tracing::error!(
                "Failed to note which backups were made here: {}",
                error_chain::chain(&error)
            );
        }
        Self {
            remote: config.s3.as_ref().and_then(Remote::new),
            sent: Mutex::default(),
            made: Notify::new(),
            lacking: lacking::Lacking::default(),
            checks: Mutex::new(Checks::open(&source.data_dir.join(CHECKS))),
            config,
            source,
            node,
            ledger,
            clock,
            turn: Mutex::new(()),
            busy_since: Mutex::new(None),
            listing: Mutex::default(),
            begun: Instant::now(),
            failed: Mutex::new(None),
            made_at: Mutex::new(None),
        }
    }

    fn node_id(&self) -> String {
        self.source.keys.payment_keys().node_id().to_string()
    }

    fn turn(&self) -> Turn<'_> {
        let held = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *self.busy_since() = Some(Instant::now());
        Turn {
            backups: self,
            _held: held,
        }
    }

    fn busy_since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.busy_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self) -> MutexGuard<'_, Option<String>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listing(&self) -> MutexGuard<'_, Listing> {
        self.listing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest backup that this data folder made.
    fn newest(&self) -> Option<Own> {
        self.listing().own.first().cloned()
    }

    /// Reads the folder. Blocks on the disk.
    fn look(&self) {
        let _turn = self.turn();
        self.look_in_turn();
    }

    fn look_in_turn(&self) {
        let folder = &self.config.folder;
        let made = Made::open(&self.source.data_dir);
        let found = Listing::of(folder, made, &self.node_id());
        let before = std::mem::replace(&mut *self.listing(), found.clone());
        if found.others != before.others {
            warn_of(&found.others, &folder.display().to_string());
        }
    }

    /// Makes a backup now and deletes the oldest ones. Blocks on the disk.
    pub fn create(&self) -> Result<Created, BackupError> {
        let _turn = self.turn();
        // Take the flag before the copy. A revocation during the copy sets it again.
        let was_lacking = self.lacking.take();
        let created = self.create_one();
        if created.is_err() && was_lacking {
            self.lacking.put_back();
        }
        *self.failed() = created
            .as_ref()
            .err()
            .map(|error| error_chain::chain(error));
        if created.is_ok() {
            *self.made_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        self.look_in_turn();
        self.made.notify_one();
        created
    }

    fn create_one(&self) -> Result<Created, BackupError> {
        if self.node.recovery().is_under_way() {
            return Err(BackupError::Recovering);
        }
        let folder = &self.config.folder;
        let now_secs = self.clock.unix_secs();
        let created = self.source.create(Some(&self.ledger), now_secs, folder)?;
        // Keep the newest verified backup, because the newer ones may be bad.
        let spared = self.checks().folder.spared();
        let made = Made::open(&self.source.data_dir);
        let keep = self.config.keep;
        let node_id = self.node_id();
        folder::prune(folder, &node_id, keep, &made, spared.as_deref())
            .and_then(|()| folder::remove_unfinished(folder, &node_id, now_secs))
            .map_err(io_at("prune", folder))?;
        tracing::info!(
            "Backed up {} channels and the books to {}",
            created.channels,
            created.file.display()
        );
        Ok(created)
    }

    /// The state of the backups. Blocks on the ledger's store.
    pub fn status(&self) -> Result<BackupStatus, LedgerError> {
        let changed_ms = self.ledger.channel_changed_ms()?;
        // If a server keeps the channel state, a backup cannot be behind the channels.
        let is_here = self.source.vss.is_none();
        let changed_secs = changed_ms.filter(|_| is_here).map(|ms| ms / 1_000);
        let (checks, listing) = (self.checks().clone(), self.listing().clone());
        let now_secs = self.clock.unix_secs();
        let folder = &self.config.folder;
        let known = listing.status(folder, &checks, changed_secs, now_secs);
        let failed = self.failed().clone();
        Ok(BackupStatus {
            error: known.error.clone().or(failed),
            busy_secs: self.busy_since().map(|since| since.elapsed().as_secs()),
            s3: self.remote_status(&known, &checks),
            ..known
        })
    }

    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remote_status(&self, known: &BackupStatus, checks: &Checks) -> Option<RemoteStatus> {
        let remote = self.remote.as_ref()?;
        let sent = self.sent();
        let good = checks.store.good.as_ref();
        let has_newest = known.newest.is_some() && sent.newest == known.newest;
        // This run knows nothing about the time before it started.
        let lacks_secs = |age_secs: u64| age_secs.min(self.begun.elapsed().as_secs());
        let others = sent.others.as_ref();
        Some(RemoteStatus {
            place: remote.place(),
            has_newest,
            lacks_newest_secs: known.age_secs.filter(|_| !has_newest).map(lacks_secs),
            error: sent.error.clone(),
            others: others.map_or(0, |others| others.count),
            newest_other: others.and_then(|others| others.newest.clone()),
            verified: good.map(|good| good.seen.name.clone()),
            verified_secs: good.map(|good| good.secs),
            damage: checks.store.bad.as_ref().map(|bad| bad.why.clone()),
        })
    }

    /// Sends the newest backup to the store unless the store is known to have it. Without a backup,
    /// asks the store once what it holds. After a failure, the first check after a pause retries,
    /// or the next backup does.
    async fn send(self: &Arc<Self>) {
        let Some(remote) = &self.remote else {
            return;
        };
        let path = self.newest_to_send();
        {
            let sent = self.sent();
            let is_paused = |(_, until, of): &(_, Instant, Option<PathBuf>)| {
                *of == path && Instant::now() < *until
            };
            let is_done = match &path {
                Some(_) => sent.newest == path,
                None => sent.others.is_some(),
            };
            if is_done || sent.pause.as_ref().is_some_and(is_paused) {
                return;
            }
        }
        let wanted = self.wanted(path.as_deref());
        let held = match &path {
            Some(path) => remote.hold(path, &wanted).await,
            None => remote.others(&wanted).await,
        };
        if held.is_ok() && wanted.sends_again {
            self.off(|backups| backups.note(Checks::sent_again)).await;
        }
        let mut sent = self.sent();
        match held {
            Ok(others) => {
                if path.is_some() {
                    tracing::info!("The newest backup is in the store at {}", remote.place());
                }
                if sent.others.as_ref() != Some(&others) {
                    warn_of(&others, &remote.place());
                }
                *sent = Sent {
                    newest: path,
                    error: None,
                    others: Some(others),
                    pause: None,
                };
            }
            Err(error) => {
                let error = error_chain::chain(&error);
                let before = sent.pause.as_ref().filter(|(.., of)| *of == path);
                let pause = longer(before.map(|(pause, ..)| *pause));
                let what = match path {
                    Some(_) => "send the newest backup to the store",
                    None => "ask the store what it holds",
                };
                let minutes = pause.as_secs() / 60;
                tracing::error!("Failed to {what}, which is tried again in {minutes} min: {error}");
                sent.error = Some(error);
                sent.pause = Some((pause, Instant::now() + pause, path));
            }
        }
    }

    /// The newest backup, unless it is known to be bad.
    fn newest_to_send(&self) -> Option<PathBuf> {
        let newest = self.newest()?;
        let is_bad = self.checks().folder.is_bad(&newest.seen?);
        (!is_bad).then_some(newest.kept.path)
    }

    /// The backups that the store should hold besides this one.
    fn wanted(&self, path: Option<&Path>) -> Wanted {
        let made = self.listing().made.clone();
        let checks = self.checks();
        let is_it = |name: &str| path.is_some_and(|path| path.ends_with(name));
        let bad = checks.store.bad.as_ref();
        Wanted {
            node_id: self.node_id(),
            keep: self.config.keep,
            made,
            spared: checks.store.spared(),
            sends_again: bad.is_some_and(|bad| !bad.is_replaced && is_it(&bad.seen.name)),
        }
    }

    /// Makes, verifies and sends backups until `stop` is cancelled.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut changes = self.node.channel_changes();
        self.off(Self::look).await;
        self.off(Self::note_what_is_lacking).await;
        let mut look_at = Instant::now() + FIRST_LOOK_AFTER;
        let mut pace = Changes::default();
        loop {
            let wake_at = pace.due_at().map_or(look_at, |due_at| due_at.min(look_at));
            tokio::select! {
                () = sleep_until(wake_at) => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    pace.note(Instant::now());
                    continue;
                }
                () = self.made.notified() => {
                    // Verify and send the new backup now. A change of the channels still waits for
                    // its own time.
                    look_at = Instant::now();
                    continue;
                }
                () = self.lacking.noted() => {
                    if self.may_follow() {
                        look_at = look_at.min(Instant::now() + QUIET);
                    }
                    continue;
                }
                () = stop.cancelled() => return,
            }
            self.off(Self::look).await;
            let now = Instant::now();
            let lacks = self.lacking.is_some() && self.may_follow();
            let is_due = pace.is_due(now);
            let making = self.off(move |backups| backups.create_if(is_due || lacks));
            match making.await {
                Some(true) if is_due => pace.made(now),
                Some(true) => {}
                Some(false) | None => pace.failed(Instant::now()),
            }
            look_at = Instant::now() + LOOK_EVERY;
            self.off(Self::check).await;
            tokio::select! {
                () = async {
                    self.send().await;
                    self.lacking.tried();
                    self.check_store().await;
                } => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Makes a backup if one is due or the newest is too old. Returns false if that failed.
    fn create_if(&self, is_due: bool) -> bool {
        if self.node.recovery().is_under_way() {
            return true;
        }
        let now_secs = self.clock.unix_secs();
        let made_at = *self.made_at.lock().unwrap_or_else(PoisonError::into_inner);
        let every = self.config.every;
        // If the newest backup's time is in the future because the clock was set back, its age is
        // unknown. Make another backup then, unless this run made that one recently.
        let is_recent = |own: Own| match own.kept.made_secs(now_secs) {
            Some(made_secs) => now_secs - made_secs < every.as_secs(),
            None => made_at.is_some_and(|at| at.elapsed() < every),
        };
        if self.newest().is_some_and(is_recent) && !is_due {
            return true;
        }
        match self.create() {
            Ok(_) => true,
            Err(error) => {
                tracing::error!("Failed to make a backup: {}", error_chain::chain(&error));
                false
            }
        }
    }
}

/// Warns about backups of this node that this data folder did not make.
fn warn_of(others: &Others, place: &str) {
    if let Some(newest) = &others.newest {
        tracing::warn!(
            "In {place} there are backups of this node that this data folder did not make: {}, the newest is {newest}. None of them is \
             let go. If the node was begun anew from its words, or restored from an older one, restore that one instead",
            others.count
        );
    }
}

/// The pause that follows this one.
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
