//! gRPC: what is not served is said in its own words, in one block of headers that ends the stream.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body::Body as _;
use http_body_util::Full;
use tokio::io::AsyncWriteExt as _;
use tollhouse::protocol::invoice::{Reach, Unready};

use crate::support::Shop;
use crate::support::frames::{self, END_HEADERS, END_STREAM, frame};
use crate::support::http2::{Client, read};
use crate::support::upstream::{HELLO, Upstream};

/// A call to a path of the shop.
fn call(path: &str) -> Request<Full<Bytes>> {
    Request::post(format!("http://shop{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::from(&b"\0\0\0\0\0"[..]))
        .unwrap()
}

async fn refused(client: &Client, request: Request<Full<Bytes>>) -> HeaderMap {
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.body().is_end_stream(), "headers only");
    assert_eq!(answer.headers()["content-type"], "application/grpc");
    answer.headers().clone()
}

#[tokio::test]
async fn a_call_that_is_not_paid_for_is_challenged_as_interceptors_read_it() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let client = Client::connect(&shop).await;
    let headers = refused(&client, call("/up/x")).await;
    assert_eq!(headers["grpc-status"], "13");
    assert_eq!(headers["grpc-message"], "payment required");
    let lines: Vec<_> = headers.get_all("www-authenticate").iter().collect();
    assert_eq!(lines.len(), 2);
    let first = lines[0].to_str().unwrap();
    assert!(first.starts_with("LSAT macaroon=\""), "{first}");
    assert!(first.contains("\", invoice=\"lnbcrt"), "{first}");
    let second = lines[1].to_str().unwrap();
    assert!(second.starts_with("L402 macaroon=\""), "{second}");
    assert_eq!(upstream.count(), 0);
    // Paid, it is passed on.
    let mut paid = call("/up/x");
    let sold = shop.sell("up", Some(1));
    let value = sold.header().parse().unwrap();
    paid.headers_mut().insert("authorization", value);
    let answer = client.send(paid).await.unwrap();
    assert_eq!(read(answer).await, (StatusCode::OK, HELLO.to_owned()));
}

#[tokio::test]
async fn it_is_one_frame() {
    let shop = Shop::open().await;
    let mut stream = frames::connect(shop.address, &[]).await;
    let headers = frames::block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", "/articles/page.txt/x"),
        ("content-type", "application/grpc+proto"),
    ]);
    let asked = frame(frames::HEADERS, END_HEADERS | END_STREAM, 1, &headers);
    stream.write_all(&asked).await.unwrap();
    let answer = frames::until(&mut stream, frames::HEADERS).await.unwrap();
    assert_eq!(answer.flags & END_STREAM, END_STREAM);
}

#[tokio::test]
async fn other_refusals_are_said_in_its_words_too() {
    let closed = crate::support::Closed::new();
    let nobody = closed.address;
    let shop = Shop::before(nobody).await;
    let client = Client::connect(&shop).await;
    let mut many = call("/up/x");
    let long = "x".repeat(17 * 1024).parse().unwrap();
    many.headers_mut().insert("x-long", long);
    let unreachable = call("/open/x");
    for (request, status, message) in [
        (call("/nothing"), "12", "Not found"),
        (call("/up/%2e%2e/x"), "3", "Bad path"),
        (call("/articles/page.txt"), "12", "Method not allowed"),
        (many, "8", "Headers too large"),
        (unreachable, "14", "Bad gateway"),
    ] {
        let headers = refused(&client, request).await;
        let said = (&headers["grpc-status"], &headers["grpc-message"]);
        assert_eq!(said, (&status.parse().unwrap(), &message.parse().unwrap()));
        assert!(!headers.contains_key("www-authenticate"));
    }
    shop.reach.send_replace(Reach::Unready(Unready::NoChannel));
    let headers = refused(&client, call("/up/x")).await;
    assert_eq!(headers["grpc-status"], "14");
    assert_eq!(headers["retry-after"], "30");
}

#[tokio::test]
async fn what_is_no_call_is_answered_as_ever() {
    let shop = Shop::open().await;
    let client = Client::connect(&shop).await;
    let mut request = call("/counted/page.txt");
    *request.method_mut() = http::Method::GET;
    let kind = "application/grpcs".parse().unwrap();
    request.headers_mut().insert("content-type", kind);
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
    let first = &answer.headers()["www-authenticate"];
    assert!(first.to_str().unwrap().starts_with("L402 "));
}
