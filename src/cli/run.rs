//! `tollhouse run`: serve until told to stop.

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::app;
use crate::config;
use crate::operate::api::Reload;
use crate::sell::http::Stop;

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
    // Dropped last, so that the last lines, which say why the program ended, are written.
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
    // All that matters was waited for; what still blocks a thread, a chain source that hangs, must not keep us.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The whole chain on one line: this is what somebody reads at night.
            ::tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Told once: what is in flight is finished first. Told twice: it is cut, and node and books are still closed in good
/// order. Told three times: now.
async fn until_signalled(config: config::Config, file: &Path) -> anyhow::Result<()> {
    let stop = Stop::default();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let (reload, reloads) = Reload::channel();
    let reloading = async {
        while hang_up.recv().await.is_some() && reload.ask().await.is_some() {}
        // While it is stopping there is nothing to be read again.
        std::future::pending::<()>().await
    };
    let app = app::run(
        config,
        file.to_owned(),
        stop.clone(),
        (reload.clone(), reloads),
    );
    // Beside each other in one task: the program's end is the end of both.
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
