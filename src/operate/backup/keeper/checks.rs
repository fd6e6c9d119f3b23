//! The results of verifying backups, kept over restarts: which backups are good, and when the next
//! check is due.

use std::fs::Metadata;
use std::io;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::base::secret_file::{self, SecretFileError};

/// How long the newest backup in the folder counts as good while its file does not change. A check
/// writes all of the backup to the disk once more. For a backup of 100 MB that is 100 MB a day, as
/// much as making it.
const EVERY_SECS: u64 = 86_400;

/// How often a backup is fetched from the store, regardless of restarts and new backups. Traffic
/// out of a store costs up to about 0.09 USD a gigabyte: 100 MB a day are 3 GB a month, or 27
/// cents.
const STORE_EVERY_SECS: u64 = 86_400;

/// The wait after a check without a result, for lack of disk space or of an answer: at most 24
/// checks a day.
const RETRY_SECS: u64 = 3_600;

/// How often a bad backup is replaced by another one. If every backup is bad, they must not fill
/// the disk.
const REMAKE_SECS: u64 = 3_600;

/// A file as it was when it was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) bytes: u64,
    /// When the file was last written, Unix milliseconds. Somebody who changes the file on purpose
    /// can reset this time. The change is then found within a day.
    modified_ms: u64,
}

impl Seen {
    /// Reads the file's properties; `None` if the file does not exist.
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

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The backup can be restored.
    Good,
    /// The backup cannot be restored, with the reason.
    Bad(String),
    /// The backup could not be checked, with the reason.
    Unknown(String),
}

/// The last check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    at: Seen,
    secs: u64,
    /// Whether the check had a result.
    is_known: bool,
}

/// A backup that was found good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Good {
    pub(super) seen: Seen,
    /// When the backup was verified, Unix seconds.
    pub(super) secs: u64,
}

/// A backup that was found bad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bad {
    pub(super) seen: Seen,
    pub(super) why: String,
    /// Whether another backup has replaced this one.
    pub(super) is_replaced: bool,
}

/// The known state of one place, the folder or the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    last: Option<Look>,
    /// The last backup that was found good.
    pub(super) good: Option<Good>,
    /// The last backup that was found bad.
    pub(super) bad: Option<Bad>,
}

impl Place {
    /// Records the beginning of a check.
    pub(super) fn begin(&mut self, at: &Seen, secs: u64) {
        self.last = Some(Look {
            at: at.clone(),
            secs,
            is_known: false,
        });
    }

    /// Records the end of a check.
    pub(super) fn end(&mut self, at: &Seen, secs: u64, verdict: &Verdict) {
        self.last = Some(Look {
            at: at.clone(),
            secs,
            is_known: !matches!(verdict, Verdict::Unknown(_)),
        });
        match verdict {
            Verdict::Good => {
                // A good result for one file does not clear the bad result of another. It clears
                // only the bad result of a file of the same name.
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

    /// Whether exactly this file is known to be bad.
    pub(super) fn is_bad(&self, seen: &Seen) -> bool {
        self.bad.as_ref().is_some_and(|bad| bad.seen == *seen)
    }

    /// Whether exactly this file was found good.
    pub(super) fn is_good(&self, seen: &Seen) -> bool {
        self.good.as_ref().is_some_and(|good| good.seen == *seen)
    }

    /// The name of the backup that must not be deleted, whatever its age.
    pub(super) fn spared(&self) -> Option<String> {
        self.good.as_ref().map(|good| good.seen.name.clone())
    }
}

/// The results for the folder and the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checks {
    pub(super) folder: Place,
    pub(super) store: Place,
    /// When a bad backup was last replaced by another one, Unix seconds.
    remade_secs: Option<u64>,
}

impl Checks {
    /// Reads the results. Unreadable results count as missing, and the checks are repeated.
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

    /// Writes the results to the file. Blocks on the disk.
    pub(super) fn keep(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_string(self).map_err(io::Error::from)?;
        secret_file::replace(path, &text)
    }

    /// Whether the newest file in the folder is due for a check.
    pub(super) fn is_due(&self, newest: &Seen, now_secs: u64) -> bool {
        // If the newest backup is bad, replacing it has failed so far, so the check is retried.
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

    /// Whether a backup in the store is due for a check.
    pub(super) fn is_store_due(&self, now_secs: u64) -> bool {
        let last = self.store.last.as_ref();
        last.is_none_or(|look| is_past(look.secs, STORE_EVERY_SECS, now_secs))
    }

    /// Records that the bad backup in the store was replaced by sending it again.
    pub(super) fn sent_again(&mut self) {
        if let Some(bad) = &mut self.store.bad {
            bad.is_replaced = true;
        }
    }

    /// Whether a bad backup may be replaced now. A positive answer is recorded as a replacement.
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

/// Whether this much time has passed. The difference counts in both directions, so that a clock
/// that was set back does not delay a check for years.
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
