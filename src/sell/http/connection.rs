//! Serves one client connection, from the first bytes to its end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, error::Elapsed, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::Level;

use crate::base::clock::Clock;
use crate::base::sparing::Sparing;

use super::clients::forget_forwarded;
use super::date;
use super::detect::{Protocol, Rewound, Start};
use super::entry::{Entry, Limits, Stop};
use super::handover::{Leash, Leashed, leash};
use super::head_limits::{HEADER_BYTES_MAX, HEADERS_MAX};
use super::proxied::{self, ProxyError};
use super::seats::{Coming, Guest, Held, Seat};
use super::slots::{Place, Places};
use super::streams::{Holding, Streams, StreamsOf, Watched};
use super::tls::{Acceptor, Tls};
use super::wire::Wire;
use super::write_timeout::Stallable;

/// hyper's buffer for one HTTP/1.1 connection. Our header limit is below it and answers 431.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Concurrent requests on one HTTP/2 connection, as RFC 9113, section 6.5.2 recommends.
const STREAMS_MAX: u32 = 100;

/// The bytes that HTTP/2 counts for a header besides its name and value (RFC 9113, section 6.5.2).
const HEADER_OVERHEAD: u32 = 32;

/// hyper's limit on HTTP/2 headers. Our header limit is below it and answers 431.
const LIST_BYTES_MAX: u32 = 2 * HEADER_BYTES_MAX as u32 + HEADERS_MAX as u32 * HEADER_OVERHEAD;

/// The unread bytes of one request's body that a client may send: 2.5 MB/s at 50 ms.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// The unread bytes of all request bodies on one connection: the memory that uploads can occupy.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// The unread bytes on a connection that a trusted proxy shares among many clients. It covers the
/// windows of all requests, so that an unread upload does not block the others.
const SHARED_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// The buffered bytes of one answer: about 2 MB for a connection with `STREAMS_MAX` answers.
const SEND_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Requests that a client cancelled before we saw them. More are a flood (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// Requests that we refused as malformed. More are a flood (RUSTSEC-2024-0003).
const ERRORS_MAX: usize = 100;

/// How often an HTTP/2 client is pinged, and how long it may take to reply. Without pings, answers
/// would keep running after a network has silently dropped the connection.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an idle HTTP/2 client may take to close its connection when the server stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// The answer to a request that did not arrive in time. hyper itself would close without an answer.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How long a client may go on sending after its answer, while it reads the answer.
const LINGER: Duration = Duration::from_secs(2);

/// How many bytes a client may send after its answer: more than the default limit for a body.
const LINGER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A connection that has begun to speak HTTP.
struct Begun {
    protocol: Protocol,
    stream: Rewound<Wire>,
    /// The client, or the proxy that is connected to us.
    peer: SocketAddr,
    /// Whether the proxy did not name the client of this connection.
    is_unnamed: bool,
}

/// The state that all connections of a listener share.
#[derive(Debug)]
pub(super) struct Speaking {
    http1: http1::Builder,
    router: Router,
    limits: Limits,
    entry: Entry,
    tls: Option<Acceptor>,
    /// Limits the log lines that clients can cause.
    log: Arc<Sparing>,
    /// The requests of HTTP/2 connections.
    streams: Streams,
    /// Cancelled when no new requests may begin.
    stop: CancellationToken,
    /// Cancelled when all connections must end at once.
    cut: CancellationToken,
}

impl Speaking {
    pub(super) fn new(
        router: Router,
        limits: Limits,
        entry: Entry,
        tracker: TaskTracker,
        stop: Stop,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        Self {
            http1,
            router,
            limits,
            streams: Streams::new(
                Places::new(limits.connections_max, STREAMS_MAX as usize),
                limits.write_timeout,
                limits.header_timeout,
                tracker,
            ),
            log: Sparing::new(&Clock::system()),
            tls: entry.tls.as_ref().map(Tls::acceptor),
            entry,
            stop: stop.begin,
            cut: stop.hurry,
        }
    }

    /// Serves one connection until it ends. After `stop` is cancelled, the requests in flight are
    /// still answered. Ends at once when `cut` is cancelled or another connection needs the place.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        coming: Coming,
    ) {
        // Within this time, every connection without a running request ends and frees its place.
        let patience = self.limits.header_timeout.max(self.limits.write_timeout);
        let seat = tokio::select! {
            seat = coming.seat(patience) => seat,
            () = self.stop.cancelled() => return,
        };
        let Some(mut seat) = seat else {
            return;
        };
        let guest = seat.guest().clone();
        let ended = tokio::select! {
            ended = self.answer(stream, peer, &mut seat) => ended,
            () = guest.must_leave() => Err(Ended::Displaced),
            () = self.cut.cancelled() => return,
        };
        if let Err(error) = ended {
            self.tell(&error);
        }
    }

    /// Whether to refuse this peer: with the PROXY protocol, only trusted proxies may connect.
    pub(super) fn turns_away(&self, peer: SocketAddr) -> bool {
        let is_turned_away = self.entry.proxy_protocol && !self.is_trusted(peer);
        if is_turned_away {
            self.tell(&Ended::Stranger(peer.ip()));
        }
        is_turned_away
    }

    fn tell(&self, error: &Ended) {
        // The most likely cause is a wrong setting here or at the proxy.
        let kind = "Refused a connection that bypassed the proxy";
        if error.is_of_the_proxy() && self.log.may(Level::WARN, kind, "http.proxy_protocol") {
            tracing::warn!("Refused a connection: {error}");
        } else {
            // A client that closes early is not worth more than a debug line.
            tracing::debug!("A connection ended: {error}");
        }
    }

    async fn answer(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        seat: &mut Seat,
    ) -> Result<(), Ended> {
        let begun = tokio::select! {
            begun = self.begin(stream, peer, seat) => begun?,
            // The client has not sent a request yet.
            () = self.stop.cancelled() => return Ok(()),
        };
        let is_secure = begun.stream.inner().is_secure();
        let (stream, leash) = leash(begun.stream, seat.guest().clone());
        let answering = Answering {
            guest: seat.guest().clone(),
            router: self.router.clone(),
            peer: begun.peer,
            is_unnamed: begun.is_unnamed,
            is_secure,
        };
        match begun.protocol {
            Protocol::Http1 => self.answer_http1(stream, answering, leash).await,
            Protocol::Http2 => self.answer_http2(stream, answering).await,
        }
    }

    /// Reads up to the first bytes of HTTP, within the time limit for headers.
    async fn begin(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        seat: &mut Seat,
    ) -> Result<Begun, Ended> {
        let deadline = Instant::now() + self.limits.header_timeout;
        let stream = prepared(stream, self.limits.write_timeout);
        let (stream, peer, is_unnamed) = if !self.entry.proxy_protocol {
            (Rewound::new(Bytes::new(), stream), peer, false)
        } else {
            let (stream, client) = timeout_at(deadline, proxied::read(stream)).await??;
            if client.is_some_and(|client| !seat.charge_to(client.ip())) {
                return Err(Ended::Displaced);
            }
            (stream, client.unwrap_or(peer), client.is_none())
        };
        let mut stream = match &self.tls {
            None => Wire::Plain(stream),
            Some(tls) => Wire::Secure(timeout_at(deadline, tls.accept(stream)).await??.into()),
        };
        let mut start = Start::default();
        match timeout_at(deadline, start.read(&mut stream)).await {
            Ok(protocol) => Ok(Begun {
                protocol: protocol?,
                stream: start.rewind(stream),
                peer,
                is_unnamed,
            }),
            Err(elapsed) => {
                if !start.is_empty() {
                    say_too_slow(stream).await;
                }
                Err(elapsed.into())
            }
        }
    }

    /// Whether this peer is a proxy that may name its clients.
    pub(super) fn is_trusted(&self, peer: SocketAddr) -> bool {
        let shop = self.entry.shop.as_ref();
        shop.is_some_and(|shop| shop.get().clients.trusted_proxies.contains(peer.ip()))
    }

    async fn answer_http1(
        &self,
        stream: Leashed<Rewound<Wire>>,
        answering: Answering,
        mut leash: Leash,
    ) -> Result<(), Ended> {
        let connection = self.http1.serve_connection(TokioIo::new(stream), answering);
        let mut connection = connection.with_upgrades();
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.stop.cancelled() => {
                Pin::new(&mut connection).graceful_shutdown();
                (&mut connection).await
            }
        };
        let Some(parts) = connection.into_parts() else {
            // The connection is a tunnel now. It keeps its place, and dropping the leash ends it.
            leash.is_loose().await;
            return Ok(());
        };
        let stream = parts.io.into_inner().into_inner().into_inner();
        let Err(error) = ended else {
            tokio::select! {
                () = linger(stream) => {}
                () = self.stop.cancelled() => {}
            }
            return Ok(());
        };
        // An idle connection without a request is closed without an answer, as clients expect.
        if error.is_timeout() && !parts.read_buf.is_empty() {
            say_too_slow(stream).await;
        }
        Err(error.into())
    }

    async fn answer_http2(
        &self,
        stream: Leashed<Rewound<Wire>>,
        answering: Answering,
    ) -> Result<(), Ended> {
        let window = if self.is_trusted(answering.peer) {
            SHARED_WINDOW_BYTES
        } else {
            CONNECTION_WINDOW_BYTES
        };
        let streams = self.streams.of_a_connection();
        let answering = AnsweringMany {
            answering,
            streams: streams.clone(),
        };
        let mut http2 = http2::Builder::new(streams.clone());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(LIST_BYTES_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(window)
            .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(ERRORS_MAX)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let connection = http2.serve_connection(TokioIo::new(stream), answering);
        let mut connection = std::pin::pin!(connection);
        let farewell = tokio::select! {
            ended = &mut connection => return Ok(ended?),
            () = self.stop.cancelled() => FAREWELL.min(self.limits.write_timeout),
            () = streams.are_idle(self.limits.header_timeout) => self.limits.write_timeout,
        };
        connection.as_mut().graceful_shutdown();
        // A client that ignores the shutdown or stops reading is disconnected.
        tokio::select! {
            ended = &mut connection => Ok(ended?),
            () = streams.are_idle(farewell) => Err(Ended::Silent),
        }
    }
}

/// The reason why a connection ended in an unusual way.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the client asked nothing in time")]
    Silent,
    #[error("a newer connection replaced it, or its network has reached its share")]
    Displaced,
    #[error("{0} is no trusted proxy, and only those may connect")]
    Stranger(IpAddr),
    #[error("failed to read the PROXY protocol: {0}")]
    Proxy(#[from] ProxyError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl Ended {
    /// Whether the cause is a mismatch between the proxies and the settings.
    fn is_of_the_proxy(&self) -> bool {
        match self {
            Self::Stranger(_) | Self::Proxy(_) => true,
            Self::Silent | Self::Displaced | Self::Io(_) | Self::Http(_) => false,
        }
    }
}

impl From<Elapsed> for Ended {
    fn from(_: Elapsed) -> Self {
        Self::Silent
    }
}

/// Handles the requests of one connection: adds the client's address, and calls the router.
#[derive(Clone, Debug)]
struct Answering {
    router: Router,
    peer: SocketAddr,
    is_unnamed: bool,
    is_secure: bool,
    /// The connection, which keeps its place while a paid request is answered.
    guest: Guest,
}

/// An extension of every request that arrived over TLS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Secured;

/// The future of an answer.
type Answered = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

impl Answering {
    fn ask(&self, mut request: Request<Incoming>) -> Answered {
        let (guest, asking) = (self.guest.clone(), self.guest.ask());
        request.extensions_mut().insert(ConnectInfo(self.peer));
        request.extensions_mut().insert(guest.clone());
        if self.is_unnamed {
            // The proxy did not write these headers but passed on those of the client.
            forget_forwarded(request.headers_mut());
        }
        if self.is_secure {
            request.extensions_mut().insert(Secured);
        }
        let answered = self.router.clone().oneshot(request.map(Body::new));
        Box::pin(async move {
            let mut response = answered.await?;
            date::say(response.headers_mut());
            let paying = response.extensions_mut().remove::<Arc<Held>>();
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                guest.become_tunnel();
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(Holding::new(body, asking, paying))))
        })
    }
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response;
    type Error = Infallible;
    type Future = Answered;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.ask(request)
    }
}

/// Handles the requests of an HTTP/2 connection, and counts them.
#[derive(Clone, Debug)]
struct AnsweringMany {
    answering: Answering,
    streams: StreamsOf,
}

impl hyper::service::Service<Request<Incoming>> for AnsweringMany {
    type Response = Response;
    type Error = Infallible;
    type Future = Answered;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let progress = self.streams.begin();
        let places = self.streams.places().clone();
        let own_timeout = self.streams.own_timeout();
        request.extensions_mut().insert(places.clone());
        let answered = self.answering.ask(request);
        Box::pin(async move {
            let mut response = answered.await?;
            let mut place = response.extensions_mut().remove::<Arc<Place>>();
            if place.is_none() {
                progress.hurry(own_timeout);
                place = places.take_own().map(Arc::new);
            }
            if place.is_none() {
                // Too many of our answers wait for their clients, so this one has no body.
                response.headers_mut().remove(CONTENT_LENGTH);
                return Ok(response.map(|_| Body::empty()));
            }
            Ok(response.map(|body| Body::new(Watched::new(body, progress, place))))
        })
    }
}

fn prepared(stream: TcpStream, write_timeout: Duration) -> Stallable {
    // Without this option, a small answer waits for the client's delayed acknowledgement: 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("Failed to set TCP_NODELAY: {error}");
    }
    Stallable::new(stream, write_timeout)
}

async fn say_too_slow(mut stream: Wire) {
    // In the middle of another answer, the client would read these bytes as part of it.
    if stream.is_stalled() {
        return;
    }
    // If the answer does not fit into the socket's buffer, the client is not reading.
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, stream.write_all(TOO_SLOW)).await {
        tracing::debug!("Failed to say that a client was too slow: {error}");
    }
}

/// Reads the bytes that a client sends after its answer. Closing early would reset the connection,
/// and a client that must pay in the middle of its upload would lose the invoice.
async fn linger(stream: Wire) {
    let mut rest = stream.take(LINGER_BYTES_MAX);
    let mut nowhere = tokio::io::sink();
    let taken = tokio::io::copy(&mut rest, &mut nowhere);
    // After this limit the connection ends in any case.
    let _ = tokio::time::timeout(LINGER, taken).await;
}
