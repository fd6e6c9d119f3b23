//! What no well-behaved client sends: each gets a clear status, never the resource, and the server answers afterwards.

use http::StatusCode;
use tokio::io::AsyncWriteExt as _;
use tollhouse::sell::resource;

use crate::support::answers::assert_served;
use crate::support::raw;
use crate::support::upstream::{HELLO, SOON, Upstream};
use crate::support::{PAGE, Setup, Shop};

/// A request line, its header lines without `Host`, and the status that it gets.
struct Row(&'static str, Vec<u8>, u16);

fn line(request_line: &'static str, status: u16) -> Row {
    Row(request_line, Vec::new(), status)
}

fn header(line: impl Into<Vec<u8>>, status: u16) -> Row {
    Row("GET /articles/page.txt HTTP/1.1", line.into(), status)
}

fn long(start: &str, bytes: usize) -> Vec<u8> {
    format!("{start}{}", "A".repeat(bytes)).into_bytes()
}

#[rustfmt::skip]
fn headers() -> Vec<Row> {
    vec![
        // Credentials.
        header(*b"Authorization: L402 \xff\xfe\x80:\x90", 402),
        header(*b"Authorization: L402 \x01\x02", 400),
        header(*b"Authorization: L402 \0", 400),
        header("Authorization: L402", 402),
        header("Authorization: L402 ::::", 402),
        header("Authorization: L402 ,,,,:00", 402),
        header("Authorization: LSAT \t \t", 402),
        header(format!("Authorization: L402 {}", ":".repeat(8_000)), 402),
        header(format!("Authorization: L402 {}", "A,".repeat(7_000)), 402),
        header("Authorization: L402 AgEEbHNhdA==\r\n".repeat(90).trim_end(), 402),
        header(long("Authorization: L402 ", 15_000), 402),
        header(long("Authorization: L402 ", 16 * 1024), 431),
        header(long("Authorization: L402 ", 60 * 1024), 431),
        header(long("Authorization: L402 ", 80 * 1024), 431),
        header(long("Macaroon: ", 15_000), 402),
        header(long("Grpc-Metadata-Macaroon: ", 60 * 1024), 431),
        header(long("Token: ", 15_000), 402),
        // Headers.
        header("X-Small: 1\r\n".repeat(120).trim_end(), 431),
        header(long("X-Long: ", 17 * 1024), 431),
        header("No colon", 400),
        header("X Y: a space in the name", 400),
        header("X-Folded: a\r\n b", 400),
        header("Host: other", 400),
        header("Content-Length: 5\r\nContent-Length: 6", 400),
        header("Content-Length: -1", 400),
        header("Content-Length: +5", 400),
        header("Content-Length: five", 400),
        header("Content-Length: 5, 5", 400),
        header("Content-Length: 99999999999999999999", 400),
        header("Transfer-Encoding: identity", 400),
        header("Transfer-Encoding: chunked, gzip", 400),
        // RFC 9112, section 6.1: the encoding alone decides.
        header("Content-Length: 5\r\nTransfer-Encoding: chunked", 402),
        header("Transfer-Encoding: chunked\r\nContent-Length: 5", 402),
        header("Content-Length: 65537", 413),
    ]
}

#[rustfmt::skip]
fn request_lines() -> Vec<Row> {
    vec![
        // Paths.
        line("GET /articles/../articles/page.txt HTTP/1.1", 400),
        line("GET /free/../articles/page.txt HTTP/1.1", 400),
        line("GET /free/%2e%2e/articles/page.txt HTTP/1.1", 400),
        line("GET /free/%2E./articles/page.txt HTTP/1.1", 400),
        line("GET /free/..;/articles/page.txt HTTP/1.1", 400),
        line("GET /free/..%2farticles/page.txt HTTP/1.1", 400),
        line("GET /free/..%5carticles/page.txt HTTP/1.1", 400),
        line("GET /free/..\\articles/page.txt HTTP/1.1", 400),
        line("GET /./articles/page.txt HTTP/1.1", 400),
        line("GET /articles;x/page.txt HTTP/1.1", 404),
        line("GET /free;/../articles/page.txt HTTP/1.1", 400),
        line("GET /articles%2fpage.txt HTTP/1.1", 400),
        line("GET /articles%2Fpage.txt HTTP/1.1", 400),
        line("GET //articles/page.txt HTTP/1.1", 400),
        line("GET /articles//page.txt HTTP/1.1", 400),
        line("GET //shop/articles/page.txt HTTP/1.1", 400),
        line("GET /articles/page.txt%00 HTTP/1.1", 400),
        line("GET /articles/page.txt\0 HTTP/1.1", 400),
        line("GET /articles/page.txt%0d%0a HTTP/1.1", 400),
        line("GET /articles/page.txt%7f HTTP/1.1", 400),
        line("GET /articles/%zz HTTP/1.1", 400),
        line("GET /articles/% HTTP/1.1", 400),
        line("GET articles/page.txt HTTP/1.1", 400),
        line("GET * HTTP/1.1", 400),
        line("OPTIONS * HTTP/1.1", 400),
        line("GET shop:80 HTTP/1.1", 400),
        line("GET  HTTP/1.1", 400),
        // The same resource in other words is the same resource.
        line("GET /%61rticles/page.txt HTTP/1.1", 402),
        line("GET /articles/%70age.txt HTTP/1.1", 402),
        line("GET /articles/page.txt/ HTTP/1.1", 404),
        line("GET /articles/page.txt?free=yes HTTP/1.1", 402),
        line("GET http://shop/articles/page.txt HTTP/1.1", 402),
        line("GET http://elsewhere/articles/page.txt HTTP/1.1", 400),
        line("GET http://shop/free/../articles/page.txt HTTP/1.1", 400),
        line("GET http://shop HTTP/1.1", 404),
        line("GET /ARTICLES/page.txt HTTP/1.1", 404),
        line("GET /articles/page.txt;x HTTP/1.1", 404),
        line("GET /articles/%252e%252e/page.txt HTTP/1.1", 404),
        // Methods and versions.
        line("CONNECT shop:443 HTTP/1.1", 501),
        line("CONNECT /articles/page.txt HTTP/1.1", 501),
        line("TRACE /articles/page.txt HTTP/1.1", 501),
        line("get /articles/page.txt HTTP/1.1", 405),
        line("FROBNICATE /articles/page.txt HTTP/1.1", 405),
        line("G@T /articles/page.txt HTTP/1.1", 400),
        line("GET /articles/page.txt HTTP/1.0", 402),
        line("GET /articles/page.txt HTTP/3.0", 400),
        line("GET /articles/page.txt HTTP/2.0", 400),
        line("GET /articles/page.txt", 400),
    ]
}

async fn assert_answers(shop: &Shop) {
    assert_served(&shop.get("/free/page.txt").await);
    assert_served(
        &shop
            .get_with("/articles/page.txt", &shop.sell("articles", None))
            .await,
    );
}

#[tokio::test]
async fn bad_requests_get_a_clear_status_and_never_the_resource() {
    let shop = Shop::open().await;
    let mut wrong = Vec::new();
    for Row(request_line, headers, expected) in headers().into_iter().chain(request_lines()) {
        let mut request =
            format!("{request_line}\r\nHost: shop\r\nConnection: close\r\n").into_bytes();
        if !headers.is_empty() {
            request.extend([&headers[..], b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        let shown: String = String::from_utf8_lossy(&headers).chars().take(60).collect();
        match raw::exchange(shop.address, &request).await {
            Some(reply) if reply.status == expected && !reply.text().contains(PAGE) => {}
            other => {
                let got = other.map(|reply| (reply.status, reply.text()));
                wrong.push(format!(
                    "{request_line} | {shown} | {expected}, got {got:?}"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_answers(&shop).await;
}

#[tokio::test]
async fn a_request_names_one_host() {
    let shop = Shop::open().await;
    for (headers, status) in [
        ("", 400),
        ("Host: shop\r\nHost: shop\r\n", 400),
        ("Host: shop\r\nHost: other\r\n", 400),
        ("Host: \r\n", 400),
        ("Host: shop/x\r\n", 400),
        ("Host: user@shop:8080\r\n", 400),
        ("hOST: shop:8080\r\n", 402),
        ("Host: SHOP:8080\r\n", 402),
    ] {
        for target in [
            "/articles/page.txt",
            "http://shop:8080/articles/page.txt",
            "https://Shop:8080/articles/page.txt",
        ] {
            let request = format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
            let reply = raw::exchange(shop.address, request.as_bytes())
                .await
                .unwrap();
            assert_eq!(reply.status, status, "{request}");
        }
    }
    for (target, host) in [
        ("http://elsewhere/articles/page.txt", "shop"),
        ("http://shop:8080/articles/page.txt", "shop"),
        ("http://shop/articles/page.txt", "shop:443"),
        ("https://shop/articles/page.txt", "shop:80"),
        ("http://shop@elsewhere/articles/page.txt", "shop"),
        ("http://user@shop/articles/page.txt", "shop"),
        ("ftp://shop/articles/page.txt", "shop"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let reply = raw::exchange(shop.address, request.as_bytes()).await;
        assert_eq!(reply.unwrap().status, 400, "{request}");
    }
    for (target, host) in [
        ("http://shop/articles/page.txt", "shop:80"),
        ("https://shop:443/articles/page.txt", "shop"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let reply = raw::exchange(shop.address, request.as_bytes()).await;
        assert_eq!(reply.unwrap().status, 402, "{request}");
    }
    let old = b"GET /articles/page.txt HTTP/1.0\r\n\r\n";
    assert_eq!(raw::exchange(shop.address, old).await.unwrap().status, 402);
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_whether_it_says_so_or_not() {
    let upstream = Upstream::start().await;
    let shop = Shop::with(Setup::before(upstream.address)).await;
    let sold = shop.sell("up", Some(1));
    let start = format!(
        "POST /up/x HTTP/1.1\r\nHost: shop\r\nAuthorization: {}\r\n",
        sold.header()
    );
    let announced = format!("{start}Content-Length: 65537\r\n\r\n");
    let reply = raw::exchange(shop.address, announced.as_bytes())
        .await
        .unwrap();
    assert_eq!(reply.status, 413);
    assert_eq!(upstream.count(), 0);
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    let chunked = format!(
        "{start}Transfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(5)
    );
    let reply = raw::exchange(shop.address, chunked.as_bytes())
        .await
        .unwrap();
    assert_eq!(reply.status, 413, "{}", reply.text());
    // What it announced was never looked at; what it sent was its own doing and counts, for the upstream may have
    // worked on it.
    shop.is_counted(&sold, 1).await;
    let full = shop
        .request(http::Method::POST, "/up/y")
        .header("authorization", shop.sell("up", Some(1)).header())
        .body(vec![b'x'; 64 * 1024]);
    let answer = shop.send(full).await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::OK, HELLO)
    );
    assert_answers(&shop).await;
}

#[tokio::test]
async fn an_unpaid_body_is_not_passed_on() {
    let upstream = Upstream::start().await;
    let shop = Shop::with(Setup::before(upstream.address)).await;
    let post = shop
        .request(http::Method::POST, "/up/x")
        .body("an unpaid body");
    let answer = shop.send(post).await;
    assert_eq!(answer.status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(upstream.count(), 0);
}

#[tokio::test]
async fn a_second_request_on_a_connection_needs_a_credential_of_its_own() {
    let shop = Shop::open().await;
    let sold = shop.sell("articles", None);
    let mut stream = shop.connect().await;
    let page = "GET /articles/page.txt HTTP/1.1\r\nHost: shop\r\n";
    let both = format!("{page}Authorization: {}\r\n\r\n{page}\r\n", sold.header());
    stream.write_all(both.as_bytes()).await.unwrap();
    assert_eq!(raw::reply(&mut stream).await.unwrap().status, 200);
    assert_eq!(raw::reply(&mut stream).await.unwrap().status, 402);
}

#[tokio::test]
async fn a_request_inside_a_body_is_a_body() {
    let upstream = Upstream::start().await;
    let shop = Shop::with(Setup::before(upstream.address)).await;
    let hidden = "GET /up/hidden HTTP/1.1\r\nHost: shop\r\n\r\n";
    let length = hidden.len();
    let request = format!(
        "POST /open/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{hidden}"
    );
    let reply = raw::exchange(shop.address, request.as_bytes())
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!(upstream.take_one().body, hidden.as_bytes());
}

#[tokio::test]
async fn a_body_that_drips_is_cut_off() {
    let upstream = Upstream::start().await;
    let setup = Setup::before(upstream.address);
    let shop = Shop::with(Setup {
        resource: resource::Config {
            body_timeout: SOON,
            ..setup.resource
        },
        ..setup
    })
    .await;
    let sold = shop.sell("up", Some(1));
    let mut stream = shop.connect().await;
    let head = format!(
        "POST /up/x HTTP/1.1\r\nHost: shop\r\nAuthorization: {}\r\nContent-Length: 100\r\n\r\n",
        sold.header()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    raw::drip(&mut stream, &[b'x'; 60]).await;
    let reply = raw::reply(&mut stream).await.unwrap();
    assert_eq!(reply.status, 408, "{}", reply.text());
    // The holder's doing: it counts.
    shop.is_counted(&sold, 1).await;
    assert_answers(&shop).await;
}
