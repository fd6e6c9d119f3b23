//! Connections that are switched to another protocol: for those who paid, both ways, and for as long as both sides want.
//!
//! The file is long because every test sends the same few frames by hand: no library lets a test send broken ones.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tollhouse::account::ledger::record::Revoked;
use tollhouse::sell::route::Forward;

use crate::crowd;
use crate::support::answers::assert_challenged;
use crate::support::answers::assert_problem;
use crate::support::raw;
use crate::support::server::Server;
use crate::support::upstream::SOON;
use crate::support::websocket::Echo;
use crate::support::websocket::Socket;
use crate::support::websocket::connect;
use crate::support::websocket::connect_from;
use crate::support::websocket::say;
use crate::support::{DEADLINE, Setup, Shop, Sold};
use crate::waiting::PAUSE_MAX;

/// Nothing more comes, and that is said in time.
async fn is_over(socket: &mut Socket) {
    let over = async { while let Some(Ok(_)) = socket.next().await {} };
    timeout(DEADLINE, over).await.expect("the end in time");
}

#[tokio::test]
async fn a_websocket_is_sold_like_any_request() {
    let echo = Echo::start().await;
    let shop = echo.shop(|_| {}).await;
    let Err(Error::Http(refusal)) = connect(&shop, "/up/x", None).await else {
        panic!("switched without payment")
    };
    assert_eq!(refusal.status(), StatusCode::PAYMENT_REQUIRED);
    assert!(echo.seen.lock().unwrap().is_empty());

    let sold = shop.sell("up", Some(1));
    let mut socket = connect(&shop, "/up/x", Some(&sold)).await.unwrap();
    for word in ["first", "again"] {
        say(&mut socket, word).await;
    }
    // It is in use, and there was one.
    assert_challenged(&shop.get_with("/up/x", &sold).await);
    let seen = echo.seen.lock().unwrap().remove(0);
    assert_eq!(seen["upgrade"], "websocket");
    assert_eq!(seen["connection"], "upgrade");
    assert_eq!(seen["l402-service"], "up");
    assert_eq!(seen["x-forwarded-for"], "127.0.0.1");
    assert!(!seen.contains_key("authorization"));
    socket.close(None).await.unwrap();
    is_over(&mut socket).await;
    echo.is_left().await;
    shop.is_counted(&sold, 1).await;
    assert_challenged(&shop.get_with("/up/x", &sold).await);
}

#[tokio::test]
async fn either_side_can_end_it_and_the_other_is_told() {
    let echo = Echo::start().await;
    let shop = echo.shop(|_| {}).await;
    let mut socket = connect(&shop, "/open/x", None).await.unwrap();
    say(&mut socket, "hello").await;
    socket.send(Message::text("bye")).await.unwrap();
    is_over(&mut socket).await;
    echo.is_left().await;
    let mut socket = connect(&shop, "/open/x", None).await.unwrap();
    say(&mut socket, "hello").await;
    drop(socket);
    echo.is_left().await;
}

#[tokio::test]
async fn what_nobody_speaks_on_is_closed() {
    let echo = Echo::start().await;
    let shop = echo
        .shop(|upstream| upstream.idle_timeout = Some(PAUSE_MAX))
        .await;
    let sold = shop.sell("up", Some(1));
    let mut socket = connect(&shop, "/up/x", Some(&sold)).await.unwrap();
    // In all it takes longer than one silence may.
    let mut tick = tokio::time::interval(PAUSE_MAX / 3);
    for word in ["one", "two", "three", "four", "five"] {
        tick.tick().await;
        say(&mut socket, word).await;
    }
    is_over(&mut socket).await;
    echo.is_left().await;
    shop.is_counted(&sold, 1).await;
}

/// A shop that sells this server by these keys, and a token that it sold.
pub(crate) async fn sold_by(echo: &Echo, keys: &str) -> (Shop, Sold) {
    let shop = shop_by(echo, keys).await;
    let sold = shop.buy("/ws/x").await;
    (shop, sold)
}

async fn shop_by(echo: &Echo, keys: &str) -> Shop {
    let route = format!(
        "[[route]]\npath = \"/ws/*\"\nservice = \"ws\"\nprice = \"1 sat\"\nupstream = \"http://{}\"\n{keys}\n",
        echo.address
    );
    Shop::selling(&route).await
}

#[tokio::test]
async fn its_bytes_are_counted_and_cut_where_the_grant_ends() {
    let echo = Echo::start().await;
    // What comes back is framed: two bytes and five.
    for (keys, is_cut) in [
        ("grant = { bytes = 14 }\noverrun = \"cut\"", true),
        ("grant = { bytes = 14 }\noverrun = \"serve\"", false),
    ] {
        let (shop, sold) = sold_by(&echo, keys).await;
        let mut socket = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
        say(&mut socket, "first").await;
        say(&mut socket, "again").await;
        if is_cut {
            socket.send(Message::text("third")).await.unwrap();
        } else {
            say(&mut socket, "third").await;
            socket.send(Message::text("bye")).await.unwrap();
        }
        is_over(&mut socket).await;
        echo.is_left().await;
        assert_challenged(&shop.get_with("/ws/x", &sold).await);
        assert!(matches!(
            connect(&shop, "/ws/x", Some(&sold)).await,
            Err(Error::Http(_))
        ));
    }
}

#[tokio::test]
async fn of_several_websockets_at_once_one_overruns_the_grant() {
    let echo = Echo::start().await;
    // Each word has seven bytes.
    let (shop, sold) = sold_by(&echo, "grant = { bytes = 700 }").await;
    let mut one = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
    let mut other = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
    for _ in 0..50 {
        say(&mut one, "first").await;
        say(&mut other, "other").await;
    }
    say(&mut one, "extra").await;
    other.send(Message::text("extra")).await.unwrap();
    is_over(&mut other).await;
    say(&mut one, "still").await;
    assert_challenged(&shop.get_with("/ws/x", &sold).await);
}

#[tokio::test]
async fn its_time_is_counted_and_cut_where_the_grant_ends() {
    let echo = Echo::start().await;
    let keys = "grant = { seconds = 1 }\noverrun = \"cut\"";
    let (shop, sold) = sold_by(&echo, keys).await;
    let mut socket = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
    say(&mut socket, "hello").await;
    is_over(&mut socket).await;
    echo.is_left().await;
    assert_challenged(&shop.get_with("/ws/x", &sold).await);
}

#[tokio::test]
async fn its_time_is_counted_while_it_runs_also_where_answers_say_their_own() {
    let echo = Echo::start().await;
    let keys = "grant = { seconds = 60 }\nmetered_by = \"x-work-seconds\"";
    let (shop, sold) = sold_by(&echo, keys).await;
    let mut socket = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
    shop.has_counted_a_second().await;
    say(&mut socket, "still").await;
}

#[tokio::test]
async fn it_ends_when_its_token_is_revoked() {
    let echo = Echo::start().await;
    let (shop, sold) = sold_by(&echo, "grant = { requests = 9 }").await;
    let mut socket = connect(&shop, "/ws/x", Some(&sold)).await.unwrap();
    say(&mut socket, "hello").await;
    let token_id = sold.identifier().token_id.0;
    shop.ledger
        .revoke(Revoked::Token(token_id), "shared in public")
        .unwrap();
    is_over(&mut socket).await;
    echo.is_left().await;
}

#[tokio::test]
async fn nobody_has_one_free_where_what_passes_is_sold() {
    let echo = Echo::start().await;
    let free = "free_quota = { requests = 9, per = \"1d\" }";
    for (grant, is_switched) in [("{ requests = 1 }", true), ("{ bytes = 1000 }", false)] {
        let shop = shop_by(&echo, &format!("grant = {grant}\n{free}")).await;
        let switched = connect(&shop, "/ws/x", None).await;
        assert_eq!(switched.is_ok(), is_switched, "{grant}");
    }
}

#[tokio::test]
async fn the_end_of_the_program_waits_for_it_within_the_grace() {
    let echo = Echo::start().await;
    let shop = echo.shop_with(SOON, |_| {}).await;
    let sold = shop.sell("up", Some(1));
    let mut socket = connect(&shop, "/up/x", Some(&sold)).await.unwrap();
    say(&mut socket, "before").await;
    shop.close();
    say(&mut socket, "after").await;
    is_over(&mut socket).await;
    shop.is_closed().await;
    echo.is_left().await;
    shop.is_counted(&sold, 1).await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_client_that_sends_to_a_server_that_reads_nothing() {
    let granted =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (address, _serving) = deaf(granted).await;
    let mut echo = Echo::start().await;
    echo.address = address;
    let hour = Duration::from_secs(3_600);
    let shop = echo
        .shop_with(SOON, |upstream| upstream.idle_timeout = Some(hour))
        .await;
    let sold = shop.sell("up", Some(1));
    let mut stream = shop.connect().await;
    let request = format!(
        "GET /up/x HTTP/1.1\r\nHost: shop\r\nConnection: upgrade\r\nUpgrade: websocket\r\nAuthorization: {}\r\n\r\n",
        sold.header()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    // Until nothing more fits anywhere.
    let chunk = vec![0; 1024 * 1024];
    while timeout(SOON, stream.write_all(&chunk)).await.is_ok() {}
    shop.close();
    shop.is_closed().await;
    shop.is_counted(&sold, 1).await;
}

/// A server that answers everything with these bytes, and reads nothing behind the request.
async fn deaf(bytes: &'static str) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 16 * 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(bytes.as_bytes()).await;
            kept.push(stream);
        }
    });
    (address, serving)
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_no_answer() {
    let granted = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: ";
    let websocket = format!("{granted}websocket\r\n\r\n").leak();
    let other = format!("{granted}other\r\n\r\n").leak();
    let none = "HTTP/1.1 101 Switching Protocols\r\n\r\n";
    let ask = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let named_only = "Upgrade: websocket\r\n";
    let two = "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n";
    let unknown = "Connection: upgrade\r\nUpgrade: other\r\n";
    let http = "Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    for (asked, answer) in [
        ("", &*websocket),
        (named_only, websocket),
        (two, websocket),
        (unknown, other),
        (http, websocket),
        (ask, other),
        (ask, none),
    ] {
        let server = Server::saying(answer).await;
        let shop = Shop::before(server.address).await;
        let sold = shop.sell("up", Some(1));
        let request = format!(
            "GET /up/x HTTP/1.1\r\nHost: shop\r\n{asked}Authorization: {}\r\n\r\n",
            sold.header()
        );
        let reply = raw::exchange(shop.address, request.as_bytes())
            .await
            .unwrap();
        assert_eq!(reply.status, 502, "{asked}{answer}");
        shop.is_counted(&sold, 0).await;
    }
}

#[tokio::test]
async fn a_route_that_switches_to_nothing_passes_the_request_as_a_plain_one() {
    let upstream = crate::support::upstream::Upstream::start().await;
    let base = format!("http://{}", upstream.address);
    let shop = Shop::with(Setup {
        forward: Some(Forward {
            upgrades: Vec::new(),
            ..Forward::to(base.parse().unwrap())
        }),
        ..Setup::default()
    })
    .await;
    let Err(Error::Http(answer)) = connect(&shop, "/open/x", None).await else {
        panic!("switched")
    };
    assert_eq!(answer.status(), StatusCode::OK);
    let seen = upstream.take_one();
    assert_eq!(
        (seen.header("upgrade"), seen.header("connection")),
        (None, None)
    );
}

#[tokio::test]
async fn an_upstream_that_is_away_gives_the_use_of_a_switch_back() {
    let closed = crate::support::Closed::new();
    let shop = Shop::before(closed.address).await;
    let sold = shop.sell("up", Some(1));
    let Err(Error::Http(answer)) = connect(&shop, "/up/x", Some(&sold)).await else {
        panic!("switched")
    };
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY);
    assert_problem(
        &shop.get_with("/up/x", &sold).await,
        StatusCode::BAD_GATEWAY,
    );
    shop.is_counted(&sold, 0).await;
}

#[tokio::test]
async fn unpaid_websockets_are_displaced_and_a_paid_one_stays() {
    let echo = Echo::start().await;
    let base = format!("http://{}", echo.address).parse().unwrap();
    let shop = Shop::with(Setup {
        forward: Some(Forward::to(base)),
        limits: crowd::limits(),
        ..Setup::default()
    })
    .await;
    let sold = shop.sell("up", None);
    let mut paid = connect(&shop, "/up/x", Some(&sold)).await.unwrap();
    let mut free = Vec::new();
    for address in ["127.0.1.1", "127.0.2.1"] {
        for _ in 0..8 {
            free.push(connect_from(address, &shop, "/open/x", None).await);
        }
    }
    assert_eq!(crowd::answered("127.0.3.1", &shop).await, 12);
    say(&mut paid, "still here").await;
}
