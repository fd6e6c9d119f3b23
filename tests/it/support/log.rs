//! A log in memory.

use std::io;
use std::sync::{Arc, Mutex, OnceLock};

use tracing::Level;
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// What this thread logs until the guard is dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

/// Keeps a second listener alive. With only one, tracing asks the thread that says something first, whether anybody listens at
/// all, and keeps to its answer: another test's thread would silence this one's log.
fn hear_each_thread() {
    static SECOND: OnceLock<tracing::Dispatch> = OnceLock::new();
    SECOND.get_or_init(|| tracing::Dispatch::new(tracing_subscriber::registry()));
}

impl Log {
    /// Takes everything that this thread logs.
    pub(crate) fn listen() -> (Self, DefaultGuard) {
        Self::listen_at(Level::TRACE)
    }

    /// Takes what this thread logs at this level and above.
    pub(crate) fn listen_at(level: Level) -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        hear_each_thread();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// The lines that hold all of these words.
    pub(crate) fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let text = self.text();
        let lines = text.lines();
        let lines = lines.filter(|line| words.iter().all(|word| line.contains(word)));
        lines.map(str::to_owned).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
