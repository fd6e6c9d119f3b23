//! Which answers of an upstream cost a use of a token.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::header::{AUTHORIZATION, HOST, LOCATION};
use http::{Method, StatusCode};
use regtest::client::Answer;

use crate::support::answers::assert_challenged;
use crate::support::server::Server;
use crate::support::{Shop, Sold};

/// A server that answers with the status at the end of the path, and redirects to the URL in the query.
async fn obliging() -> Server {
    Server::routing(|_| Router::new().fallback(answer)).await
}

async fn answer(request: Request) -> Response {
    let status = request.uri().path().rsplit('/').next().unwrap().parse();
    let status = StatusCode::from_u16(status.unwrap()).unwrap();
    let mut response = Response::builder().status(status);
    if let Some(to) = request.uri().query() {
        response = response.header(LOCATION, to);
    }
    let is_empty = [204, 304].contains(&status.as_u16());
    let body = if is_empty {
        Body::empty()
    } else {
        "said".into()
    };
    response.body(body).unwrap()
}

async fn selling(upstream: SocketAddr, keys: &str) -> Shop {
    Shop::selling(&format!(
        "{keys}\n[[route]]\npath = \"/a/*\"\nservice = \"a\"\nprice = \"10 sat\"\nupstream = \"http://{upstream}\"\n\
         [[route]]\npath = \"/b/*\"\nservice = \"b\"\nprice = \"10 sat\"\nupstream = \"http://{upstream}\"\ncount = \"all\"\n\
         [[route]]\npath = \"/d/*\"\nservice = \"d\"\nprice = \"10 sat\"\nupstream = \"http://{upstream}\"\n\
         free_quota = {{ requests = 2, per = \"1d\" }}\n"
    ))
    .await
}

async fn ask(shop: &Shop, method: Method, path: &str, sold: &Sold) -> Answer {
    let request = shop
        .request(method, path)
        .header(AUTHORIZATION, sold.header());
    shop.send(request).await
}

/// The requests that are left of three after this one.
async fn left(shop: &Shop, method: Method, path: &str) -> u64 {
    let sold = shop.sell(&path[1..2], Some(3));
    let answer = ask(shop, method, path, &sold).await;
    let status = path.split(['/', '?']).nth(2).unwrap();
    assert_eq!(answer.status.as_str(), status, "{path}");
    let left = answer.header("l402-remaining-requests");
    let left = left.unwrap().parse().unwrap();
    shop.is_counted(&sold, 3 - left).await;
    left
}

#[tokio::test]
async fn answers_that_bring_nothing_cost_nothing_unless_the_route_says_so() {
    let upstream = obliging().await;
    let shop = selling(upstream.address, "").await;
    let inside = format!("303?http://{}/login", upstream.address);
    for (method, answer) in [
        (Method::GET, "304"),
        (Method::GET, "401"),
        (Method::GET, "404"),
        (Method::GET, "410"),
        (Method::GET, "429"),
        (Method::POST, "404"),
        (Method::HEAD, "200"),
        (Method::HEAD, "403"),
        (Method::GET, "301?/x"),
        (Method::GET, "308?x"),
        (Method::POST, "307?/x"),
        (Method::GET, &inside),
    ] {
        let path = format!("/a/{answer}");
        assert_eq!(
            left(&shop, method.clone(), &path).await,
            3,
            "{method} {path}"
        );
        let path = format!("/b/{answer}");
        assert_eq!(
            left(&shop, method.clone(), &path).await,
            2,
            "{method} {path}"
        );
    }
    for answer in [
        "200",
        "204",
        "206",
        "400",
        "402",
        "403",
        "409",
        "422",
        "302?https://elsewhere.example/signed",
        "302",
    ] {
        for service in ["a", "b"] {
            let path = format!("/{service}/{answer}");
            assert_eq!(left(&shop, Method::GET, &path).await, 2, "{path}");
        }
    }
    // A POST is done before a 303 answers it (RFC 9110, section 15.4.4).
    assert_eq!(left(&shop, Method::POST, "/a/303?/jobs/17").await, 2);
    // A 5xx never costs a use, even with `count = "all"`.
    assert_eq!(left(&shop, Method::GET, "/b/503").await, 3);
}

#[tokio::test]
async fn a_client_cannot_make_another_server_the_shop_by_its_host_header() {
    let upstream = obliging().await;
    let shop = selling(upstream.address, "").await;
    let sold = shop.sell("a", Some(3));
    let path = "/a/302?https://elsewhere.example/signed";
    let request = shop.request(Method::GET, path);
    let request = request
        .header(AUTHORIZATION, sold.header())
        .header(HOST, "elsewhere.example");
    let answer = shop.send(request).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.header("l402-remaining-requests"), Some("2"));
}

#[tokio::test]
async fn a_token_gets_twenty_for_nothing_and_four_more_for_each_use_that_counted() {
    let upstream = obliging().await;
    let shop = selling(upstream.address, "").await;
    let sold = shop.sell("a", Some(3));
    let asked = async |path: &str| {
        let answer = ask(&shop, Method::GET, path, &sold).await;
        answer.header("l402-remaining-requests").map(str::to_owned)
    };
    for _ in 0..20 {
        assert_eq!(asked("/a/404").await.as_deref(), Some("3"));
    }
    assert_eq!(asked("/a/404").await.as_deref(), Some("2"));
    for _ in 0..4 {
        assert_eq!(asked("/a/304").await.as_deref(), Some("2"));
    }
    assert_eq!(asked("/a/304").await.as_deref(), Some("1"));
    // Time gives none back, and nothing is forgotten while the token is idle.
    shop.clock.advance(Duration::from_secs(600));
    for _ in 0..4 {
        assert_eq!(asked("/a/304").await.as_deref(), Some("1"));
    }
    assert_eq!(asked("/a/304").await.as_deref(), Some("0"));
    assert_challenged(&ask(&shop, Method::GET, "/a/200", &sold).await);
}

#[tokio::test]
async fn free_answers_count_towards_the_limits() {
    let upstream = obliging().await;
    let limits = "[limits]\ntokens = { requests = 3, per = \"1m\" }";
    let shop = selling(upstream.address, limits).await;
    let sold = shop.sell("a", Some(1));
    for _ in 0..3 {
        assert_eq!(ask(&shop, Method::HEAD, "/a/200", &sold).await.status, 200);
    }
    let answer = ask(&shop, Method::HEAD, "/a/200", &sold).await;
    assert_eq!(answer.status, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn a_free_quota_counts_free_answers() {
    let upstream = obliging().await;
    let shop = selling(upstream.address, "").await;
    for left in ["1", "0"] {
        let answer = shop.get("/d/404").await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.header("l402-remaining-requests"), Some(left));
    }
    assert_challenged(&shop.get("/d/404").await);
}

#[tokio::test]
async fn a_grant_of_bytes_counts_what_they_take() {
    let upstream = obliging().await;
    let shop = Shop::selling(&format!(
        "[[route]]\npath = \"/a/*\"\nservice = \"a\"\nprice = \"10 sat\"\nupstream = \"http://{}\"\n\
         grant = {{ bytes = 9 }}\n",
        upstream.address
    ))
    .await;
    let sold = shop.buy("/a/200").await;
    for (method, left) in [(Method::HEAD, "9"), (Method::GET, "9"), (Method::GET, "5")] {
        let answer = ask(&shop, method, "/a/404", &sold).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.header("l402-remaining-bytes"), Some(left));
    }
    let answer = ask(&shop, Method::GET, "/a/404", &sold).await;
    assert_eq!(answer.header("l402-remaining-bytes"), Some("1"));
}
