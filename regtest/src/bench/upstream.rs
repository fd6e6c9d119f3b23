//! An HTTP server to forward to: one kilobyte for whoever asks, as fast as it can.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use axum::Router;
use axum::serve::ListenerExt as _;
use tokio::runtime::{Builder, Runtime};

/// What it answers with.
static ANSWER: [u8; 1024] = [b'x'; 1024];

/// A running server; dropping it stops it.
#[derive(Debug)]
pub(super) struct Upstream {
    /// Where it listens.
    address: SocketAddr,
    /// Its own, so that it shares no thread with the harness; `None` after the stop.
    runtime: Option<Runtime>,
}

impl Upstream {
    /// Serves on a free loopback port, on one thread: a second one would only take time from the program that is measured.
    pub(super) fn start() -> Result<Self> {
        let failed = "failed to start the upstream";
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("upstream")
            .enable_all()
            .build()
            .context(failed)?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(failed)?;
        listener.set_nonblocking(true).context(failed)?;
        let address = listener.local_addr().context(failed)?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener).context(failed)?
        };
        let listener = listener.tap_io(|connection| {
            // Without it answers would wait for acknowledgements; a connection that is gone already needs none.
            let _ = connection.set_nodelay(true);
        });
        let app = Router::new().fallback(async || ANSWER.as_slice());
        runtime.spawn(async move {
            if let Err(error) = axum::serve(listener, app).await {
                tracing::error!(%error, "The upstream ended");
            }
        });
        Ok(Self {
            address,
            runtime: Some(runtime),
        })
    }

    /// The address of the listener.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL, without a trailing slash.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
