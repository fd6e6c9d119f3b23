//! Cookies in several lines, and upstream answers that are hard to parse.

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::quoted::hooked;
use crate::support::Shop;
use crate::support::answers::assert_hello;
use crate::support::answers::assert_problem;
use crate::support::http2::{Client, read};
use crate::support::log::Log;
use crate::support::program::Program;
use crate::support::raw;
use crate::support::routes::FREE;
use crate::support::routes::route;
use crate::support::server::Server;
use crate::support::teller::Teller;
use crate::support::upstream::{HELLO, Upstream};

/// A GET over HTTP/2 with the cookie in several lines.
fn in_pieces(path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(format!("http://shop{path}"));
    let request = request
        .header("cookie", "plan=large")
        .header("cookie", "b=c");
    request
        .header("cookie", "d=e")
        .body(Full::default())
        .unwrap()
}

const COOKIE: &str = "plan=large; b=c; d=e";

#[tokio::test]
async fn several_cookie_lines_are_one_for_the_upstream_and_the_price() {
    let upstream = Upstream::start().await;
    let by_cookie = format!(
        "service = \"b\"\nprice = {{ by = \"header:cookie\", values = {{ \"{COOKIE}\" = \"7 sat\" }}, missing = \"1 sat\" }}"
    );
    let free = route("/free/*", upstream.address, FREE);
    let shop = Shop::selling(&format!(
        "{free}{}",
        route("/b/*", upstream.address, &by_cookie)
    ))
    .await;
    let client = Client::connect(&shop).await;
    let answer = client.send(in_pieces("/free/x")).await.unwrap();
    assert_eq!(read(answer).await, (StatusCode::OK, HELLO.to_owned()));
    let lines = [
        format!("Cookie: {COOKIE}"),
        "Cookie: plan=large\r\nCookie: b=c\r\nCookie: d=e".to_owned(),
    ];
    for line in lines {
        let seen = upstream.take_one();
        let cookies: Vec<_> = seen.headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, [COOKIE]);
        let request =
            format!("GET /free/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{line}\r\n\r\n");
        assert_eq!(
            raw::exchange(shop.address, request.as_bytes())
                .await
                .unwrap()
                .status,
            200
        );
    }
    let answer = client.send(in_pieces("/b/x")).await.unwrap();
    let (status, body) = read(answer).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status.as_u16(), &body["price_msat"]), (402, &7_000.into()));
}

#[tokio::test]
async fn several_cookie_lines_are_one_for_the_hook_and_a_handler() {
    let hook = Teller::who_says("{\"price_msat\": 2000}").await;
    let shop = hooked(&hook, "headers = [\"cookie\"]").await;
    let client = Client::connect(&shop).await;
    let (status, _) = read(client.send(in_pieces("/a/page.txt")).await.unwrap()).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
    assert_eq!(hook.asked()[0]["headers"]["cookie"], COOKIE);

    let mut program = Program::new().await;
    let app = Router::new().route("/jokes/seen", any(cookies));
    let app = app.route_layer(program.guard("jokes", None));
    let at = program.serve(app).await;
    let sold = program.shop.sell("jokes", None);
    let request = format!(
        "GET /jokes/seen HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nCookie: a=b\r\nCookie: c=d\r\nAuthorization: {}\r\n\r\n",
        sold.header()
    );
    let reply = raw::exchange(at, request.as_bytes()).await.unwrap();
    assert_eq!(reply.text(), "[\"a=b; c=d\"]");
}

/// A handler that returns the cookies that it sees.
async fn cookies(request: axum::extract::Request) -> String {
    let lines = request.headers().get_all("cookie").iter();
    format!("{:?}", lines.collect::<Vec<_>>())
}

#[tokio::test]
async fn an_answer_that_cannot_be_parsed_is_not_reported_as_missing() {
    let many: String = (0..101).map(|n| format!("X-{n}: y\r\n")).collect();
    for answer in [
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
    ] {
        let upstream = Server::saying(&*answer).await;
        let shop = Shop::before(upstream.address).await;
        let (log, _listening) = Log::listen();
        let sold = shop.sell("up", Some(1));
        for _ in 0..2 {
            let got = shop.get_with("/up/x", &sold).await;
            assert_problem(&got, StatusCode::BAD_GATEWAY);
            assert!(got.text().contains("invalid response"), "{}", got.text());
            assert!(!got.text().contains("does not answer"), "{}", got.text());
        }
        let log = log.text();
        assert!(log.contains("sent an invalid response"), "{log}");
        assert!(!log.contains("does not answer"), "{log}");
    }
}

#[tokio::test]
async fn many_headers_and_folded_lines_of_an_upstream_pass() {
    // With the `Date` header, this is the limit of our HTTP client.
    let many: String = (0..97).map(|n| format!("X-{n}: y\r\n")).collect();
    let upstream = Server::saying(format!(
        "HTTP/1.1 200 OK\r\n{many}X-Folded: one,\r\n two,\r\n\tthree\r\nContent-Length: {}\r\n\r\n{HELLO}",
        HELLO.len()
    ))
    .await;
    let shop = Shop::before(upstream.address).await;
    let answer = shop.get("/open/x").await;
    assert_hello(&answer);
    assert_eq!(answer.header("x-96"), Some("y"));
    let folded = answer.header("x-folded").unwrap();
    let words: Vec<_> = folded.split_whitespace().collect();
    assert_eq!(words, ["one,", "two,", "three"]);
}

#[tokio::test]
async fn an_answer_has_a_date_and_the_upstreams_is_kept() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let upstream = Server::saying(format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
    ))
    .await;
    let shop = Shop::before(upstream.address).await;
    let answer = shop.get("/open/x").await;
    assert_eq!(answer.header("date"), Some(date));
    for answer in [shop.get("/free/page.txt").await, shop.get("/nothing").await] {
        assert_eq!(answer.headers.get_all("date").iter().count(), 1);
        assert!(httpdate::parse_http_date(answer.header("date").unwrap()).is_ok());
    }
}
