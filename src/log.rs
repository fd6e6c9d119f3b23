//! The log's way out: lines wait in a queue for a thread of their own that writes them. A log that cannot be written (its disk
//! is full, its reader is gone or reads nothing) loses lines and never stops the program.
//!
//! Not `tracing-appender`: it forgets a line that failed to be written without counting it, says nothing once it can be
//! written again, bounds its queue in lines and not in bytes, and prints to standard output when it cannot end.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::text;

/// What the queue may hold: some twenty thousand lines, for a disk or a reader that is slow for a moment.
const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a line takes in the queue besides its text.
const LINE_BYTES: usize = 64;

/// How long the end of the program waits for the lines that say why it ended.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Lines that were lost since the program began: a program has one log.
static DROPPED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// How many lost lines the next line of this thread tells of; only the thread that writes the log sets it.
    static TELLS_OF: Cell<u64> = const { Cell::new(0) };
}

/// The number of lines that the log has lost since the program began.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Where lines are put. Never fails and never waits for whoever reads them.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    lines: Lines,
}

/// What the lines are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Text.
    Text,
    /// Text with the escape codes of a terminal's colours.
    Coloured,
    /// JSON.
    Json,
}

/// A `std` mutex: held to put a line in or to take one out, never while one is written.
#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// What they take.
    bytes: usize,
    /// Lines that were lost and that no line has told of yet.
    untold: u64,
    /// Whether a line that tells of some is on its way.
    is_telling: bool,
    /// Whether nothing more is taken.
    is_closed: bool,
    /// Whether all that was taken has been written or lost.
    is_over: bool,
}

#[derive(Debug)]
struct Line {
    text: Box<[u8]>,
    /// How many lost lines it tells of; 0 for all but a few.
    tells_of: u64,
}

impl Queue {
    fn lose(&mut self, tells_of: u64) {
        if tells_of == 0 {
            self.untold += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
        } else {
            // Those were counted when they were lost.
            self.untold += tells_of;
        }
    }
}

/// Ends the log when it is dropped: waits for a moment until what is queued has been written.
#[derive(Debug)]
#[must_use = "dropped, it ends the log"]
pub struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut queue = lock(&self.0);
        queue.is_closed = true;
        self.0.changed.notify_all();
        let is_open = |queue: &mut Queue| !queue.is_over;
        let waited = self
            .0
            .changed
            .wait_timeout_while(queue, FLUSH_TIMEOUT, is_open);
        // Whoever reads the log has hung up or hangs: nobody can be told.
        drop(waited);
    }
}

impl Log {
    /// A log whose lines wait until it is started.
    pub fn new(lines: Lines) -> Self {
        Self {
            shared: Arc::default(),
            lines,
        }
    }

    /// Starts the thread that writes to `out`. Once a line could be written again after others were lost, it calls `tell`
    /// with their number, which is to write one line about them.
    pub fn start(
        &self,
        out: impl Write + Send + 'static,
        tell: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Ending> {
        let log = self.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || log.write_lines(out, tell))?;
        Ok(Ending(Arc::clone(&self.shared)))
    }

    /// Queues a line, or loses it.
    fn push(&self, line: &[u8]) {
        let tells_of = TELLS_OF.take();
        let text = self.clean(line);
        let bytes = text.len() + LINE_BYTES;
        let mut queue = lock(&self.shared);
        let has_room = !queue.is_closed && queue.bytes + bytes <= QUEUE_BYTES_MAX;
        // For the one line that tells of lost ones there is always room.
        if !has_room && tells_of == 0 {
            queue.lose(tells_of);
            return;
        }
        queue.bytes += bytes;
        queue.lines.push_back(Line { text, tells_of });
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// The line without anything that a stranger could put there to deceive whoever reads the log. Colours are kept: where
    /// there are some, `tracing-subscriber` has taken the escape codes out of everything else.
    fn clean(&self, line: &[u8]) -> Box<[u8]> {
        let line = String::from_utf8_lossy(line);
        let (line, end) = match line.strip_suffix('\n') {
            Some(line) => (line, "\n"),
            None => (&*line, ""),
        };
        let shown = match self.lines {
            Lines::Text => text::shown(line).into_owned(),
            Lines::Json => text::shown_json(line).into_owned(),
            Lines::Coloured => {
                let parts: Vec<_> = line.split('\x1b').map(text::shown).collect();
                parts.join("\x1b")
            }
        };
        (shown + end).into_bytes().into()
    }

    /// The next line; `None` when the log was ended and everything was taken out.
    fn next(&self) -> Option<Line> {
        let is_waiting = |queue: &mut Queue| queue.lines.is_empty() && !queue.is_closed;
        let queue = lock(&self.shared);
        let waited = self.shared.changed.wait_while(queue, is_waiting);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        let line = queue.lines.pop_front()?;
        queue.bytes -= line.text.len() + LINE_BYTES;
        Some(line)
    }

    fn write_lines(&self, mut out: impl Write, tell: impl Fn(u64)) {
        let mut is_torn = false;
        while let Some(line) = self.next() {
            let written = write(&mut out, &line.text, &mut is_torn);
            let mut queue = lock(&self.shared);
            if line.tells_of > 0 {
                queue.is_telling = false;
            }
            if written.is_err() {
                queue.lose(line.tells_of);
                continue;
            }
            // One at a time: of a reader who is always too slow there is not a line between any two.
            if queue.untold > 0 && !queue.is_telling {
                queue.is_telling = true;
                let count = std::mem::take(&mut queue.untold);
                drop(queue);
                TELLS_OF.set(count);
                tell(count);
                TELLS_OF.set(0);
            }
        }
        lock(&self.shared).is_over = true;
        self.shared.changed.notify_all();
    }
}

/// Each call is one line, as `tracing-subscriber` writes them.
impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock(shared: &Shared) -> MutexGuard<'_, Queue> {
    shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a line. One that broke off is ended before the next one begins.
fn write(out: &mut impl Write, line: &[u8], is_torn: &mut bool) -> io::Result<()> {
    let torn;
    let mut left = line;
    if *is_torn {
        torn = [b"\n", line].concat();
        left = &torn;
    }
    while !left.is_empty() {
        match out.write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                *is_torn = left[count - 1] != b'\n';
                left = &left[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// A disk of little room that can be made larger: takes part of what no longer fits, as the system does.
    #[derive(Clone, Default)]
    struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Disk {
        fn with_room(bytes: usize) -> Self {
            Self(Arc::new(Mutex::new((Vec::new(), bytes))))
        }

        fn has_room(&self, bytes: usize) {
            self.0.lock().unwrap().1 = bytes;
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
        }
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (text, room) = &mut *self.0.lock().unwrap();
            let count = bytes.len().min(*room - text.len());
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            text.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn say(log: &Log, line: &str) {
        Write::write_all(&mut log.clone(), line.as_bytes()).unwrap();
    }

    /// Starts a log that tells of lost lines in a line of its own.
    fn start(out: impl Write + Send + 'static) -> (Log, Ending) {
        let log = Log::new(Lines::Text);
        let telling = log.clone();
        let ending = log.start(out, move |count| say(&telling, &format!("lost {count}\n")));
        (log, ending.unwrap())
    }

    /// Waits until all that was said was taken out and written or lost; the thread tells nothing while it holds the lock.
    fn settle(log: &Log) {
        let (heard, hears) = mpsc::channel();
        let shared = Arc::clone(&log.shared);
        thread::spawn(move || {
            while !lock(&shared).lines.is_empty() {
                thread::yield_now();
            }
            heard.send(()).unwrap();
        });
        hears.recv_timeout(Duration::from_secs(10)).unwrap();
    }

    #[test]
    fn a_full_disk_loses_lines_and_the_first_line_after_it_tells_how_many() {
        let disk = Disk::with_room(10);
        let (log, ending) = start(disk.clone());
        say(&log, "one\n");
        for _ in 0..100 {
            say(&log, "two, which does not fit\n");
        }
        settle(&log);
        say(&log, "three\n");
        settle(&log);
        disk.has_room(1_000);
        say(&log, "four\n");
        drop(ending);
        let text = disk.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "one");
        assert!("two, which does not fit".starts_with(lines[1]), "{text}");
        // The disk was made larger while the last of them may not have been tried yet.
        let lost: u64 = lines.last().unwrap()["lost ".len()..].parse().unwrap();
        assert!((100..=101).contains(&lost), "{text}");
        assert!(dropped() >= lost);
        assert!(lines.contains(&"four"), "{text}");
    }

    #[test]
    fn a_reader_that_is_gone_loses_everything_and_nothing_fails() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (log, ending) = start(Gone);
        for _ in 0..1_000 {
            say(&log, "line\n");
        }
        let began = Instant::now();
        drop(ending);
        assert!(began.elapsed() < FLUSH_TIMEOUT * 2);
        assert_eq!(lock(&log.shared).untold, 1_000);
    }

    #[test]
    fn a_reader_that_hangs_fills_the_queue_and_holds_nobody_up() {
        /// Takes nothing until it is told to go on.
        struct Hanging(Arc<AtomicBool>, Disk);
        impl Write for Hanging {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                while !self.0.load(Ordering::Acquire) {
                    thread::yield_now();
                }
                self.1.write(bytes)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let goes_on = Arc::new(AtomicBool::new(false));
        let disk = Disk::with_room(usize::MAX);
        let (log, ending) = start(Hanging(Arc::clone(&goes_on), disk.clone()));
        let line = format!("{}\n", "x".repeat(1_000));
        let fitting = QUEUE_BYTES_MAX / (line.len() + LINE_BYTES);
        for _ in 0..2 * fitting {
            say(&log, &line);
        }
        assert!(lock(&log.shared).bytes <= QUEUE_BYTES_MAX);
        goes_on.store(true, Ordering::Release);
        settle(&log);
        say(&log, "and on\n");
        drop(ending);
        let text = disk.text();
        let told = text.lines().filter_map(|line| line.strip_prefix("lost "));
        let lost: usize = told.map(|count| count.parse::<usize>().unwrap()).sum();
        let written = text.lines().filter(|line| line.starts_with('x')).count();
        assert_eq!(written + lost, 2 * fitting);
        assert!(lost >= fitting - 1, "{lost} of {fitting}");
        assert!(text.lines().any(|line| line == "and on"));
    }

    #[test]
    fn the_end_waits_for_a_hanging_reader_only_for_a_moment() {
        struct Never;
        impl Write for Never {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                loop {
                    thread::park();
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (log, ending) = start(Never);
        say(&log, "line\n");
        let began = Instant::now();
        drop(ending);
        let took = began.elapsed();
        assert!(
            took >= FLUSH_TIMEOUT && took < FLUSH_TIMEOUT * 10,
            "{took:?}"
        );
    }

    #[test]
    fn a_line_is_one_line_and_says_nothing_that_is_not_seen() {
        let disk = Disk::with_room(usize::MAX);
        let (log, ending) = start(disk.clone());
        say(
            &log,
            "the peer said: bye\n2026-01-01 ERROR all is lost\u{202e}\x1b[2J\n",
        );
        drop(ending);
        assert_eq!(
            disk.text(),
            "the peer said: bye\\n2026-01-01 ERROR all is lost\\u{202e}\\u{1b}[2J\n"
        );
        let coloured = Log::new(Lines::Coloured).clean(b"\x1b[31mERROR\x1b[0m a\x07b\n");
        assert_eq!(&*coloured, b"\x1b[31mERROR\x1b[0m a\\u{7}b\n");
        let json = Log::new(Lines::Json).clean("{\"a\":\"\u{202e}\"}\n".as_bytes());
        assert_eq!(&*json, b"{\"a\":\"\\u202e\"}\n");
    }
}
