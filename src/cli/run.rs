//! `tollhouse run`: serve until told to stop.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{app, config};

use super::{BAD_SETTINGS, complain, descriptors, tracing::start};

/// Exit 0 after SIGINT or SIGTERM, 2 if the settings do not hold, 1 after a fault.
pub(super) fn run(file: &Path) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(complaints) => {
            complain(&complaints);
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    start(&config.log);
    descriptors::raise(config.http.connections_max);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            ::tracing::error!("Failed to start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(until_signalled(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain on one line: this is what somebody reads at night.
            ::tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn until_signalled(config: config::Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let app = app::run(config, stop.clone());
    tokio::pin!(app);
    tokio::select! {
        ended = &mut app => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    stop.cancel();
    tokio::select! {
        ended = &mut app => Ok(ended?),
        // Twice means now. What must not be lost is on the disk already.
        _ = interrupt.recv() => Err(told_twice()),
        _ = terminate.recv() => Err(told_twice()),
    }
}

fn told_twice() -> anyhow::Error {
    anyhow::anyhow!("told to stop a second time, ended without finishing what was in flight")
}
