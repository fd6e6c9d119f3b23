//! The log. It goes to standard error, is filtered, and is coloured only on a terminal. It can lose
//! lines but never stops the program (see [`crate::base::log`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::base::log::{Ending, Lines, Log};
use crate::config::{LogConfig, LogFormat};

/// Starts the log. The `macaroon` crate logs whole tokens at the debug level, so its messages are
/// turned off.
pub(super) fn start(config: &LogConfig) -> io::Result<Ending> {
    let level = LevelFilter::from_level(config.level);
    let filter = EnvFilter::builder().parse_lossy(format!(
        "{level},macaroon=off,sled=warn,hyper=info,h2=info,rustls=info"
    ));
    let has_colours = io::stderr().is_terminal();
    let lines = match config.format {
        LogFormat::Json => Lines::Json,
        LogFormat::Text if has_colours => Lines::Coloured,
        LogFormat::Text => Lines::Text,
    };
    let out = Log::new(lines);
    let ending = out.start(io::stderr(), tell_dropped)?;
    let log = tracing_subscriber::fmt()
        .with_writer(move || out.clone())
        .with_ansi(has_colours)
        // The crate would write its own messages to standard error, and panics if that fails.
        .log_internal_errors(false)
        .with_env_filter(filter);
    match config.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    // The default hook blocks if the reader of standard error has stopped reading.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            tracing::error!("{panic}\n{backtrace}");
        } else {
            tracing::error!("{panic}");
        }
    }));
    Ok(ending)
}

/// Logs lost lines as an error, because every `log.level` shows errors.
fn tell_dropped(count: u64) {
    tracing::error!("Dropped {count} log lines: failed to write the log for a while");
}
