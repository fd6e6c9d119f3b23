//! Tollhouse rewrites headers that name the upstream to names that the client can use.

use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{
    CONTENT_LOCATION, HeaderName, HeaderValue, LINK, LOCATION, REFRESH, SET_COOKIE,
};
use http::{HeaderMap, StatusCode};

use crate::support::Shop;
use crate::support::answers::assert_hello;
use crate::support::server::Server;
use crate::support::upstream::Upstream;

/// The `X-Forwarded-Prefix` that the upstream received.
const TOLD: HeaderName = HeaderName::from_static("x-told");

/// A server that uses the `Host` that it receives in its headers, and does not know the shop.
async fn proud() -> Server {
    Server::routing(|address| Router::new().fallback(answer).with_state(address)).await
}

async fn shop_of(upstream: &Server, keys: &str) -> Shop {
    let keys = format!(
        "service = \"api\"
price = \"10 sat\"
{keys}"
    );
    let url = format!("http://{}/base", upstream.address);
    Shop::selling(&format!(
        "[[route]]
path = \"/api/*\"
upstream = \"{url}\"
{keys}
"
    ))
    .await
}

async fn answer(State(address): State<SocketAddr>, request: Request) -> Response {
    let path = request.uri().path();
    let url = format!("http://{address}{path}");
    let mut response = Response::builder();
    let headers = response.headers_mut().unwrap();
    let mut say = |name, value: String| {
        headers.append(name, HeaderValue::try_from(value).unwrap());
    };
    say(LOCATION, format!("{url}/next?a=b"));
    say(CONTENT_LOCATION, format!("{path}/this"));
    say(REFRESH, format!("5; url={url}/later"));
    say(
        LINK,
        format!("<{url}?page=2>; rel=\"next\", <https://elsewhere.example/>"),
    );
    say(SET_COOKIE, "a=b; Path=/base; HttpOnly".to_owned());
    say(SET_COOKIE, "c=d; Domain=127.0.0.1; Path=/base/x".to_owned());
    say(
        TOLD,
        format!("{:?}", request.headers().get("x-forwarded-prefix")),
    );
    response
        .status(StatusCode::FOUND)
        .body(Body::empty())
        .unwrap()
}

/// The headers that this shop returns to a client that has paid.
async fn said(shop: &Shop) -> HeaderMap {
    let sold = shop.sell("api", None);
    let answer = shop.get_with("/api/x", &sold).await;
    assert_eq!(answer.status, StatusCode::FOUND);
    answer.headers
}

fn cookies(headers: &HeaderMap) -> Vec<&str> {
    let cookies = headers.get_all(SET_COOKIE).iter();
    cookies.map(|cookie| cookie.to_str().unwrap()).collect()
}

#[tokio::test]
async fn headers_that_name_the_upstream_name_the_route() {
    let proud = proud().await;
    let shop = shop_of(&proud, "strip_prefix = true").await;
    let headers = said(&shop).await;
    assert_eq!(headers[LOCATION], "/api/x/next?a=b");
    assert_eq!(headers[CONTENT_LOCATION], "/api/x/this");
    assert_eq!(headers[REFRESH], "5;url=/api/x/later");
    assert_eq!(
        headers[LINK],
        "</api/x?page=2>; rel=\"next\", <https://elsewhere.example/>"
    );
    // The client uses the same host for us as we use for the upstream, so a cookie domain names both.
    assert_eq!(
        cookies(&headers),
        [
            "a=b; Path=/api; HttpOnly",
            "c=d; Domain=127.0.0.1; Path=/api/x"
        ]
    );
    assert_eq!(headers[TOLD], "Some(\"/api\")");
    // A client that follows the redirect is served.
    let sold = shop.sell("api", None);
    let next = headers[LOCATION].to_str().unwrap();
    assert_eq!(shop.get_with(next, &sold).await.status, StatusCode::FOUND);
}

#[tokio::test]
async fn without_strip_prefix_only_the_upstreams_own_prefix_is_removed() {
    let proud = proud().await;
    let shop = shop_of(&proud, "").await;
    let headers = said(&shop).await;
    assert_eq!(headers[LOCATION], "/api/x/next?a=b");
    assert_eq!(headers[CONTENT_LOCATION], "/api/x/this");
    assert_eq!(cookies(&headers)[0], "a=b; Path=/; HttpOnly");
    assert_eq!(headers[TOLD], "None");
    let added = shop_of(&proud, "strip_prefix = true\nadd_prefix = \"/v2\"").await;
    let headers = said(&added).await;
    assert_eq!(headers[LOCATION], "/api/x/next?a=b");
    // The path covers more than the route, so the cookie is for the whole route.
    assert_eq!(cookies(&headers)[0], "a=b; Path=/api; HttpOnly");
}

#[tokio::test]
async fn a_route_can_keep_these_headers_or_set_its_own() {
    let proud = proud().await;
    let shop = shop_of(&proud, "strip_prefix = true\nredirects = \"keep\"").await;
    let headers = said(&shop).await;
    let kept = format!("http://{}/base/x/next?a=b", proud.address);
    assert_eq!(headers[LOCATION], kept.as_str());
    assert_eq!(cookies(&headers)[0], "a=b; Path=/base; HttpOnly");
    let set = "response_headers = { set = { location = \"/base/mine\" } }";
    let shop = shop_of(&proud, &format!("strip_prefix = true\n{set}")).await;
    assert_eq!(said(&shop).await[LOCATION], "/base/mine");
}

#[tokio::test]
async fn only_we_set_the_forwarded_prefix() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", None);
    for (path, told) in [("/up/x", None), ("/stripped/x", Some("/stripped"))] {
        let request = shop.request(http::Method::GET, path);
        let request = request
            .header("x-forwarded-prefix", "/forged")
            .header("authorization", sold.header());
        assert_hello(&shop.send(request).await);
        let seen = upstream.take_one();
        assert_eq!(seen.header("x-forwarded-prefix"), told);
        assert_eq!(
            seen.headers.get_all("x-forwarded-prefix").iter().count(),
            usize::from(told.is_some())
        );
    }
}
