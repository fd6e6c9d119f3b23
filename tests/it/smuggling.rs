//! Requests that two servers could read in two ways. Whatever is made of them, none reaches what is sold unpaid, and the next
//! customer's request arrives as it was sent.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::support::answers::assert_hello;
use crate::support::frames::{self, END_HEADERS, END_STREAM, frame};
use crate::support::upstream::Upstream;
use crate::support::{DEADLINE, Shop, Sold};

/// What an attacker wants to have served.
const HIDDEN: &str = "GET /up/hidden HTTP/1.1\r\nHost: shop\r\n\r\n";

/// Ends a connection that is kept: the answer is 404.
const LAST: &[u8] = b"GET /last HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";

/// Sends bytes and reads all that comes back.
async fn answers(shop: &Shop, bytes: &[u8]) -> String {
    let mut stream = shop.connect().await;
    // A server that refuses early closes while we still write: its answer is there all the same.
    let _ = stream.write_all(&[bytes, LAST].concat()).await;
    let mut answers = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answers)).await;
    let _ = read.expect("an end in time");
    String::from_utf8_lossy(&answers).into_owned()
}

/// The statuses of all answers but the last, to what every connection ends with.
fn statuses(answers: &str) -> Vec<&str> {
    let lines = answers.match_indices("HTTP/1.1 ");
    let statuses = lines.map(|(at, start)| &answers[at + start.len()..][..3]);
    let mut statuses: Vec<_> = statuses.collect();
    if statuses.len() > 1 && statuses.last() == Some(&"404") {
        statuses.pop();
    }
    statuses
}

/// Nothing that is sold was served unpaid, and what a customer asks for next is what arrives, and counts once.
async fn assert_untouched(shop: &Shop, upstream: &Upstream, victim: &Sold, what: &str) {
    assert_hello(&shop.get_with("/up/victim", victim).await);
    let mut seen = upstream.take_all();
    seen.retain(|seen| !seen.target.starts_with("/base/open/x"));
    assert_eq!(seen.len(), 1, "{what}: {seen:?}");
    let (method, target) = (seen[0].method.as_str(), seen[0].target.as_str());
    assert_eq!((method, target), ("GET", "/base/up/victim"), "{what}");
    assert!(seen[0].body.is_empty(), "{what}: {seen:?}");
}

/// Header lines behind `POST /open/x` and its `Host`, the body, and the statuses of the answers.
type Row = (&'static str, String, &'static [&'static str]);

#[rustfmt::skip]
fn lengths() -> Vec<Row> {
    let hidden = || HIDDEN.to_owned();
    let chunked = || format!("0\r\n\r\n{HIDDEN}");
    vec![
        // Two lengths.
        ("Content-Length: 0\r\nContent-Length: 39", hidden(), &["400"]),
        ("Content-Length: 39\r\nContent-Length: 0", hidden(), &["400"]),
        ("Content-Length: 0, 39", hidden(), &["400"]),
        ("Content-Length: 0\r\ncontent-length: 0", hidden(), &["200", "402"]),
        ("Content-Length: 00", hidden(), &["200", "402"]),
        ("Content-Length: +0", hidden(), &["400"]),
        ("Content-Length: -0", hidden(), &["400"]),
        ("Content-Length: 0x0", hidden(), &["400"]),
        ("Content-Length: 0 0", hidden(), &["400"]),
        ("Content-Length:", hidden(), &["400"]),
        ("Content-Length : 0", hidden(), &["400"]),
        ("Content-Length\t: 0", hidden(), &["400"]),
        ("\tContent-Length: 0", hidden(), &["400"]),
        ("Content-Length: 0\r\n 39", hidden(), &["400"]),
        ("Content_Length: 39", hidden(), &["200", "402"]),
        // A length and an encoding: the encoding decides, and nothing behind it is read.
        ("Content-Length: 39\r\nTransfer-Encoding: chunked", chunked(), &["200"]),
        ("Transfer-Encoding: chunked\r\nContent-Length: 39", chunked(), &["200"]),
        // Encodings that some read and some do not.
        ("Transfer-Encoding: xchunked", chunked(), &["400"]),
        ("Transfer-Encoding: chunked, identity", chunked(), &["400"]),
        ("Transfer-Encoding: identity", chunked(), &["400"]),
        ("Transfer-Encoding: identity, chunked", chunked(), &["200", "402"]),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", chunked(), &["400"]),
        ("Transfer-Encoding: \"chunked\"", chunked(), &["400"]),
        ("Transfer-Encoding: chunked;q=1", chunked(), &["400"]),
        ("Transfer-Encoding : chunked", chunked(), &["400"]),
        ("Transfer-Encoding\t: chunked", chunked(), &["400"]),
        ("\tTransfer-Encoding: chunked", chunked(), &["400"]),
        ("X: y\r\n\tTransfer-Encoding: chunked", chunked(), &["400"]),
        ("Transfer-Encoding:\r\n chunked", chunked(), &["400"]),
        ("Transfer-Encoding: \x0bchunked", chunked(), &["400"]),
        ("Transfer-Encoding: \0chunked", chunked(), &["400"]),
        ("Transfer_Encoding: chunked\r\nContent-Length: 0", hidden(), &["200", "402"]),
        ("Connection: Content-Length\r\nContent-Length: 5", "01234".into(), &["200"]),
        // Chunks.
        ("Transfer-Encoding: chunked", format!("0;x\r\n\r\n{HIDDEN}"), &["200", "402"]),
        ("Transfer-Encoding: chunked", format!("0x0\r\n\r\n{HIDDEN}"), &["400"]),
        ("Transfer-Encoding: chunked", format!("-1\r\n\r\n{HIDDEN}"), &["400"]),
        ("Transfer-Encoding: chunked", format!("10000000000000000\r\n{HIDDEN}"), &["400"]),
        ("Transfer-Encoding: chunked", format!("2\r\nabc\r\n0\r\n\r\n{HIDDEN}"), &["400"]),
        ("Transfer-Encoding: chunked", format!("0\n\n{HIDDEN}"), &["400"]),
    ]
}

#[rustfmt::skip]
fn heads() -> Vec<(String, &'static [&'static str])> {
    let line = |line: &str| format!("{line}\r\nHost: shop\r\n\r\n");
    let header = |header: &str| format!("GET /open/x HTTP/1.1\r\nHost: shop\r\n{header}\r\n\r\n");
    vec![
        // Line ends and control characters.
        (header("X: a\rGET /up/hidden HTTP/1.1"), &["400"]),
        (header("X: a\0b"), &["400"]),
        (header("X\0: a"), &["400"]),
        (header("X a: b"), &["400"]),
        (header(": b"), &["400"]),
        (line("GET /open/x\0 HTTP/1.1"), &["400"]),
        (line("GET /open/x\r HTTP/1.1"), &["400"]),
        (line("GET /open/x HTTP/1.1 HTTP/1.1"), &["400"]),
        (line("GET /open/x\tHTTP/1.1"), &["400"]),
        (line("GET\0/up/hidden HTTP/1.1"), &["400"]),
        // Whose it is.
        (header("Host: other"), &["400"]),
        (line("GET http://other/up/hidden HTTP/1.1"), &["400"]),
        (line("GET http://shop/up/hidden HTTP/1.1"), &["402"]),
        (line("GET HTTP://SHOP/up/hidden HTTP/1.1"), &["402"]),
        (line("GET http://shop@other/up/hidden HTTP/1.1"), &["400"]),
        (line("GET http:///up/hidden HTTP/1.1"), &["400"]),
        (line("GET gopher://shop/up/hidden HTTP/1.1"), &["400"]),
        // What it asks for.
        (line("GET /open/../up/hidden HTTP/1.1"), &["400"]),
        (line("GET /open/..%2fup/hidden HTTP/1.1"), &["400"]),
        (line("GET /open/%2e%2e/up/hidden HTTP/1.1"), &["400"]),
        (line("GET /open/%2e%2e%2fup/hidden HTTP/1.1"), &["400"]),
        (line("GET /open/..\\up\\hidden HTTP/1.1"), &["400"]),
        (line("GET /open/..%5cup%5chidden HTTP/1.1"), &["400"]),
        (line("GET /open/..;/up/hidden HTTP/1.1"), &["400"]),
        (line("GET /open//../up/hidden HTTP/1.1"), &["400"]),
        (line("GET /u%70/hidden HTTP/1.1"), &["402"]),
        (line("GET //up/hidden HTTP/1.1"), &["400"]),
        (line("GET /UP/hidden HTTP/1.1"), &["404"]),
        (line("GET /open/x%0d%0aX:%20y HTTP/1.1"), &["400"]),
        (line("GET /open/x?a=b%0d%0aGET%20/up/hidden HTTP/1.1"), &["200"]),
        (line("GET /open/x#/../../up/hidden HTTP/1.1"), &["200"]),
        // What it claims.
        (header("X-Original-URL: /up/hidden\r\nX-Rewrite-URL: /up/hidden"), &["200"]),
        (header("X-HTTP-Method-Override: POST\r\nX-Forwarded-Prefix: /../up"), &["200"]),
        (header("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"), &["200"]),
        // Another protocol in the place of this one.
        ("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\nGET /up/hidden HTTP/1.1\r\n\r\n".into(), &["400"]),
    ]
}

#[tokio::test]
async fn nothing_sold_is_reached_through_lengths_and_encodings() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let victim = shop.sell("up", None);
    let mut wrong = Vec::new();
    for (headers, body, expected) in lengths() {
        for path in ["/open/x", "/up/x"] {
            let request = format!("POST {path} HTTP/1.1\r\nHost: shop\r\n{headers}\r\n\r\n{body}");
            let answers = answers(&shop, request.as_bytes()).await;
            let got = statuses(&answers);
            // What is not paid for may be answered before its body is read, and closes the connection then.
            let is_refused = path == "/up/x" && matches!(got[..], ["402" | "400"] | ["402", "402"]);
            if got != expected && !is_refused {
                wrong.push(format!(
                    "{path} {headers:?} {body:?}: {got:?}, not {expected:?}"
                ));
            }
            assert_untouched(&shop, &upstream, &victim, &request).await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn nothing_sold_is_reached_through_heads() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let victim = shop.sell("up", None);
    let mut wrong = Vec::new();
    for (request, expected) in heads() {
        let answers = answers(&shop, request.as_bytes()).await;
        let got = statuses(&answers);
        if got != expected {
            wrong.push(format!("{request:?}: {got:?}, not {expected:?}"));
        }
        assert_untouched(&shop, &upstream, &victim, &request).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

type Fields = Vec<(&'static str, &'static str)>;

/// A request to the open route, with other fields in the places of its own, and more behind.
fn fields(other: &[(&'static str, &'static str)]) -> Fields {
    let mut fields: Fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "shop"),
        (":path", "/open/x"),
    ];
    for (name, value) in other {
        match fields.iter_mut().find(|(known, _)| known == name) {
            Some(field) => field.1 = value,
            None => fields.push((name, value)),
        }
    }
    fields
}

fn without(name: &str) -> Fields {
    let mut fields = fields(&[]);
    fields.retain(|(known, _)| *known != name);
    fields
}

fn twice(name: &'static str, value: &'static str) -> Fields {
    let mut fields = fields(&[]);
    fields.insert(4, (name, value));
    fields
}

/// Whether the request may come through, as one to the open route and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    Pass,
    Not,
}

#[rustfmt::skip]
fn oddities() -> Vec<(Fields, May)> {
    const INJECTED: &str = "x HTTP/1.1\r\nHost: shop\r\n\r\nGET /up/hidden HTTP/1.1\r\nX: y";
    vec![
        (fields(&[]), May::Pass),
        (fields(&[("host", "shop")]), May::Pass),
        // Fields that mean a connection of HTTP/1.1.
        (fields(&[("transfer-encoding", "chunked")]), May::Not),
        (fields(&[("connection", "close")]), May::Not),
        (fields(&[("upgrade", "websocket")]), May::Not),
        (fields(&[("te", "chunked")]), May::Not),
        // Lengths that are not that of the body (it has 39 bytes).
        (fields(&[("content-length", "0")]), May::Not),
        (fields(&[("content-length", "38")]), May::Not),
        (fields(&[("content-length", "40")]), May::Not),
        (fields(&[("content-length", "+39")]), May::Not),
        (fields(&[("content-length", "39, 39")]), May::Not),
        ([fields(&[("content-length", "39")]), vec![("content-length", "0")]].concat(), May::Not),
        ([fields(&[("content-length", "39")]), vec![("content-length", "39")]].concat(), May::Not),
        // Line ends in every place.
        (fields(&[(":path", INJECTED)]), May::Not),
        (fields(&[(":path", "/open/x HTTP/1.1\r\nX: y")]), May::Not),
        (fields(&[(":path", "/open/x y")]), May::Not),
        (fields(&[(":path", "/open/x\0")]), May::Not),
        (fields(&[(":method", "GET /up/hidden HTTP/1.1\r\nHost: shop\r\n\r\nGET")]), May::Not),
        (fields(&[(":method", "GET /up/hidden")]), May::Not),
        (fields(&[(":authority", "shop\r\nX: y")]), May::Not),
        (fields(&[(":scheme", "http\r\nX: y")]), May::Not),
        (fields(&[("x", "y\r\n\r\nGET /up/hidden HTTP/1.1\r\n")]), May::Not),
        (fields(&[("x", "y\nz: a")]), May::Not),
        (fields(&[("x", "y\0")]), May::Not),
        (fields(&[("x: y\r\nz", "a")]), May::Not),
        (fields(&[("x y", "z")]), May::Not),
        (fields(&[("x:", "y")]), May::Not),
        (fields(&[("", "y")]), May::Not),
        (fields(&[("X-Upper", "y")]), May::Not),
        (fields(&[("Transfer-Encoding", "chunked")]), May::Not),
        // Whose it is, twice or not at all.
        (fields(&[("host", "other")]), May::Not),
        ([fields(&[("host", "shop")]), vec![("host", "shop")]].concat(), May::Not),
        (fields(&[(":authority", "user@shop")]), May::Not),
        (fields(&[(":authority", "shop/up/hidden?")]), May::Not),
        (fields(&[(":authority", "")]), May::Not),
        (without(":authority"), May::Not),
        (without(":method"), May::Not),
        (without(":scheme"), May::Not),
        (without(":path"), May::Not),
        (twice(":path", "/up/hidden"), May::Not),
        (twice(":method", "GET"), May::Not),
        (twice(":authority", "other"), May::Not),
        (twice(":scheme", "https"), May::Not),
        (twice(":status", "200"), May::Not),
        (twice(":unknown", "x"), May::Not),
        ([vec![("x", "y")], fields(&[])].concat(), May::Not),
        // What it asks for.
        (fields(&[(":scheme", "https")]), May::Pass),
        (fields(&[(":scheme", "gopher")]), May::Not),
        (fields(&[(":scheme", "http://shop/up/hidden?")]), May::Not),
        (fields(&[(":path", "")]), May::Not),
        (fields(&[(":path", "*")]), May::Not),
        (fields(&[(":path", "open/x")]), May::Not),
        (fields(&[(":path", "http://shop/up/hidden")]), May::Not),
        (fields(&[(":path", "/up/hidden")]), May::Not),
        (fields(&[(":path", "/u%70/hidden")]), May::Not),
        (fields(&[(":path", "//up/hidden")]), May::Not),
        (fields(&[(":path", "/open/../up/hidden")]), May::Not),
        (fields(&[(":path", "/open/..%2fup/hidden")]), May::Not),
        (fields(&[(":method", "CONNECT")]), May::Not),
        (fields(&[(":method", "CONNECT"), (":protocol", "websocket")]), May::Not),
        (fields(&[(":method", "TRACE")]), May::Not),
        (fields(&[("x-original-url", "/up/hidden")]), May::Pass),
    ]
}

/// Sends a request with a body that would be one of its own, and waits for what comes of it.
async fn ask(shop: &Shop, fields: &Fields) {
    let mut stream = frames::connect(shop.address, &[]).await;
    let headers = frame(frames::HEADERS, END_HEADERS, 1, &frames::block(fields));
    let body = frame(frames::DATA, END_STREAM, 1, HIDDEN.as_bytes());
    let _ = stream.write_all(&[headers, body].concat()).await;
    loop {
        match frames::read(&mut stream).await {
            Some(frame) if frame.stream == 0 && frame.kind != frames::GOAWAY => {}
            Some(_) | None => return,
        }
    }
}

#[tokio::test]
async fn nothing_sold_is_reached_through_oddities_of_http2() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let victim = shop.sell("up", None);
    assert_eq!(HIDDEN.len(), 39);
    let mut wrong = Vec::new();
    for (fields, may) in oddities() {
        ask(&shop, &fields).await;
        let passed = if upstream.count() > 0 {
            May::Pass
        } else {
            May::Not
        };
        if passed != may {
            wrong.push(format!("{fields:?}: {passed:?}"));
        }
        assert_untouched(&shop, &upstream, &victim, &format!("{fields:?}")).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn a_length_without_a_body_takes_nothing_of_the_next_request() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let victim = shop.sell("up", None);
    let mut stream = frames::connect(shop.address, &[]).await;
    let headers = frames::block(&fields(&[("content-length", "39")]));
    let headers = frame(frames::HEADERS, END_HEADERS | END_STREAM, 1, &headers);
    stream.write_all(&headers).await.unwrap();
    assert!(
        frames::until(&mut stream, frames::RST_STREAM)
            .await
            .is_some()
    );
    assert_untouched(&shop, &upstream, &victim, "a length without a body").await;
}

#[tokio::test]
async fn who_has_paid_is_not_for_a_client_to_say() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    let ours = hex::encode(sold.identifier().token_id.0);
    for name in [
        "L402-Token-Id",
        "l402_token_id",
        "L402_Token-Id",
        "l402-service",
        "L402_SERVICE",
    ] {
        for (path, credential) in [
            ("/up/x", sold.header()),
            ("/open/x", "Basic eA==".to_owned()),
        ] {
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: shop\r\n{name}: forged\r\nAuthorization: {credential}\r\n\r\n"
            );
            assert_eq!(statuses(&answers(&shop, request.as_bytes()).await), ["200"]);
            let seen = upstream.take_one();
            assert!(!format!("{seen:?}").contains("forged"), "{seen:?}");
            let told = (path == "/up/x").then_some(ours.as_str());
            assert_eq!(seen.header("l402-token-id"), told);
        }
    }
}

#[tokio::test]
async fn headers_that_decide_about_a_request_occur_once() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let form = "application/x-www-form-urlencoded";
    for lines in [
        format!("Content-Type: text/plain\r\nContent-Type: {form}\r\n"),
        format!("Content-Type: {form}\r\nContent-Type: {form}\r\n"),
        format!("Content-Type: text/plain\r\nContent_Type: {form}\r\n"),
        format!("Content.Type: {form}\r\n"),
        "Content-Encoding: gzip\r\nContent-Encoding: identity\r\n".to_owned(),
        "Accept-Grant: a\r\nAccept-Grant: b\r\n".to_owned(),
    ] {
        let request =
            format!("POST /open/x HTTP/1.1\r\nHost: shop\r\n{lines}Content-Length: 4\r\n\r\na=b&");
        let answers = answers(&shop, request.as_bytes()).await;
        assert_eq!(statuses(&answers)[0], "400", "{lines}");
    }
    assert_eq!(upstream.count(), 0);
}
