//! When a change of the channels is followed by a backup: within seconds, but not for each of many.

use std::time::Duration;

use tokio::time::Instant;

/// How long the channels must have been quiet: opening one takes several steps within seconds.
pub(super) const QUIET: Duration = Duration::from_secs(5);

/// How long a change waits at most for the others to come to an end.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// In this time there are no more than two: that a channel is opened and that it can be used are two changes.
const TWO_WITHIN: Duration = Duration::from_secs(600);

/// How long the next attempt waits after one that failed.
const RETRY: Duration = Duration::from_secs(60);

/// Changes since the last backup, and the last backups for their sake.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// The first and the last change that no backup has followed.
    since: Option<(Instant, Instant)>,
    /// When the last two backups were made for a change, the later one first.
    made: [Option<Instant>; 2],
    /// When the last attempt failed.
    failed: Option<Instant>,
}

impl Changes {
    /// Something has changed.
    pub(super) fn note(&mut self, now: Instant) {
        let first = self.since.map_or(now, |(first, _)| first);
        self.since = Some((first, now));
    }

    /// When the next backup is due, if there is something to follow.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let (first, last) = self.since?;
        let quiet = (last + QUIET).min(first + QUIET_MAX);
        let apart = self.made[1].map(|made| made + TWO_WITHIN);
        let retry = self.failed.map(|failed| failed + RETRY);
        [Some(quiet), apart, retry].into_iter().flatten().max()
    }

    /// Whether one is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at().is_some_and(|due_at| due_at <= now)
    }

    /// One was made, of all that had changed by `then`.
    pub(super) fn made(&mut self, then: Instant) {
        self.failed = None;
        if self.since.take().is_some() {
            self.made = [Some(then), self.made[0]];
        }
    }

    /// One could not be made.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failed = Some(now);
        // Also where only its time had come.
        self.since.get_or_insert((now, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// Backups of the first hour, in seconds, where something changes every `every` seconds.
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
    fn a_change_is_followed_within_seconds_and_many_are_by_few() {
        assert_eq!(made_in_an_hour(10_000), [5]);
        // Two are, too, and after a while the next two.
        assert_eq!(made_in_an_hour(1_200), [5, 1_205, 2_405]);
        let many = made_in_an_hour(9);
        assert_eq!(many[..2], [5, 14]);
        assert!(many.len() <= 12, "{many:?}");
        for three in many.windows(3) {
            assert!(three[2] - three[0] >= 600, "{many:?}");
        }
        // What never comes to rest is not waited for.
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
    fn what_fails_is_tried_again_in_a_minute() {
        let begin = Instant::now();
        let mut changes = Changes::default();
        changes.failed(begin);
        assert!(!changes.is_due(begin + secs(59)));
        assert!(changes.is_due(begin + secs(60)));
    }
}
