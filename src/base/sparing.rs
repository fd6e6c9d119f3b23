//! Limits log lines that a stranger can cause any number of times. The first lines are written;
//! after each period, one line reports how many more there were.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tracing::Level;

use crate::base::clock::Clock;

/// The most lines of one kind about one subject in a [`PERIOD`]: enough to see what they share.
pub const LINES_MAX: u64 = 5;

/// The length of a period. After it, the log reports the number of lines left out, and lines are
/// written again.
pub const PERIOD: Duration = Duration::from_secs(60);

/// The most pairs of kind and subject to remember. Subjects are names from the settings, which may
/// change while the program runs.
const SUBJECTS_MAX: usize = 1_000;

/// All instances, so that one task can report the lines that each has left out.
static ALL: Mutex<Vec<Weak<Sparing>>> = Mutex::new(Vec::new());

/// Decides which lines are written. A `std` mutex: held to look a number up.
#[derive(Debug)]
pub struct Sparing {
    /// The most lines of one kind about one subject in a period.
    lines_max: u64,
    period: Duration,
    clock: Clock,
    told: Mutex<Subjects>,
}

/// The counts of lines by kind and subject.
type Subjects = HashMap<(&'static str, String), Told>;

/// The lines of one kind about one subject in the current period.
#[derive(Debug)]
struct Told {
    level: Level,
    /// When the period began, in time since boot, so that setting the clock back does not extend
    /// it.
    since: Duration,
    /// The number of lines written.
    lines: u64,
    /// The number of lines left out.
    held_back: u64,
}

impl Sparing {
    /// Allows [`LINES_MAX`] lines of each kind and subject in a `PERIOD`.
    pub fn new(clock: &Clock) -> Arc<Self> {
        Self::with(clock, LINES_MAX, PERIOD)
    }

    /// Allows `lines_max` lines of each kind and subject in a `period`.
    pub fn with(clock: &Clock, lines_max: u64, period: Duration) -> Arc<Self> {
        let sparing = Arc::new(Self {
            lines_max,
            period,
            clock: clock.clone(),
            told: Mutex::default(),
        });
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|other| other.strong_count() > 0);
        all.push(Arc::downgrade(&sparing));
        sparing
    }

    /// Whether a line of this kind about this subject may be written now. If earlier lines were
    /// left out, writes a line with their number first.
    pub fn may(&self, level: Level, kind: &'static str, subject: &str) -> bool {
        let held_back = self.count(level, kind, subject);
        if let Some(count) = held_back {
            self.write(level, kind, subject, count);
        }
        held_back.is_some()
    }

    /// Counts a line whose text reports how many lines before it were left out, and returns that
    /// number; `None` if the line may not be written.
    pub fn count(&self, level: Level, kind: &'static str, subject: &str) -> Option<u64> {
        let now = self.clock.since_boot();
        let mut told = self.told();
        let key = (kind, subject.to_owned());
        if told.len() >= SUBJECTS_MAX && !told.contains_key(&key) {
            self.tell(&mut told, |_| true);
        }
        let begun = || Told {
            level,
            since: now,
            lines: 0,
            held_back: 0,
        };
        let this = told.entry(key).or_insert_with(begun);
        let mut held_back = 0;
        if self.is_over(this, now) {
            held_back = this.held_back;
            *this = begun();
        }
        if this.lines >= self.lines_max {
            this.held_back += 1;
            return None;
        }
        this.lines += 1;
        Some(held_back)
    }

    /// Reports the lines left out in the periods that are over.
    fn tell_held_back(&self) {
        let now = self.clock.since_boot();
        self.tell(&mut self.told(), |told| self.is_over(told, now));
    }

    fn is_over(&self, told: &Told, now: Duration) -> bool {
        now.saturating_sub(told.since) >= self.period
    }

    /// Reports and forgets the subjects for which `is_over` holds.
    fn tell(&self, told: &mut Subjects, is_over: impl Fn(&Told) -> bool) {
        for ((kind, subject), told) in told.extract_if(|_, told| is_over(told)) {
            self.write(told.level, kind, &subject, told.held_back);
        }
    }

    fn write(&self, level: Level, kind: &str, subject: &str, count: u64) {
        if count == 0 {
            return;
        }
        let secs = self.period.as_secs();
        let line = format_args!(
            "{count} more lines like this in {secs} s were left out: {kind} ({subject})"
        );
        match level {
            Level::ERROR => tracing::error!("{line}"),
            Level::WARN => tracing::warn!("{line}"),
            _ => tracing::info!("{line}"),
        }
    }

    fn told(&self) -> MutexGuard<'_, Subjects> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reports the lines that every instance left out in the periods that are over. The program calls
/// this about once a second.
pub fn tell_held_back() {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for sparing in all.iter().filter_map(Weak::upgrade) {
        sparing.tell_held_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_back(sparing: &Sparing, subject: &str) -> Option<u64> {
        let told = sparing.told();
        Some(told.get(&("kind", subject.to_owned()))?.held_back)
    }

    #[test]
    fn of_many_lines_the_first_are_written_and_the_others_counted_in_each_period() {
        let clock = Clock::fixed(1_800_000_000);
        let sparing = Sparing::new(&clock);
        let may = |subject: &str| sparing.may(Level::WARN, "kind", subject);
        let written = |count: u64| (0..count).filter(|_| may("a")).count() as u64;
        assert_eq!(written(10_000), LINES_MAX);
        assert_eq!(held_back(&sparing, "a"), Some(10_000 - LINES_MAX));
        assert!(may("b"), "another subject is not held back by it");
        assert!(sparing.may(Level::WARN, "another kind", "a"));
        clock.advance(PERIOD - Duration::from_secs(1));
        assert_eq!(written(100), 0);
        clock.advance(Duration::from_secs(1));
        assert_eq!(written(100), LINES_MAX);
        assert_eq!(held_back(&sparing, "a"), Some(100 - LINES_MAX));
        sparing.tell_held_back();
        assert_eq!(
            held_back(&sparing, "a"),
            Some(100 - LINES_MAX),
            "its period is not over"
        );
        assert_eq!(
            held_back(&sparing, "b"),
            None,
            "nothing is kept of what is over"
        );
        clock.advance(PERIOD);
        sparing.tell_held_back();
        assert_eq!(held_back(&sparing, "a"), None);
    }

    #[test]
    fn whatever_the_subjects_are_so_many_are_remembered() {
        let sparing = Sparing::new(&Clock::fixed(1_800_000_000));
        for number in 0..10_000 {
            sparing.may(Level::INFO, "kind", &number.to_string());
        }
        assert!(sparing.told().len() <= SUBJECTS_MAX);
    }
}
