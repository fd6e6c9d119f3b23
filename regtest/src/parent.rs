//! Threads that start child processes and live as long as they are wanted.
//!
//! A child is started through `setpriv --pdeathsig KILL`, so that it dies with the harness even when the harness is
//! killed with -9 and no destructor runs. Linux sends that signal when the *thread* that started the child ends, not the
//! process: a thread of a runtime's blocking pool, which ends when it was idle, would take the child with it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use crate::environment;

/// A thread that started a child; the child is alive at most as long as this value.
#[derive(Debug)]
pub(crate) struct Parent {
    /// Dropped to let the thread end.
    _hold: mpsc::Sender<()>,
}

/// Runs `start` on a thread of its own, which then waits until the returned `Parent` is dropped.
pub(crate) async fn start<T: Send + 'static>(
    name: &str,
    start: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<(T, Parent)> {
    let (hold, held) = mpsc::channel::<()>();
    let (tell, told) = oneshot::channel();
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody listens any more if the caller gave up; the value is dropped, and with it the child.
            let _ = tell.send(start());
            let _ = held.recv();
        })
        .with_context(|| format!("failed to start the thread {name}"))?;
    let value = told
        .await
        .with_context(|| format!("the thread {name} panicked"))??;
    Ok((value, Parent { _hold: hold }))
}

/// A command that runs `exe` and dies with the thread that spawns it, where the system has `setpriv`. In a process group of
/// its own: a Ctrl-C is for the harness, which then stops its children in order.
pub(crate) fn bound_command(exe: &Path) -> Command {
    let mut command = match setpriv() {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(exe);
            command
        }
        None => Command::new(exe),
    };
    command.process_group(0);
    command
}

/// The program of util-linux that sets the signal; a Linux without it only loses the clean-up after a kill -9.
pub(crate) fn setpriv() -> Option<PathBuf> {
    environment::on_path("setpriv")
}

/// Runs a blocking end of something (a runtime's, a node's, a child's) on a plain thread and waits for it.
///
/// Destructors run inside asynchronous tasks, where neither a runtime may be dropped nor a node be stopped.
pub(crate) fn off_runtime<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    thread::scope(|scope| scope.spawn(work).join().ok())
}
