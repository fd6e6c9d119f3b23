//! Connections to upstreams: kept while they are used, verified where they are TLS.

use std::error::Error as _;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{
    ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream,
};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower::Service;

use crate::route::{Protocol, Upstream};

use super::{Body, BoxError};

/// Keeps the connections to the servers of one upstream.
pub(super) type Client = legacy::Client<Connector, Body>;

/// How long an unused connection is kept: below the 5 s after which Node, uvicorn and Apache drop theirs, for a request that
/// crosses such an end is lost.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// The same for HTTP/2, which says goodbye and loses nothing.
const HTTP2_POOL_IDLE: Duration = Duration::from_secs(90);

/// How often an HTTP/2 connection in use is asked whether it still lives, and how long it may take to say so: one that a
/// router in between has forgotten would swallow all that is sent on it.
const HTTP2_PING_EVERY: Duration = Duration::from_secs(20);
const HTTP2_PING_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server may send of one answer before its client takes it.
const HTTP2_STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// The same for all answers of a connection, which is one for all customers: never reached before the windows of its answers
/// are, or a few who take nothing would stop everybody. RFC 9113 allows no more.
const HTTP2_CONNECTION_WINDOW_BYTES: u32 = i32::MAX as u32;

/// The connections of this upstream.
pub(super) fn client(upstream: &Upstream) -> Client {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    // Where a name has several addresses, each gets its part.
    http.set_connect_timeout(Some(upstream.connect_timeout));
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(tls(&upstream.authorities))
        .https_or_http();
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new());
    let https = match upstream.protocol {
        Protocol::Http1 => {
            builder
                .pool_idle_timeout(POOL_IDLE)
                // Each fold becomes a blank, as RFC 9112, section 5.2, has it.
                .http1_allow_obsolete_multiline_headers_in_responses(true);
            https.enable_http1().wrap_connector(http)
        }
        Protocol::Http2 => {
            builder
                .timer(TokioTimer::new())
                .pool_idle_timeout(HTTP2_POOL_IDLE)
                .http2_only(true)
                .http2_initial_stream_window_size(HTTP2_STREAM_WINDOW_BYTES)
                .http2_initial_connection_window_size(HTTP2_CONNECTION_WINDOW_BYTES)
                .http2_keep_alive_interval(HTTP2_PING_EVERY)
                .http2_keep_alive_timeout(HTTP2_PING_TIMEOUT);
            https.enable_http2().wrap_connector(http)
        }
    };
    builder.build(Connector {
        https,
        timeout: upstream.connect_timeout,
    })
}

/// What went wrong below the pool of connections.
pub(super) fn cause(error: &legacy::Error) -> Option<&hyper::Error> {
    error.source()?.downcast_ref()
}

/// Whether there was an answer, and it cannot be read.
pub(super) fn is_unreadable(error: &legacy::Error) -> bool {
    cause(error).is_some_and(hyper::Error::is_parse)
}

/// Certificates are always verified: against these authorities, or the public ones if there are none.
fn tls(authorities: &[Vec<u8>]) -> ClientConfig {
    let builder = ClientConfig::builder();
    let builder = if authorities.is_empty() {
        builder.with_webpki_roots()
    } else {
        let mut roots = RootCertStore::empty();
        let authorities = authorities.iter();
        // The settings have read each of them before.
        roots.add_parsable_certificates(
            authorities.map(|authority| CertificateDer::from_slice(authority)),
        );
        builder.with_root_certificates(roots)
    };
    builder.with_no_client_auth()
}

/// The certificates (DER) of authorities in a PEM file; an error says what is wrong with it.
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

/// Connects within a time that covers all of it: the name, the connection, TLS.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

/// A connection was not there in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no connection within {}", crate::route::Span(*.0))]
struct NoConnection(Duration);

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
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
            in_time.map_err(|_| NoConnection(timeout))?
        })
    }
}
