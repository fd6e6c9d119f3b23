//! More connections than places: no network keeps the others out, and payers keep their place.

use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollhouse::sell::http::{Clients, Limits, Networks};

use crate::support::raw;
use crate::support::upstream::Upstream;
use crate::support::{DEADLINE, PAGE, Setup, Shop, Sold};

/// As few places as the tests need, and the share of one network.
pub(crate) fn limits() -> Limits {
    Limits {
        connections_max: 16,
        connections_of_network: 8,
        // No connection ends by itself while a test waits.
        header_timeout: 10 * DEADLINE,
        ..Setup::usual_limits()
    }
}

fn setup() -> Setup {
    Setup {
        limits: limits(),
        ..Setup::default()
    }
}

const ASK: &[u8] = b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";

/// Sends twelve requests from this address, each on its own connection after the bytes in `start`. Returns how many
/// are answered.
async fn answered_behind(start: &str, address: &str, shop: &Shop) -> usize {
    let mut answered = 0;
    for _ in 0..12 {
        let mut stream = raw::connect_from(address, shop.address).await;
        let sent = [start.as_bytes(), ASK].concat();
        let _ = stream.write_all(&sent).await;
        let reply = raw::reply(&mut stream).await;
        answered += usize::from(reply.is_some_and(|reply| reply.text() == PAGE));
    }
    answered
}

pub(crate) async fn answered(address: &str, shop: &Shop) -> usize {
    answered_behind("", address, shop).await
}

async fn is_closed(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    drop(read.expect("closed in time"));
}

#[tokio::test]
async fn idle_sockets_of_one_address_keep_nobody_out() {
    let shop = Shop::with(setup()).await;
    let mut idle = Vec::new();
    for number in 0..16 {
        let mut stream = raw::connect_from("127.0.0.1", shop.address).await;
        // Some send nothing, and some never finish their request.
        if number % 2 == 1 {
            stream
                .write_all(b"GET /free/page.txt HTTP/1.1\r\nHo")
                .await
                .unwrap();
        }
        idle.push(stream);
    }
    assert_eq!(answered("127.0.1.1", &shop).await, 12);
    // Another client at the same address is not kept out either.
    assert_eq!(answered("127.0.0.1", &shop).await, 12);
    // The oldest was displaced.
    is_closed(&mut idle[0]).await;
}

#[tokio::test]
async fn connections_of_several_networks_keep_no_newcomer_out() {
    let shop = Shop::with(setup()).await;
    let mut idle = Vec::new();
    for address in ["127.0.1.1", "127.0.2.1", "127.0.3.1", "127.0.4.1"] {
        for _ in 0..8 {
            let mut stream = raw::connect_from(address, shop.address).await;
            let kept = b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\n\r\n";
            stream.write_all(kept).await.unwrap();
            idle.push(stream);
        }
    }
    assert_eq!(answered("127.0.0.1", &shop).await, 12);
}

/// An HTTP/2 client with one connection from this address.
struct Many {
    sender: SendRequest<Full<bytes::Bytes>>,
    _running: tokio::task::JoinSet<()>,
}

impl Many {
    async fn connect(address: &str, shop: &Shop) -> Self {
        let stream = TokioIo::new(raw::connect_from(address, shop.address).await);
        let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
        let (sender, connection) = shaken.unwrap();
        let mut running = tokio::task::JoinSet::new();
        running.spawn(async move { drop(connection.await) });
        Self {
            sender,
            _running: running,
        }
    }

    async fn get(&mut self, path: &str, sold: Option<&Sold>) -> Option<String> {
        let mut request = Request::get(format!("http://shop{path}"));
        if let Some(sold) = sold {
            request = request.header("authorization", sold.header());
        }
        let asked = self
            .sender
            .send_request(request.body(Full::default()).unwrap());
        let answer = timeout(DEADLINE, asked).await.expect("in time").ok()?;
        let body = timeout(DEADLINE, answer.into_body().collect()).await;
        let body = body.expect("in time").ok()?.to_bytes();
        Some(String::from_utf8(body.to_vec()).unwrap())
    }
}

#[tokio::test]
async fn idle_connections_of_http2_keep_nobody_out() {
    let shop = Shop::with(setup()).await;
    let mut held = Vec::new();
    for address in ["127.0.0.1", "127.0.2.1"] {
        for _ in 0..8 {
            let mut client = Many::connect(address, &shop).await;
            assert_eq!(
                client.get("/free/page.txt", None).await.as_deref(),
                Some(PAGE)
            );
            held.push(client);
        }
    }
    assert_eq!(answered("127.0.1.1", &shop).await, 12);
    for _ in 0..12 {
        let mut client = Many::connect("127.0.1.1", &shop).await;
        assert_eq!(
            client.get("/free/page.txt", None).await.as_deref(),
            Some(PAGE)
        );
    }
}

#[tokio::test]
async fn unpaid_answers_are_displaced_and_paid_ones_stay() {
    let upstream = Upstream::start().await;
    let shop = Shop::with(Setup {
        upstream: Some(upstream.address),
        ..setup()
    })
    .await;
    let sold = shop.sell("up", None);
    let mut payer = Many::connect("127.0.5.1", &shop).await;
    assert!(payer.get("/up/x", Some(&sold)).await.is_some());
    let ask = |path: &str, authorization: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: shop\r\n{authorization}\r\n")
    };
    let mut paid = raw::connect_from("127.0.5.1", shop.address).await;
    let authorization = format!("Authorization: {}\r\n", sold.header());
    let asked = ask("/up/stream", &authorization);
    paid.write_all(asked.as_bytes()).await.unwrap();
    upstream.send_chunk();
    raw::expect(&mut paid, "chunk").await;
    let mut free = Vec::new();
    for address in ["127.0.1.1", "127.0.2.1"] {
        for _ in 0..7 {
            let mut stream = raw::connect_from(address, shop.address).await;
            stream
                .write_all(ask("/open/stream", "").as_bytes())
                .await
                .unwrap();
            free.push(stream);
        }
    }
    // Each answer has started once its head arrives.
    for stream in &mut free {
        raw::expect(stream, "200 OK").await;
    }
    assert_eq!(answered("127.0.3.1", &shop).await, 12);
    assert_eq!(answered("127.0.1.1", &shop).await, 12);
    upstream.send_chunk();
    raw::expect(&mut paid, "chunk").await;
    assert!(payer.get("/up/x", Some(&sold)).await.is_some());
}

#[tokio::test]
async fn a_proxy_has_no_share_and_the_clients_that_it_names_have_one() {
    let trusting = |proxy_protocol| Setup {
        clients: Clients {
            trusted_proxies: Networks::parse(&["127.0.9.0/24"]).unwrap(),
            ..Clients::default()
        },
        proxy_protocol,
        ..setup()
    };
    let shop = Shop::with(trusting(false)).await;
    let mut kept = Vec::new();
    for _ in 0..16 {
        let mut stream = raw::connect_from("127.0.9.1", shop.address).await;
        let ask = b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        assert_eq!(raw::reply(&mut stream).await.unwrap().status, 200);
        kept.push(stream);
    }
    for mut stream in kept {
        stream.write_all(ASK).await.unwrap();
        assert_eq!(raw::reply(&mut stream).await.unwrap().status, 200);
    }
    let shop = Shop::with(trusting(true)).await;
    let by_proxy = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4711 80\r\n");
    let mut idle = Vec::new();
    for _ in 0..16 {
        let mut stream = raw::connect_from("127.0.9.1", shop.address).await;
        let start = by_proxy("192.0.2.1");
        stream.write_all(start.as_bytes()).await.unwrap();
        idle.push(stream);
    }
    let other = by_proxy("192.0.2.2");
    assert_eq!(answered_behind(&other, "127.0.9.2", &shop).await, 12);
    assert_eq!(answered_behind("", "127.0.1.1", &shop).await, 0);
}
