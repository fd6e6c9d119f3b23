//! Counts the requests for one file as one, such as the ranges that a player or a download fetches.
//! The windows are in memory, so a restart ends them.

/// How long the requests for a file count as one, from the first request on. Ten minutes are enough
/// to resume a download or to seek in a video.
const WINDOW_MS: u64 = 600_000;

/// The most open windows of one token. Beyond this number, each request counts.
const WINDOWS_MAX: usize = 64;

/// The open windows of one token.
#[derive(Debug, Default)]
pub(super) struct Windows {
    list: Vec<Window>,
    /// The number of the next window.
    next: u64,
}

/// The requests for one file. They hold one use, which counts once any of them is delivered.
#[derive(Debug)]
struct Window {
    /// The hash of the path, with a random key.
    file: u64,
    number: u64,
    /// The time at which the window closes, in milliseconds since the machine started.
    until_ms: u64,
    running: usize,
    is_delivered: bool,
}

/// The state of the use that a window holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// The use counts from now on.
    Counts,
    /// Nothing was delivered and no request is running, so the use goes back.
    GoesBack,
    /// The use was counted before, or another request is still running.
    Stays,
}

impl Windows {
    /// Joins the open window of this file, if one exists, and returns its number.
    pub(super) fn join(&mut self, file: u64, now_ms: u64) -> Option<u64> {
        let mut open = self.list.iter_mut();
        let window = open.find(|it| it.file == file && it.until_ms > now_ms)?;
        window.running += 1;
        Some(window.number)
    }

    /// Opens a window and returns its number. Returns `None` if too many windows are open.
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

    /// Ends one request of this window.
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

    /// Whether all windows are closed.
    pub(super) fn are_over(&self, now_ms: u64) -> bool {
        self.list.iter().all(|window| window.until_ms <= now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_holds_one_use_until_a_request_is_delivered_or_all_have_ended() {
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
    fn a_closed_window_takes_no_requests_and_ends_its_running_ones() {
        let mut windows = Windows::default();
        let first = windows.open(7, 0).unwrap();
        assert_eq!(windows.join(7, WINDOW_MS), None);
        let second = windows.open(7, WINDOW_MS).unwrap();
        assert_ne!(first, second);
        assert_eq!(windows.end(first, true), Held::Counts);
        assert_eq!(windows.end(second, false), Held::GoesBack);
    }

    #[test]
    fn the_number_of_windows_is_limited() {
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
