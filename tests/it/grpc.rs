//! HTTP/2 behind, and gRPC over it: messages and trailers pass in both directions, and a call that fails before its first
//! message is not counted.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt as _, Full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tollhouse::sell::route::{Protocol, Upstream};

use crate::support::calls::{Calls, MESSAGE, Speech, self_signed};
use crate::support::frames::{self, frame};
use crate::support::http2::Client;
use crate::support::raw;
use crate::support::upstream::SOON;
use crate::support::{Setup, Shop, Sold};

/// A shop in front of these servers that speak HTTP/2.
pub(crate) async fn shop_of_http2(urls: &[String], authorities: Vec<Vec<u8>>) -> Shop {
    let servers = urls.iter().map(|url| url.parse().unwrap()).collect();
    let upstream = Upstream {
        protocol: Protocol::Http2,
        authorities,
        ..Upstream::of(servers)
    };
    Shop::with(Setup::of(upstream)).await
}

async fn clear() -> (Calls, Shop) {
    let calls = Calls::start(Speech::Clear).await;
    let shop = shop_of_http2(&[format!("http://{}", calls.address)], Vec::new()).await;
    (calls, shop)
}

/// Asks in HTTP/1.1 and gives all that comes back, trailers included.
async fn call(shop: &Shop, path: &str, sold: &Sold) -> String {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: shop\r\nConnection: te, close\r\nTE: trailers\r\nAuthorization: {}\r\n\
         Content-Type: application/grpc\r\nTrailer: x-mine\r\nTransfer-Encoding: chunked\r\n\r\n\
         4\r\nping\r\n0\r\nx-mine: 1\r\nl402-token-id: forged\r\nx-forwarded-for: 192.0.2.1\r\n\r\n",
        sold.header()
    );
    raw::exchange(shop.address, request.as_bytes())
        .await
        .unwrap()
        .text()
}

#[tokio::test]
async fn a_call_passes_with_its_trailers_in_both_directions() {
    let (calls, shop) = clear().await;
    let sold = shop.sell("up", Some(1));
    let answer = call(&shop, "/up/echo", &sold).await;
    assert!(answer.contains("4\r\nping\r\n"), "{answer}");
    assert!(answer.contains("grpc-status: 0\r\n"), "{answer}");
    // What a client may not say in front of its body it may not say behind it.
    assert!(answer.contains("x-got: x-mine\r\n"), "{answer}");
    let seen = calls.take_one();
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(seen.headers["te"], "trailers");
    assert_eq!(seen.headers["content-type"], "application/grpc");
    for name in ["connection", "transfer-encoding", "host", "authorization"] {
        assert!(!seen.headers.contains_key(name), "{name}");
    }
    assert_eq!(seen.uri, format!("http://{}/up/echo", calls.address));
    shop.is_counted(&sold, 1).await;
}

/// A call as a client of gRPC makes it: its status, what its head says of it, its messages, and what stands behind them.
async fn call2(shop: &Shop, path: &str, sold: &Sold) -> [String; 3] {
    let request = Request::post(format!("http://shop{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("authorization", sold.header());
    let request = request
        .body(Full::new(Bytes::from_static(b"ping")))
        .unwrap();
    let client = Client::connect(shop).await;
    let answer = client.send(request).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.version()),
        (200, Version::HTTP_2)
    );
    let status = |headers: &http::HeaderMap| {
        let status = headers.get("grpc-status");
        status.map_or_else(String::new, |status| status.to_str().unwrap().to_owned())
    };
    let in_head = status(answer.headers());
    let is_head_only = hyper::body::Body::is_end_stream(answer.body());
    assert_eq!(is_head_only, !in_head.is_empty(), "one frame says it all");
    let body = answer.into_body().collect().await.unwrap();
    let in_trailers = body.trailers().map_or_else(String::new, status);
    let messages = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    [in_head, messages, in_trailers]
}

#[tokio::test]
async fn grpc_passes_from_end_to_end() {
    let (calls, shop) = clear().await;
    let sold = shop.sell("up", Some(2));
    for (path, answered) in [
        ("/up/unavailable", ["14", "", ""]),
        ("/up/fails-silently", ["", "", "13"]),
        ("/up/echo", ["", "ping", "0"]),
        ("/up/x", ["", MESSAGE, "0"]),
    ] {
        assert_eq!(call2(&shop, path, &sold).await, answered, "{path}");
        assert_eq!(calls.take_one().headers["te"], "trailers");
    }
    // The first two were not counted.
    shop.is_counted(&sold, 2).await;
}

#[tokio::test]
async fn messages_pass_one_by_one() {
    let (_calls, shop) = clear().await;
    let mut stream = shop.connect().await;
    let head = "POST /open/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for word in ["first", "again"] {
        // The next is sent only when the one before has come back.
        let chunk = format!("5\r\n{word}\r\n");
        stream.write_all(chunk.as_bytes()).await.unwrap();
        raw::expect(&mut stream, word).await;
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    raw::expect(&mut stream, "0\r\n\r\n").await;
}

/// Says a word at a time to a server that says it back, for longer than an upload may take, and gives what came back last.
async fn talk(shop: &Shop) -> Option<String> {
    let mut stream = shop.connect().await;
    let head = "POST /open/echo HTTP/1.1\r\nHost: shop\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut tick = tokio::time::interval(SOON * 2 / 3);
    for word in ["first", "again", "third", "final"] {
        tick.tick().await;
        let chunk = format!("5\r\n{word}\r\n");
        stream.write_all(chunk.as_bytes()).await.ok()?;
        raw::expect(&mut stream, word).await;
    }
    let mut rest = String::new();
    stream.write_all(b"0\r\n\r\n").await.ok()?;
    while !rest.ends_with("0\r\n\r\n") {
        rest.push(char::from(stream.read_u8().await.ok()?));
    }
    Some(rest)
}

#[tokio::test]
async fn a_conversation_is_no_upload_and_may_go_on_for_as_long_as_both_speak() {
    let calls = Calls::start(Speech::Clear).await;
    let upstream = Upstream {
        protocol: Protocol::Http2,
        ..Upstream::of(vec![format!("http://{}", calls.address).parse().unwrap()])
    };
    let mut setup = Setup::of(upstream);
    setup.resource.body_timeout = SOON;
    let shop = Shop::with(setup).await;
    assert!(talk(&shop).await.is_some());
}

#[tokio::test]
async fn a_call_that_fails_before_its_first_message_is_not_counted() {
    let (calls, shop) = clear().await;
    let sold = shop.sell("up", Some(1));
    for (path, said) in [("/up/unavailable", "14"), ("/up/fails-silently", "13")] {
        let answer = shop.get_with(path, &sold).await;
        assert_eq!(answer.status, 200, "{path}");
        if path == "/up/unavailable" {
            assert_eq!(answer.header("grpc-status"), Some(said));
        }
    }
    assert_eq!(shop.get_with("/up/reset", &sold).await.status, 502);
    assert_eq!(calls.count(), 3);
    shop.is_counted(&sold, 0).await;
    // The one that it still buys.
    assert!(call(&shop, "/up/x", &sold).await.contains(MESSAGE));
    shop.is_counted(&sold, 1).await;
}

#[tokio::test]
async fn a_call_that_was_refused_or_had_a_message_is_counted() {
    let (_calls, shop) = clear().await;
    for path in ["/up/denied", "/up/fails-late"] {
        let sold = shop.sell("up", Some(1));
        assert_eq!(shop.get_with(path, &sold).await.status, 200, "{path}");
        shop.is_counted(&sold, 1).await;
    }
}

#[tokio::test]
async fn over_tls_http2_is_agreed_on() {
    let (speech, pem) = self_signed("127.0.0.1", &[b"h2", b"http/1.1"]);
    let calls = Calls::start(speech).await;
    let authorities = tollhouse::sell::resource::certificates(pem.as_bytes()).unwrap();
    let shop = shop_of_http2(&[format!("https://{}", calls.address)], authorities).await;
    let sold = shop.sell("up", None);
    assert!(call(&shop, "/up/x", &sold).await.contains(MESSAGE));
    assert_eq!(calls.take_one().version, Version::HTTP_2);
}

#[tokio::test]
async fn an_upstream_that_went_away_gives_the_use_back_and_another_is_asked() {
    let (calls, other) = (
        Calls::start(Speech::Clear).await,
        Calls::start(Speech::Clear).await,
    );
    let urls = [&calls, &other].map(|calls| format!("http://{}", calls.address));
    let shop = shop_of_http2(&urls, Vec::new()).await;
    let sold = shop.sell("up", Some(6));
    // Both have a connection.
    for _ in 0..2 {
        assert_eq!(shop.get_with("/up/x", &sold).await.status, 200);
    }
    drop(calls);
    for _ in 0..4 {
        assert_eq!(shop.get_with("/up/x", &sold).await.status, 200);
    }
    shop.is_counted(&sold, 6).await;
    drop(other);
    let sold = shop.sell("up", Some(1));
    assert_eq!(shop.get_with("/up/x", &sold).await.status, 502);
    shop.is_counted(&sold, 0).await;
}

/// A server that says hello, and these frames to every request.
async fn refusing(frames: Vec<u8>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(refuse(stream, frames.clone()));
        }
    });
    (address, serving)
}

async fn refuse(mut stream: TcpStream, said: Vec<u8>) {
    let mut preface = [0; frames::PREFACE.len()];
    // Clients come and go as they like.
    let _ = stream.read_exact(&mut preface).await;
    let hello = frame(frames::SETTINGS, 0, 0, &[]);
    let _ = stream.write_all(&hello).await;
    if frames::until(&mut stream, frames::HEADERS).await.is_some() {
        let _ = stream.write_all(&said).await;
        // Whatever the client says to that.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn a_customer_that_takes_nothing_does_not_stop_the_others_of_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shop = shop_of_http2(&[url], Vec::new()).await;
    let sold = shop.sell("up", None);
    let mut asking = JoinSet::new();
    asking.spawn(async move { drop(shop.get_with("/up/x", &sold).await) });
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut preface = [0; frames::PREFACE.len()];
    stream.read_exact(&mut preface).await.unwrap();
    let settings = frames::until(&mut stream, frames::SETTINGS).await.unwrap();
    let stream_window = settings
        .payload
        .chunks(6)
        .find(|setting| setting[..2] == frames::INITIAL_WINDOW_SIZE.to_be_bytes())
        .map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()))
        .unwrap();
    let more = frames::until(&mut stream, frames::WINDOW_UPDATE)
        .await
        .unwrap();
    assert_eq!(more.stream, 0);
    let connection_window = 65_535 + u32::from_be_bytes(more.payload.try_into().unwrap());
    // As many answers as no server sends at once, each left lying as a whole.
    assert!(connection_window / stream_window >= 10_000);
}

#[tokio::test]
async fn a_stream_that_is_refused_before_its_answer_is_not_counted_and_goes_elsewhere() {
    let reset = |code: u32| frame(frames::RST_STREAM, 0, 1, &code.to_be_bytes());
    // The last stream that it looked at, and why it goes.
    let goaway = |code: u32| {
        frame(
            frames::GOAWAY,
            0,
            0,
            &[0_u32.to_be_bytes(), code.to_be_bytes()].concat(),
        )
    };
    let other = Calls::start(Speech::Clear).await;
    for (name, said) in [
        ("INTERNAL_ERROR", reset(2)),
        ("REFUSED_STREAM", reset(7)),
        ("CANCEL", reset(8)),
        ("ENHANCE_YOUR_CALM", reset(11)),
        ("a farewell", goaway(0)),
        ("a farewell with an error", goaway(2)),
    ] {
        let (address, _serving) = refusing(said).await;
        let url = format!("http://{address}");
        let shop = shop_of_http2(std::slice::from_ref(&url), Vec::new()).await;
        let sold = shop.sell("up", Some(1));
        assert_eq!(shop.get_with("/up/x", &sold).await.status, 502, "{name}");
        shop.is_counted(&sold, 0).await;
        let shop = shop_of_http2(&[url, format!("http://{}", other.address)], Vec::new()).await;
        assert_eq!(shop.get_with("/up/x", &sold).await.status, 200, "{name}");
        shop.is_counted(&sold, 1).await;
    }
}
