//! CORS: what scripts of other origins may send and read.

use http::header::{AUTHORIZATION, ORIGIN};
use http::{Method, StatusCode};
use regtest::client::Answer;

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::program::Program;
use crate::support::raw;
use crate::support::routes::{FREE, route, sold};
use crate::support::server::Server;
use crate::support::upstream::Upstream;
use crate::support::{Closed, Shop};

/// A preflight for these headers.
async fn preflight(shop: &Shop, path: &str, origin: &str, wanted: &str) -> Answer {
    let request = shop
        .request(Method::OPTIONS, path)
        .header(ORIGIN, origin)
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", wanted);
    shop.send(request).await
}

async fn from(shop: &Shop, path: &str, origin: &str) -> Answer {
    let request = shop.request(Method::GET, path).header(ORIGIN, origin);
    shop.send(request).await
}

const ALLOW_ORIGIN: &str = "access-control-allow-origin";
const ALLOW_HEADERS: &str = "access-control-allow-headers";
const CREDENTIALS: &str = "access-control-allow-credentials";
const EXPOSED: &str = "access-control-expose-headers";
const ELSEWHERE: &str = "https://elsewhere.example";

#[tokio::test]
async fn a_preflight_allows_the_headers_that_the_script_asks_for() {
    let shop = Shop::open().await;
    let ours = "Authorization, Content-Type, Accept-Payment, Accept-Grant, X-Grpc-Web, X-User-Agent, Grpc-Timeout";
    for (wanted, more) in [
        ("authorization,x-api-version", ", x-api-version"),
        ("x-a, authorization , X-B", ", x-a, X-B"),
        ("x-a, not a name, \"x-b\", x-c", ", x-a, x-c"),
        ("content-type", ""),
        ("", ""),
    ] {
        let answer = preflight(&shop, "/articles/page.txt", ELSEWHERE, wanted).await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT);
        let allowed = format!("{ours}{more}");
        assert_eq!(answer.header(ALLOW_HEADERS), Some(allowed.as_str()));
        assert_eq!(answer.header(ALLOW_ORIGIN), Some("*"));
        assert_eq!(answer.header(CREDENTIALS), None);
    }
}

#[tokio::test]
async fn headers_that_the_upstream_exposes_stay_exposed() {
    let upstream = Server::saying(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nAccess-Control-Expose-Headers: X-Total, retry-after\r\n\
         Access-Control-Expose-Headers: X-Page\r\nAccess-Control-Allow-Origin: https://app.example\r\n\r\n",
    )
    .await;
    let shop = Shop::selling(&sold("/a/*", upstream.address, "")).await;
    let challenge = assert_challenged(&from(&shop, "/a/x", ELSEWHERE).await);
    let answer = shop.get_with("/a/x", &shop.pay(&challenge)).await;
    assert_eq!(
        answer.header(EXPOSED),
        Some(
            "X-Total, retry-after, X-Page, WWW-Authenticate, Payment-Receipt, L402-Remaining-Requests, \
             L402-Remaining-Bytes, L402-Remaining-Seconds, L402-Expires"
        )
    );
    assert_eq!(answer.headers.get_all(EXPOSED).iter().count(), 1);
    assert_eq!(answer.header(ALLOW_ORIGIN), Some("https://app.example"));
}

#[tokio::test]
async fn scripts_of_named_origins_may_send_credentials() {
    let upstream = Server::saying(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nVary: Accept\r\nAccess-Control-Allow-Origin: *\r\n\r\n",
    )
    .await;
    let named = "https://app.example";
    let settings = format!(
        "http.cors_credentials = [\"{named}\", \"http://localhost:5173\"]\n{}",
        sold("/a/*", upstream.address, "")
    );
    let shop = Shop::selling(&settings).await;
    let paid = shop.buy("/a/x").await;
    let asked = shop
        .request(Method::GET, "/a/x")
        .header(ORIGIN, named)
        .header(AUTHORIZATION, paid.header());
    for answer in [
        preflight(&shop, "/a/x", named, "authorization").await,
        from(&shop, "/a/x", named).await,
        from(&shop, "/nothing", named).await,
        shop.send(asked).await,
    ] {
        assert_eq!(answer.header(ALLOW_ORIGIN), Some(named));
        assert_eq!(answer.header(CREDENTIALS), Some("true"));
        assert!(varies(&answer), "{:?}", answer.headers);
    }
    for origin in [
        ELSEWHERE,
        "null",
        "https://app.example.evil",
        "https://APP.example",
    ] {
        for answer in [
            preflight(&shop, "/a/x", origin, "authorization").await,
            from(&shop, "/a/x", origin).await,
        ] {
            assert_eq!(answer.header(ALLOW_ORIGIN), Some("*"), "{origin}");
            assert_eq!(answer.header(CREDENTIALS), None, "{origin}");
            assert!(varies(&answer), "{:?}", answer.headers);
        }
    }
}

/// Whether `Vary` names `Origin` exactly once.
fn varies(answer: &Answer) -> bool {
    let lines = answer.headers.get_all("vary").iter();
    let names = lines.flat_map(|line| line.to_str().unwrap().split(", "));
    names.filter(|name| *name == "Origin").count() == 1
}

#[tokio::test]
async fn scripts_can_read_all_our_errors() {
    let upstream = Upstream::start().await;
    let closed = Closed::new();
    let settings = [
        sold("/a/*", upstream.address, "methods = [\"GET\"]"),
        route("/gone/*", closed.address, FREE),
        route(
            "/get/*",
            closed.address,
            &format!("{FREE}\nmethods = [\"GET\"]"),
        ),
        "[[route]]\npath = \"/own/*\"\naccess = \"free\"\nfiles = \"shop\"\n".to_owned(),
    ];
    let shop = Shop::selling(&settings.concat()).await;
    for (method, path, status) in [
        (Method::GET, "/a//x", 400),
        (Method::GET, "/a/%00", 400),
        (Method::GET, "/A/x", 404),
        (Method::GET, "/nothing", 404),
        (Method::POST, "/a/x", 405),
        (Method::POST, "/get/x", 405),
        (Method::GET, "/gone/x", 502),
        (Method::GET, "/own/none", 404),
        (Method::TRACE, "/a/x", 501),
    ] {
        let request = shop.request(method, path).header(ORIGIN, ELSEWHERE);
        let answer = shop.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.header(ALLOW_ORIGIN), Some("*"), "{path}");
        let exposed = answer.header(EXPOSED).expect(path);
        assert!(exposed.contains("Retry-After"), "{path}: {exposed}");
    }
    // The browser sends a preflight first, and then reads the error.
    for path in ["/a//x", "/a/%00", "/nothing"] {
        let answer = preflight(&shop, path, ELSEWHERE, "authorization").await;
        assert_eq!(answer.status, StatusCode::NO_CONTENT, "{path}");
    }
    // A preflight for a free route is answered by the upstream.
    let answer = from(&shop, "/own/page.txt", ELSEWHERE).await;
    assert_served(&answer);
    assert_eq!(answer.header(ALLOW_ORIGIN), None);
    let answer = preflight(&shop, "/get/x", ELSEWHERE, "authorization").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn scripts_can_read_the_errors_of_a_guard() {
    let mut program = Program::with("http.cors_credentials = [\"https://app.example\"]\n").await;
    let at = program.jokes(None).await;
    for (path, status) in [("/jokes/a%2fb", 400), ("/jokes/one", 402)] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: shop\r\nOrigin: https://app.example\r\nConnection: close\r\n\r\n"
        );
        let reply = raw::exchange(at, request.as_bytes()).await.unwrap();
        assert_eq!(reply.status, status);
        assert_eq!(reply.values(ALLOW_ORIGIN), ["https://app.example"]);
        assert_eq!(reply.values(CREDENTIALS), ["true"]);
    }
}
