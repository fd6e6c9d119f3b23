//! What a listener is given: its socket and TLS, its limits and the signals to stop.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::base::live::Live;

use super::shop::Shop;
use super::tls::Tls;

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The maximum number of connections. Beyond it, a new connection displaces the longest idle
    /// one that has not paid. It is also the maximum number of concurrent HTTP/2 requests over all
    /// connections. Further ones get 503. One client may have a quarter of them, or 100 if that is
    /// more.
    pub connections_max: usize,
    /// The most connections of one network; trusted proxies are exempt.
    pub connections_of_network: usize,
    /// How long a client may take to send its headers, also on a connection that it keeps open.
    pub header_timeout: Duration,
    /// How long a write to a client may stall. The system's buffers can make the writes to a slow
    /// reader stall for minutes.
    pub write_timeout: Duration,
    /// How long requests in flight may take to finish after the program was told to stop.
    pub grace: Duration,
}

/// The tokens that stop a listener, or the whole program.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancelled when no new requests may begin. Requests in flight finish within the grace period.
    pub begin: CancellationToken,
    /// Cancelled when the grace period is over.
    pub hurry: CancellationToken,
}

/// The layers below HTTP on a connection.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The settings that name the trusted proxies. Without them, no proxy is trusted.
    pub shop: Option<Arc<Live<Shop>>>,
    /// Whether every connection begins with the PROXY protocol. Then only trusted proxies may
    /// connect.
    pub proxy_protocol: bool,
    /// The TLS certificate; `None` for a listener without TLS.
    pub tls: Option<Tls>,
}
