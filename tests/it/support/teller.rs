//! A server that says whatever the test wants and counts how often it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::header::LOCATION;
use regtest::wait::eventually;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use crate::support::DEADLINE;

/// What the server does with whoever asks.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    /// 200 with this body.
    Says(String),
    /// Another status, with a body.
    Refuses(u16, String),
    /// 302 to here.
    Redirects(String),
    /// 200 and a body that never ends, as fast as it is read.
    Floods,
    /// 200 and one byte every now and then.
    Drips,
    /// Nothing, for ever.
    Lingers,
    /// A body that is shorter than it was said to be.
    BreaksOff,
    /// 200 with this body, once the test has said so.
    SaysWhenTold(String),
}

/// A server; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Teller {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    manner: Mutex<Manner>,
    /// The bodies that were sent, as JSON where they are.
    asked: Mutex<Vec<serde_json::Value>>,
    /// One permit an answer of [`Manner::SaysWhenTold`].
    told: Semaphore,
}

impl Teller {
    pub(crate) async fn who(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, manner)
    }

    /// The same on this listener.
    pub(crate) fn on(listener: TcpListener, manner: Manner) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            manner: Mutex::new(manner),
            asked: Mutex::default(),
            told: Semaphore::new(0),
        });
        let router = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self {
            address,
            shared,
            _serving: serving,
        }
    }

    pub(crate) async fn who_says(body: &str) -> Self {
        Self::who(Manner::Says(body.to_owned())).await
    }

    pub(crate) fn now(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    pub(crate) fn now_says(&self, body: &str) {
        self.now(Manner::Says(body.to_owned()));
    }

    /// Lets so many answers go.
    pub(crate) fn tell(&self, answers: usize) {
        self.shared.told.add_permits(answers);
    }

    /// What it was told with each question.
    pub(crate) fn asked(&self) -> Vec<serde_json::Value> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Waits until it was asked that often.
    pub(crate) async fn is_asked(&self, count: usize) {
        eventually("a question", DEADLINE, || async {
            let seen = self.count();
            if seen >= count {
                Ok(Some(()))
            } else {
                Err(seen)
            }
        })
        .await
        .unwrap();
    }

    /// How often it was asked.
    pub(crate) fn count(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }
}

/// A server that speaks TLS with a certificate that it has made itself; it stops when it is dropped.
#[derive(Debug)]
pub(crate) struct Impostor {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Impostor {
    pub(crate) async fn start() -> Self {
        let names = vec!["127.0.0.1".to_owned()];
        let own = rcgen::generate_simple_self_signed(names).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = tokio_rustls::rustls::crypto::ring::default_provider();
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // Whoever believes it reads a rate.
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{\"usd\":97}";
                    let _ = stream.write_all(answer).await;
                }
            }
        });
        Self {
            address,
            _serving: serving,
        }
    }
}

/// An address where nobody listens.
pub(crate) fn nobody() -> SocketAddr {
    // Port 1 is never given out by the system.
    SocketAddr::from(([127, 0, 0, 1], 1))
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
    let asked = serde_json::from_slice(&body).unwrap_or(serde_json::Value::Null);
    shared.asked.lock().unwrap().push(asked);
    let manner = shared.manner.lock().unwrap().clone();
    let response = Response::builder();
    match manner {
        Manner::Says(body) => response.body(body.into()),
        Manner::Refuses(status, body) => response.status(status).body(body.into()),
        Manner::Redirects(to) => response
            .status(302)
            .header(LOCATION, to)
            .body(Body::empty()),
        Manner::Floods => {
            let chunk = || Ok::<_, Infallible>(Bytes::from_static(&[b'1'; 4_096]));
            response.body(Body::from_stream(stream::repeat_with(chunk)))
        }
        Manner::Drips => {
            let drip = stream::unfold((), |()| async {
                tokio::time::timeout(Duration::from_millis(20), std::future::pending::<()>())
                    .await
                    .unwrap_err();
                Some((Ok::<_, Infallible>(Bytes::from_static(b"1")), ()))
            });
            response.body(Body::from_stream(drip))
        }
        Manner::Lingers => std::future::pending().await,
        Manner::BreaksOff => {
            let parts = [Ok(Bytes::from_static(b"1000")), Err("broken on purpose")];
            response.body(Body::from_stream(stream::iter(parts)))
        }
        Manner::SaysWhenTold(body) => {
            shared.told.acquire().await.unwrap().forget();
            response.body(body.into())
        }
    }
    .unwrap()
}
