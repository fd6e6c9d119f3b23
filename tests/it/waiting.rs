//! Waiting for an upstream: each route for as long as it says, event by event; and for a client that waits for us.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tollhouse::sell::route;

use crate::support::answers::assert_hello;
use crate::support::answers::assert_problem;
use crate::support::raw;
use crate::support::upstream::{SOON, Upstream};
use crate::support::{DEADLINE, Setup, Shop};

/// How long a pause may be in these tests: three times as long as one is, for machines that are busy.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(3);

/// A shop whose route has these timeouts, and no other has them.
async fn shop_with(
    upstream: &Upstream,
    first_byte_timeout: Option<Duration>,
    idle_timeout: Option<Duration>,
) -> Shop {
    let base = format!("http://{}/base", upstream.address).parse().unwrap();
    let upstream = route::Upstream {
        first_byte_timeout,
        idle_timeout,
        ..route::Upstream::of(vec![base])
    };
    Shop::with(Setup::of(upstream)).await
}

#[tokio::test]
async fn a_route_waits_for_the_first_byte_as_long_as_it_says() {
    let upstream = Upstream::start().await;
    let shop = shop_with(&upstream, Some(SOON), None).await;
    let sold = shop.sell("up", Some(1));
    assert_problem(
        &shop.get_with("/up/hangs", &sold).await,
        http::StatusCode::GATEWAY_TIMEOUT,
    );
    assert_hello(&shop.get_with("/up/x", &sold).await);
    shop.is_counted(&sold, 1).await;
}

#[tokio::test]
async fn an_answer_may_pause_for_as_long_as_its_route_says() {
    let upstream = Upstream::start().await;
    let shop = shop_with(&upstream, None, Some(PAUSE_MAX)).await;
    let sold = shop.sell("up", Some(1));
    let mut stream = shop.connect().await;
    let request = format!(
        "GET /up/stream HTTP/1.1\r\nHost: shop\r\nAuthorization: {}\r\n\r\n",
        sold.header()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // In all it takes longer than one pause may.
    let mut tick = tokio::time::interval(PAUSE_MAX / 3);
    for _ in 0..5 {
        tick.tick().await;
        upstream.send_chunk();
        raw::expect(&mut stream, "chunk").await;
    }
    let mut rest = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
    // Cut off, and not brought to a good end.
    let _ = read.expect("cut off in time");
    assert!(!rest.ends_with(b"0\r\n\r\n"));
    upstream.is_streaming(false).await;
    // It had begun.
    shop.is_counted(&sold, 1).await;
}

#[tokio::test]
async fn each_event_arrives_before_the_next_is_sent() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", Some(1));
    let mut stream = shop.connect().await;
    let request = format!(
        "GET /up/events HTTP/1.1\r\nHost: shop\r\nAccept: text/event-stream\r\nAuthorization: {}\r\n\r\n",
        sold.header()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // The head is there before the first event is.
    raw::expect(&mut stream, "\r\n\r\n").await;
    for _ in 0..3 {
        upstream.send_chunk();
        raw::expect(&mut stream, "data: chunk\n\n").await;
    }
    upstream.end();
    raw::expect(&mut stream, "0\r\n\r\n").await;
    shop.is_counted(&sold, 1).await;
}

fn upload(shop: &Shop, authorization: &str) -> String {
    format!(
        "POST /up/x HTTP/1.1\r\nHost: {}\r\n{authorization}Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        shop.address
    )
}

#[tokio::test]
async fn who_has_not_paid_is_told_so_before_the_upload() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let mut stream = shop.connect().await;
    stream
        .write_all(upload(&shop, "").as_bytes())
        .await
        .unwrap();
    // No 100 comes before it: the first line is the answer's.
    let reply = raw::reply(&mut stream).await.unwrap();
    assert_eq!(reply.status, 402);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn who_has_paid_is_asked_for_the_upload() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", Some(1));
    let mut stream = shop.connect().await;
    let authorization = format!("Authorization: {}\r\n", sold.header());
    let head = upload(&shop, &authorization);
    stream.write_all(head.as_bytes()).await.unwrap();
    raw::expect(&mut stream, "100 Continue\r\n\r\n").await;
    stream.write_all(b"hello").await.unwrap();
    assert_eq!(raw::reply(&mut stream).await.unwrap().status, 200);
    let seen = upstream.take_one();
    assert_eq!(seen.body, b"hello");
    assert_eq!(seen.header("expect"), None);
    shop.is_counted(&sold, 1).await;
}
