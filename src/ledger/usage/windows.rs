//! Requests for one file that count as one: the ranges in which a player or a download fetches it. In memory: a restart ends them.

/// For how long the requests for a file count as one, from the first of them on: ten minutes, which is time for a download to be
/// resumed and for a player to look around.
const WINDOW_MS: u64 = 600_000;

/// Files of one token whose requests count as one at the same time. Of a further file, each request counts.
const WINDOWS_MAX: usize = 64;

/// The files that were asked for with one token.
#[derive(Debug, Default)]
pub(super) struct Windows {
    list: Vec<Window>,
    /// The number of the next one.
    next: u64,
}

/// The requests for one file, of which one counts: once the first of them is delivered.
#[derive(Debug)]
struct Window {
    /// The file, by a hash that nobody can foresee.
    file: u64,
    number: u64,
    /// Milliseconds since the machine was started.
    until_ms: u64,
    running: usize,
    is_delivered: bool,
}

/// What becomes of the one request that a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It counts from now on.
    Counts,
    /// Nothing was delivered, and nothing more is to come: it goes back.
    GoesBack,
    /// What became of it before, or what another request will make of it.
    Stays,
}

impl Windows {
    /// Adds a request to the window of its file, if that is open, and says which one it is.
    pub(super) fn join(&mut self, file: u64, now_ms: u64) -> Option<u64> {
        let mut open = self.list.iter_mut();
        let window = open.find(|it| it.file == file && it.until_ms > now_ms)?;
        window.running += 1;
        Some(window.number)
    }

    /// Opens a window for a request, and says which one it is. `None` if there are too many.
    pub(super) fn open(&mut self, file: u64, now_ms: u64) -> Option<u64> {
        self.list
            .retain(|window| window.running > 0 || window.until_ms > now_ms);
        if self.list.len() >= WINDOWS_MAX {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.list.push(Window {
            file,
            number,
            until_ms: now_ms.saturating_add(WINDOW_MS),
            running: 1,
            is_delivered: false,
        });
        Some(number)
    }

    /// Ends a request of this window.
    pub(super) fn end(&mut self, number: u64, is_delivered: bool) -> Held {
        let Some(at) = self.list.iter().position(|it| it.number == number) else {
            return Held::Stays;
        };
        let window = &mut self.list[at];
        window.running = window.running.saturating_sub(1);
        if window.is_delivered {
            return Held::Stays;
        }
        if is_delivered {
            window.is_delivered = true;
            return Held::Counts;
        }
        if window.running > 0 {
            return Held::Stays;
        }
        self.list.swap_remove(at);
        Held::GoesBack
    }

    /// Whether no window is open.
    pub(super) fn are_over(&self, now_ms: u64) -> bool {
        self.list.iter().all(|window| window.until_ms <= now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requests_of_a_window_hold_one_until_one_is_delivered_or_none_is_left() {
        let mut windows = Windows::default();
        assert_eq!(windows.join(7, 0), None);
        let first = windows.open(7, 0).unwrap();
        assert_eq!(windows.join(7, WINDOW_MS - 1), Some(first));
        assert_eq!(windows.join(8, 0), None);
        assert_eq!(windows.end(first, false), Held::Stays);
        assert_eq!(windows.end(first, false), Held::GoesBack);
        assert_eq!(windows.join(7, 0), None);
        let second = windows.open(7, 0).unwrap();
        windows.join(7, 0).unwrap();
        assert_eq!(windows.end(second, true), Held::Counts);
        assert_eq!(windows.end(second, false), Held::Stays);
        assert_eq!(windows.join(7, 1), Some(second));
        assert_eq!(windows.end(second, true), Held::Stays);
        assert!(!windows.are_over(WINDOW_MS - 1) && windows.are_over(WINDOW_MS));
    }

    #[test]
    fn a_window_that_is_over_is_not_joined_and_what_runs_in_it_ends_in_it() {
        let mut windows = Windows::default();
        let first = windows.open(7, 0).unwrap();
        assert_eq!(windows.join(7, WINDOW_MS), None);
        let second = windows.open(7, WINDOW_MS).unwrap();
        assert_ne!(first, second);
        assert_eq!(windows.end(first, true), Held::Counts);
        assert_eq!(windows.end(second, false), Held::GoesBack);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut windows = Windows::default();
        for file in 0..WINDOWS_MAX as u64 {
            let number = windows.open(file, 0).unwrap();
            windows.end(number, true);
        }
        assert_eq!(windows.open(1_000, WINDOW_MS - 1), None);
        assert!(windows.open(1_000, WINDOW_MS).is_some());
        assert_eq!(windows.list.len(), 1);
    }
}
