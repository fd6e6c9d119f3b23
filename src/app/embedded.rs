//! The node inside another program, which serves the public itself and guards its own handlers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::base::live::Live;
use crate::config;
use crate::operate::api::Reload;
use crate::sell::http::Stop;
use crate::sell::layer::{Guard, GuardError, Guards};
use crate::sell::route::{Grant, Offer};

use super::build::Built;
use super::error::AppError;
use super::guarded::fits;
use super::running::Front;

/// A running node with its ledger and its operator's listener, and the guards of the program that
/// embeds it.
///
/// It uses a data folder and a settings file like those of `tollhouse run`, but without `[[route]]`
/// tables. Of `[http]`, only `trusted_proxies`, `forwarded_header`, `allow`, `block` and
/// `shutdown_grace` apply. It needs tokio's multi-threaded runtime. The log goes to the embedding
/// program's `tracing` subscriber. That subscriber must not write the target `macaroon`, because
/// that crate prints whole tokens at debug level.
#[derive(Debug)]
#[must_use = "dropped, it stops"]
pub struct Tollhouse {
    guards: Guards,
    listen: SocketAddr,
    reload: Reload,
    stop: Stop,
    /// The task that runs the node; `stop` takes it to wait for its end.
    ended: Option<JoinHandle<Result<(), AppError>>>,
}

impl Tollhouse {
    /// Starts the node with this settings file, and returns before the node is ready. Until the
    /// node can receive payments, guarded handlers answer 503 to clients that have not paid.
    ///
    /// # Errors
    /// If the settings are invalid, the data folder is in use, or the operator's address is taken.
    pub async fn start(settings: impl AsRef<Path>) -> Result<Self, AppError> {
        let file = settings.as_ref().to_owned();
        let reading = file.clone();
        let config = tokio::task::spawn_blocking(move || config::load(&reading)).await??;
        fits(&[], &config)?;
        let (listen, operating) = (config.http.listen, config.admin_url());
        let grace = config.http.grace;
        let (reload, reloads) = Reload::channel();
        let offers = Arc::new(Live::default());
        let reloading = (reload.clone(), reloads);
        let built = Built::build(config, file, reloading, Some(Arc::clone(&offers))).await?;
        let (stop, in_flight) = (Stop::default(), TaskTracker::new());
        let guards = Guards {
            gate: Arc::clone(&built.reloading.gate),
            shop: Arc::clone(&built.reloading.shop),
            offers,
            in_flight: in_flight.clone(),
            stop: stop.begin.clone(),
        };
        tracing::info!("Guarding what this program serves, the operator's listener is {operating}");
        let running = built.run(Front::Guards { in_flight, grace }, stop.clone());
        Ok(Self {
            guards,
            listen,
            reload,
            stop,
            ended: Some(TaskTracker::new().spawn(running)),
        })
    }

    /// A guard that sells this service at a price like `"10 sat"`, `"2500 msat"` or `"0.01 USD"`. A
    /// payment buys any number of requests within a day.
    ///
    /// # Errors
    /// If the name or price is invalid, or another guard sells the same service on other terms.
    pub fn guard(&self, service: &str, price: &str) -> Result<Guard, GuardError> {
        self.guard_with(Offer::new(service, price.parse()?, Grant::default()))
    }

    /// A guard with a full offer: its grants, prices by request and free quota.
    ///
    /// # Errors
    /// If the offer is inconsistent in itself, with the settings, or with the offers of other
    /// guards.
    pub fn guard_with(&self, offer: Offer) -> Result<Guard, GuardError> {
        self.guards.guard(offer)
    }

    /// The address of the public listener in the settings (`http.listen`), for a program that uses
    /// it.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Reloads the settings, as SIGHUP does for `tollhouse run`. Returns the changed keys that take
    /// effect only after a restart. If the settings are invalid, nothing changes, and the error
    /// says why. Returns `None` while the node is stopping.
    pub async fn reload(&self) -> Option<Result<Vec<&'static str>, String>> {
        self.reload.ask().await
    }

    /// Waits for SIGINT, SIGTERM or a fault that stops the node. Use it for a server's graceful
    /// shutdown: a program that is killed in the middle of a payment can lose the channel.
    pub fn stop_signal(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopping = self.stopping();
        async move {
            let signals = (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            );
            let (mut interrupt, mut terminate) = match signals {
                (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!("Failed to listen to signals, only a fault is heard: {error}");
                    return stopping.await;
                }
            };
            tokio::select! {
                () = stopping => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
    }

    /// Waits until the node stops, on request or because of a fault. From then on, all guarded
    /// handlers answer 503.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.begin.clone().cancelled_owned()
    }

    /// Stops the node: admits no new requests, lets requests in flight finish within
    /// `http.shutdown_grace`, then closes the node and the ledger. Call this method last, so that
    /// no payment is interrupted.
    ///
    /// # Errors
    /// If a fault had already stopped the node, or the ledger could not be closed.
    pub async fn stop(mut self) -> Result<(), AppError> {
        self.stop.begin.cancel();
        match self.ended.take() {
            Some(ended) => ended.await?,
            None => Ok(()),
        }
    }
}

/// Stops the node in the background. The stop completes only if the runtime runs long enough.
impl Drop for Tollhouse {
    fn drop(&mut self) {
        self.stop.begin.cancel();
    }
}
