//! The output of the log: lines wait in a queue, and a separate thread writes them. If the log
//! cannot be written, because its disk is full or its reader has closed or stopped, it loses lines
//! and never stops the program.
//!
//! `tracing-appender` is not used. It does not count a line that failed to be written, and reports
//! nothing once it can write again. It limits its queue in lines, not in bytes, and prints to
//! standard output when it cannot end.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::base::text;

/// The most bytes in the queue: about twenty thousand lines, for a disk or reader that is slow for
/// a moment.
const QUEUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The bytes that a line takes in the queue in addition to its text.
const LINE_BYTES: usize = 64;

/// The longest time that the end of the program waits until the queued lines are written.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// Lines lost since the program began. The counter is static, because a program has one log.
static DROPPED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The number of lost lines that the next line of this thread reports. It is set only on the
    /// thread that writes the log.
    static TELLS_OF: Cell<u64> = const { Cell::new(0) };
}

/// The number of lines that the log has lost since the program began.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// A writer that queues lines. It never fails and never waits for the reader of the log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    lines: Lines,
}

/// The format of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Plain text.
    Text,
    /// Text with escape codes for colours.
    Coloured,
    /// JSON.
    Json,
}

/// The queue. A `std` mutex: held to add or take a line, never while one is written.
#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Line>,
    /// The bytes that the lines take.
    bytes: usize,
    /// Lines that were lost and that no line has reported yet.
    untold: u64,
    /// Whether a line that reports lost lines is queued.
    is_telling: bool,
    /// Whether the queue accepts no more lines.
    is_closed: bool,
    /// Whether all queued lines were written or lost.
    is_over: bool,
}

#[derive(Debug)]
struct Line {
    text: Box<[u8]>,
    /// The number of lost lines that this line reports; usually 0.
    tells_of: u64,
}

impl Queue {
    fn lose(&mut self, tells_of: u64) {
        if tells_of == 0 {
            self.untold += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
        } else {
            // These lines were counted when they were lost.
            self.untold += tells_of;
        }
    }
}

/// Ends the log when it is dropped. It waits a moment until the queued lines are written.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
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
        // If the wait timed out, the reader has stopped, and no report can reach it.
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

    /// Starts the thread that writes to `out`. When the thread can write again after it lost lines,
    /// it calls `tell` with their number, and `tell` logs one line about them.
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

    /// Queues a line, or drops it if the queue is full.
    fn push(&self, line: &[u8]) {
        let tells_of = TELLS_OF.take();
        let text = self.clean(line);
        let bytes = text.len() + LINE_BYTES;
        let mut queue = lock(&self.shared);
        let has_room = !queue.is_closed && queue.bytes + bytes <= QUEUE_BYTES_MAX;
        // Queue a line that reports dropped ones even if the queue is full.
        if !has_room && tells_of == 0 {
            queue.lose(tells_of);
            return;
        }
        queue.bytes += bytes;
        queue.lines.push_back(Line { text, tells_of });
        drop(queue);
        self.shared.changed.notify_all();
    }

    /// Escapes the characters in the line that could deceive its reader. Colours are kept: where
    /// they are on, `tracing-subscriber` has escaped every other escape code.
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

    /// Takes the next line. Returns `None` once the log has ended and the queue is empty.
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
            // Only one report waits at a time. Otherwise a reader that is always too slow would get
            // a report between any two lines.
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

/// Each call writes one line, as `tracing-subscriber` does.
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

/// Writes a line. If the line before it was written only in part, ends that line first.
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

    /// A disk with little space that can grow. Like the system, it writes part of a line that no
    /// longer fits.
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

    /// Starts a log that reports lost lines in a separate line.
    fn start(out: impl Write + Send + 'static) -> (Log, Ending) {
        let log = Log::new(Lines::Text);
        let telling = log.clone();
        let ending = log.start(out, move |count| say(&telling, &format!("lost {count}\n")));
        (log, ending.unwrap())
    }

    /// Waits until the queue is empty. The last line may still be in writing.
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
    fn a_full_disk_loses_lines_and_the_first_line_after_it_reports_how_many() {
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
        // When the disk grew, the last lines may not have been tried yet.
        let lost: u64 = lines.last().unwrap()["lost ".len()..].parse().unwrap();
        assert!((100..=101).contains(&lost), "{text}");
        assert!(dropped() >= lost);
        assert!(lines.contains(&"four"), "{text}");
    }

    #[test]
    fn a_closed_reader_loses_all_lines_and_nothing_fails() {
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
    fn a_stopped_reader_fills_the_queue_and_delays_nobody() {
        /// Writes nothing until it is released.
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
    fn the_end_waits_for_a_stopped_reader_only_for_a_moment() {
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
    fn a_line_is_one_line_without_invisible_characters() {
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
