//! The gate in somebody else's program: an axum application on a socket of its own, whose handlers are guarded.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use axum::{Json, Router};
use bytes::Bytes;
use http::{Method, StatusCode, header::AUTHORIZATION};
use regtest::client::{Answer, Client};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tollhouse::sell::layer::Guards;
use tollhouse::{Grant, Guard, Offer, Paid};

use super::{Shop, Sold};

/// What the handlers say to who has paid.
pub(crate) const JOKE: &str = "It found a path.";

/// A program with guards in it. Its shop is the one that the guards are compared with; both share gate, ledger and clock.
pub(crate) struct Program {
    pub(crate) shop: Shop,
    pub(crate) guards: Guards,
    pub(crate) client: Client,
    /// How often a handler was called.
    calls: Arc<AtomicUsize>,
    /// Told to go on.
    pub(crate) go: Arc<Notify>,
    serving: JoinSet<()>,
}

impl Program {
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    pub(crate) async fn with(settings: &str) -> Self {
        let shop = Shop::selling(settings).await;
        let guards = Guards {
            gate: Arc::clone(&shop.gate),
            shop: Arc::clone(&shop.sold_here),
            offers: Arc::default(),
            in_flight: TaskTracker::new(),
            stop: CancellationToken::new(),
        };
        Self {
            shop,
            guards,
            client: Client::new().unwrap(),
            calls: Arc::default(),
            go: Arc::default(),
            serving: JoinSet::new(),
        }
    }

    pub(crate) fn guard(&self, service: &str, requests: Option<u64>) -> Guard {
        let guard = self.guards.guard(offer(service, "10 sat", requests));
        guard.unwrap()
    }

    /// Serves it as people do, and says where.
    pub(crate) async fn serve(&mut self, app: Router) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let serving = async move { axum::serve(listener, app).await.unwrap() };
        self.serving.spawn(serving);
        address
    }

    /// `/jokes/*`, sold as `jokes`; what it answers goes by the path's end.
    pub(crate) async fn jokes(&mut self, requests: Option<u64>) -> SocketAddr {
        let app = self.app().route_layer(self.guard("jokes", requests));
        self.serve(app).await
    }

    pub(crate) fn app(&self) -> Router {
        let (calls, go) = (Arc::clone(&self.calls), Arc::clone(&self.go));
        let handler = move |request: Request| {
            calls.fetch_add(1, Ordering::Relaxed);
            answer(Arc::clone(&go), request)
        };
        Router::new().route("/jokes/{what}", any(handler))
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) async fn get(&self, at: SocketAddr, path: &str, sold: Option<&Sold>) -> Answer {
        let mut request = self
            .client
            .request(Method::GET, &format!("http://{at}{path}"));
        if let Some(sold) = sold {
            request = request.header(AUTHORIZATION, sold.header());
        }
        self.client.send(request).await.unwrap()
    }

    /// A connection with a request on it.
    pub(crate) async fn ask(&self, at: SocketAddr, path: &str, sold: &Sold) -> TcpStream {
        let mut stream = TcpStream::connect(at).await.unwrap();
        let credential = sold.header();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: shop\r\nAuthorization: {credential}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

pub(crate) fn offer(service: &str, price: &str, requests: Option<u64>) -> Offer {
    let grant = Grant {
        requests,
        ..Grant::default()
    };
    Offer::new(service, price.parse().unwrap(), grant)
}

async fn answer(go: Arc<Notify>, request: Request) -> Response {
    match request.uri().path().rsplit('/').next().unwrap() {
        "fails" => (StatusCode::SERVICE_UNAVAILABLE, JOKE).into_response(),
        "missing" => (StatusCode::NOT_FOUND, JOKE).into_response(),
        "panics" => panic!("a bug in a handler"),
        "hangs" => std::future::pending().await,
        "seen" => seen(request).await.into_response(),
        "streams" => {
            let chunks = futures_util::stream::unfold(go, |go| async move {
                go.notified().await;
                Some((Ok::<_, std::io::Error>(Bytes::from_static(b"chunk")), go))
            });
            Body::from_stream(chunks).into_response()
        }
        _ => JOKE.into_response(),
    }
}

/// What a handler sees of a request.
async fn seen(request: Request) -> Json<serde_json::Value> {
    let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
    let paid = request.extensions().get::<Paid>();
    Json(serde_json::json!({
        "headers": names,
        "uri": request.uri().to_string(),
        "service": paid.map(|paid| paid.service.to_string()),
        "token_id": paid.map(|paid| paid.token_id.to_string()),
        "left": paid.and_then(|paid| paid.left.requests),
    }))
}
