//! An HTTP server of the harness on a runtime of its own.
//!
//! Its own runtime for two reasons. It keeps answering while a test's single thread is busy; and stopping it closes every
//! socket at once, kept-alive connections included, as the end of a process would.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use tokio::runtime::{Builder, Runtime};

use crate::parent;

/// How long a stop waits for a handler that blocks its thread.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// A running HTTP server; dropping it stops it.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    address: SocketAddr,
    /// `None` after the stop.
    runtime: Option<Runtime>,
}

impl Server {
    /// Binds `address` and serves `app` from then on.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(name: &str, address: SocketAddr, app: Router) -> Result<Self> {
        let bind = || format!("failed to bind {address} for {name}");
        let listener = TcpListener::bind(address).with_context(bind)?;
        listener.set_nonblocking(true).with_context(bind)?;
        // Port 0 is any that is free.
        let address = listener.local_addr().with_context(bind)?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(name)
            .enable_all()
            .build()
            .with_context(|| format!("failed to build the runtime of {name}"))?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener).with_context(bind)?
        };
        let name = name.to_owned();
        runtime.spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "{name} ended");
            }
        });
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the listener and every connection; returns when they are closed.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            parent::off_runtime(|| runtime.shutdown_timeout(STOP_TIMEOUT));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}
