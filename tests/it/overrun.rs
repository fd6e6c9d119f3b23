//! A byte grant and many concurrent answers: at most one of them overruns the grant, and undelivered bytes go back.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE};
use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::support::answers::{assert_challenged, assert_served};
use crate::support::http2::{self, Client};
use crate::support::raw;
use crate::support::server::Server;
use crate::support::{DEADLINE, Shop, Sold};
use regtest::wait::eventually;

const GRANT: usize = 1_000_000;
const FILE: usize = 700_000;
const AT_ONCE: usize = 50;

/// An upstream that begins its answers once fifty requests have arrived.
async fn crowd_server() -> Server {
    Server::routing(|_| {
        Router::new()
            .route("/crowd/{what}", axum::routing::get(answer))
            .with_state(Arc::new(Barrier::new(AT_ONCE)))
    })
    .await
}

async fn answer(State(all): State<Arc<Barrier>>, Path(what): Path<String>) -> Response {
    match what.as_str() {
        "short" => return Response::new("short".into()),
        "slow" => {
            let start = stream::iter([Ok::<_, Infallible>(vec![b'x'; 1_000])]);
            let body = Body::from_stream(start.chain(stream::pending()));
            let response = Response::builder().header(CONTENT_LENGTH, GRANT.to_string());
            return response.body(body).unwrap();
        }
        _ => {}
    }
    all.wait().await;
    let pieces = || {
        let piece = Bytes::from(vec![b'x'; FILE / 100]);
        Body::from_stream(stream::iter(
            (0..100).map(move |_| Ok::<_, Infallible>(piece.clone())),
        ))
    };
    let response = Response::builder();
    match what.as_str() {
        "stream" => response.body(pieces()),
        "long" => response
            .header(CONTENT_LENGTH, FILE.to_string())
            .body(pieces()),
        "part" => response
            .status(StatusCode::PARTIAL_CONTENT)
            .header(CONTENT_RANGE, format!("bytes 0-{}/99999999", FILE - 1))
            .body(vec![b'x'; FILE].into()),
        "same" => response
            .status(StatusCode::NOT_MODIFIED)
            .header(CONTENT_LENGTH, FILE.to_string())
            .body(Body::empty()),
        _ => response.body(Body::empty()),
    }
    .unwrap()
}

async fn selling(behind: &str, overrun: &str) -> Shop {
    Shop::selling(&format!(
        "[[route]]\npath = \"/crowd/*\"\nservice = \"crowd\"\nprice = \"10 sat\"\n{behind}\n\
         grant = {{ bytes = {GRANT} }}\noverrun = \"{overrun}\"\n"
    ))
    .await
}

async fn before(crowd: &Server, overrun: &str) -> Shop {
    let upstream = format!("upstream = \"http://{}\"", crowd.address);
    selling(&upstream, overrun).await
}

/// The outcome of one of many requests: its status, the number of its bytes, and whether it was complete.
type Got = (StatusCode, usize, bool);

async fn read(mut response: reqwest::Response) -> Got {
    let (status, mut bytes) = (response.status(), 0);
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes += chunk.len(),
            Ok(None) => return (status, bytes, true),
            Err(_) => return (status, bytes, false),
        }
    }
}

/// Sends fifty requests at once.
async fn crowd_in(shop: &Shop, method: Method, path: &str, sold: &Sold) -> Vec<Got> {
    let mut asking = JoinSet::new();
    for _ in 0..AT_ONCE {
        let request = shop.request(method.clone(), path);
        let request = request.header(AUTHORIZATION, sold.header());
        asking.spawn(async move { read(request.send().await.unwrap()).await });
    }
    asking.join_all().await
}

fn delivered(got: &[Got]) -> usize {
    let served = got.iter().filter(|(status, ..)| status.is_success());
    served.map(|(_, bytes, _)| bytes).sum()
}

fn with(got: &[Got], wanted: StatusCode) -> usize {
    got.iter().filter(|(status, ..)| *status == wanted).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_answers_of_known_length_one_overruns_the_grant_and_the_rest_are_refused() {
    let crowd = crowd_server().await;
    for (path, status) in [("/crowd/long", 200), ("/crowd/part", 206)] {
        let shop = before(&crowd, "serve").await;
        let sold = shop.buy(path).await;
        let got = crowd_in(&shop, Method::GET, path, &sold).await;
        let whole = got.iter().filter(|(.., bytes, _)| *bytes == FILE).count();
        assert_eq!((whole, delivered(&got)), (2, 2 * FILE), "{path}");
        assert_eq!(with(&got, StatusCode::from_u16(status).unwrap()), 2);
        assert_eq!(with(&got, StatusCode::PAYMENT_REQUIRED), AT_ONCE - 2);
        assert_challenged(&shop.get_with(path, &sold).await);
        // Refused requests were not counted.
        shop.is_counted(&sold, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_cut_fifty_answers_at_once_get_exactly_the_grant() {
    let crowd = crowd_server().await;
    for path in ["/crowd/long", "/crowd/stream"] {
        let shop = before(&crowd, "cut").await;
        let sold = shop.buy(path).await;
        let got = crowd_in(&shop, Method::GET, path, &sold).await;
        assert_eq!(delivered(&got), GRANT, "{path}");
        if path == "/crowd/long" {
            let whole = got.iter().filter(|(.., bytes, _)| *bytes == FILE).count();
            assert_eq!(whole, 1);
        }
        assert_challenged(&shop.get_with(path, &sold).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_fifty_streams_one_overruns_the_grant_and_the_others_end_with_it() {
    let crowd = crowd_server().await;
    let shop = before(&crowd, "serve").await;
    let sold = shop.buy("/crowd/stream").await;
    let got = crowd_in(&shop, Method::GET, "/crowd/stream", &sold).await;
    let all = delivered(&got);
    assert!((GRANT..GRANT + FILE).contains(&all), "{all}");
    let whole = got
        .iter()
        .filter(|(.., bytes, is_whole)| *is_whole && *bytes == FILE);
    assert!((1..=2).contains(&whole.count()), "{got:?}");
    assert_challenged(&shop.get_with("/crowd/stream", &sold).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn answers_without_a_body_use_no_bytes() {
    let crowd = crowd_server().await;
    let shop = before(&crowd, "serve").await;
    let sold = shop.buy("/crowd/long").await;
    for (method, path, status) in [
        (Method::HEAD, "/crowd/long", StatusCode::OK),
        (Method::GET, "/crowd/same", StatusCode::NOT_MODIFIED),
    ] {
        let got = crowd_in(&shop, method, path, &sold).await;
        assert_eq!(with(&got, status), AT_ONCE, "{path}");
    }
    let got = crowd_in(&shop, Method::GET, "/crowd/long", &sold).await;
    assert_eq!(delivered(&got), 2 * FILE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_file_answer_holds_its_length_and_a_range_only_the_range() {
    for (overrun, bytes) in [("serve", 2 * FILE), ("cut", GRANT)] {
        let shop = selling("files = \"shop\"", overrun).await;
        std::fs::write(shop.folder.join("long"), vec![b'x'; FILE]).unwrap();
        let sold = shop.buy("/crowd/page.txt").await;
        let got = crowd_in(&shop, Method::GET, "/crowd/long", &sold).await;
        // A machine that runs the requests one after the other uses up the grant in the same way.
        assert_eq!(delivered(&got), bytes, "{overrun}");
    }
    let shop = selling("files = \"shop\"", "serve").await;
    std::fs::write(shop.folder.join("long"), vec![b'x'; 100 * GRANT]).unwrap();
    let sold = shop.buy("/crowd/page.txt").await;
    let mut first = begin(&shop, "/crowd/long", "Range: bytes=0-899999\r\n", &sold).await;
    raw::expect(&mut first, "\r\n\r\n").await;
    assert_served(&shop.get_with("/crowd/page.txt", &sold).await);
    drop(first);
}

/// Sends a request and leaves its answer to be read.
async fn begin(shop: &Shop, path: &str, header: &str, sold: &Sold) -> TcpStream {
    let mut stream = shop.connect().await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: shop\r\nAuthorization: {}\r\n{header}\r\n",
        sold.header()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn bytes_held_for_an_answer_that_breaks_off_go_back() {
    let crowd = crowd_server().await;
    let shop = before(&crowd, "serve").await;
    let sold = shop.buy("/crowd/short").await;
    let mut slow = begin(&shop, "/crowd/slow", "", &sold).await;
    raw::expect(&mut slow, &"x".repeat(1_000)).await;
    // The answer holds the whole grant.
    assert_challenged(&shop.get_with("/crowd/short", &sold).await);
    drop(slow);
    let left = eventually("the rest of the grant", DEADLINE, || async {
        let answer = shop.get_with("/crowd/short", &sold).await;
        let left = answer.header("l402-remaining-bytes").map(str::to_owned);
        Ok::<_, Infallible>(left)
    });
    assert_eq!(left.await.unwrap(), (GRANT - 1_000).to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_on_one_http2_connection_get_no_more_than_on_many() {
    let crowd = crowd_server().await;
    let shop = before(&crowd, "serve").await;
    let sold = shop.buy("/crowd/long").await;
    let client = Arc::new(Client::connect(&shop).await);
    let mut asking = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (client, header) = (Arc::clone(&client), sold.header());
        asking.spawn(async move {
            let request =
                http::Request::get("http://shop/crowd/long").header(AUTHORIZATION, header);
            let answer = client.send(request.body(http_body_util::Full::default()).unwrap());
            http2::read(answer.await.unwrap()).await
        });
    }
    let got = asking.join_all().await;
    let served = got.iter().filter(|(status, _)| *status == StatusCode::OK);
    let bytes: usize = served.map(|(_, text)| text.len()).sum();
    assert_eq!(bytes, 2 * FILE);
}
