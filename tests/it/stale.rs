//! Kept connections to an upstream: no request is lost when the server closes one, and none is kept without end.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, StatusCode, header::AUTHORIZATION};
use http_body_util::BodyExt as _;
use regtest::client::Answer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tollhouse::sell::route::{Health, Protocol, Upstream};

use crate::support::answers::assert_problem;
use crate::support::calls::{Calls, Speech};
use crate::support::http2::Client;
use crate::support::raw;
use crate::support::{DEADLINE, Setup, Shop, Sold};

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// A server that answers the first request of each connection, and answers the second one differently and closes it.
struct Closer {
    address: SocketAddr,
    /// The methods, in the order of arrival.
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Closer {
    async fn start(first: &'static str, second: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, connections) = (Arc::<Mutex<_>>::default(), Arc::<AtomicUsize>::default());
        let (log, count) = (Arc::clone(&asked), Arc::clone(&connections));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                open.spawn(serve(stream, Arc::clone(&log), first, second));
            }
        });
        Self {
            address,
            asked,
            connections,
            _serving: serving,
        }
    }

    async fn shop(&self, change: impl FnOnce(&mut Upstream)) -> Shop {
        let base = format!("http://{}", self.address).parse().unwrap();
        let mut upstream = Upstream::of(vec![base]);
        change(&mut upstream);
        Shop::with(Setup::of(upstream)).await
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The method of the next request.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head.to_lowercase();
    let length = length.split("content-length: ").nth(1);
    let length = length.map_or(0, |rest| {
        rest.split("\r\n").next().unwrap().parse().unwrap()
    });
    stream.read_exact(&mut vec![0; length]).await.ok()?;
    head.split(' ').next().map(str::to_owned)
}

async fn serve(
    mut stream: TcpStream,
    asked: Arc<Mutex<Vec<String>>>,
    first: &'static str,
    second: Option<&'static str>,
) {
    let mut is_first = true;
    while let Some(method) = read(&mut stream).await {
        asked.lock().unwrap().push(method);
        // Clients may disconnect at any time.
        let said = if is_first { Some(first) } else { second };
        let Some(said) = said.filter(|said| !said.is_empty()) else {
            return;
        };
        let _ = stream.write_all(said.as_bytes()).await;
        if !is_first {
            return;
        }
        is_first = false;
    }
}

async fn ask(shop: &Shop, method: Method, sold: &Sold, body: &'static str) -> Answer {
    let request = shop
        .request(method, "/up/x")
        .header(AUTHORIZATION, sold.header());
    shop.send(request.body(body)).await
}

#[tokio::test]
async fn a_request_on_a_stale_connection_is_sent_again_on_a_new_one() {
    for method in [Method::GET, Method::OPTIONS, Method::PUT, Method::DELETE] {
        let closer = Closer::start(HELLO, None).await;
        let shop = closer.shop(|_| {}).await;
        let sold = shop.sell("up", Some(4));
        for _ in 0..4 {
            let answer = ask(&shop, method.clone(), &sold, "").await;
            assert_eq!((answer.status, &*answer.text()), (StatusCode::OK, "hello"));
        }
        shop.is_counted(&sold, 4).await;
    }
}

#[tokio::test]
async fn a_request_that_must_not_be_repeated_is_not_sent_again() {
    for (method, body) in [
        (Method::POST, ""),
        (Method::PATCH, ""),
        (Method::PUT, "a body"),
    ] {
        let closer = Closer::start(HELLO, None).await;
        let shop = closer.shop(|_| {}).await;
        let sold = shop.sell("up", Some(1));
        assert_eq!(ask(&shop, method.clone(), &sold, body).await.status, 200);
        let sold = shop.sell("up", Some(1));
        let answer = ask(&shop, method, &sold, body).await;
        assert_problem(&answer, StatusCode::BAD_GATEWAY);
        assert_eq!(closer.asked().len(), 2);
        shop.is_counted(&sold, 0).await;
    }
}

#[tokio::test]
async fn a_request_whose_answer_has_begun_is_not_sent_again() {
    let closer = Closer::start(HELLO, Some("HTTP/1.1 2")).await;
    let shop = closer.shop(|_| {}).await;
    let sold = shop.sell("up", None);
    assert_eq!(ask(&shop, Method::GET, &sold, "").await.status, 200);
    let answer = ask(&shop, Method::GET, &sold, "").await;
    assert_problem(&answer, StatusCode::BAD_GATEWAY);
    assert_eq!(closer.asked().len(), 2);
}

#[tokio::test]
async fn a_server_that_closes_new_connections_is_retried_only_once() {
    let closer = Closer::start("", None).await;
    let shop = closer.shop(|_| {}).await;
    let sold = shop.sell("up", None);
    for asked in 1..3 {
        let answer = ask(&shop, Method::GET, &sold, "").await;
        assert_problem(&answer, StatusCode::BAD_GATEWAY);
        assert_eq!(closer.asked().len(), asked);
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_repeated_uses_no_connection_that_was_idle_for_long() {
    let closer = Closer::start(HELLO, None).await;
    let shop = closer.shop(|_| {}).await;
    let sold = shop.sell("up", None);
    // Longer than one second, and less than the two after which gunicorn closes.
    let mut tick = tokio::time::interval(Duration::from_millis(1_300));
    for _ in 0..3 {
        tick.tick().await;
        assert_eq!(ask(&shop, Method::POST, &sold, "a body").await.status, 200);
    }
    assert_eq!(closer.connections(), 3);
}

#[tokio::test]
async fn a_connection_that_is_never_idle_is_replaced_when_it_is_old() {
    let keeping = crate::support::upstream::Upstream::start().await;
    let base = format!("http://{}", keeping.address).parse().unwrap();
    let old = Duration::from_millis(400);
    let shop = Shop::with(Setup::of(Upstream {
        connection_age_max: old,
        ..Upstream::of(vec![base])
    }))
    .await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < old * 4 {
        assert_eq!(shop.get("/open/x").await.status, 200);
    }
    let peers = keeping.peers();
    assert!((2..=10).contains(&peers), "{peers} connections");
}

#[tokio::test]
async fn an_answer_continues_on_an_old_connection() {
    let calls = Calls::start(Speech::Clear).await;
    let base = format!("http://{}", calls.address).parse().unwrap();
    let shop = Shop::with(Setup::of(Upstream {
        protocol: Protocol::Http2,
        connection_age_max: Duration::from_millis(300),
        ..Upstream::of(vec![base])
    }))
    .await;
    let client = Client::connect(&shop).await;
    let request = http::Request::get("http://shop/open/for-ever");
    let request = request.body(http_body_util::Full::default()).unwrap();
    let mut endless = client.send(request).await.unwrap().into_body();
    // A message arrives every 100 ms.
    for _ in 0..15 {
        let frame = tokio::time::timeout(DEADLINE, endless.frame()).await;
        assert!(frame.unwrap().unwrap().unwrap().is_data());
        assert_eq!(shop.get("/open/x").await.status, 200);
    }
}

#[tokio::test]
async fn a_stale_connection_does_not_fail_a_health_check() {
    let closer = Closer::start(HELLO, None).await;
    let every = Duration::from_millis(200);
    let shop = closer
        .shop(|upstream| {
            let path = "/health".to_owned();
            upstream.health = Some(Health { path, every });
        })
        .await;
    let mut tick = tokio::time::interval(every);
    for _ in 0..10 {
        tick.tick().await;
        let status = shop.sold_here.get().resources.status();
        assert!(status.iter().all(|server| !server.is_away), "{status:?}");
    }
    assert!(closer.asked().len() > 3);
}

/// The lengths that this upstream's answer to the method states, over HTTP/1.1 and HTTP/2.
async fn lengths(answer: &'static str, method: &str) -> [Option<String>; 2] {
    let closer = Closer::start(answer, Some(answer)).await;
    let shop = closer.shop(|_| {}).await;
    let request = format!("{method} /open/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n");
    let reply = raw::exchange(shop.address, request.as_bytes()).await;
    let reply = reply.unwrap();
    let one = reply
        .values("content-length")
        .first()
        .map(|it| (*it).to_owned());
    let request = http::Request::builder()
        .method(method)
        .uri("http://shop/open/x")
        .body(http_body_util::Full::default());
    let two = Client::connect(&shop).await.send(request.unwrap()).await;
    let two = two.unwrap();
    let two = two.headers().get("content-length");
    [one, two.map(|it| it.to_str().unwrap().to_owned())]
}

#[tokio::test]
async fn an_answer_without_a_length_gets_none() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(lengths(chunked, "HEAD").await, [None, None]);
    let none = "HTTP/1.1 204 No Content\r\n\r\n";
    let same = "HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n";
    for answer in [none, same] {
        for method in ["GET", "HEAD"] {
            assert_eq!(lengths(answer, method).await, [None, None], "{answer}");
        }
    }
    // The length that the upstream states is passed on.
    let said = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(
        lengths(said, "GET").await,
        ["0", "0"].map(|it| Some(it.to_owned()))
    );
}

#[tokio::test]
async fn the_length_of_a_head_answer_is_that_of_the_body() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let closer = Closer::start(answer, Some(answer)).await;
    let shop = closer.shop(|_| {}).await;
    for path in ["/open/x", "/free/page.txt"] {
        let answer = shop.send(shop.request(Method::HEAD, path)).await;
        let length = answer.header("content-length").unwrap();
        assert_ne!(length, "0", "{path}");
    }
}
