//! The listener: slow clients, too many of them, and the end.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tollhouse::sell::http::{Entry, Limits, Server, Stop};

use crate::support::answers::assert_served;
use crate::support::raw;
use crate::support::upstream::{SOON, Upstream};
use crate::support::{DEADLINE, Setup, Shop};

#[tokio::test]
async fn headers_that_drip_are_cut_off_with_a_word() {
    let shop = Shop::limited(Limits {
        header_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    let mut stream = shop.connect().await;
    let long = "x".repeat(100);
    let request = format!("GET /free/page.txt HTTP/1.1\r\nHost: shop\r\nX: {long}\r\n\r\n");
    raw::drip(&mut stream, request.as_bytes()).await;
    let reply = raw::reply(&mut stream).await;
    assert_eq!(reply.map(|reply| reply.status), Some(408));
    assert_served(&shop.get("/free/page.txt").await);
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed_without_a_word() {
    let shop = Shop::limited(Limits {
        header_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    let mut silent = shop.connect().await;
    let mut kept = shop.connect().await;
    kept.write_all(b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(raw::reply(&mut kept).await.unwrap().status, 200);
    for stream in [&mut silent, &mut kept] {
        let mut rest = Vec::new();
        let read = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert_eq!(read.expect("closed in time").unwrap(), 0);
    }
}

#[tokio::test]
async fn a_connection_above_the_limit_waits_for_its_turn() {
    let shop = Shop::limited(Limits {
        connections_max: 1,
        ..Setup::usual_limits()
    })
    .await;
    let large = std::fs::File::create(shop.folder.join("large.bin")).unwrap();
    large.set_len(256 * 1024 * 1024).unwrap();
    let mut first = shop.connect().await;
    first
        .write_all(b"GET /free/large.bin HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    raw::expect(&mut first, "200 OK").await;
    let mut second = shop.connect().await;
    second
        .write_all(b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    let early = timeout(Duration::from_millis(200), second.read_u8()).await;
    assert!(early.is_err(), "answered out of turn");
    drop(first);
    assert_eq!(raw::reply(&mut second).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_given_up() {
    let shop = Shop::limited(Limits {
        connections_max: 1,
        write_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    let large = std::fs::File::create(shop.folder.join("large.bin")).unwrap();
    // More than both sockets' buffers take.
    large.set_len(256 * 1024 * 1024).unwrap();
    let mut first = shop.connect().await;
    first
        .write_all(b"GET /free/large.bin HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    // Its place is free for somebody else.
    assert_eq!(raw::get(shop.address, "/free/page.txt").await.status, 200);
    drop(first);
}

async fn streaming(upstream: &Upstream, grace: Duration) -> (Shop, TcpStream) {
    let shop = Shop::with(Setup {
        upstream: Some(upstream.address),
        limits: Limits {
            grace,
            ..Setup::usual_limits()
        },
        ..Setup::default()
    })
    .await;
    let mut stream = shop.connect().await;
    stream
        .write_all(b"GET /open/stream HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    upstream.send_chunk();
    raw::expect(&mut stream, "chunk").await;
    (shop, stream)
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_end() {
    let upstream = Upstream::start().await;
    let (shop, mut stream) = streaming(&upstream, DEADLINE).await;
    shop.close();
    upstream.send_chunk();
    raw::expect(&mut stream, "chunk").await;
    upstream.end();
    // The last chunk of a chunked body.
    raw::expect(&mut stream, "0\r\n\r\n").await;
    shop.is_closed().await;
}

#[tokio::test]
async fn a_client_that_never_ends_is_not_waited_for_longer_than_the_grace() {
    let upstream = Upstream::start().await;
    let (shop, _stream) = streaming(&upstream, SOON).await;
    shop.close();
    shop.is_closed().await;
    upstream.is_streaming(false).await;
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let shop = Shop::open().await;
    let mut kept = shop.connect().await;
    kept.write_all(b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(raw::reply(&mut kept).await.unwrap().status, 200);
    let _silent = shop.connect().await;
    shop.close();
    shop.is_closed().await;
    assert!(TcpStream::connect(shop.address).await.is_err());
}

/// A server whose every answer is a tunnel that sends back what it is sent.
async fn echoing(limits: Limits) -> (std::net::SocketAddr, TaskTracker, Stop) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tracker, stop) = (TaskTracker::new(), Stop::default());
    let tunnels = tracker.clone();
    let echo = async move |mut request: Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tunnels.spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
            drop(tokio::io::copy(&mut from, &mut to).await);
        });
        let switching = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
        let switching = switching
            .header("connection", "upgrade")
            .header("upgrade", "echo");
        switching.body(Body::empty()).unwrap()
    };
    let server = Server {
        name: "test",
        listener,
        router: Router::new().fallback(echo),
        limits,
        entry: Entry::default(),
    };
    tracker.spawn(server.run(tracker.clone(), stop.clone()));
    (address, tracker, stop)
}

async fn tunnel(address: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
    stream.write_all(request).await.unwrap();
    raw::expect(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"ping").await.unwrap();
    raw::expect(&mut stream, "ping").await;
    stream
}

#[tokio::test]
async fn a_tunnel_keeps_its_place_until_it_ends() {
    let (address, _tracker, stop) = echoing(Limits {
        connections_max: 1,
        header_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    let mut first = tunnel(address).await;
    let second = tunnel(address);
    let mut second = std::pin::pin!(second);
    let early = timeout(2 * SOON, &mut second).await;
    assert!(early.is_err(), "answered out of turn");
    // Nor is it a request whose headers could be late.
    first.write_all(b"pong").await.unwrap();
    raw::expect(&mut first, "pong").await;
    drop(first);
    drop(second.await);
    stop.begin.cancel();
}

#[tokio::test]
async fn a_tunnel_that_never_ends_is_not_waited_for_longer_than_the_grace() {
    let (address, tracker, stop) = echoing(Limits {
        grace: SOON,
        ..Setup::usual_limits()
    })
    .await;
    let mut stream = tunnel(address).await;
    stop.begin.cancel();
    tracker.close();
    stream.write_all(b"still").await.unwrap();
    raw::expect(&mut stream, "still").await;
    // Not only the connection: whoever has the tunnel has ended too.
    timeout(DEADLINE, tracker.wait()).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0);
}
