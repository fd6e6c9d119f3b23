//! The node in somebody else's program, which serves the public itself and has its handlers guarded.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::base::live::Live;
use crate::config::{self, Config};
use crate::operate::api::Reload;
use crate::sell::http::Stop;
use crate::sell::layer::{Guard, GuardError, Guards, can_be_priced};
use crate::sell::route::{Grant, Offer};

use super::{AppError, Built, Front};

/// A running node with its books and its operator's listener, and the guards of the program that it runs in.
///
/// It lives in a data folder like that of `tollhouse run` and reads the same settings file, without `[[route]]` tables; of
/// `[http]` it goes by `trusted_proxies`, `forwarded_header`, `allow`, `block` and `shutdown_grace`. It is made for tokio's
/// multi-threaded runtime. The log goes to the program's own `tracing` subscriber, which must not write the target
/// `macaroon`: that crate prints whole tokens when it debugs.
#[derive(Debug)]
#[must_use = "dropped, it stops"]
pub struct Tollhouse {
    guards: Guards,
    listen: SocketAddr,
    reload: Reload,
    stop: Stop,
    /// Taken by who waits for the end.
    ended: Option<JoinHandle<Result<(), AppError>>>,
}

impl Tollhouse {
    /// Starts the node by this settings file, and returns while it is still getting ready: until it can be paid, what is
    /// guarded answers 503 to whoever has not paid yet.
    ///
    /// # Errors
    /// If the settings do not hold, the data folder is in use, or the operator's address is taken.
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

    /// A guard for what is sold as this service, at a price like `"10 sat"`, `"2500 msat"` or `"0.01 USD"` for any number of
    /// requests within a day.
    ///
    /// # Errors
    /// If name or price cannot be read, or another guard sells the same service in another way.
    pub fn guard(&self, service: &str, price: &str) -> Result<Guard, GuardError> {
        self.guard_with(Offer::new(service, price.parse()?, Grant::default()))
    }

    /// The same with all that can be said of an offer: what a payment buys, prices by what is asked for, what comes free.
    ///
    /// # Errors
    /// If the offer does not make sense by itself, with the settings, or with those of other guards.
    pub fn guard_with(&self, offer: Offer) -> Result<Guard, GuardError> {
        self.guards.guard(offer)
    }

    /// Where the settings want the public listener (`http.listen`), for a program that goes by them.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Has the settings read again, as SIGHUP does with `tollhouse run`. What changed and takes effect only after a restart,
    /// or what is wrong with them, and then nothing has changed; `None` while it is stopping.
    pub async fn reload(&self) -> Option<Result<Vec<&'static str>, String>> {
        self.reload.ask().await
    }

    /// Waits for SIGINT or SIGTERM, or until it stops by itself because of a fault: for a server's graceful shutdown. A
    /// program that is killed in the middle of a payment can lose the channel.
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

    /// Waits until it stops, be it told to or because of a fault. From then on everything guarded is answered 503.
    pub fn stopping(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stop.begin.clone().cancelled_owned()
    }

    /// Stops: nothing new is let through, what is in flight is finished within `http.shutdown_grace`, then node and books are
    /// closed. Call it last, so that no payment is caught in the middle.
    ///
    /// # Errors
    /// If a fault has stopped it before, or the books could not be closed.
    pub async fn stop(mut self) -> Result<(), AppError> {
        self.stop.begin.cancel();
        match self.ended.take() {
            Some(ended) => ended.await?,
            None => Ok(()),
        }
    }
}

/// It stops in the background, which takes as long as the runtime lives.
impl Drop for Tollhouse {
    fn drop(&mut self) {
        self.stop.begin.cancel();
    }
}

/// Whether what is guarded can be sold by these settings.
pub(super) fn fits(guarded: &[Offer], config: &Config) -> Result<(), AppError> {
    // What would silently not be there: routes that nobody serves, TLS that nobody speaks.
    let unserved = [
        ("route", config.routes.iter().next().is_some()),
        ("http.tls", config.http.tls.is_some()),
        ("http.proxy_protocol", config.http.proxy_protocol),
    ];
    if let Some((key, _)) = unserved.iter().find(|(_, is_there)| *is_there) {
        return Err(AppError::OnlyRun(key));
    }
    for offer in guarded {
        can_be_priced(
            offer,
            |currency| config.rates.iter().any(|rate| rate.currency == currency),
            |name| config.hooks.iter().any(|hook| &*hook.name == name),
        )?;
    }
    Ok(())
}
