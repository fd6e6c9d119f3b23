//! Delivery: streaming in both directions, when an upstream's failure gives the use back, and when it does not.

use http::StatusCode;
use regtest::client::Answer;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tollhouse::resource;

use crate::forward::{assert_hello, shop_before};
use crate::gate::assert_challenged;
use crate::raw;
use crate::support::{Setup, Shop, Sold};
use crate::upstream::{HELLO, SOON, Upstream};

/// The request that this token still buys is served, and no other.
async fn assert_one_left(shop: &Shop, sold: &Sold) {
    assert_hello(&shop.get_with("/up/x", sold).await);
    assert_challenged(&shop.get_with("/up/x", sold).await);
}

#[tokio::test]
async fn an_upstream_that_says_it_failed_gives_the_use_back() {
    let upstream = Upstream::start().await;
    let shop = shop_before(&upstream).await;
    let sold = shop.sell("up", Some(1));
    for _ in 0..3 {
        let answer = shop.get_with("/up/fails", &sold).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.text(), HELLO);
    }
    assert_one_left(&shop, &sold).await;
    // Its other answers are what was asked for.
    let sold = shop.sell("up", Some(1));
    assert_eq!(
        shop.get_with("/up/missing", &sold).await.status,
        StatusCode::NOT_FOUND
    );
    assert_challenged(&shop.get_with("/up/x", &sold).await);
}

pub(crate) fn assert_problem(answer: &Answer, status: StatusCode) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json")
    );
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], status.as_u16());
    // What RFC 9457, section 4.2.1 wants of a problem without a type of its own.
    assert_eq!(problem["type"], "about:blank");
    assert_eq!(problem["title"], status.canonical_reason().unwrap());
    assert!(problem["detail"].as_str().unwrap().contains("not counted"));
}

#[tokio::test]
async fn an_upstream_that_is_not_there_gives_the_use_back() {
    let closed = crate::support::Closed::new();
    let nobody = closed.address;
    let shop = Shop::with(Setup {
        upstream: Some(nobody),
        ..Setup::default()
    })
    .await;
    let sold = shop.sell("up", Some(1));
    for _ in 0..2 {
        assert_problem(
            &shop.get_with("/up/x", &sold).await,
            StatusCode::BAD_GATEWAY,
        );
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
    let shop = shop_before(&upstream).await;
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
    let shop = shop_before(&upstream).await;
    let sold = shop.sell("up", Some(1));
    let mut stream = TcpStream::connect(shop.address).await.unwrap();
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
    let shop = shop_before(&upstream).await;
    let mut stream = TcpStream::connect(shop.address).await.unwrap();
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
    let shop = shop_before(&upstream).await;
    let sold = shop.sell("up", None);
    let mut stream = TcpStream::connect(shop.address).await.unwrap();
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
    let shop = shop_before(&upstream).await;
    let mut stream = TcpStream::connect(shop.address).await.unwrap();
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
