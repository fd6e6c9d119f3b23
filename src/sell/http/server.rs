//! The accept loop: hyper's own server, because `axum::serve` sets neither a header timeout nor a limit on sizes and
//! connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Level;

use crate::base::clock::Clock;
use crate::base::live::Live;
use crate::base::sparing::Sparing;

use super::Shop;
use super::connection::Speaking;
use super::seats::Seats;
use super::tls::Tls;

/// How long to wait before accepting again when the operating system is out of something.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of connections. Beyond it, a new connection replaces the longest idle one that has not paid.
    /// Also the maximum number of concurrent HTTP/2 requests over all connections; further ones get 503. One client may
    /// have a quarter of them, or 100 if that is more.
    pub connections_max: usize,
    /// The most connections of one network; trusted proxies are exempt.
    pub connections_of_network: usize,
    /// How long a client may take to send its headers, also on a connection that it keeps open.
    pub header_timeout: Duration,
    /// How long no write to a client may go on. The system's buffers let a slow reader look like none for minutes.
    pub write_timeout: Duration,
    /// How long requests in flight may take to finish once the program was told to stop.
    pub grace: Duration,
}

/// What ends a listener, or the whole program.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Nothing new is begun, and what is in flight is finished within its grace.
    pub begin: CancellationToken,
    /// The grace is over.
    pub hurry: CancellationToken,
}

/// What stands in front of HTTP on a connection.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// Whose proxies are trusted; nobody is if left out.
    pub shop: Option<Arc<Live<Shop>>>,
    /// Whether every connection begins with the PROXY protocol. Then only trusted proxies may connect.
    pub proxy_protocol: bool,
    /// The certificate, if TLS is spoken.
    pub tls: Option<Tls>,
}

/// A listener and what answers on it.
#[derive(Debug)]
pub struct Server {
    /// What it is called in the log.
    pub name: &'static str,
    /// The listener.
    pub listener: TcpListener,
    /// What answers.
    pub router: Router,
    /// The limits.
    pub limits: Limits,
    /// What stands in front of HTTP.
    pub entry: Entry,
}

/// Logs a connection that was refused for its network's share. Most likely it came from a proxy that the settings
/// do not name.
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
    /// Accepts until told to stop, then lets every request in flight finish, within the grace.
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
                        // Out of file descriptors, most likely: busy looping would not free one.
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
            // Without it a client that reads nothing would keep the program from ending.
            cut.cancel();
        } else if in_flight > 0 {
            tracing::info!("Every connection of the {name} listener came to its end");
        }
    }
}
