//! One client's connection: what it speaks is found out, it is answered on, and it ends, by itself or when it is told to.

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
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tracing::Level;

use crate::base::clock::Clock;
use crate::base::sparing::Sparing;

use super::clients::forget_forwarded;
use super::leash::{Leash, Leashed, leash};
use super::places::{Place, Places};
use super::proxied::{self, ProxyError};
use super::seats::{Coming, Guest, Held, Seat};
use super::sniff::{Protocol, Rewound, Start};
use super::stall::Stallable;
use super::streams::{Holding, Streams, StreamsOf, Watched};
use super::tls::{Acceptor, Tls};
use super::wire::Wire;
use super::{Entry, HEADER_BYTES_MAX, HEADERS_MAX, Limits, Stop, date};

/// What hyper buffers of one HTTP/1.1 connection. The headers' own limit is lower and answered by us, with a body that
/// explains it.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Requests at once on one HTTP/2 connection: what RFC 9113, section 6.5.2 recommends at least.
const STREAMS_MAX: u32 = 100;

/// What a header costs in HTTP/2's own account besides its name and value (RFC 9113, section 6.5.2).
const HEADER_OVERHEAD: u32 = 32;

/// Above our own limit, for the same reason as above.
const LIST_BYTES_MAX: u32 = 2 * HEADER_BYTES_MAX as u32 + HEADERS_MAX as u32 * HEADER_OVERHEAD;

/// What a client may send of one request's body before somebody reads it: 2.5 MB/s at 50 ms.
const STREAM_WINDOW_BYTES: u32 = 128 * 1024;

/// The same for all requests of a connection: what an upload can make us keep.
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;

/// The same on a connection that a trusted proxy shares among many clients: the windows of all its requests, so that uploads
/// which nobody reads do not hold up the others.
const SHARED_WINDOW_BYTES: u32 = STREAMS_MAX * STREAM_WINDOW_BYTES;

/// What is written of one answer before the client takes it; with `STREAMS_MAX` answers some 2 MB a connection.
const SEND_BUFFER_BYTES_MAX: usize = 16 * 1024;

/// Requests that a client took back before we looked at them: more is a flood (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// Requests that we refused as malformed: more is a flood (RUSTSEC-2024-0003).
const ERRORS_MAX: usize = 100;

/// How often a silent HTTP/2 client is asked whether it is there, and how long it may take to say so. A network that drops
/// connections without a word would else leave answers running to nobody.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How long an HTTP/2 client without requests may take to hear that we stop: the others wait for it.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a client reads that had begun to ask and did not come to an end: hyper itself closes without a word.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How long a client that was answered may go on sending: it reads the answer meanwhile.
const LINGER: Duration = Duration::from_secs(2);

/// How much it may send then: a body of the largest size that is passed on by default, and more.
const LINGER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A connection that has begun to speak HTTP.
struct Begun {
    protocol: Protocol,
    stream: Rewound<Wire>,
    /// The client, or the proxy next to us.
    peer: SocketAddr,
    /// Whether a proxy has passed on somebody whom it could not name.
    is_unnamed: bool,
}

/// What all connections of a listener have in common.
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
    /// Nothing new is begun.
    stop: CancellationToken,
    /// Everything ends now.
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

    /// Answers on one connection until it ends. It ends by itself, after the requests in flight once `stop` is
    /// cancelled, or at once when `cut` is cancelled or another connection needs its place.
    pub(super) async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        coming: Coming,
    ) {
        // Within this time every connection in a place has ended, unless it is being answered.
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

    /// Whether to refuse the connection: with the PROXY protocol, only trusted proxies may connect or displace others.
    pub(super) fn turns_away(&self, peer: SocketAddr) -> bool {
        let is_turned_away = self.entry.proxy_protocol && !self.is_trusted(peer);
        if is_turned_away {
            self.tell(&Ended::Stranger(peer.ip()));
        }
        is_turned_away
    }

    fn tell(&self, error: &Ended) {
        // Most likely a wrong setting here or at the proxy.
        let kind = "Refused a connection that bypassed the proxy";
        if error.is_of_the_proxy() && self.log.may(Level::WARN, kind, "http.proxy_protocol") {
            tracing::warn!("Refused a connection: {error}");
        } else {
            // A client that breaks off is not worth a line above that.
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
            // Nobody has asked anything yet.
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

    /// Comes to the first bytes of HTTP. What stands in front of them has no more time than headers have.
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

    /// Whether this is a proxy that may speak for others.
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
            // It is a tunnel now. Its place stays taken, and dropping the leash ends it.
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
        // A kept connection that asks nothing more is closed without a word, as clients expect.
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
        // A client that does not hear it, or takes nothing of the last answer, would stay for ever.
        tokio::select! {
            ended = &mut connection => Ok(ended?),
            () = streams.are_idle(farewell) => Err(Ended::Silent),
        }
    }
}

/// Why a connection came to another end than the usual one.
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
    /// Whether proxies and the settings do not agree.
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

/// One connection's requests: each is told where it comes from and handed to the router.
#[derive(Clone, Debug)]
struct Answering {
    router: Router,
    peer: SocketAddr,
    is_unnamed: bool,
    is_secure: bool,
    /// The connection. It keeps its place while a paid request is answered.
    guest: Guest,
}

/// On every request that came by TLS.
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
            // Not the proxy's words: it has passed on whatever the client wrote.
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

/// The same for a connection with many requests at once, which are counted.
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
                // Too many leave theirs lying: a head waits for nobody.
                response.headers_mut().remove(CONTENT_LENGTH);
                return Ok(response.map(|_| Body::empty()));
            }
            Ok(response.map(|body| Body::new(Watched::new(body, progress, place))))
        })
    }
}

fn prepared(stream: TcpStream, write_timeout: Duration) -> Stallable {
    // Without it a small answer waits for the client's delayed acknowledgement: 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("Failed to set TCP_NODELAY: {error}");
    }
    Stallable::new(stream, write_timeout)
}

async fn say_too_slow(mut stream: Wire) {
    // In the middle of another answer it would be read as a part of that.
    if stream.is_stalled() {
        return;
    }
    // If it does not fit the socket's buffer, nobody reads it anyway.
    if let Ok(Err(error)) = tokio::time::timeout(LINGER, stream.write_all(TOO_SLOW)).await {
        tracing::debug!("Failed to say that a client was too slow: {error}");
    }
}

/// Takes what a client still sends after its answer: closing over it would reset the connection, and a client that was told
/// to pay in the middle of its upload would lose the invoice. One that has nothing more to say has closed already.
async fn linger(stream: Wire) {
    let mut rest = stream.take(LINGER_BYTES_MAX);
    let mut nowhere = tokio::io::sink();
    let taken = tokio::io::copy(&mut rest, &mut nowhere);
    // Enough or not, the connection ends here.
    let _ = tokio::time::timeout(LINGER, taken).await;
}
