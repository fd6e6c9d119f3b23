//! Answers that end early say so in their protocol, after a whole message.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::AUTHORIZATION;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tollhouse::account::ledger::record::Revoked;

use crate::support::answers::assert_challenged;
use crate::support::calls::{Calls, Speech};
use crate::support::http2::Client;
use crate::support::raw;
use crate::support::server::Server;
use crate::support::websocket::{Echo, Socket, connect, say};
use crate::support::{DEADLINE, Shop, Sold};
use crate::websocket::sold_by;

/// A shop in front of a server that speaks gRPC, or another protocol.
async fn shop_of(address: SocketAddr, protocol: &str, keys: &str) -> Shop {
    Shop::selling(&format!(
        "[[route]]\npath = \"/rpc/*\"\nservice = \"rpc\"\nprice = \"10 sat\"\n\
         upstream = {{ url = \"http://{address}\", protocol = \"{protocol}\" }}\n{keys}\n"
    ))
    .await
}

async fn call(client: &Client, path: &str, sold: &Sold) -> Response<Incoming> {
    let request = Request::post(format!("http://shop{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("authorization", sold.header());
    let ping = Full::new(Bytes::from_static(b"\0\0\0\0\x04ping"));
    client.send(request.body(ping).unwrap()).await.unwrap()
}

/// The messages of a call, and what follows them.
async fn messages(call: Response<Incoming>) -> (Vec<u8>, HeaderMap) {
    let body = timeout(DEADLINE, call.into_body().collect()).await;
    let body = body.expect("an end in time").expect("an end of its own");
    let trailers = body.trailers().cloned().unwrap_or_default();
    (body.to_bytes().to_vec(), trailers)
}

#[tokio::test]
async fn a_call_that_uses_up_its_grant_ends_after_a_message_with_a_status() {
    let calls = Calls::start(Speech::Clear).await;
    for (bytes, whole) in [(25, 20), (20, 20), (19, 10), (9, 0), (30, 30)] {
        let keys = format!("grant = {{ bytes = {bytes} }}\noverrun = \"cut\"");
        let shop = shop_of(calls.address, "http2", &keys).await;
        let sold = shop.buy("/rpc/x").await;
        let client = Client::connect(&shop).await;
        let (got, trailers) = messages(call(&client, "/rpc/framed", &sold).await).await;
        assert_eq!(got.len(), whole, "{bytes}");
        let status = if whole == 30 { "0" } else { "8" };
        assert_eq!(trailers["grpc-status"], status, "{bytes}");
        if whole > 0 && whole < 30 {
            // A rest that was too small for a message buys nothing else.
            let refused = call(&client, "/rpc/framed", &sold).await;
            assert_eq!(refused.headers()["grpc-message"], "payment required");
        }
    }
}

#[tokio::test]
async fn a_call_whose_token_is_revoked_ends_with_a_status() {
    let calls = Calls::start(Speech::Clear).await;
    let shop = shop_of(calls.address, "http2", "").await;
    let sold = shop.buy("/rpc/x").await;
    let client = Client::connect(&shop).await;
    let call = call(&client, "/rpc/for-ever", &sold).await;
    let token_id = sold.identifier().token_id.0;
    shop.ledger.revoke(Revoked::Token(token_id), "").unwrap();
    let (got, trailers) = messages(call).await;
    assert_eq!(got.len() % 8, 0);
    assert_eq!(trailers["grpc-status"], "7");
    assert_eq!(trailers["grpc-message"], "the token is revoked");
    shop.is_counted(&sold, 1).await;
}

#[tokio::test]
async fn a_call_that_uses_up_its_time_ends_with_a_status() {
    let calls = Calls::start(Speech::Clear).await;
    let keys = "grant = { seconds = 1 }\noverrun = \"cut\"";
    let shop = shop_of(calls.address, "http2", keys).await;
    let sold = shop.buy("/rpc/x").await;
    let client = Client::connect(&shop).await;
    let (got, trailers) = messages(call(&client, "/rpc/for-ever", &sold).await).await;
    assert!(!got.is_empty() && got.len() % 8 == 0);
    assert_eq!(trailers["grpc-status"], "8");
}

/// This head and body, in chunks of seven bytes.
fn chunked(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = head.as_bytes().to_vec();
    for piece in body.chunks(7) {
        bytes.extend(format!("{:x}\r\n", piece.len()).as_bytes());
        bytes.extend([piece, b"\r\n"].concat());
    }
    [&bytes[..], b"0\r\n\r\n"].concat()
}

#[tokio::test]
async fn a_grpc_web_call_ends_with_a_trailer_frame() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nTransfer-Encoding: chunked\r\n\r\n";
    let body = b"\0\0\0\0\x05first\0\0\0\0\x05again\x80\0\0\0\x0fgrpc-status:0\r\n";
    let server = Server::saying(chunked(head, body)).await;
    for (bytes, ending) in [
        (15, &b"grpc-status:8\r\n"[..]),
        (40, &b"grpc-status:0\r\n"[..]),
    ] {
        let keys = format!("grant = {{ bytes = {bytes} }}\noverrun = \"cut\"");
        let shop = shop_of(server.address, "http1", &keys).await;
        let sold = shop.buy("/rpc/x").await;
        let request = shop.request(Method::POST, "/rpc/x");
        let request = request
            .header(AUTHORIZATION, sold.header())
            .header("content-type", "application/grpc-web+proto")
            .header("origin", "https://elsewhere.example");
        let answer = shop.send(request).await;
        let at = if bytes == 15 { 10 } else { 20 };
        assert_eq!(answer.body[..at], body[..at]);
        let frame = &answer.body[at..];
        let length = u32::from_be_bytes(frame[1..5].try_into().unwrap());
        let length = usize::try_from(length).unwrap();
        assert_eq!((frame[0], length), (0x80, frame.len() - 5));
        assert!(frame[5..].starts_with(ending), "{frame:?}");
        let exposed = answer.headers.get_all("access-control-expose-headers");
        let exposed: Vec<_> = exposed.iter().map(|it| it.to_str().unwrap()).collect();
        assert!(exposed.join(", ").contains("grpc-status"), "{exposed:?}");
    }
}

#[tokio::test]
async fn a_browser_may_send_the_headers_of_grpc_web() {
    let server = Server::saying(chunked("", b"")).await;
    let shop = shop_of(server.address, "http1", "").await;
    let wanted = [
        "x-grpc-web",
        "x-user-agent",
        "grpc-timeout",
        "content-type",
        "authorization",
    ];
    let request = shop
        .request(Method::OPTIONS, "/rpc/x")
        .header("origin", "https://elsewhere.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", wanted.join(","));
    let answer = shop.send(request).await;
    let allowed = answer.header("access-control-allow-headers").unwrap();
    let allowed = allowed.to_lowercase();
    for name in wanted {
        assert!(
            allowed.split(',').any(|it| it.trim() == name),
            "{name}: {allowed}"
        );
    }
}

/// The next frame is a close frame with this code and reason, and the connection ends.
async fn says_goodbye(socket: &mut Socket, code: u16, reason: &str) {
    let heard = timeout(DEADLINE, socket.next()).await;
    let Some(Ok(Message::Close(Some(CloseFrame {
        code: said,
        reason: why,
    })))) = heard.expect("a word in time")
    else {
        panic!("no farewell")
    };
    assert_eq!((u16::from(said), why.as_str()), (code, reason));
    let over = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(DEADLINE, over).await.expect("the end in time");
}

const USED_UP: &str = "the grant is used up";

#[tokio::test]
async fn a_websocket_that_uses_up_its_grant_says_so_after_a_message() {
    let echo = Echo::start().await;
    // The echo is framed: two bytes of header and five of content.
    for bytes in [14, 20] {
        let keys = format!("grant = {{ bytes = {bytes} }}\noverrun = \"cut\"");
        let (shop, sold) = sold_by(&echo, &keys).await;
        let mut socket = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
        say(&mut socket, "first").await;
        say(&mut socket, "again").await;
        socket.send(Message::text("third")).await.unwrap();
        says_goodbye(&mut socket, 1_008, USED_UP).await;
        assert_challenged(&shop.get_with("/ws/x", &sold).await);
    }
}

#[tokio::test]
async fn a_websocket_says_that_its_time_is_over_or_its_token_revoked() {
    let echo = Echo::start().await;
    let keys = "grant = { seconds = 1 }\noverrun = \"cut\"";
    let (shop, sold) = sold_by(&echo, keys).await;
    let mut socket = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
    says_goodbye(&mut socket, 1_008, USED_UP).await;
    let (shop, sold) = sold_by(&echo, "").await;
    let mut socket = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
    say(&mut socket, "hello").await;
    let token_id = sold.identifier().token_id.0;
    shop.ledger.revoke(Revoked::Token(token_id), "").unwrap();
    says_goodbye(&mut socket, 1_008, "the token is revoked").await;
}

#[tokio::test]
async fn an_idle_websocket_is_closed_with_a_reason() {
    let echo = Echo::start().await;
    let shop = echo
        .shop(|upstream| upstream.idle_timeout = Some(Duration::from_secs(1)))
        .await;
    let mut socket = connect(&shop, "/open/x", None).await.unwrap();
    says_goodbye(&mut socket, 1_001, "no data for too long").await;
}

#[tokio::test]
async fn half_a_message_is_not_followed_by_a_close_frame() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let route = format!(
        "[[route]]\npath = \"/ws/*\"\nservice = \"ws\"\nprice = \"1 sat\"\nupstream = \"http://{}\"\n",
        listener.local_addr().unwrap()
    );
    let shop = Shop::selling(&route).await;
    let sold = shop.buy("/ws/x").await;
    let mut client = shop.connect().await;
    let request = format!(
        "GET /ws/x HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\nAuthorization: {}\r\n\r\n",
        sold.header()
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let _ = upstream.read(&mut [0; 16 * 1024]).await.unwrap();
    let half = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\u{1}\u{5}hal";
    upstream.write_all(half.as_bytes()).await.unwrap();
    raw::expect(&mut client, "\u{1}\u{5}hal").await;
    let token_id = sold.identifier().token_id.0;
    shop.ledger.revoke(Revoked::Token(token_id), "").unwrap();
    let mut rest = Vec::new();
    // A reset also ends the connection.
    let _ = timeout(DEADLINE, client.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(rest.is_empty(), "{rest:?}");
}
