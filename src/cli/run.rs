//! `tollhouse run`: runs the program until it is told to stop.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::operate::api::Reload;
use crate::sell::http::Stop;
use crate::{app, config};

use super::descriptors;
use super::exit_code::{BAD_SETTINGS, complain};
use super::tracing::start;

/// Exits with 0 after SIGINT or SIGTERM, 2 if the settings are wrong, and 1 after a fault.
pub(super) fn run(file: &Path) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(complaints) => {
            complain(&complaints);
            return ExitCode::from(BAD_SETTINGS);
        }
    };
    // Dropped last, so that the last lines are written, which say why the program ended.
    let _log = match start(&config.log) {
        Ok(log) => log,
        Err(error) => {
            complain(&format!("failed to start the log thread: {error}"));
            return ExitCode::FAILURE;
        }
    };
    descriptors::raise(
        config.http.connections_max,
        config.node.peers.connections_max,
    );
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
    let ended = runtime.block_on(until_signalled(config, file));
    // All important work has ended. A thread that still blocks, for example on a chain source that
    // hangs, must not delay the exit.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain of errors is on one line, so that it is easy to find in the log.
            ::tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Stops in up to three steps. The first signal lets requests in flight finish. The second cuts
/// them off, but still stops the node and the ledger cleanly. The third ends the program at once.
async fn until_signalled(config: config::Config, file: &Path) -> anyhow::Result<()> {
    let stop = Stop::default();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (reload, reloads) = Reload::channel();
    let reloading = async {
        while hang_up.recv().await.is_some() && reload.ask().await.is_some() {}
        // A program that is stopping does not reload its settings.
        std::future::pending::<()>().await
    };
    let app = app::run(
        config,
        file.to_owned(),
        stop.clone(),
        (reload.clone(), reloads),
    );
    // Both run in one task, so that the end of the program ends the reloading, too.
    let app = async {
        tokio::select! {
            ended = app => ended,
            () = reloading => Ok(()),
        }
    };
    tokio::pin!(app);
    for told in [&stop.begin, &stop.hurry] {
        tokio::select! {
            ended = &mut app => return Ok(ended?),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        told.cancel();
    }
    tokio::select! {
        ended = &mut app => Ok(ended?),
        _ = interrupt.recv() => Err(told_thrice()),
        _ = terminate.recv() => Err(told_thrice()),
    }
}

fn told_thrice() -> anyhow::Error {
    anyhow::anyhow!("told to stop a third time, ended without stopping the node")
}
