//! The accept loop. It uses hyper directly, because `axum::serve` has no header timeout and no
//! limits on sizes and connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Level;

use crate::base::clock::Clock;
use crate::base::sparing::Sparing;

use super::connection::Speaking;
use super::entry::{Entry, Limits, Stop};
use super::seats::Seats;

/// The wait before the next accept after the operating system ran out of a resource.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A listener and the router that answers on it.
#[derive(Debug)]
pub struct Server {
    /// The name of the listener in the log.
    pub name: &'static str,
    /// The listener.
    pub listener: TcpListener,
    /// The router that answers the requests.
    pub router: Router,
    /// The limits.
    pub limits: Limits,
    /// The layers below HTTP.
    pub entry: Entry,
}

/// Logs a connection that got no place. It most likely came from a proxy that the settings do not
/// list.
fn tell_of_share(log: &Sparing, name: &'static str, peer: SocketAddr) {
    if log.may(
        Level::WARN,
        "Refused a connection beyond its network's share",
        name,
    ) {
        tracing::warn!(
            "Refused a connection of {} on the {name} listener: its network has reached its share, or all \
             connections are taken. If it is a proxy, name it in http.trusted_proxies",
            peer.ip()
        );
    }
}

impl Server {
    /// Accepts connections until told to stop. Then lets the requests in flight finish within the
    /// grace period.
    pub async fn run(self, tracker: TaskTracker, stop: Stop) {
        let Self {
            name,
            listener,
            router,
            limits,
            entry,
        } = self;
        let seats = Seats::new(limits.connections_max, limits.connections_of_network);
        let connections = TaskTracker::new();
        let cut = CancellationToken::new();
        if let Some(tls) = &entry.tls {
            tracker.spawn(tls.clone().keep(stop.begin.clone()));
        }
        let speaking = Arc::new(Speaking::new(
            router,
            limits,
            entry,
            tracker.clone(),
            Stop {
                begin: stop.begin.clone(),
                hurry: cut.clone(),
            },
        ));
        let log = Sparing::new(&Clock::system());
        loop {
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // The process is most likely out of file descriptors, and a busy loop would
                        // not free one.
                        if log.may(Level::WARN, "Failed to accept a connection", name) {
                            tracing::warn!("Failed to accept a connection on the {name} listener: {error}");
                        }
                        tokio::time::sleep_until(tokio::time::Instant::now() + ACCEPT_BACKOFF).await;
                        continue;
                    }
                },
                () = stop.begin.cancelled() => break,
            };
            if speaking.turns_away(peer) {
                continue;
            }
            match seats.let_in(peer.ip(), speaking.is_trusted(peer)) {
                Some(coming) => {
                    let served = Arc::clone(&speaking).serve(stream, peer, coming);
                    tracker.spawn(connections.track_future(served));
                }
                None => tell_of_share(&log, name, peer),
            }
        }
        drop(listener);
        let in_flight = connections.len();
        connections.close();
        let is_finished = tokio::select! {
            finished = tokio::time::timeout(limits.grace, connections.wait()) => finished.is_ok(),
            () = stop.hurry.cancelled() => false,
        };
        if !is_finished {
            tracing::warn!("Gave up on requests in flight on the {name} listener");
            // Otherwise a client that does not read would keep the program from ending.
            cut.cancel();
        } else if in_flight > 0 {
            tracing::info!("Every connection of the {name} listener came to its end");
        }
    }
}
