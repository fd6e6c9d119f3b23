//! How the program is told to stop: by a signal, or by the end of its standard input.

use std::io::{self, Read as _};
use std::thread;

use anyhow::{Context, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// The signals that end the program in good order.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// Listens from now on; until then a signal ends the process at once.
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("failed to listen for signals");
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    /// Waits for SIGINT or SIGTERM.
    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits until standard input closes. The thread that reads it ends with the process.
pub(crate) async fn input_closed() {
    let (tell, told) = oneshot::channel::<()>();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
        drop(tell);
    });
    // Never sent: the thread says it by letting go.
    let _ = told.await;
}
