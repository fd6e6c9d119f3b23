//! Connections to upstreams: a pool of reusable connections, with certificates verified for TLS.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Uri};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, ResponseFuture};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower::Service;

use crate::sell::route::{Protocol, Upstream};

use super::downstream::{Body, BoxError};
use super::line::{Line, Told};

/// A pool of connections.
type Pool = legacy::Client<Connector, Body>;

/// How long an idle connection is kept. Node, uvicorn and Apache close theirs after 5 s, and a
/// request on a connection that is just closing is lost.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// How long an idle connection is kept for a request that must not be sent twice. gunicorn closes
/// its connections after 2 s.
const CAREFUL_POOL_IDLE: Duration = Duration::from_secs(1);

/// How long an idle HTTP/2 connection is kept. HTTP/2 announces its end, so no request is lost.
const HTTP2_POOL_IDLE: Duration = Duration::from_secs(90);

/// How often an HTTP/2 connection in use is pinged, and how long the answer may take. A connection
/// that a router in between has forgotten would swallow all data.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of one answer a server may send before the client reads it.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// How much a server may send on one connection before the clients read it. All customers share the
/// connection, so a few clients that read nothing must not fill this window. The value is the
/// largest that RFC 9113 allows.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = i32::MAX as u32;

/// The kind of connection that a request may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A pooled connection: if it was stale, the request is sent again.
    Kept,
    /// A pooled connection that was used within the last second, for a request that must not be
    /// sent twice. If the connection breaks, the request fails.
    Careful,
    /// A new connection, which is not reused.
    Fresh,
}

/// The connections to the servers of one upstream.
#[derive(Debug)]
pub(super) struct Client {
    /// Builds pools.
    builder: legacy::Builder,
    /// Opens connections.
    connector: Connector,
    /// The protocol on the connections.
    protocol: Protocol,
    /// The age from which a connection takes no new requests.
    age_max: Duration,
    /// The current pools. A `std` lock: held only to start a request.
    kept: RwLock<Kept>,
    /// A pool that keeps no connections.
    fresh: Pool,
}

/// The connection pools of one period. After that period, new pools replace them and resolve the
/// server's address again. Running requests finish on the old pools.
#[derive(Debug)]
struct Kept {
    until: Instant,
    usual: Pool,
    careful: Pool,
}

impl Client {
    /// Builds a client without any connection.
    pub(super) fn new(upstream: &Upstream) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        // All addresses of a name share this time.
        http.set_connect_timeout(Some(upstream.connect_timeout));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&upstream.authorities))
            .https_or_http();
        let mut builder = legacy::Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new());
        let https = match upstream.protocol {
            Protocol::Http1 => {
                // Replaces each line fold in a header by a space (RFC 9112, section 5.2).
                builder.http1_allow_obsolete_multiline_headers_in_responses(true);
                https.enable_http1().wrap_connector(http)
            }
            Protocol::Http2 => {
                builder
                    .timer(TokioTimer::new())
                    .http2_only(true)
                    .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
                    .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
                    .http2_keep_alive_interval(HTTP2_PING_EVERY)
                    .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT);
                https.enable_http2().wrap_connector(http)
            }
        };
        let connector = Connector {
            https,
            timeout: upstream.connect_timeout,
        };
        let fresh = builder
            .clone()
            .pool_max_idle_per_host(0)
            .build(connector.clone());
        let age_max = upstream.connection_age_max;
        let kept = kept(&builder, &connector, upstream.protocol, age_max);
        Self {
            builder,
            connector,
            protocol: upstream.protocol,
            age_max,
            kept: RwLock::new(kept),
            fresh,
        }
    }

    /// Sends a request.
    pub(super) fn request(&self, request: Request<Body>, way: Way) -> ResponseFuture {
        let now = Instant::now();
        match way {
            Way::Fresh => self.fresh.request(request),
            Way::Kept => self.kept(now).usual.request(request),
            Way::Careful => self.kept(now).careful.request(request),
        }
    }

    fn kept(&self, now: Instant) -> RwLockReadGuard<'_, Kept> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if now < kept.until {
            return kept;
        }
        drop(kept);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if now >= kept.until {
            *kept = self::kept(&self.builder, &self.connector, self.protocol, self.age_max);
        }
        drop(kept);
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request sent at this time failed because the server had closed a pooled connection
    /// before any part of an answer arrived.
    pub(super) fn was_stale(&self, error: &legacy::Error, sent: Instant) -> bool {
        let Some(connected) = error.connect_info() else {
            return false;
        };
        let mut known = http::Extensions::new();
        connected.get_extras(&mut known);
        let Some(line) = known.get::<Line>() else {
            return false;
        };
        let is_unanswered = match self.protocol {
            Protocol::Http1 => !line.is_answering(),
            // Received bytes may belong to other answers on the connection.
            Protocol::Http2 => true,
        };
        line.opened() < sent && line.has_ended() && is_unanswered
    }
}

fn kept(
    builder: &legacy::Builder,
    connector: &Connector,
    protocol: Protocol,
    age_max: Duration,
) -> Kept {
    let pool = |idle| {
        let mut builder = builder.clone();
        builder.pool_idle_timeout(idle);
        builder.build(connector.clone())
    };
    let (usual, careful) = match protocol {
        Protocol::Http1 => (pool(POOL_IDLE), pool(CAREFUL_POOL_IDLE)),
        Protocol::Http2 => {
            let pool = pool(HTTP2_POOL_IDLE);
            (pool.clone(), pool)
        }
    };
    Kept {
        until: Instant::now() + age_max,
        usual,
        careful,
    }
}

/// The hyper error below the pool's error.
pub(super) fn cause(error: &legacy::Error) -> Option<&hyper::Error> {
    error.source()?.downcast_ref()
}

/// Whether the server sent an answer that cannot be parsed.
pub(super) fn is_unreadable(error: &legacy::Error) -> bool {
    cause(error).is_some_and(hyper::Error::is_parse)
}

/// Builds the TLS settings. Certificates are always verified, with these authorities or, if the
/// list is empty, with the public ones.
fn tls(authorities: &[Vec<u8>]) -> ClientConfig {
    let builder = ClientConfig::builder();
    let builder = if authorities.is_empty() {
        builder.with_webpki_roots()
    } else {
        let mut roots = RootCertStore::empty();
        let authorities = authorities.iter();
        // The settings have parsed these certificates already.
        roots.add_parsable_certificates(
            authorities.map(|authority| CertificateDer::from_slice(authority)),
        );
        builder.with_root_certificates(roots)
    };
    builder.with_no_client_auth()
}

/// Reads the CA certificates (DER) from a PEM file. The error describes the problem in the file.
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut roots = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        certificates.push(certificate.to_vec());
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if certificates.is_empty() {
        return Err("there is none in it".to_owned());
    }
    Ok(certificates)
}

/// Connects with one time limit for the name lookup, the connection and TLS.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

/// The connection was not ready in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no connection within {}", crate::sell::route::Span(*.0))]
struct NoConnection(Duration);

impl Service<Uri> for Connector {
    type Response = TokioIo<Told>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connected = self.https.call(server);
        let timeout = self.timeout;
        Box::pin(async move {
            let in_time = timeout_at(Instant::now() + timeout, connected).await;
            let stream = in_time.map_err(|_| NoConnection(timeout))??;
            Ok(TokioIo::new(Told::new(stream)))
        })
    }
}
