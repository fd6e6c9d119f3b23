//! HTTP/2 on the same port: the same decisions, and limits of its own.

use std::time::Duration;

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tollhouse::sell::http::Limits;

use crate::support::frames::{self, frame};
use crate::support::http2::Client;
use crate::support::http2::read;
use crate::support::raw;
use crate::support::upstream::{HELLO, SOON, Upstream};
use crate::support::{DEADLINE, PAGE, Setup, Shop};

fn ok(text: &str) -> (StatusCode, String) {
    (StatusCode::OK, text.to_owned())
}

#[tokio::test]
async fn one_port_speaks_both_and_sells_by_both() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let client = Client::connect(&shop).await;
    let (status, body) = client.get("/articles/page.txt", None).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED, "{body}");
    assert!(!body.contains(PAGE));
    let sold = shop.sell("articles", None);
    assert_eq!(
        client.get("/articles/page.txt", Some(&sold)).await,
        ok(PAGE)
    );
    let sold = shop.sell("up", Some(1));
    assert_eq!(client.get("/up/x", Some(&sold)).await, ok(HELLO));
    let seen = upstream.take_one();
    assert_eq!(seen.header("x-forwarded-host"), Some("shop"));
    assert_eq!(seen.header("authorization"), None);
    assert_eq!(
        client.get("/up/x", Some(&sold)).await.0,
        StatusCode::PAYMENT_REQUIRED
    );
    assert_eq!(raw::get(shop.address, "/free/page.txt").await.status, 200);
}

#[tokio::test]
async fn a_body_and_many_requests_at_once_pass() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let client = Client::connect(&shop).await;
    let body = vec![b'x'; 60 * 1024];
    let post = Request::builder()
        .method(Method::POST)
        .uri("http://shop/open/x")
        .body(Full::from(body.clone()))
        .unwrap();
    assert_eq!(read(client.send(post).await.unwrap()).await, ok(HELLO));
    assert_eq!(upstream.take_one().body, body);
    let all = (0..50).map(|_| client.get("/free/page.txt", None));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer, ok(PAGE));
    }
}

#[tokio::test]
async fn headers_have_the_same_limits() {
    let shop = Shop::open().await;
    let client = Client::connect(&shop).await;
    for (count, bytes) in [(120, 1), (1, 17 * 1024), (1, 30 * 1024)] {
        let mut request = Request::get("http://shop/free/page.txt");
        for number in 0..count {
            request = request.header(format!("x-{number}"), "y".repeat(bytes));
        }
        let answer = client.send(request.body(Full::default()).unwrap()).await;
        let (status, body) = read(answer.unwrap()).await;
        assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        assert!(body.contains("16 KiB"), "{body}");
    }
    assert_eq!(client.get("/free/page.txt", None).await, ok(PAGE));
}

#[tokio::test]
async fn a_preface_that_drips_is_understood_or_cut_off_with_a_word() {
    let shop = Shop::limited(Limits {
        header_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    let mut stream = shop.connect().await;
    raw::drip(&mut stream, &frames::PREFACE[..10]).await;
    stream.write_all(&frames::PREFACE[10..]).await.unwrap();
    let settings = frame(frames::SETTINGS, 0, 0, &[]);
    stream.write_all(&settings).await.unwrap();
    assert!(frames::until(&mut stream, frames::SETTINGS).await.is_some());
    let mut stream = shop.connect().await;
    stream.write_all(&frames::PREFACE[..10]).await.unwrap();
    let reply = raw::reply(&mut stream).await;
    assert_eq!(reply.map(|reply| reply.status), Some(408));
}

/// Reads to the end, which comes in time.
async fn is_closed(stream: &mut TcpStream) {
    while frames::read(stream).await.is_some() {}
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let shop = Shop::limited(Limits {
        header_timeout: SOON,
        write_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    // It never answers what it is sent, not even the farewell.
    let mut silent = frames::connect(shop.address, &[]).await;
    let mut half_asked = frames::connect(shop.address, &[]).await;
    let headers = frame(frames::HEADERS, frames::END_STREAM, 1, &frames::get("/x"));
    half_asked.write_all(&headers).await.unwrap();
    let mut kept = frames::connect(shop.address, &[]).await;
    kept.write_all(&ask(1, "/free/page.txt")).await.unwrap();
    let answer = frames::until(&mut kept, frames::DATA).await.unwrap();
    assert_eq!(answer.payload, PAGE.as_bytes());
    for stream in [&mut silent, &mut half_asked, &mut kept] {
        assert!(frames::until(stream, frames::GOAWAY).await.is_some());
        is_closed(stream).await;
    }
}

/// A whole request.
fn ask(stream: u32, path: &str) -> Vec<u8> {
    let flags = frames::END_STREAM | frames::END_HEADERS;
    frame(frames::HEADERS, flags, stream, &frames::get(path))
}

/// A client's windows, as wide as they get.
fn wide_open() -> Vec<u8> {
    let more = u32::MAX / 2 - 0xffff;
    frame(frames::WINDOW_UPDATE, 0, 0, &more.to_be_bytes())
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
    let settings = frames::setting(frames::INITIAL_WINDOW_SIZE, u32::MAX / 2);
    let mut stream = frames::connect(shop.address, &settings).await;
    let asked = [wide_open(), ask(1, "/free/large.bin")].concat();
    stream.write_all(&asked).await.unwrap();
    // Its place is free for somebody else.
    assert_eq!(raw::get(shop.address, "/free/page.txt").await.status, 200);
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_given_up_without_the_others() {
    let upstream = Upstream::start().await;
    let shop = Shop::with(Setup {
        upstream: Some(upstream.address),
        limits: Limits {
            write_timeout: SOON,
            ..Setup::usual_limits()
        },
        ..Setup::default()
    })
    .await;
    let settings = frames::setting(frames::INITIAL_WINDOW_SIZE, 0);
    let mut stream = frames::connect(shop.address, &settings).await;
    let more = frame(frames::WINDOW_UPDATE, 0, 3, &100_u32.to_be_bytes());
    let asked = [ask(1, "/free/page.txt"), ask(3, "/open/stream"), more].concat();
    stream.write_all(&asked).await.unwrap();
    upstream.is_streaming(true).await;
    let reset = frames::until(&mut stream, frames::RST_STREAM).await;
    assert_eq!(reset.unwrap().stream, 1);
    // It waited for us all the while.
    upstream.send_chunk();
    let chunk = frames::until(&mut stream, frames::DATA).await.unwrap();
    assert_eq!((chunk.stream, chunk.payload.as_slice()), (3, &b"chunk"[..]));
}

#[tokio::test]
async fn requests_above_the_limit_are_told_to_come_again() {
    let upstream = Upstream::start().await;
    let shop = Shop::with(Setup {
        upstream: Some(upstream.address),
        limits: Limits {
            connections_max: 2,
            ..Setup::usual_limits()
        },
        ..Setup::default()
    })
    .await;
    let client = Client::connect(&shop).await;
    let streaming = || {
        let request = Request::get("http://shop/open/stream");
        client.send(request.body(Full::default()).unwrap())
    };
    let (first, _second) = (streaming().await.unwrap(), streaming().await.unwrap());
    let request = Request::get("http://shop/free/page.txt");
    let refused = client
        .send(request.body(Full::default()).unwrap())
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["retry-after"], "1");
    drop(first);
    // Its place is free as soon as we hear of it.
    let served = async {
        while client.get("/free/page.txt", None).await != ok(PAGE) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, served).await.unwrap();
}

#[tokio::test]
async fn who_leaves_refusals_lying_keeps_nobody_out() {
    let shop = Shop::limited(Limits {
        connections_max: 3,
        header_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    let settings = frames::setting(frames::INITIAL_WINDOW_SIZE, 0);
    let mut hoarder = frames::connect(shop.address, &settings).await;
    let paths = ["/nothing", "/articles/page.txt", "/%2e%2e"];
    for id in 0..50 {
        let asked = ask(2 * id + 1, paths[id as usize % paths.len()]);
        hoarder.write_all(&asked).await.unwrap();
        // The head comes whatever the window is.
        assert!(frames::until(&mut hoarder, frames::HEADERS).await.is_some());
    }
    let client = Client::connect(&shop).await;
    assert_eq!(client.get("/free/page.txt", None).await, ok(PAGE));
    // Nor do they lie there for as long as what was bought may.
    assert!(
        frames::until(&mut hoarder, frames::RST_STREAM)
            .await
            .is_some()
    );
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
    let mut stream = frames::connect(shop.address, &[]).await;
    stream.write_all(&ask(1, "/open/stream")).await.unwrap();
    upstream.send_chunk();
    assert!(frames::until(&mut stream, frames::DATA).await.is_some());
    (shop, stream)
}

#[tokio::test]
async fn a_request_in_flight_is_finished_before_the_end() {
    let upstream = Upstream::start().await;
    let (shop, mut stream) = streaming(&upstream, DEADLINE).await;
    shop.close();
    assert!(frames::until(&mut stream, frames::GOAWAY).await.is_some());
    upstream.send_chunk();
    let chunk = frames::until(&mut stream, frames::DATA).await.unwrap();
    assert_eq!(chunk.payload, b"chunk");
    upstream.end();
    let last = frames::until(&mut stream, frames::DATA).await.unwrap();
    assert_eq!((last.flags, last.payload.len()), (frames::END_STREAM, 0));
    drop(stream);
    shop.is_closed().await;
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let shop = Shop::limited(Limits {
        write_timeout: SOON,
        ..Setup::usual_limits()
    })
    .await;
    // It never answers what it is sent.
    let mut silent = frames::connect(shop.address, &[]).await;
    assert!(frames::until(&mut silent, frames::SETTINGS).await.is_some());
    let client = Client::connect(&shop).await;
    assert_eq!(client.get("/free/page.txt", None).await, ok(PAGE));
    shop.close();
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
async fn headers_without_end_and_resets_without_end_are_a_flood() {
    let shop = Shop::open().await;
    // CVE-2024-27316: headers that go on and on.
    let mut stream = frames::connect(shop.address, &[]).await;
    let start = frame(frames::HEADERS, frames::END_STREAM, 1, &frames::get("/x"));
    stream.write_all(&start).await.unwrap();
    let more = frames::block(&[("x", &"y".repeat(8_000))]);
    let more = frame(frames::CONTINUATION, 0, 1, &more);
    for _ in 0..1_000 {
        if stream.write_all(&more).await.is_err() {
            break;
        }
    }
    is_closed(&mut stream).await;
    // CVE-2023-44487: requests that are taken back at once.
    let mut stream = frames::connect(shop.address, &[]).await;
    let mut flood = Vec::new();
    for number in 0..2_000 {
        let id = 2 * number + 1;
        flood.extend(ask(id, "/articles/page.txt"));
        flood.extend(frame(frames::RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    let _ = stream.write_all(&flood).await;
    is_closed(&mut stream).await;
    assert_eq!(raw::get(shop.address, "/free/page.txt").await.status, 200);
}
