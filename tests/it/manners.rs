//! Cookies in several lines, and upstream answers that are hard to parse.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::any;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::delivery::assert_problem;
use crate::forward::assert_hello;
use crate::http2::{Client, read};
use crate::layer::Program;
use crate::quote::Teller;
use crate::quoted::hooked;
use crate::raw;
use crate::secrets::Log;
use crate::support::{Setup, Shop};
use crate::upstream::{HELLO, Upstream};

/// A route to this server, with these keys.
pub(crate) fn route(path: &str, upstream: SocketAddr, keys: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nupstream = \"http://{upstream}\"\n{keys}\n")
}

/// A sold route.
pub(crate) fn sold(path: &str, upstream: SocketAddr, more: &str) -> String {
    let keys = format!("service = \"a\"\nprice = \"1 sat\"\n{more}");
    route(path, upstream, &keys)
}

pub(crate) const FREE: &str = "access = \"free\"";

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

/// A server that sends the same bytes to every request, and closes the connection.
pub(crate) struct Answering {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Answering {
    pub(crate) async fn with(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = answer.to_owned();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else {
                        break;
                    };
                    head.push(byte);
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            address,
            _serving: serving,
        }
    }
}

async fn shop_in_front_of(upstream: &Answering) -> Shop {
    Shop::with(Setup {
        upstream: Some(upstream.address),
        ..Setup::default()
    })
    .await
}

#[tokio::test]
async fn an_answer_that_cannot_be_parsed_is_not_reported_as_missing() {
    let many: String = (0..101).map(|n| format!("X-{n}: y\r\n")).collect();
    for answer in [
        format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n"),
        "HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n\r\n".to_owned(),
    ] {
        let upstream = Answering::with(&answer).await;
        let shop = shop_in_front_of(&upstream).await;
        let log = Log::default();
        let _listening = log.listen();
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
    let upstream = Answering::with(&format!(
        "HTTP/1.1 200 OK\r\n{many}X-Folded: one,\r\n two,\r\n\tthree\r\nContent-Length: {}\r\n\r\n{HELLO}",
        HELLO.len()
    ))
    .await;
    let shop = shop_in_front_of(&upstream).await;
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
    let upstream = Answering::with(&format!(
        "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n"
    ))
    .await;
    let shop = shop_in_front_of(&upstream).await;
    let answer = shop.get("/open/x").await;
    assert_eq!(answer.header("date"), Some(date));
    for answer in [shop.get("/free/page.txt").await, shop.get("/nothing").await] {
        assert_eq!(answer.headers.get_all("date").iter().count(), 1);
        assert!(httpdate::parse_http_date(answer.header("date").unwrap()).is_ok());
    }
}
