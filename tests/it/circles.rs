//! Requests that return to a gate they have passed: they end after one round, and nothing is counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, header::AUTHORIZATION};
use tollhouse::base::amount::Msat;
use tollhouse::sell::gate::{Limits, Quotes};
use tollhouse::sell::quote::{HookConfig, Hooks, OnFailure, Rates};
use tollhouse::sell::route::{Forward, HeaderEdits, Protocol, Upstream as Servers};

use crate::support::Shop;
use crate::support::answers::assert_challenged;
use crate::support::answers::assert_hello;
use crate::support::raw;
use crate::support::upstream::Upstream;

fn to(address: SocketAddr) -> Forward {
    Forward::to(format!("http://{address}").parse().unwrap())
}

/// The status of a request on its own connection.
async fn status(shop: &Shop, lines: &str) -> u16 {
    let request = format!("GET /open/x HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{lines}\r\n");
    let reply = raw::exchange(shop.address, request.as_bytes()).await;
    reply.unwrap().status
}

#[tokio::test]
async fn a_gate_in_front_of_itself_answers_after_one_round_and_counts_nothing() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let sold = shop.sell("up", Some(1));
    // Twice, as after two reloads of the settings.
    shop.lead_to(to(shop.address));
    shop.lead_to(to(shop.address));
    assert_eq!(status(&shop, "").await, 508);
    let credential = Forward {
        forward_credential: true,
        ..to(shop.address)
    };
    for forward in [to(shop.address), credential] {
        shop.lead_to(forward);
        let answer = shop.get_with("/up/x", &sold).await;
        assert_eq!(answer.status, StatusCode::LOOP_DETECTED);
    }
    shop.lead_to(to(upstream.address));
    assert_hello(&shop.get_with("/up/x", &sold).await);
    assert_challenged(&shop.get_with("/up/x", &sold).await);
}

#[tokio::test]
async fn two_gates_in_front_of_each_other_are_a_circle_whatever_headers_they_remove() {
    let (first, second) = (Shop::open().await, Shop::open().await);
    let edits = [
        HeaderEdits::default(),
        HeaderEdits {
            remove: vec!["via".parse().unwrap()],
            ..HeaderEdits::default()
        },
        HeaderEdits {
            set: vec![("via".parse().unwrap(), "1.1 other".parse().unwrap())],
            ..HeaderEdits::default()
        },
    ];
    for request_headers in edits {
        for (shop, other) in [(&first, &second), (&second, &first)] {
            shop.lead_to(Forward {
                request_headers: request_headers.clone(),
                ..to(other.address)
            });
        }
        let sold = first.sell("up", Some(1));
        assert_eq!(status(&first, "").await, 508);
        let free = first.get_with("/open/x", &sold).await;
        assert_eq!(free.status, StatusCode::LOOP_DETECTED);
    }
    // A gate behind another one is not a circle.
    let upstream = Upstream::start().await;
    second.lead_to(to(upstream.address));
    assert_eq!(status(&first, "").await, 200);
}

#[tokio::test]
async fn a_circle_ends_in_every_protocol() {
    let shop = Shop::open().await;
    shop.lead_to(to(shop.address));
    let switch = "Upgrade: websocket\r\nConnection: upgrade\r\n\
                  Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(status(&shop, switch).await, 508);
    let base = format!("http://{}", shop.address).parse().unwrap();
    let servers = Servers {
        protocol: Protocol::Http2,
        ..Servers::of(vec![base])
    };
    shop.lead_to(Forward {
        upstream: servers.into(),
        ..to(shop.address)
    });
    assert_eq!(status(&shop, "").await, 508);
    let sold = shop.sell("up", Some(1));
    let call = shop
        .request(Method::POST, "/up/x")
        .header(AUTHORIZATION, sold.header())
        .header("content-type", "application/grpc")
        .body("ping");
    let answer = shop.send(call).await;
    assert_eq!(answer.header("grpc-status"), Some("13"));
    let upstream = Upstream::start().await;
    shop.lead_to(to(upstream.address));
    assert_hello(&shop.get_with("/up/x", &sold).await);
}

#[tokio::test]
async fn the_via_of_a_request_is_passed_on_and_ends_after_many_servers() {
    let upstream = Upstream::start().await;
    let shop = Shop::before(upstream.address).await;
    let way = |count: usize| format!("Via: {}\r\n", vec!["1.1 proxy"; count].join(", "));
    assert_eq!(status(&shop, &way(20)).await, 200);
    let seen = upstream.take_one();
    let said: Vec<_> = seen.headers.get_all("via").iter().collect();
    assert_eq!(said.len(), 2);
    let own = said[1].to_str().unwrap().to_owned();
    assert!(own.starts_with("1.1 tollhouse-"), "{own}");
    assert_eq!(status(&shop, &way(21)).await, 508);
    assert_eq!(status(&shop, &way(1).repeat(21)).await, 508);
    // A request that claims to have been here before gets that answer; no other request does.
    for line in [
        format!("Via: {own}\r\n"),
        format!("Via: 1.1 proxy (left open\r\nVia: {own}\r\n"),
        format!("Via: {own}\r\nConnection: via\r\n"),
    ] {
        assert_eq!(status(&shop, &line).await, 508, "{line}");
    }
    assert_eq!(status(&shop, "").await, 200);
    upstream.take_one();
    // The settings remove what others have written.
    shop.lead_to(Forward {
        request_headers: HeaderEdits {
            remove: vec!["via".parse().unwrap()],
            ..HeaderEdits::default()
        },
        ..to(upstream.address)
    });
    assert_eq!(status(&shop, &way(3)).await, 200);
    let seen = upstream.take_one();
    let said: Vec<_> = seen.headers.get_all("via").iter().collect();
    assert_eq!(said, [own.as_str()]);
}

#[tokio::test]
async fn a_hook_behind_our_own_listener_is_asked_once() {
    let settings = "[[hook]]\nname = \"h\"\nurl = \"http://127.0.0.1:1/\"\nprice_max = \"1000 sat\"\n\
        [[route]]\npath = \"/a/*\"\nservice = \"a\"\nfiles = \"shop\"\nprice = { by = \"hook:h\" }\n";
    let shop = Shop::selling(settings).await;
    let config = HookConfig {
        name: "h".into(),
        address: format!("http://{}/a/page.txt", shop.address)
            .parse()
            .unwrap(),
        timeout: Duration::from_secs(20),
        headers: Vec::new(),
        cache: Duration::ZERO,
        price_max: Msat::new(1_000_000).unwrap(),
        on_failure: OnFailure::Refuse,
    };
    let quotes = Quotes {
        rates: Arc::new(Rates::new(Vec::new(), shop.clock.clone())),
        hooks: Hooks::new(vec![config], &shop.clock),
    };
    shop.gate.change(Limits::default(), quotes);
    let answer = shop.get("/a/page.txt").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let told = shop.gate.quotes().hooks.status();
    let told = serde_json::to_string(&told).unwrap();
    assert!(told.contains("508"), "{told}");
}

#[tokio::test]
async fn a_hook_request_of_this_process_is_not_answered() {
    let shop = Shop::open().await;
    let mut headers = http::HeaderMap::new();
    tollhouse::base::via::Via::of_process().say(&mut headers);
    let asked = shop.request(Method::GET, "/free/page.txt");
    let answer = shop.send(asked.headers(headers)).await;
    assert_eq!(answer.status, StatusCode::LOOP_DETECTED);
}
