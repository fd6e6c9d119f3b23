//! The log: to standard error, filtered, in colours only where a person looks at them.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogConfig, LogFormat};

/// Starts the log. The `macaroon` crate prints whole tokens when it debugs, so it is never heard.
pub(super) fn start(config: &LogConfig) {
    let level = LevelFilter::from_level(config.level);
    let filter = EnvFilter::builder().parse_lossy(format!(
        "{level},macaroon=off,sled=warn,hyper=info,h2=info,rustls=info"
    ));
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter);
    match config.format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}
