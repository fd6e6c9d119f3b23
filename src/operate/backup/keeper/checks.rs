//! What is known of the backups that were looked through, over restarts: which are good, and when the next look is due.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::base::secret_file::{self, SecretFileError};

/// How long the newest backup of the folder is taken for good, unless its file changes: a look writes all of it to the disk once
/// more, which for a backup of 100 MB is 100 MB a day, as much as making it was.
const EVERY_SECS: u64 = 86_400;

/// How often a backup is fetched back from the store, whatever happens meanwhile, restarts and new backups included. Bytes out
/// of a store cost up to some 0.09 USD a gigabyte: 100 MB a day are 3 GB a month, or 27 cents.
const STORE_EVERY_SECS: u64 = 86_400;

/// When a look that came to nothing (no room, no answer) is tried again: at most 24 a day.
const RETRY_SECS: u64 = 3_600;

/// How often another backup is made in the place of a bad one: where each is bad, the disk is not to be written full of them.
const REMAKE_SECS: u64 = 3_600;

/// A file as it was when it was looked through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// When it was last written to, Unix milliseconds. Whoever changes it on purpose can set that back: then it takes a day.
    modified_ms: u64,
}

impl Seen {
    /// `None` if it is not there.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let there: Metadata = path.metadata().ok()?;
        let modified = there.modified().ok()?.duration_since(UNIX_EPOCH);
        Some(Self {
            name: path.file_name()?.to_str()?.to_owned(),
            bytes: there.len(),
            modified_ms: modified.map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }),
        })
    }
}

/// What a look through a backup has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It can be restored.
    Good,
    /// It cannot, and why.
    Bad(String),
    /// It could not be looked through, and why: nothing is known.
    Unknown(String),
}

/// The last look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    at: Seen,
    secs: u64,
    /// Whether something is known since.
    is_known: bool,
}

/// A backup that was found good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Good {
    pub(super) seen: Seen,
    /// When it was looked through, Unix seconds.
    pub(super) secs: u64,
}

/// A backup that was found bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bad {
    pub(super) seen: Seen,
    pub(super) why: String,
    /// Whether another one was put in its place.
    pub(super) is_replaced: bool,
}

/// What is known of one place: the folder, or the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    last: Option<Look>,
    /// The last one that was good.
    pub(super) good: Option<Good>,
    /// The last one that was not.
    pub(super) bad: Option<Bad>,
}

impl Place {
    /// A look begins.
    pub(super) fn begin(&mut self, at: &Seen, secs: u64) {
        self.last = Some(Look {
            at: at.clone(),
            secs,
            is_known: false,
        });
    }

    /// A look has ended.
    pub(super) fn end(&mut self, at: &Seen, secs: u64, verdict: &Verdict) {
        self.last = Some(Look {
            at: at.clone(),
            secs,
            is_known: !matches!(verdict, Verdict::Unknown(_)),
        });
        match verdict {
            Verdict::Good => {
                // What is still bad in the folder is not forgotten for it; one that was mended is.
                if self
                    .bad
                    .as_ref()
                    .is_some_and(|bad| bad.seen.name == at.name)
                {
                    self.bad = None;
                }
                self.good = Some(Good {
                    seen: at.clone(),
                    secs,
                });
            }
            Verdict::Bad(why) => {
                if self
                    .good
                    .as_ref()
                    .is_some_and(|good| good.seen.name == at.name)
                {
                    self.good = None;
                }
                self.bad = Some(Bad {
                    seen: at.clone(),
                    why: why.clone(),
                    is_replaced: false,
                });
            }
            Verdict::Unknown(_) => {}
        }
    }

    /// Whether this very file is known to be bad.
    pub(super) fn is_bad(&self, seen: &Seen) -> bool {
        self.bad.as_ref().is_some_and(|bad| bad.seen == *seen)
    }

    /// Whether this very file was found good.
    pub(super) fn is_good(&self, seen: &Seen) -> bool {
        self.good.as_ref().is_some_and(|good| good.seen == *seen)
    }

    /// The name of the one that is not let go, however old it gets.
    pub(super) fn spared(&self) -> Option<String> {
        self.good.as_ref().map(|good| good.seen.name.clone())
    }
}

/// What is known of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checks {
    pub(super) folder: Place,
    pub(super) store: Place,
    /// When one was last made in the place of a bad one, Unix seconds.
    remade_secs: Option<u64>,
}

impl Checks {
    /// What was kept. What cannot be read is only found out anew.
    pub(super) fn open(path: &Path) -> Self {
        let kept = secret_file::read(path);
        if let Err(SecretFileError::Io { source, .. }) = &kept
            && source.kind() == io::ErrorKind::NotFound
        {
            return Self::default();
        }
        let read = kept
            .map_err(|error| error.to_string())
            .and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
        read.unwrap_or_else(|error| {
            tracing::warn!(
                "What is known of the backups is found out anew: {} cannot be read ({error})",
                path.display()
            );
            Self::default()
        })
    }

    /// Keeps it. Blocks on the disk.
    pub(super) fn keep(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string(self).map_err(io::Error::from)?;
        secret_file::replace(path, &text)
    }

    /// Whether the newest file of the folder is to be looked through now.
    pub(super) fn is_due(&self, newest: &Seen, now_secs: u64) -> bool {
        // A bad one that is still the newest could not be replaced: that is tried again.
        let is_settled = |look: &Look| look.is_known && !self.folder.is_bad(newest);
        let every = |look: &Look| {
            if is_settled(look) {
                EVERY_SECS
            } else {
                RETRY_SECS
            }
        };
        self.folder
            .last
            .as_ref()
            .is_none_or(|look| look.at != *newest || is_past(look.secs, every(look), now_secs))
    }

    /// Whether one may be fetched back from the store now.
    pub(super) fn is_store_due(&self, now_secs: u64) -> bool {
        let last = self.store.last.as_ref();
        last.is_none_or(|look| is_past(look.secs, STORE_EVERY_SECS, now_secs))
    }

    /// The store was sent what it is to hold.
    pub(super) fn sent_again(&mut self) {
        if let Some(bad) = &mut self.store.bad {
            bad.is_replaced = true;
        }
    }

    /// Whether another one is made in the place of a bad one now; said once, it counts as done.
    pub(super) fn may_remake(&mut self, now_secs: u64) -> bool {
        let is_due = self
            .remade_secs
            .is_none_or(|remade| is_past(remade, REMAKE_SECS, now_secs));
        if is_due {
            self.remade_secs = Some(now_secs);
        }
        is_due
    }
}

/// Whether so much time has passed. A clock that was set back must not put it off for years.
fn is_past(then_secs: u64, span_secs: u64, now_secs: u64) -> bool {
    now_secs.abs_diff(then_secs) >= span_secs
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_760_000_000;

    fn seen(name: &str, modified_ms: u64) -> Seen {
        Seen {
            name: name.to_owned(),
            bytes: 7,
            modified_ms,
        }
    }

    #[test]
    fn a_file_is_looked_through_when_it_is_new_when_it_changes_and_once_a_day() {
        let mut checks = Checks::default();
        let file = seen("a", 1);
        assert!(checks.is_due(&file, NOW));
        checks.folder.end(&file, NOW, &Verdict::Good);
        assert!(!checks.is_due(&file, NOW + 86_399));
        assert!(checks.is_due(&file, NOW + 86_400));
        assert!(checks.is_due(&seen("a", 2), NOW), "somebody wrote to it");
        assert!(checks.is_due(&seen("b", 1), NOW), "a newer one");
        assert!(checks.is_due(&file, NOW - 86_400), "the clock was set back");
        checks
            .folder
            .end(&file, NOW, &Verdict::Unknown("no room".to_owned()));
        assert!(!checks.is_due(&file, NOW + 3_599));
        assert!(checks.is_due(&file, NOW + 3_600));
        assert!(checks.folder.is_good(&file), "nothing else is known");
    }

    #[test]
    fn the_store_is_asked_for_one_backup_a_day_over_restarts_and_whatever_came_of_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backup.checks");
        let mut checks = Checks::open(&path);
        assert!(checks.is_store_due(NOW));
        checks.store.begin(&seen("a", 1), NOW);
        checks.keep(&path).unwrap();
        let mut checks = Checks::open(&path);
        assert!(!checks.is_store_due(NOW + 86_399));
        for verdict in [
            Verdict::Good,
            Verdict::Bad("cut short".to_owned()),
            Verdict::Unknown("no answer".to_owned()),
        ] {
            checks.store.end(&seen("b", 1), NOW, &verdict);
            assert!(!checks.is_store_due(NOW + 86_399), "{verdict:?}");
        }
        assert!(checks.is_store_due(NOW + 86_400));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Checks::open(&path), Checks::default());
    }

    #[test]
    fn what_is_bad_is_no_longer_good_and_is_replaced_once_an_hour() {
        let mut checks = Checks::default();
        checks.folder.end(&seen("a", 1), NOW, &Verdict::Good);
        let bad = Verdict::Bad("changed".to_owned());
        checks.folder.end(&seen("b", 1), NOW, &bad);
        assert_eq!(checks.folder.spared().as_deref(), Some("a"));
        checks.folder.end(&seen("a", 2), NOW, &bad);
        assert_eq!(checks.folder.good, None);
        assert!(checks.folder.is_bad(&seen("a", 2)));
        assert!(!checks.is_due(&seen("a", 2), NOW + 3_599));
        assert!(
            checks.is_due(&seen("a", 2), NOW + 3_600),
            "it is still the newest"
        );
        assert!(checks.may_remake(NOW));
        assert!(!checks.may_remake(NOW + 3_599));
        assert!(checks.may_remake(NOW + 3_600));
    }
}
