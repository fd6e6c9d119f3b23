//! A small real server behind the shop, which remembers what reached it. Its answer goes by the last segment of the path.

use std::collections::HashSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt as _;
use regtest::wait::eventually;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::support::DEADLINE;

/// What it answers if the path asks for nothing special.
pub(crate) const HELLO: &str = "hello from behind";

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// The server; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    /// The peers that have connected.
    peers: Mutex<HashSet<SocketAddr>>,
    /// One permit a chunk of `/stream`.
    chunks: Semaphore,
    /// Whether the body of `/stream` is still wanted.
    is_streaming: watch::Sender<bool>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            peers: Mutex::default(),
            chunks: Semaphore::new(0),
            is_streaming: watch::channel(false).0,
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let mut serving = JoinSet::new();
        let router = router.into_make_service_with_connect_info::<SocketAddr>();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            _serving: serving,
        }
    }

    /// How many requests arrived.
    pub(crate) fn count(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// The number of connections that requests used.
    pub(crate) fn peers(&self) -> usize {
        self.shared.peers.lock().unwrap().len()
    }

    /// The only request that arrived; forgets it.
    pub(crate) fn take_one(&self) -> Seen {
        let mut seen = std::mem::take(&mut *self.shared.seen.lock().unwrap());
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// All requests that arrived; forgets them.
    pub(crate) fn take_all(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.shared.seen.lock().unwrap())
    }

    /// Lets `/stream` send one more chunk.
    pub(crate) fn send_chunk(&self) {
        self.shared.chunks.add_permits(1);
    }

    /// Lets `/stream` end.
    pub(crate) fn end(&self) {
        self.shared.chunks.close();
    }

    /// Waits until the body of `/stream` has begun (or, with `false`, was given up).
    pub(crate) async fn is_streaming(&self, expected: bool) {
        let mut is_streaming = self.shared.is_streaming.subscribe();
        let wait = is_streaming.wait_for(|is_streaming| *is_streaming == expected);
        tokio::time::timeout(DEADLINE, wait).await.unwrap().unwrap();
    }

    /// Waits until a request has arrived.
    pub(crate) async fn is_reached(&self) {
        eventually("a request at the upstream", DEADLINE, || async {
            Ok::<_, Infallible>((self.count() > 0).then_some(()))
        })
        .await
        .unwrap();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    shared.peers.lock().unwrap().insert(peer);
    let (parts, body) = request.into_parts();
    let what = parts.uri.path().rsplit('/').next().unwrap().to_owned();
    let mut seen = Seen {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().unwrap().to_string(),
        headers: parts.headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
    };
    if what == "echo" {
        shared.seen.lock().unwrap().push(seen);
        return Response::new(body);
    }
    // Of a body that breaks off there is nothing to remember but that it began.
    if let Ok(collected) = body.collect().await {
        seen.trailers = collected.trailers().cloned().unwrap_or_default();
        seen.body = collected.to_bytes().to_vec();
    }
    shared.seen.lock().unwrap().push(seen);
    let response = Response::builder();
    match what.as_str() {
        "fails" => response
            .status(StatusCode::SERVICE_UNAVAILABLE)
            .body(HELLO.into()),
        "missing" => response.status(StatusCode::NOT_FOUND).body(HELLO.into()),
        "hangs" => std::future::pending().await,
        "public" => response
            .header("cache-control", "public, s-maxage=600, max-age=60")
            .body(HELLO.into()),
        "secret" => response
            .header("cache-control", "no-store")
            .body(HELLO.into()),
        "hops" => response
            .header("connection", "x-named, keep-alive")
            .header("x-named", "for one connection")
            .header("keep-alive", "timeout=5")
            .header("proxy-authenticate", "Basic")
            .header("te", "trailers")
            .header("upgrade", "h2c")
            .header("x-kept", "for everybody")
            .body(HELLO.into()),
        "worked" => response.header("x-work-seconds", "2.5").body(HELLO.into()),
        "worked-behind" => {
            let mut behind = HeaderMap::new();
            behind.insert("x-work-seconds", HeaderValue::from_static("2.5"));
            let body = Body::from_stream(stream::iter([Ok::<_, Infallible>(HELLO)]));
            response
                .header("trailer", "x-work-seconds")
                .body(Body::new(body.with_trailers(async { Some(Ok(behind)) })))
        }
        "stream" => response.body(Body::from_stream(chunks(shared, "chunk"))),
        "events" => response
            .header("content-type", "text/event-stream")
            .body(Body::from_stream(chunks(shared, "data: chunk\n\n"))),
        "trailers" => {
            let mut behind = HeaderMap::new();
            behind.insert("x-behind", HeaderValue::from_static("yes"));
            let body = Body::from_stream(stream::iter([Ok::<_, Infallible>(HELLO)]));
            response
                .header("trailer", "x-behind")
                .body(Body::new(body.with_trailers(async { Some(Ok(behind)) })))
        }
        _ => response.body(HELLO.into()),
    }
    .unwrap()
}

/// Chunks, one a permit, until the test says that it is over.
fn chunks(
    shared: Arc<Shared>,
    chunk: &'static str,
) -> impl stream::Stream<Item = Result<Bytes, Infallible>> + Send {
    shared.is_streaming.send_replace(true);
    stream::unfold(Streaming(shared), move |streaming| async move {
        streaming.0.chunks.acquire().await.ok()?.forget();
        Some((Ok(Bytes::from_static(chunk.as_bytes())), streaming))
    })
}

/// Dropped with the body.
struct Streaming(Arc<Shared>);

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.is_streaming.send_replace(false);
    }
}

/// Shorter than a test may take, longer than an answer of the upstream does.
pub(crate) const SOON: Duration = Duration::from_secs(1);
