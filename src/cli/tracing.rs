//! The log: to standard error, filtered, in colours only where a person looks at them. It may lose lines and never stops the
//! program (see [`crate::log`]).

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogConfig, LogFormat};
use crate::log::{Ending, Lines, Log};

/// Starts the log. The `macaroon` crate prints whole tokens when it debugs, so it is never heard.
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
        // It would print to standard error and panic where that fails.
        .log_internal_errors(false)
        .with_env_filter(filter);
    match config.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    // The hook of the standard library waits for whoever reads standard error.
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

/// An error, which no `log.level` leaves out.
fn tell_dropped(count: u64) {
    tracing::error!("The log could not be written for a while: {count} lines were dropped");
}
