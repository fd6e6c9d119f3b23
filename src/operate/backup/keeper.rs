//! Backups by themselves: on a schedule, and after every change of the channels; and looked through by themselves.

mod changes;
mod checking;
mod checks;
mod demand;
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

use super::folder;
use super::made::Made;
use super::remote::{Others, Remote, Wanted};
use super::{BackupError, CHECKS, Config, Created, Source, io_at};

use changes::{Changes, QUIET};
use checks::Checks;
pub use status::{BackupStatus, RemoteStatus, at_rest};
use status::{Listing, Own};

/// How often the age of the newest is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(60);

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
    /// Since when somebody has the turn. A `std` mutex: held to copy a time.
    busy_since: Mutex<Option<Instant>>,
    /// What is in the folder. A `std` mutex: held to copy a list.
    listing: Mutex<Listing>,
    /// When this was made.
    begun: Instant,
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
    /// Changes that the newest backup lacks, channels aside.
    lacking: demand::Lacking,
}

/// What is known of the store.
#[derive(Clone, Debug, Default)]
struct Sent {
    /// The newest backup that it holds for certain.
    newest: Option<PathBuf>,
    /// Why the newest one of all is not there.
    error: Option<String>,
    /// What it holds besides what this data folder has made, once that was asked.
    others: Option<Others>,
    /// How long the store is left alone after the last failure, until when that is, and with which backup, if there is one; a newer
    /// one does not wait for it.
    pause: Option<(Duration, Instant, Option<PathBuf>)>,
}

/// The turn of whoever makes a backup, looks through one, or looks into the folder. That it is taken is seen for as long as it is.
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
    /// Makes none yet.
    pub fn new(
        config: Config,
        source: Source,
        node: Arc<Node>,
        ledger: Arc<Ledger>,
        clock: Clock,
    ) -> Self {
        // Before the node starts: the first start after that of an older program is told by what that left.
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
            lacking: demand::Lacking::default(),
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

    /// The newest that this data folder has made.
    fn newest(&self) -> Option<Own> {
        self.listing().own.first().cloned()
    }

    /// Looks into the folder. Blocks on the disk.
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

    /// Makes a backup now, and lets go of the oldest. Blocks on the disk.
    pub fn create(&self) -> Result<Created, BackupError> {
        let _turn = self.turn();
        // Taken before the copy: a revocation during the copy is lacking again.
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
        if self.node.is_recovering() {
            return Err(BackupError::Recovering);
        }
        let folder = &self.config.folder;
        let now_secs = self.clock.unix_secs();
        let created = self.source.create(Some(&self.ledger), now_secs, folder)?;
        // What is known to be good is not given up for what may not be.
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

    /// What there is. Blocks on the books' store.
    pub fn status(&self) -> Result<BackupStatus, LedgerError> {
        let changed_ms = self.ledger.channel_changed_ms()?;
        // Where a server keeps the channels' state, no backup is behind it.
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
        // Nothing is known of the time before this run.
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

    /// Sends the newest backup to the store, if it is not known to be there; without one it asks once what is there. What fails is
    /// tried again with the first look after a pause, or with the next backup.
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

    /// The newest backup, unless it is known to be of no use.
    fn newest_to_send(&self) -> Option<PathBuf> {
        let newest = self.newest()?;
        let is_bad = self.checks().folder.is_bad(&newest.seen?);
        (!is_bad).then_some(newest.kept.path)
    }

    /// What the store is to hold besides this one.
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

    /// Makes backups, and looks through them, until told to stop.
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
                    // The new backup is checked and sent now; a change of the channels still waits for its turn.
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

    /// Makes a backup if it is due, or if the newest is too old; whether all is well then.
    fn create_if(&self, is_due: bool) -> bool {
        if self.node.is_recovering() {
            return true;
        }
        let now_secs = self.clock.unix_secs();
        let made_at = *self.made_at.lock().unwrap_or_else(PoisonError::into_inner);
        let every = self.config.every;
        // Of one that lies ahead of a clock that was set back nothing is known, unless this run made it: then another one is made.
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

/// Says that there are backups that are not this data folder's own.
fn warn_of(others: &Others, place: &str) {
    if let Some(newest) = &others.newest {
        tracing::warn!(
            "In {place} there are backups of this node that this data folder did not make: {}, the newest is {newest}. None of them is \
             let go. If the node was begun anew from its words, or restored from an older one, restore that one instead",
            others.count
        );
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
