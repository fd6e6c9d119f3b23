//! Delivery: streaming in both directions, when an upstream's failure gives the use back, and when it does not.

use std::convert::Infallible;

use http::header::AUTHORIZATION;
use http::{Method, StatusCode};
use regtest::client::Answer;
use regtest::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tollhouse::sell::resource;

use crate::support::answers::assert_challenged;
use crate::support::answers::assert_hello;
use crate::support::answers::assert_problem;
use crate::support::raw;
use crate::support::server::Server;
use crate::support::upstream::{HELLO, SOON, Upstream};
use crate::support::{DEADLINE, Setup, Shop, Sold};

/// The request that this token still buys is served, and no other.
async fn assert_one_left(shop: &Shop, sold: &Sold) {
    assert_hello(&shop.get_with("/up/x", sold).await);
    assert_challenged(&shop.get_with("/up/x", sold).await);
}

fn assert_left(answer: &Answer, left: &str) {
    assert_eq!(answer.header("l402-remaining-requests"), Some(left));
}

#[tokio::test]
async fn an_upstream_that_says_it_failed_gives_the_use_back() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", Some(1));
    for _ in 0..3 {
        let answer = shop.get_with("/up/fails", &sold).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.text(), HELLO);
        // What is left for the next request.
        assert_left(&answer, "1");
    }
    assert_one_left(&shop, &sold).await;
}

#[tokio::test]
async fn an_upstream_that_is_not_there_gives_the_use_back() {
    let closed = crate::support::Closed::new();
    let nobody = closed.address;
    let shop = Shop::before(nobody).await;
    let sold = shop.sell("up", Some(1));
    for _ in 0..2 {
        let answer = shop.get_with("/up/x", &sold).await;
        assert_problem(&answer, StatusCode::BAD_GATEWAY);
        assert_left(&answer, "1");
    }
    shop.is_counted(&sold, 0).await;
}

#[tokio::test]
async fn an_upstream_that_takes_too_long_gives_the_use_back() {
    let upstream = Upstream::start().await;
    let setup = Setup::default();
    let shop = Shop::with(Setup {
        upstream: Some(upstream.address),
        resource: resource::Config {
            upstream_timeout: SOON,
            ..setup.resource
        },
        ..setup
    })
    .await;
    let sold = shop.sell("up", Some(1));
    assert_problem(
        &shop.get_with("/up/hangs", &sold).await,
        StatusCode::GATEWAY_TIMEOUT,
    );
    assert_one_left(&shop, &sold).await;
}

#[tokio::test]
async fn a_paid_answer_of_an_upstream_is_private_unless_it_is_stricter() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    for (path, kept) in [
        ("/up/x", "private"),
        ("/up/public", "private, max-age=60"),
        ("/up/secret", "no-store"),
    ] {
        let answer = shop.get_with(path, &sold).await;
        assert_eq!(answer.header("cache-control"), Some(kept), "{path}");
    }
    let free = shop.get("/open/public").await;
    assert_eq!(
        free.header("cache-control"),
        Some("public, s-maxage=600, max-age=60")
    );
}

#[tokio::test]
async fn an_answer_streams_and_a_client_that_hangs_up_has_had_it() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", Some(1));
    let mut stream = shop.connect().await;
    let request = format!(
        "GET /up/stream HTTP/1.1\r\nHost: shop\r\nAuthorization: {}\r\n\r\n",
        sold.header()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    for _ in 0..3 {
        // The next chunk is sent only when the one before has arrived.
        upstream.send_chunk();
        raw::expect(&mut stream, "chunk").await;
    }
    assert_challenged(&shop.get_with("/up/x", &sold).await);
    upstream.is_streaming(true).await;
    drop(stream);
    // The upstream is told, not left to send to nobody.
    upstream.is_streaming(false).await;
    shop.is_counted(&sold, 1).await;
    assert_challenged(&shop.get_with("/up/x", &sold).await);
}

#[tokio::test]
async fn a_body_streams_to_the_upstream() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let mut stream = shop.connect().await;
    let head = "POST /open/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for word in ["first", "again"] {
        // What was echoed before the end of the body was not held back anywhere.
        stream
            .write_all(format!("5\r\n{word}\r\n").as_bytes())
            .await
            .unwrap();
        raw::expect(&mut stream, word).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    raw::expect(&mut stream, "0\r\n\r\n").await;
}

#[tokio::test]
async fn a_client_that_breaks_its_body_off_does_not_bring_the_server_down() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    let mut stream = shop.connect().await;
    let head = format!(
        "POST /up/x HTTP/1.1\r\nHost: shop\r\nAuthorization: {}\r\nContent-Length: 100\r\n\r\nhalf",
        sold.header()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    upstream.is_reached().await;
    assert_hello(&shop.get_with("/up/x", &sold).await);
}

#[tokio::test]
async fn expect_continue_is_answered_by_us() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let mut stream = shop.connect().await;
    let head =
        "POST /open/x HTTP/1.1\r\nHost: shop\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    raw::expect(&mut stream, "100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(raw::reply(&mut stream).await.unwrap().status, 200);
    let seen = upstream.take_one();
    assert_eq!(
        (seen.header("expect"), seen.body.as_slice()),
        (None, &b"hello"[..])
    );
}

const LONG: &str = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const OPEN_ENDED: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn an_upstream_that_sends_a_head_and_no_byte_gives_the_use_back() {
    for head in [LONG, CHUNKED, OPEN_ENDED, EVENTS] {
        let upstream = Server::saying(head).await;
        let shop = Shop::before(upstream.address).await;
        let sold = shop.sell("up", Some(1));
        for _ in 0..5 {
            let request = format!(
                "GET /up/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nAuthorization: {}\r\n\r\n",
                sold.header()
            );
            // A connection that breaks off before the head is sent gives no reply.
            let reply = raw::exchange(shop.address, request.as_bytes()).await;
            if let Some(reply) = reply.filter(|reply| reply.status != 200) {
                assert_eq!(reply.status, 502, "{head}");
                assert_eq!(reply.values("l402-remaining-requests"), ["1"]);
            } else {
                assert_ne!(
                    head, LONG,
                    "with a known length, the failure is seen before the head is sent"
                );
            }
        }
        shop.is_counted(&sold, 0).await;
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_counts_however_it_ends_and_an_empty_one_counts_too() {
    for (answer, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx", 200),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
            200,
        ),
        ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nx", 200),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            200,
        ),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403),
    ] {
        let upstream = Server::saying(answer).await;
        let shop = Shop::before(upstream.address).await;
        let sold = shop.sell("up", Some(1));
        let request = shop.request(Method::GET, "/up/x");
        let request = request.header(AUTHORIZATION, sold.header());
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{answer}");
        assert_eq!(response.headers()["l402-remaining-requests"], "0");
        drop(response.bytes().await);
        shop.is_counted(&sold, 1).await;
    }
}

/// Sends a request, and leaves while the upstream is silent after its head. `None` if the previous use has not gone
/// back yet.
async fn leave_early(shop: &Shop, sold: &Sold) -> Option<()> {
    let request = format!(
        "GET /up/x HTTP/1.1\r\nHost: shop\r\nAuthorization: {}\r\n\r\n",
        sold.header()
    );
    let mut stream = shop.connect().await;
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut start = [0; 12];
    match tokio::time::timeout(SOON, stream.read_exact(&mut start)).await {
        Ok(read) => {
            read.unwrap();
            (&start == b"HTTP/1.1 200").then_some(())
        }
        // If the length is known, the head waits for the first byte, too.
        Err(_) => Some(()),
    }
}

#[tokio::test]
async fn a_client_that_waits_in_vain_for_the_first_byte_gets_the_use_back_a_few_times() {
    for head in [LONG, CHUNKED] {
        let upstream = Server::holding(head).await;
        let shop = Shop::before(upstream.address).await;
        let sold = shop.sell("up", Some(1));
        // The fourth use counts, whatever the upstream does.
        for _ in 0..4 {
            let left = eventually("the use", DEADLINE, || async {
                Ok::<_, Infallible>(leave_early(&shop, &sold).await)
            });
            left.await.unwrap();
        }
        shop.is_counted(&sold, 1).await;
        assert_challenged(&shop.get_with("/up/x", &sold).await);
    }
}

#[tokio::test]
async fn a_websocket_that_the_upstream_closes_without_a_byte_gives_the_use_back() {
    let granted =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (behind, is_use) in [("", false), ("word", true)] {
        let upstream = Server::saying(format!("{granted}{behind}")).await;
        let shop = Shop::before(upstream.address).await;
        let sold = shop.sell("up", Some(1));
        let request = format!(
            "GET /up/x HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\nAuthorization: {}\r\n\r\n",
            sold.header()
        );
        let ask = || raw::exchange(shop.address, request.as_bytes());
        let reply = ask().await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (101, behind));
        if is_use {
            shop.is_counted(&sold, 1).await;
            assert_eq!(ask().await.unwrap().status, 402);
            continue;
        }
        eventually("the use", DEADLINE, || async {
            let reply = ask().await;
            Ok::<_, Infallible>(reply.filter(|reply| reply.status == 101))
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_websocket_closed_without_a_byte_after_the_clients_gives_the_use_back_a_few_times() {
    let granted =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let upstream = Server::saying(granted).await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", Some(1));
    let request = format!(
        "GET /up/x HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\nAuthorization: {}\r\n\r\ncommand",
        sold.header()
    );
    for _ in 0..4 {
        eventually("the use", DEADLINE, || async {
            let reply = raw::exchange(shop.address, request.as_bytes()).await;
            Ok::<_, Infallible>(reply.filter(|reply| reply.status == 101))
        })
        .await
        .unwrap();
    }
    shop.is_counted(&sold, 1).await;
}
