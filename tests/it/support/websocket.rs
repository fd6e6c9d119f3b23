//! Websockets: a server behind the shop that echoes, and a client in front.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, header::AUTHORIZATION};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async, client_async};
use tollhouse::sell::route::Upstream;

use super::raw;
use super::{DEADLINE, Setup, Shop, Sold};

/// A server that says back what it is told, and hangs up when it is told `bye`.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Mutex<Vec<HeaderMap>>>,
    /// One connection each; ends with the client's.
    ended: Arc<tokio::sync::Semaphore>,
    _serving: JoinSet<()>,
}

impl Echo {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<HeaderMap>>>::default();
        let ended = Arc::new(tokio::sync::Semaphore::new(0));
        let mut serving = JoinSet::new();
        let (log, done) = (Arc::clone(&seen), Arc::clone(&ended));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(echo(stream, Arc::clone(&log), Arc::clone(&done)));
            }
        });
        Self {
            address,
            seen,
            ended,
            _serving: serving,
        }
    }

    /// Waits until one connection has come to its end.
    pub(crate) async fn is_left(&self) {
        let ended = timeout(DEADLINE, self.ended.acquire()).await;
        ended
            .expect("the connection ends in time")
            .unwrap()
            .forget();
    }

    pub(crate) async fn shop(&self, change: impl FnOnce(&mut Upstream)) -> Shop {
        self.shop_with(DEADLINE, change).await
    }

    pub(crate) async fn shop_with(
        &self,
        grace: Duration,
        change: impl FnOnce(&mut Upstream),
    ) -> Shop {
        let base = format!("http://{}", self.address).parse().unwrap();
        let mut upstream = Upstream::of(vec![base]);
        change(&mut upstream);
        let mut setup = Setup::of(upstream);
        setup.limits.grace = grace;
        Shop::with(setup).await
    }
}

#[expect(clippy::result_large_err, reason = "what the library's callback gives")]
async fn echo(
    stream: TcpStream,
    seen: Arc<Mutex<Vec<HeaderMap>>>,
    ended: Arc<tokio::sync::Semaphore>,
) {
    let note = |request: &Request, response: Response| {
        seen.lock().unwrap().push(request.headers().clone());
        Ok(response)
    };
    // A plain request is answered by the library, with a 4xx.
    if let Ok(mut socket) = accept_hdr_async(stream, note).await {
        while let Some(Ok(message)) = socket.next().await {
            if message == Message::text("bye") || !message.is_text() {
                break;
            }
            if socket.send(message).await.is_err() {
                break;
            }
        }
    }
    ended.add_permits(1);
}

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// A client's handshake with the shop.
pub(crate) async fn connect(shop: &Shop, path: &str, sold: Option<&Sold>) -> Result<Socket, Error> {
    connect_from("127.0.0.1", shop, path, sold).await
}

pub(crate) async fn connect_from(
    address: &str,
    shop: &Shop,
    path: &str,
    sold: Option<&Sold>,
) -> Result<Socket, Error> {
    let mut request = format!("ws://{}{path}", shop.address).into_client_request()?;
    if let Some(sold) = sold {
        let value = sold.header().parse().unwrap();
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let stream = raw::connect_from(address, shop.address).await;
    let handshake = client_async(request, stream);
    let (socket, _) = timeout(DEADLINE, handshake)
        .await
        .expect("an answer in time")?;
    Ok(socket)
}

pub(crate) async fn say(socket: &mut Socket, text: &'static str) {
    socket.send(Message::text(text)).await.unwrap();
    let heard = timeout(DEADLINE, socket.next()).await;
    assert_eq!(heard.unwrap().unwrap().unwrap(), Message::text(text));
}
