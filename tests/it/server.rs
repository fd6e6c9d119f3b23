//! The listener: slow clients, too many of them, and the end.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollhouse::http::Limits;

use crate::bad_input::drip;
use crate::gate::assert_served;
use crate::raw;
use crate::support::{DEADLINE, Setup, Shop};
use crate::upstream::{SOON, Upstream};

fn limits() -> Limits {
    Setup::default().limits
}

async fn shop_with(limits: Limits) -> Shop {
    Shop::with(Setup {
        limits,
        ..Setup::default()
    })
    .await
}

async fn connect(shop: &Shop) -> TcpStream {
    TcpStream::connect(shop.address).await.unwrap()
}

#[tokio::test]
async fn headers_that_drip_are_cut_off_with_a_word() {
    let shop = shop_with(Limits {
        header_timeout: SOON,
        ..limits()
    })
    .await;
    let mut stream = connect(&shop).await;
    let long = "x".repeat(100);
    let request = format!("GET /free/page.txt HTTP/1.1\r\nHost: shop\r\nX: {long}\r\n\r\n");
    drip(&mut stream, request.as_bytes()).await;
    let reply = raw::reply(&mut stream).await;
    assert_eq!(reply.map(|reply| reply.status), Some(408));
    assert_served(&shop.get("/free/page.txt").await);
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed_without_a_word() {
    let shop = shop_with(Limits {
        header_timeout: SOON,
        ..limits()
    })
    .await;
    let mut silent = connect(&shop).await;
    let mut kept = connect(&shop).await;
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
    let shop = shop_with(Limits {
        connections_max: 1,
        ..limits()
    })
    .await;
    let first = connect(&shop).await;
    let mut second = connect(&shop).await;
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
    let shop = shop_with(Limits {
        connections_max: 1,
        write_timeout: SOON,
        ..limits()
    })
    .await;
    let large = std::fs::File::create(shop.folder.join("large.bin")).unwrap();
    // More than both sockets' buffers take.
    large.set_len(256 * 1024 * 1024).unwrap();
    let mut first = connect(&shop).await;
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
        limits: Limits { grace, ..limits() },
        ..Setup::default()
    })
    .await;
    let mut stream = connect(&shop).await;
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
    let mut kept = connect(&shop).await;
    kept.write_all(b"GET /free/page.txt HTTP/1.1\r\nHost: shop\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(raw::reply(&mut kept).await.unwrap().status, 200);
    let _silent = connect(&shop).await;
    shop.close();
    shop.is_closed().await;
    assert!(TcpStream::connect(shop.address).await.is_err());
}
