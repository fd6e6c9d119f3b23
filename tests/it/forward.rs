//! Forwarding: what reaches the server behind, and what comes back.

use std::time::Duration;

use http::{Method, header::AUTHORIZATION};

use crate::support::answers::assert_challenged;
use crate::support::answers::assert_hello;
use crate::support::raw;
use crate::support::upstream::{Seen, Upstream};
use crate::support::{Shop, Sold};

/// Sends these header lines with a good credential, and gives what arrived.
async fn forwarded(shop: &Shop, upstream: &Upstream, headers: &[(&str, &str)]) -> Seen {
    let sold = shop.sell("up", None);
    let mut request = shop
        .request(Method::GET, "/up/x")
        .header(AUTHORIZATION, sold.header());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    assert_hello(&shop.send(request).await);
    upstream.take_one()
}

/// Every place where the credential could have got through.
fn assert_no_credential(seen: &Seen, sold: &Sold) {
    let everything = format!("{seen:?}");
    let preimage = hex::encode(sold.preimage);
    for secret in [
        sold.base64(),
        preimage.to_uppercase(),
        preimage,
        hex::encode(&sold.macaroon),
    ] {
        assert!(!everything.contains(&secret), "{everything}");
    }
}

#[tokio::test]
async fn a_credential_never_reaches_the_upstream() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    let inside = sold.with_caveat(&format!("preimage={}", hex::encode(sold.preimage)));
    let in_hex = hex::encode(&inside.macaroon);
    let good = sold.header();
    let lower = good.replace("L402", "lsat").to_owned();
    for headers in [
        vec![("authorization", good.clone())],
        vec![("authorization", lower)],
        vec![("authorization", format!("L402   {}", &good[5..]))],
        vec![
            ("authorization", good.clone()),
            ("authorization", good.clone()),
        ],
        vec![
            ("authorization", "L402 garbage".to_owned()),
            ("authorization", good.clone()),
        ],
        vec![("macaroon", in_hex.clone())],
        vec![("grpc-metadata-macaroon", in_hex.clone())],
        vec![("token", in_hex.clone())],
        vec![("token", in_hex.to_uppercase())],
        vec![
            ("macaroon", in_hex.clone()),
            ("token", in_hex.clone()),
            ("authorization", good),
        ],
    ] {
        let mut request = shop.request(Method::GET, "/up/x");
        for (name, value) in &headers {
            request = request.header(*name, value);
        }
        assert_hello(&shop.send(request).await);
        let seen = upstream.take_one();
        assert_no_credential(&seen, &inside);
        assert_no_credential(&seen, &sold);
        assert_eq!(seen.header("authorization"), None, "{headers:?}");
    }
}

#[tokio::test]
async fn a_free_route_passes_no_credential_on_either() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    assert_hello(&shop.get_with("/open/x", &sold).await);
    assert_no_credential(&upstream.take_one(), &sold);
}

#[tokio::test]
async fn what_is_somebody_elses_passes() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let seen = forwarded(
        &shop,
        &upstream,
        &[
            ("authorization", "Basic dXNlcjpwYXNz"),
            ("token", "csrf-1234"),
            ("cookie", "a=b"),
            ("x-own", "1"),
            ("accept", "text/plain"),
        ],
    )
    .await;
    assert_eq!(seen.header("authorization"), Some("Basic dXNlcjpwYXNz"));
    assert_eq!(seen.header("token"), Some("csrf-1234"));
    assert_eq!(seen.header("cookie"), Some("a=b"));
    assert_eq!(seen.header("x-own"), Some("1"));
    assert_eq!(seen.header("accept"), Some("text/plain"));
}

#[tokio::test]
async fn what_speaks_of_one_connection_passes_in_neither_direction() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let seen = forwarded(
        &shop,
        &upstream,
        &[
            ("connection", "x-named, keep-alive, TE"),
            ("x-named", "for one connection"),
            ("keep-alive", "timeout=5"),
            ("te", "deflate"),
            ("upgrade", "h2c"),
            ("proxy-authorization", "Basic dXNlcjpwYXNz"),
            ("proxy-connection", "keep-alive"),
            ("x-kept", "for everybody"),
        ],
    )
    .await;
    for name in [
        "x-named",
        "keep-alive",
        "te",
        "upgrade",
        "proxy-authorization",
        "proxy-connection",
    ] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("x-kept"), Some("for everybody"));

    let answer = shop.get_with("/up/hops", &shop.sell("up", None)).await;
    assert_hello(&answer);
    for name in [
        "x-named",
        "keep-alive",
        "proxy-authenticate",
        "te",
        "upgrade",
    ] {
        assert_eq!(answer.header(name), None, "{name}");
    }
    assert_eq!(answer.header("x-kept"), Some("for everybody"));
}

#[tokio::test]
async fn where_a_request_comes_from_is_what_we_know_not_what_it_claims() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let seen = forwarded(
        &shop,
        &upstream,
        &[
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-for", "192.0.2.2"),
            ("x-forwarded-host", "forged.example"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-port", "1"),
            ("x-real-ip", "192.0.2.3"),
            ("forwarded", "for=192.0.2.4;host=forged.example"),
        ],
    )
    .await;
    let everything = format!("{seen:?}");
    assert!(!everything.contains("192.0.2."), "{everything}");
    assert!(!everything.contains("forged"), "{everything}");
    assert_eq!(seen.headers.get_all("x-forwarded-for").iter().count(), 1);
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(
        seen.header("x-forwarded-host"),
        Some(shop.address.to_string().as_str())
    );
    assert_eq!(
        seen.header("host"),
        Some(upstream.address.to_string().as_str())
    );
    assert_eq!(seen.headers.get_all("host").iter().count(), 1);
}

#[tokio::test]
async fn connection_cannot_name_away_what_we_say() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let named = "x-forwarded-for, host, content-length, authorization";
    let seen = forwarded(&shop, &upstream, &[("connection", named)]).await;
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(
        seen.header("host"),
        Some(upstream.address.to_string().as_str())
    );
}

#[tokio::test]
async fn the_path_that_was_matched_is_the_path_that_is_forwarded() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    for (asked, forwarded) in [
        ("/up/x", "/base/up/x"),
        ("/up", "/base/up"),
        ("/up/", "/base/up/"),
        ("/%75p/%78", "/base/up/x"),
        ("/up/a%20b", "/base/up/a%20b"),
        ("/up/a%3fb", "/base/up/a%3Fb"),
        ("/up/%e4", "/base/up/%E4"),
        ("/up/x?a=%2e%2e/&b=//", "/base/up/x?a=%2e%2e/&b=//"),
        ("/up/x?", "/base/up/x?"),
        ("/stripped/x", "/base/x"),
        ("/stripped/x/y?z", "/base/x/y?z"),
        ("/stripped", "/base/"),
        ("/stripped/", "/base/"),
        ("/%73tripped/%78", "/base/x"),
    ] {
        let request = format!(
            "GET {asked} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nAuthorization: {}\r\n\r\n",
            sold.header()
        );
        let reply = raw::exchange(shop.address, request.as_bytes())
            .await
            .unwrap();
        assert_eq!(reply.status, 200, "{asked}");
        assert_eq!(upstream.take_one().target, forwarded, "{asked}");
    }
}

#[tokio::test]
async fn a_request_is_forwarded_once_with_its_method_and_body() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    for method in [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
    ] {
        let request = shop
            .request(method.clone(), "/up/x")
            .header(AUTHORIZATION, sold.header())
            .body("a body");
        assert_hello(&shop.send(request).await);
        let seen = upstream.take_one();
        assert_eq!(
            (seen.method.as_str(), seen.body.as_slice()),
            (method.as_str(), &b"a body"[..])
        );
        assert_eq!(seen.header("content-length"), Some("6"));
    }
}

#[tokio::test]
async fn a_body_whose_length_is_said_twice_is_forwarded_with_one_meaning() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let request = "POST /open/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nContent-Length: 3\r\n\
                   Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let reply = raw::exchange(shop.address, request.as_bytes())
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    let seen = upstream.take_one();
    assert_eq!(seen.body, b"hello");
    assert_eq!(seen.header("content-length"), None);
    assert_eq!(seen.headers.get_all("transfer-encoding").iter().count(), 1);
}

#[tokio::test]
async fn the_clock_of_a_grant_is_the_shops() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    shop.clock.advance(Duration::from_secs(3_600));
    assert_challenged(&shop.get_with("/up/x", &sold).await);
    assert_eq!(upstream.count(), 0);
}
