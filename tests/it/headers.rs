//! Headers on their way to an upstream and back: what we say, what nobody else can say, and what the settings change.

use http::Method;
use http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use tollhouse::sell::route::{Forward, HeaderEdits};

use crate::support::answers::assert_hello;
use crate::support::raw;
use crate::support::upstream::{Seen, Upstream};
use crate::support::{Setup, Shop, Sold};

/// A shop whose route does this besides.
async fn shop_with(upstream: &Upstream, change: impl FnOnce(&mut Forward)) -> Shop {
    let base = format!("http://{}/base", upstream.address);
    let mut forward = Forward::to(base.parse().unwrap());
    change(&mut forward);
    Shop::with(Setup {
        forward: Some(forward),
        ..Setup::default()
    })
    .await
}

fn edits(remove: &[&'static str], set: &[(&'static str, &'static str)]) -> HeaderEdits {
    let set = set.iter();
    let set = set.map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    HeaderEdits {
        remove: remove
            .iter()
            .map(|name| HeaderName::from_static(name))
            .collect(),
        set: set.collect(),
    }
}

/// Every spelling in which a client could claim to have paid.
const FORGED: [&str; 6] = [
    "l402-service",
    "l402-token-id",
    "L402_Service",
    "l402_token_id",
    "l402-token_id",
    "l402-anything-else",
];

fn said(seen: &Seen) -> Vec<(&str, &str)> {
    let ours = seen.headers.iter().filter(|(name, _)| {
        let name = name.as_str().replace('_', "-");
        name.starts_with("l402-")
    });
    let mut ours: Vec<_> = ours
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    ours.sort_unstable();
    ours
}

async fn ask(shop: &Shop, path: &str, sold: Option<&Sold>) {
    let mut request = shop.request(Method::GET, path);
    if let Some(sold) = sold {
        request = request.header(AUTHORIZATION, sold.header());
    }
    for name in FORGED {
        request = request.header(name, "forged").header(name, "twice");
    }
    assert_hello(&shop.send(request).await);
}

#[tokio::test]
async fn the_upstream_is_told_who_paid_for_what_and_nobody_can_forge_it() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    ask(&shop, "/up/x", Some(&sold)).await;
    let token_id = sold.identifier().token_id.to_string();
    let expected = [("l402-service", "up"), ("l402-token-id", token_id.as_str())];
    assert_eq!(said(&upstream.take_one()), expected);
    // Nobody paid here, whatever is presented.
    ask(&shop, "/open/x", Some(&sold)).await;
    assert_eq!(said(&upstream.take_one()), []);
    ask(&shop, "/open/x", None).await;
    assert_eq!(said(&upstream.take_one()), []);
}

#[tokio::test]
async fn what_another_server_would_read_as_a_claim_or_a_credential_does_not_pass() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    let in_hex = hex::encode(&sold.macaroon);
    let header = sold.header();
    let theirs = [
        // grpc-gateway takes the front off.
        ("Grpc-Metadata-L402-Token-Id", "forged"),
        ("Grpc-Metadata-X-Forwarded-For", "192.0.2.1"),
        ("Grpc-Metadata-Authorization", header.as_str()),
        ("Grpc-Metadata-Token", in_hex.as_str()),
        ("Grpc-Metadata-Macaroon", in_hex.as_str()),
        // PHP and Apache fold what is no letter.
        ("L402.Token.Id", "forged"),
        ("X!Real~Ip", "192.0.2.1"),
    ];
    let mut request = shop.request(Method::GET, "/up/x");
    request = request.header(AUTHORIZATION, sold.header());
    for (name, value) in theirs {
        request = request.header(name, value);
    }
    let request = request.header("grpc-metadata-authorization", "Bearer theirs");
    let request = request.header("grpc-metadata-other", "theirs");
    assert_hello(&shop.send(request).await);
    let mut seen = upstream.take_one();
    let kept = seen.headers.remove("grpc-metadata-authorization");
    assert_eq!(kept.unwrap(), "Bearer theirs");
    assert_eq!(seen.header("grpc-metadata-other"), Some("theirs"));
    for (name, _) in theirs {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

/// A shop with a free route, and with routes in dry run.
async fn letting_through(upstream: &Upstream) -> Shop {
    let route = |path: &str, access: &str| {
        format!(
            "[[route]]\npath = \"/{path}/*\"\nupstream = \"http://{}\"\n{access}\n",
            upstream.address
        )
    };
    let sold = "service = \"up\"\nprice = \"1 sat\"\noverlap = \"allowed\"\n";
    let settings = [
        route("free", "access = \"free\"\noverlap = \"allowed\""),
        route(
            "quota",
            &format!("{sold}free_quota = {{ requests = 1000, per = \"1h\" }}"),
        ),
        route("dry", &format!("{sold}dry_run = true")),
        route("paid", sold),
    ];
    Shop::selling(&settings.concat()).await
}

#[tokio::test]
async fn the_upstream_gets_other_credentials_on_a_line_but_never_ours() {
    let upstream = Upstream::start().await;
    let shop = letting_through(&upstream).await;
    let sold = shop.sell("up", None);
    let (ours, preimage) = (sold.header(), hex::encode(sold.preimage));
    let older = ours.replacen("L402", "lsat", 1);
    let token = sold.base64();
    let in_hex = hex::encode(&sold.macaroon);
    let digest = "Digest username=\"a, b\", uri=\"/\"";
    let rows = [
        (format!("{ours}, Bearer up"), Some("Bearer up")),
        (format!("Bearer up, {ours}"), Some("Bearer up")),
        (format!("{ours}, {older}"), None),
        (format!("{ours},"), None),
        (
            format!("Basic a,{older}, Bearer b"),
            Some("Basic a, Bearer b"),
        ),
        (format!("{digest}, {ours}"), Some(digest)),
        (
            format!("L402 {token}, {token}:{preimage}, {digest}"),
            Some(digest),
        ),
        (format!("L402 {token},x,{token}:{preimage}"), None),
        (
            format!("L402 macaroon=\"{token}\", preimage=\"{preimage}\""),
            None,
        ),
        (
            format!("Bearer up, L402 {preimage}, {token}"),
            Some("Bearer up"),
        ),
    ];
    for path in ["/free/x", "/quota/x", "/dry/x", "/paid/x"] {
        for name in ["authorization", "grpc-metadata-authorization"] {
            for (line, kept) in &rows {
                let mut request = shop.request(Method::GET, path).header(name, line);
                if path == "/paid/x" {
                    request = request.header(AUTHORIZATION, ours.as_str());
                }
                let request = request.header("token", format!("theirs, {in_hex}"));
                assert_hello(&shop.send(request).await);
                let seen = upstream.take_one();
                assert_eq!(seen.header(name), *kept, "{path} {name}: {line}");
                assert_eq!(seen.header("token"), Some("theirs"));
                let all = format!("{seen:?}");
                for secret in [&token, &preimage, &in_hex] {
                    assert!(!all.contains(secret.as_str()), "{path} {name}: {line}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_price_by_the_upstreams_credential_ignores_ours() {
    let upstream = Upstream::start().await;
    let price = "price = { by = \"header:authorization\", values = { \"Bearer gold\" = \"5 sat\" }, missing = \"1 sat\" }";
    let shop = Shop::selling(&format!(
        "[[route]]\npath = \"/a/*\"\nservice = \"a\"\n{price}\nupstream = \"http://{}\"\n",
        upstream.address
    ))
    .await;
    let gold = shop
        .request(Method::GET, "/a/x")
        .header(AUTHORIZATION, "Bearer gold");
    let challenge = shop.send(gold).await.challenge().unwrap();
    assert_eq!(challenge.problem["price_msat"], 5_000);
    let ours = shop.pay(&challenge).header();
    for lines in [
        vec![format!("Bearer gold, {ours}")],
        vec![format!("{ours},Bearer gold")],
        vec!["Bearer gold".to_owned(), ours],
    ] {
        let request = shop.request(Method::GET, "/a/x");
        let request = lines
            .iter()
            .fold(request, |request, line| request.header(AUTHORIZATION, line));
        assert_hello(&shop.send(request).await);
        let seen = upstream.take_one();
        assert_eq!(seen.header("authorization"), Some("Bearer gold"));
    }
}

#[tokio::test]
async fn of_the_services_that_a_token_opens_the_one_of_the_route_is_named() {
    let upstream = Upstream::start().await;
    let route = |name: &str, more: &str| {
        format!(
            "[[route]]\npath = \"/{name}/*\"\nservice = \"{name}\"\nprice = \"1 sat\"\nupstream = \"http://{}\"\n{more}\n",
            upstream.address
        )
    };
    let both = route("a", "grant = { services = [\"b\"] }");
    let shop = Shop::selling(&format!("{both}{}", route("b", ""))).await;
    let sold = shop.pay(&shop.get("/a/x").await.challenge().unwrap());
    for service in ["a", "b", "a"] {
        assert_hello(&shop.get_with(&format!("/{service}/x"), &sold).await);
        assert_eq!(upstream.take_one().header("l402-service"), Some(service));
    }
}

#[tokio::test]
async fn the_standards_header_says_where_a_request_comes_from() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    assert_hello(&shop.get_with("/up/x", &shop.sell("up", None)).await);
    let seen = upstream.take_one();
    let expected = format!("for=127.0.0.1;host=\"{}\";proto=http", shop.address);
    assert_eq!(seen.header("forwarded"), Some(expected.as_str()));
}

#[tokio::test]
async fn headers_are_removed_and_set_as_the_settings_say() {
    let upstream = Upstream::start().await;
    let shop = shop_with(&upstream, |forward| {
        forward.request_headers = edits(
            &["cookie", "x-forwarded-host"],
            &[
                ("x-api-key", "secret"),
                ("host", "virtual.example"),
                ("accept", "a/b"),
            ],
        );
        forward.response_headers = edits(&["x-kept"], &[("x-by", "us"), ("content-type", "a/c")]);
    })
    .await;
    let sold = shop.sell("up", None);
    let request = shop
        .request(Method::GET, "/up/hops")
        .header(AUTHORIZATION, sold.header())
        .header("cookie", "a=b")
        .header("x-api-key", "the client's")
        .header("x-api-key", "twice")
        .header("x_api_key", "the client's")
        .header("x.api.key", "the client's")
        .header("connection", "x-api-key");
    let answer = shop.send(request).await;
    assert_hello(&answer);
    assert_eq!(answer.header("x-kept"), None);
    assert_eq!(answer.header("x-by"), Some("us"));
    assert_eq!(answer.header("content-type"), Some("a/c"));
    let seen = upstream.take_one();
    assert_eq!(seen.header("cookie"), None);
    assert_eq!(seen.header("x-forwarded-host"), None);
    assert_eq!(seen.header("host"), Some("virtual.example"));
    assert_eq!(seen.headers.get_all("x-api-key").iter().count(), 1);
    assert_eq!(seen.header("x-api-key"), Some("secret"));
    assert_eq!(seen.header("accept"), Some("a/b"));
    for alike in ["x_api_key", "x.api.key"] {
        assert_eq!(seen.header(alike), None, "{alike}");
    }
    let request = "POST /open/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-mine, x-api-key, x_api_key, cookie\r\n\r\n0\r\nX-Mine: 1\r\nX-Api-Key: mine\r\nX_Api_Key: mine\r\nCookie: mine\r\n\r\n";
    raw::exchange(shop.address, request.as_bytes())
        .await
        .unwrap();
    let seen = upstream.take_one();
    let behind: Vec<_> = seen.trailers.keys().map(HeaderName::as_str).collect();
    assert_eq!(behind, ["x-mine"]);
}

#[tokio::test]
async fn the_credential_is_forwarded_only_where_the_route_says_so() {
    let upstream = Upstream::start().await;
    let shop = shop_with(&upstream, |forward| forward.forward_credential = true).await;
    let sold = shop.sell("up", None);
    assert_hello(&shop.get_with("/up/x", &sold).await);
    let seen = upstream.take_one();
    assert_eq!(seen.header("authorization"), Some(sold.header().as_str()));
}

#[tokio::test]
async fn a_prefix_is_taken_off_and_another_put_in_its_place() {
    let upstream = Upstream::start().await;
    let shop = shop_with(&upstream, |forward| forward.add_prefix = "/v2".to_owned()).await;
    for (asked, forwarded) in [
        ("/open/x", "/base/v2/open/x"),
        ("/open/x?a=b", "/base/v2/open/x?a=b"),
        ("/open", "/base/v2/open"),
    ] {
        assert_hello(&shop.get(asked).await);
        assert_eq!(upstream.take_one().target, forwarded);
    }
    let sold = shop.sell("up", None);
    for (asked, forwarded) in [
        ("/stripped/x", "/base/v2/x"),
        ("/stripped", "/base/v2/"),
        ("/stripped/?a", "/base/v2/?a"),
    ] {
        assert_hello(&shop.get_with(asked, &sold).await);
        assert_eq!(upstream.take_one().target, forwarded);
    }
}

#[tokio::test]
async fn trailers_pass_in_both_directions_and_carry_no_claims() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    let in_hex = hex::encode(&sold.macaroon);
    let request = format!(
        "POST /open/trailers HTTP/1.1\r\nHost: shop\r\nConnection: te, close\r\nTE: trailers\r\n\
         Trailer: x-mine, l402-token-id, x-forwarded-for, authorization, macaroon, content-length\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Mine: 1\r\nL402_Token_Id: 2\r\nL402-Token-Id: 3\r\n\
         X-Forwarded-For: 192.0.2.1\r\nAuthorization: {}\r\nMacaroon: {in_hex}\r\n\r\n",
        sold.header()
    );
    let reply = raw::exchange(shop.address, request.as_bytes())
        .await
        .unwrap();
    assert!(
        reply.text().ends_with("0\r\nx-behind: yes\r\n\r\n"),
        "{}",
        reply.text()
    );
    let seen = upstream.take_one();
    assert_eq!(seen.header("te"), Some("trailers"));
    assert_eq!(seen.body, b"hello");
    let names: Vec<_> = seen.trailers.keys().map(HeaderName::as_str).collect();
    assert_eq!(names, ["x-mine"]);
}
