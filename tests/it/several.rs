//! Several servers behind one route: one of them may go away, and nobody loses a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, StatusCode, header::AUTHORIZATION};
use regtest::client::Answer;
use regtest::wait::eventually;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tollhouse::sell::route::{Health, Upstream};

use crate::support::answers::assert_problem;
use crate::support::calls::{Calls, Speech};
use crate::support::{DEADLINE, Setup, Shop, Sold};

/// A shop in front of these servers.
async fn shop_of(servers: &[SocketAddr], health: Option<Health>) -> Shop {
    let servers = servers
        .iter()
        .map(|server| format!("http://{server}").parse().unwrap());
    let upstream = Upstream {
        health,
        ..Upstream::of(servers.collect())
    };
    Shop::with(Setup::of(upstream)).await
}

async fn send(shop: &Shop, method: Method, sold: &Sold, body: &'static str) -> Answer {
    let request = shop
        .request(method, "/up/x")
        .header(AUTHORIZATION, sold.header());
    shop.send(request.body(body)).await
}

/// A server that takes every request and hangs up in the middle of it.
struct Breaker {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Breaker {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let mut serving = JoinSet::new();
        let counted = Arc::clone(&asked);
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 16 * 1024];
                // Whatever has come.
                let _ = stream.read(&mut request).await;
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self {
            address,
            asked,
            _serving: serving,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn each_has_its_share() {
    let (a, b) = (
        Calls::start(Speech::Http1).await,
        Calls::start(Speech::Http1).await,
    );
    let shop = shop_of(&[a.address, b.address], None).await;
    let sold = shop.sell("up", None);
    for _ in 0..10 {
        assert_eq!(send(&shop, Method::GET, &sold, "").await.status, 200);
    }
    // Not to the last request: the end of an answer is heard of a moment after the client has it.
    assert!(
        a.count() >= 3 && b.count() >= 3,
        "{} {}",
        a.count(),
        b.count()
    );
}

#[tokio::test]
async fn a_server_that_dies_costs_nobody_a_request() {
    let mut a = Calls::start(Speech::Http1).await;
    let b = Calls::start(Speech::Http1).await;
    let shop = shop_of(&[a.address, b.address], None).await;
    let sold = shop.sell("up", Some(40));
    for number in 0..40 {
        let method = if number % 2 == 0 {
            Method::GET
        } else {
            Method::DELETE
        };
        let answer = send(&shop, method, &sold, "").await;
        assert_eq!(answer.status, StatusCode::OK, "{number}: {}", answer.text());
        if number == 20 {
            // In the middle of everything, with a kept connection to each.
            assert_eq!(a.count() + b.count(), 21);
            a.kill();
        }
    }
    shop.is_counted(&sold, 40).await;
}

#[tokio::test]
async fn a_body_that_nobody_has_read_goes_to_the_other_server() {
    let closed = crate::support::Closed::new();
    let nobody = closed.address;
    let upstream = crate::support::upstream::Upstream::start().await;
    let shop = shop_of(&[nobody, upstream.address], None).await;
    let sold = shop.sell("up", Some(3));
    for _ in 0..3 {
        let answer = send(&shop, Method::POST, &sold, "a body").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        assert_eq!(upstream.take_one().body, b"a body");
    }
    shop.is_counted(&sold, 3).await;
}

#[tokio::test]
async fn what_may_have_been_worked_on_is_asked_again_only_if_it_can_be_done_twice() {
    let breaker = Breaker::start().await;
    let upstream = crate::support::upstream::Upstream::start().await;
    for (method, body, is_repeated) in [
        (Method::GET, "", true),
        (Method::HEAD, "", true),
        (Method::PUT, "", true),
        (Method::DELETE, "", true),
        (Method::POST, "", false),
        (Method::PATCH, "", false),
        (Method::POST, "a body", false),
        (Method::PUT, "a body", false),
    ] {
        // The first is asked first.
        let shop = shop_of(&[breaker.address, upstream.address], None).await;
        let sold = shop.sell("up", Some(1));
        let (asked, arrived) = (breaker.asked(), upstream.count());
        let answer = send(&shop, method.clone(), &sold, body).await;
        assert_eq!(breaker.asked(), asked + 1, "{method}");
        let expected = if is_repeated { 200 } else { 502 };
        assert_eq!(answer.status, expected, "{method} {body}");
        assert_eq!(
            upstream.count() - arrived,
            usize::from(is_repeated),
            "{method} {body}"
        );
        let counts = is_repeated && method != Method::HEAD;
        shop.is_counted(&sold, u64::from(counts)).await;
    }
}

#[tokio::test]
async fn no_server_is_asked_twice_and_without_one_the_use_goes_back() {
    let (a, b) = (Breaker::start().await, Breaker::start().await);
    let closed = crate::support::Closed::new();
    let nobody = closed.address;
    let shop = shop_of(&[a.address, nobody, b.address], None).await;
    let sold = shop.sell("up", Some(1));
    for round in 1..4 {
        let answer = send(&shop, Method::GET, &sold, "").await;
        assert_problem(&answer, StatusCode::BAD_GATEWAY);
        assert_eq!((a.asked(), b.asked()), (round, round));
    }
    shop.is_counted(&sold, 0).await;
}

#[tokio::test]
async fn one_server_alone_is_asked_once() {
    let breaker = Breaker::start().await;
    let shop = shop_of(&[breaker.address], None).await;
    let sold = shop.sell("up", Some(1));
    let answer = send(&shop, Method::GET, &sold, "").await;
    assert_problem(&answer, StatusCode::BAD_GATEWAY);
    assert_eq!(breaker.asked(), 1);
    shop.is_counted(&sold, 0).await;
}

#[tokio::test]
async fn a_server_that_is_not_well_is_passed_over() {
    let breaker = Breaker::start().await;
    let upstream = crate::support::upstream::Upstream::start().await;
    let health = Health {
        path: "/health".to_owned(),
        every: Duration::from_millis(200),
    };
    let shop = shop_of(&[breaker.address, upstream.address], Some(health)).await;
    let sold = shop.sell("up", None);
    eventually("the health check to notice", DEADLINE, || async {
        for _ in 0..6 {
            // What is not asked again tells who was asked.
            let answer = send(&shop, Method::POST, &sold, "").await;
            if answer.status != StatusCode::OK {
                return Err(answer.text());
            }
        }
        Ok(Some(()))
    })
    .await
    .unwrap();
}
