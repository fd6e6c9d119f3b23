//! The schedule of backups after changes of the channels: soon after a change, but not too often.

use std::time::Duration;

use tokio::time::Instant;

/// How long the channels must be unchanged before a backup. Opening a channel changes them several
/// times within seconds.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// The longest time that a backup waits for the channels to be unchanged.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// The period in which at most two backups are made for changes. Opening a channel causes two
/// changes, the second when the channel becomes usable.
const TWO_WITHIN: Duration = Duration::from_secs(600);

/// The wait after a failed attempt.
const RETRY: Duration = Duration::from_secs(60);

/// Changes since the last backup, and the times of the last backups made for changes.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The times of the first and the last change that no backup contains.
    since: Option<(Instant, Instant)>,
    /// The times of the last two backups made for a change, the later one first.
    made: [Option<Instant>; 2],
    /// When the last attempt failed.
    failed: Option<Instant>,
}

impl Changes {
    /// Records a change.
    pub(super) fn note(&mut self, now: Instant) {
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// When the next backup is due; `None` without a change.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let (first, last) = self.since?;
        let quiet = (last + QUIET).min(first + QUIET_MAX);
        let apart = self.made[1].map(|made| made + TWO_WITHIN);
        let retry = self.failed.map(|failed| failed + RETRY);
        [Some(quiet), apart, retry].into_iter().flatten().max()
    }

    /// Whether a backup is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|due_at| due_at <= now)
    }

    /// Records that a backup was made at `then`, with every change recorded so far.
    pub(super) fn made(&mut self, then: Instant) {
        self.failed = None;
        if self.since.take().is_some() {
            self.made = [Some(then), self.made[0]];
        }
    }

    /// Records that a backup failed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed = Some(now);
        // A scheduled backup that fails is retried, too.
        self.since.get_or_insert((now, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// The times of the backups in the first hour, in seconds, with a change every `every` seconds.
    fn made_in_an_hour(every: u64) -> Vec<u64> {
        let begin = Instant::now();
        let (mut changes, mut made) = (Changes::default(), Vec::new());
        for second in 0..3_600 {
            let now = begin + secs(second);
            if second % every == 0 {
                changes.note(now);
            }
            if changes.is_due(now) {
                changes.made(now);
                made.push(second);
            }
        }
        made
    }

    #[test]
    fn a_change_is_followed_within_seconds_and_many_changes_by_few_backups() {
        assert_eq!(made_in_an_hour(10_000), [5]);
        // One change per 20 minutes is followed by one backup each.
        assert_eq!(made_in_an_hour(1_200), [5, 1_205, 2_405]);
        let many = made_in_an_hour(9);
        assert_eq!(many[..2], [5, 14]);
        assert!(many.len() <= 12, "{many:?}");
        for three in many.windows(3) {
            assert!(three[2] - three[0] >= 600, "{many:?}");
        }
        // Channels that keep changing get a backup after a minute.
        assert_eq!(made_in_an_hour(1)[..2], [60, 121]);
    }

    #[test]
    fn the_last_change_is_always_followed() {
        let begin = Instant::now();
        let mut changes = Changes::default();
        for second in [0, 20, 40] {
            changes.note(begin + secs(second));
            let due_at = changes.due_at().unwrap();
            if due_at <= begin + secs(40) {
                changes.made(due_at);
            }
        }
        assert_eq!(changes.due_at(), Some(begin + secs(605)));
        changes.failed(begin + secs(605));
        assert_eq!(changes.due_at(), Some(begin + secs(665)));
        changes.made(begin + secs(665));
        assert_eq!(changes.due_at(), None);
    }

    #[test]
    fn a_failed_backup_is_retried_after_a_minute() {
        let begin = Instant::now();
        let mut changes = Changes::default();
        changes.failed(begin);
        assert!(!changes.is_due(begin + secs(59)));
        assert!(changes.is_due(begin + secs(60)));
    }
}
