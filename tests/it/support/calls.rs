//! A small real server that speaks HTTP/2 as servers of gRPC do, by prior knowledge or over TLS. What it answers goes by the
//! last segment of the path.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The body of its answers.
type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// What it says if the path asks for nothing special.
pub(crate) const MESSAGE: &str = "a message";

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Call>>>,
    serving: JoinSet<()>,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) version: Version,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
}

/// What it speaks.
#[derive(Clone, Debug)]
pub(crate) enum Speech {
    /// HTTP/2 by prior knowledge.
    Clear,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 or HTTP/1.1 over TLS, as ALPN says.
    Tls(Arc<ServerConfig>),
}

impl Calls {
    pub(crate) async fn start(speech: Speech) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Call>>>::default();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, speech, Arc::clone(&seen)));
        Self {
            address,
            seen,
            serving,
        }
    }

    /// How many requests arrived.
    pub(crate) fn count(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// Ends it, connections and all.
    pub(crate) fn kill(&mut self) {
        self.serving.abort_all();
    }

    /// The only request that arrived; forgets it.
    pub(crate) fn take_one(&self) -> Call {
        let mut seen = std::mem::take(&mut *self.seen.lock().unwrap());
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }
}

async fn serve(listener: TcpListener, speech: Speech, seen: Arc<Mutex<Vec<Call>>>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(connection(stream, speech.clone(), Arc::clone(&seen)));
    }
}

async fn connection(stream: TcpStream, speech: Speech, seen: Arc<Mutex<Vec<Call>>>) {
    let service = service_fn(move |request| {
        let seen = Arc::clone(&seen);
        async move { answer(&seen, request) }
    });
    let http2 = http2::Builder::new(TokioExecutor::new());
    // Clients come and go as they like.
    match speech {
        Speech::Http1 => {
            let http1 = http1::Builder::new();
            drop(http1.serve_connection(TokioIo::new(stream), service).await);
        }
        Speech::Clear => drop(http2.serve_connection(TokioIo::new(stream), service).await),
        Speech::Tls(config) => {
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
                return;
            };
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stream = TokioIo::new(stream);
            if is_http2 {
                drop(http2.serve_connection(stream, service).await);
            } else {
                drop(
                    http1::Builder::new()
                        .serve_connection(stream, service)
                        .await,
                );
            }
        }
    }
}

fn answer(seen: &Mutex<Vec<Call>>, request: Request<Incoming>) -> Result<Response<Body>, Failed> {
    seen.lock().unwrap().push(Call {
        version: request.version(),
        uri: request.uri().to_string(),
        headers: request.headers().clone(),
    });
    let what = request.uri().path().rsplit('/').next().unwrap().to_owned();
    let message = || Ok(Frame::data(Bytes::from_static(MESSAGE.as_bytes())));
    let body = match what.as_str() {
        // The head says it all.
        "unavailable" | "denied" => {
            let mut response = head(Empty::new().map_err(|never| match never {}).boxed_unsync());
            let status = if what == "denied" { "7" } else { "14" };
            response
                .headers_mut()
                .insert("grpc-status", HeaderValue::from_static(status));
            return Ok(response);
        }
        "fails-silently" => frames(vec![Ok(trailers("13"))]),
        "fails-late" => frames(vec![message(), Ok(trailers("13"))]),
        "framed" => frames(framed()),
        "for-ever" => endless(),
        "reset" => return Err(Failed),
        "echo" => Echo(request.into_body(), HeaderMap::new(), false).boxed_unsync(),
        _ => frames(vec![message(), Ok(trailers("0"))]),
    };
    Ok(head(body))
}

/// Three messages of ten bytes, sent in pieces that cut through them.
fn framed() -> Vec<Result<Frame<Bytes>, hyper::Error>> {
    let all = b"\0\0\0\0\x05first\0\0\0\0\x05again\0\0\0\0\x05third";
    let pieces = [&all[..7], &all[7..12], &all[12..28], &all[28..]];
    let pieces = pieces.map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
    pieces.into_iter().chain([Ok(trailers("0"))]).collect()
}

/// Sends a message of eight bytes from time to time.
fn endless() -> Body {
    let tick = tokio::time::interval(Duration::from_millis(100));
    StreamBody::new(futures_util::stream::unfold(tick, |mut tick| async move {
        tick.tick().await;
        let message = Bytes::from_static(b"\0\0\0\0\x03all");
        Some((Ok(Frame::data(message)), tick))
    }))
    .boxed_unsync()
}

fn head(body: Body) -> Response<Body> {
    let response = Response::builder()
        .header("content-type", "application/grpc+proto")
        .header("trailer", "grpc-status, x-got");
    response.body(body).unwrap()
}

fn frames(frames: Vec<Result<Frame<Bytes>, hyper::Error>>) -> Body {
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

fn trailers(status: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    Frame::trailers(trailers)
}

/// The stream ends without an answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("no answer")]
struct Failed;

/// Gives back each message as it comes, and says behind them which trailers came behind those.
struct Echo(Incoming, HeaderMap, bool);

impl http_body::Body for Echo {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match Pin::new(&mut self.0).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() => {
                self.1 = frame.into_trailers().unwrap_or_default();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) if !self.2 => {
                self.2 = true;
                let mut names: Vec<_> = self.1.keys().map(|name| name.as_str()).collect();
                names.sort_unstable();
                let mut frame = trailers("0");
                let got = HeaderValue::from_str(&names.join(" ")).unwrap();
                frame.trailers_mut().unwrap().insert("x-got", got);
                Poll::Ready(Some(Ok(frame)))
            }
            frame @ (Poll::Ready(_) | Poll::Pending) => frame,
        }
    }
}

/// A server's side of TLS with a certificate that only it has signed, and that certificate in PEM.
pub(crate) fn self_signed(name: &str, alpn: &[&[u8]]) -> (Speech, String) {
    let own = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    (Speech::Tls(Arc::new(config)), own.cert.pem())
}
